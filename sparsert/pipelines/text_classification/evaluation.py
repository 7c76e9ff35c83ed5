"""How ``sparsert.evaluate`` scores text classification: accuracy and F1, or correlations for a model of one number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparsert.errors import InputError
from sparsert.model_config import ModelConfig
from sparsert.pipelines.heads import top_k
from sparsert.pipelines.row_model import RowOutputs
from sparsert.pipelines.text_classification.dataset import Label, LabelledText, read_labelled
from sparsert.pipelines.text_classification.metrics import classification_metrics, regression_metrics
from sparsert.pipelines.text_classification.pipeline import TextClassificationPipeline
from sparsert.pipelines.text_classification.schemas import TextClassificationInput

__all__ = ["ClassificationScorer", "label_number"]

_LEAST_PROBABILITY = 0.5
"""From which on a label counts where a text may have several."""


class ClassificationScorer:
    """What one pipeline answered so far; see :class:`sparsert.evaluate.evaluation.Scorer`."""

    options: ClassVar[Mapping[str, Any]] = {}
    flags: ClassVar[Mapping[str, tuple[type, str]]] = {
        "batch_size": (int, "most texts in one call of the engine (default: as many as keep the cores busy)"),
        "num_cores": (int, "cores of either engine (default: all)"),
        "sequence_length": (int, "most tokens of a text (default: what the model takes)"),
    }
    datasets: ClassVar[str] = """\
Datasets are lists of records {"text", "label"}, with "text_pair" for pairs: JSON, JSON lines, CSV or TSV. A label is a
name or a number of the model's config.json, a list of these for a model of several labels, or a number for one of
regression. Metrics, in percent: accuracy, macro and micro F1; for a model of one number the correlations by Pearson and
Spearman."""
    read = staticmethod(read_labelled)

    def __init__(self, pipeline: TextClassificationPipeline) -> None:
        self._pipeline = pipeline
        self._names = pipeline.model.labels
        self._truth: list[np.ndarray] = []
        self._predicted: list[np.ndarray] = []

    @property
    def main(self) -> str:
        """The metric to look at first."""
        return "spearman" if len(self._names) == 1 else "accuracy"

    @staticmethod
    def check(truths: Mapping[str, Sequence[Label]], options: Mapping[str, Any]) -> None:
        """Refuse nothing: what labels mean depends on the model."""

    @staticmethod
    def request(example: LabelledText) -> TextClassificationInput:
        """What the pipeline is asked."""
        pair = [] if example.text_pair is None else [example.text_pair]
        return TextClassificationInput(sequences=[[example.text, *pair]])

    def add(self, examples: Sequence[LabelledText], parts: Sequence[RowOutputs]) -> tuple[int, int]:
        """Note the labels of some texts; the numbers of rows and of tokens that were read for them."""
        logits = np.concatenate([part.outputs["logits"] for part in parts]).astype(np.float32, copy=False)
        scores = self._pipeline.scores(logits)
        if len(self._names) == 1:
            self._truth += [np.array(_number(example)) for example in examples]
            self._predicted += list(scores[:, 0].astype(np.float64))
        else:
            config, several = self._pipeline.model.config, self._pipeline.function == "sigmoid"
            self._truth += [_indicator(example, self._names, config, several) for example in examples]
            best = np.arange(len(self._names)) == top_k(scores, 1)
            self._predicted += list(scores >= _LEAST_PROBABILITY if several else best)
        return len(scores), sum(int(part.rows.lengths.sum()) for part in parts)

    def scores(
        self, truths: Mapping[str, Sequence[Label]]
    ) -> tuple[dict[str, float], dict[str, str], dict[str, float] | None]:
        """Metrics and predictions, once everything is answered."""
        truth, predicted = np.array(self._truth), np.array(self._predicted)
        if len(self._names) == 1:
            said = [f"{value:.6g}" for value in predicted]
            metrics = regression_metrics(truth, predicted)
        else:
            said = [", ".join(self._names[place] for place in np.flatnonzero(row)) for row in predicted]
            metrics = classification_metrics(truth, predicted)
        return metrics, dict(zip(truths, said, strict=True)), None


def label_number(label: Label, names: Sequence[str], config: ModelConfig) -> int:
    """Which logit a label of a dataset means: by its name, else by its number.

    Raises
    ------
    InputError
        The model has no such label.
    """
    if isinstance(label, str):
        if label in names:
            return names.index(label)
        label = config.label2id.get(label, label)
    try:
        number = int(label)
    except (ValueError, OverflowError):
        number = -1
    if label not in (number, str(number)) or not 0 <= number < len(names):
        raise InputError(
            f"the model has no label {label!r}: expected one of {list(names[:20])}, or a number below {len(names)}; "
            f"see id2label in {config.path}"
        )
    return number


def _indicator(example: LabelledText, names: Sequence[str], config: ModelConfig, several: bool) -> np.ndarray:
    if not several and len(example.answers) != 1:
        raise InputError(
            f"record {example.id!r} has {len(example.answers)} labels, but the model gives each text one; problem_type "
            f"in {config.path} is not multi_label_classification"
        )
    found = np.zeros(len(names), dtype=bool)
    try:
        found[[label_number(label, names, config) for label in example.answers]] = True
    except InputError as error:
        raise InputError(f"record {example.id!r}: {error}") from error
    return found


def _number(example: LabelledText) -> float:
    try:
        (value,) = map(float, example.answers)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(
            f"record {example.id!r} must have a number as its label, since the model gives one; got {example.answers}"
        )
    return value
