"""How ``sparsert.evaluate`` scores zero-shot classification: accuracy and F1 of labels that the dataset brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sparsert.errors import InputError
from sparsert.pipelines.heads import top_k
from sparsert.pipelines.options import at_least
from sparsert.pipelines.row_model import RowOutputs
from sparsert.pipelines.text_classification.dataset import read_labelled
from sparsert.pipelines.text_classification.metrics import classification_metrics
from sparsert.pipelines.zero_shot_text_classification.pipeline import ZeroShotPipeline
from sparsert.pipelines.zero_shot_text_classification.schemas import ZeroShotInput
from sparsert.pipelines.zero_shot_text_classification.scores import label_scores

__all__ = ["ZeroShotExample", "ZeroShotScorer", "read_examples"]

_LEAST_PROBABILITY = 0.5
"""From which on a label counts where a text may have several."""


@dataclass(frozen=True)
class ZeroShotExample:
    """One text of a dataset; ``answers`` are its labels, and ``candidates`` all that it might have."""

    id: str
    text: str
    answers: tuple[str, ...]
    candidates: tuple[str, ...]


def read_examples(path: str | Path, max_samples: int | None = None) -> list[ZeroShotExample]:
    """Read records as for text classification, without pairs; the candidates are all labels of the file.

    Parameters
    ----------
    path : str or Path
        The file, in UTF-8, see :func:`~sparsert.pipelines.text_classification.dataset.read_labelled`.
    max_samples : int, optional
        Take the first so many records only; their candidates are still all labels of the file.

    Raises
    ------
    InputError
        The file cannot be read or is none of these; the message names file, record and key.
    """
    if max_samples is not None:
        at_least("max_samples", max_samples, 1)
    records = read_labelled(path)
    candidates = tuple(dict.fromkeys(str(label) for record in records for label in record.answers))
    examples = []
    for record in records[:max_samples]:
        if record.text_pair is not None:
            raise InputError(f"{path}: record {record.id!r} has a text_pair; zero-shot classification reads one text")
        examples.append(ZeroShotExample(record.id, record.text, tuple(map(str, record.answers)), candidates))
    return examples


class ZeroShotScorer:
    """What one pipeline answered so far; see :class:`sparsert.evaluate.evaluation.Scorer`."""

    options: ClassVar[Mapping[str, Any]] = {}
    flags: ClassVar[Mapping[str, tuple[type, str]]] = {
        "labels": (str, "the labels, with commas between them (default: all labels of the dataset)"),
        "hypothesis_template": (str, "what is asked of a label, which stands for {} (default: the pipeline's)"),
        "multi_label": (
            bool,
            "a text may have several labels, and counts as having those from a probability of 0.5 on",
        ),
        "batch_size": (int, "most pairs in one call of the engine (default: as many as keep the cores busy)"),
        "num_cores": (int, "cores of either engine (default: all)"),
        "sequence_length": (int, "most tokens of a pair (default: what the model takes)"),
    }
    datasets: ClassVar[str] = """\
Datasets are lists of records {"text", "label"}: JSON, JSON lines, CSV or TSV. A label is a string; with --multi-label,
a list of them. Metrics, in percent: accuracy, macro and micro F1."""
    main: ClassVar[str] = "accuracy"
    read = staticmethod(read_examples)

    def __init__(self, pipeline: ZeroShotPipeline) -> None:
        self._pipeline = pipeline
        self._labels: tuple[str, ...] = ()
        self._truth: list[np.ndarray] = []
        self._predicted: list[np.ndarray] = []

    @staticmethod
    def check(truths: Mapping[str, Sequence[str]], options: Mapping[str, Any]) -> None:
        """Refuse a dataset that cannot be scored."""
        for name, answers in truths.items():
            if not options.get("multi_label") and len(answers) != 1:
                raise InputError(f"record {name!r} has {len(answers)} labels; multi_label lets a text have several")

    def request(self, example: ZeroShotExample) -> ZeroShotInput:
        """What the pipeline is asked."""
        own = self._pipeline.options.labels is not None
        return ZeroShotInput(sequences=example.text, labels=None if own else list(example.candidates))

    def add(self, examples: Sequence[ZeroShotExample], parts: Sequence[RowOutputs]) -> tuple[int, int]:
        """Note the labels of some texts; the numbers of pairs and of tokens that were read for them."""
        pipeline = self._pipeline
        self._labels = tuple(pipeline.options.labels or examples[0].candidates)
        places = {label: place for place, label in enumerate(self._labels)}
        logits = np.concatenate([part.outputs["logits"] for part in parts])
        table = logits.reshape(len(examples), len(places), -1)
        several = pipeline.options.multi_label
        scores = label_scores(table, pipeline.entailment, pipeline.contradiction, several)
        best = np.arange(len(places)) == top_k(scores, 1)
        self._predicted += list(scores >= _LEAST_PROBABILITY if several else best)
        for example in examples:
            truth = np.zeros(len(places), dtype=bool)
            for label in example.answers:
                if label not in places:
                    raise InputError(f"record {example.id!r} has the label {label!r}, which is none of {list(places)}")
                truth[places[label]] = True
            self._truth.append(truth)
        return len(logits), sum(int(part.rows.lengths.sum()) for part in parts)

    def scores(
        self, truths: Mapping[str, Sequence[str]]
    ) -> tuple[dict[str, float], dict[str, str], dict[str, float] | None]:
        """Metrics and predictions, once everything is answered."""
        said = [", ".join(self._labels[place] for place in np.flatnonzero(row)) for row in self._predicted]
        metrics = classification_metrics(np.array(self._truth), np.array(self._predicted))
        return metrics, dict(zip(truths, said, strict=True)), None
