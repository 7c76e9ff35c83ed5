"""Zero-shot classification: does a text entail the hypothesis that a label makes of it?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sparsert.errors import InputError
from sparsert.pipelines.base import Pipeline
from sparsert.pipelines.heads import top_k
from sparsert.pipelines.row_model import PreparedRows, RowOutputs, tokens_of
from sparsert.pipelines.sequence_classifier import SequenceClassifier
from sparsert.pipelines.zero_shot_text_classification.hypotheses import hypotheses
from sparsert.pipelines.zero_shot_text_classification.options import ZeroShotOptions
from sparsert.pipelines.zero_shot_text_classification.schemas import ZeroShotInput, ZeroShotOutput
from sparsert.pipelines.zero_shot_text_classification.scores import entailment_and_contradiction, label_scores

__all__ = ["PreparedLabels", "ZeroShotPipeline"]


@dataclass(frozen=True)
class PreparedLabels(PreparedRows):
    """A request as rows, each a text beside a hypothesis: all hypotheses of the first text, then of the next.

    Attributes
    ----------
    labels : list of str
        What the hypotheses are about.
    multi_label : bool
        Whether each label counts by itself.
    """

    labels: Sequence[str]
    multi_label: bool


@Pipeline.register("zero_shot_text_classification", task_aliases=["zero_shot_classification", "zero_shot"])
class ZeroShotPipeline(Pipeline):
    """Give texts those of some labels that fit, by a model of natural language inference.

    All pairs of text and hypothesis of all requests of a batch run together, without padding where the engine allows
    that; each different text and hypothesis is tokenized once. Of a pair that is too long, the text is cut.

    Parameters
    ----------
    model_path, **options
        Fields of :class:`ZeroShotOptions`.

    Raises
    ------
    ModelError
        The model cannot be found, read or run, or is not for natural language inference.
    InputError
        An option makes no sense.
    """

    options: ZeroShotOptions
    options_type = ZeroShotOptions
    input_schema = ZeroShotInput
    output_schema = ZeroShotOutput
    main_field = "sequences"
    example = {"sequences": "Ada keeps bees in Turin.", "labels": ["nature", "sport", "politics"]}
    scorer = "sparsert.pipelines.zero_shot_text_classification.evaluation:ZeroShotScorer"
    metric_functions = {
        "pipeline_inputs": {"number_of_texts": lambda inputs: len(inputs.texts())},
        "pipeline_outputs": {"least_score": lambda output: float(np.atleast_2d(output.scores)[:, 0].min())},
    }

    def __init__(self, model_path: str | Path | None = None, **options: Any) -> None:
        super().__init__(model_path, **options)
        self.model = SequenceClassifier(self.resolve_model(), self.options)
        config, chosen = self.model.config, self.options
        self.entailment, self.contradiction = entailment_and_contradiction(
            config.label2id, self.model.num_labels, chosen.entailment_index, chosen.contradiction_index, config.path
        )

    def parse_inputs(self, *args: Any, **kwargs: Any) -> tuple[list[Any], bool]:
        """Also takes transformers' form: texts, then labels unless the pipeline has some, then the rest by name."""
        names = ("sequences", "labels")[: len(args)]
        several = len(args) == 2 and self.options.labels is None
        if (several or (len(args) == 1 and kwargs)) and isinstance(args[0], (str, list, tuple)):
            if not set(names) & set(kwargs):
                return super().parse_inputs(**dict(zip(names, args, strict=True)), **kwargs)
        return super().parse_inputs(*args, **kwargs)

    def preprocess(self, inputs: Sequence[ZeroShotInput]) -> list[PreparedLabels | InputError]:
        """Tokenize texts and hypotheses, each different one once, and make a row of each pair."""
        asked = [_asked(item, self.options) for item in inputs]
        good = [found for found in asked if not isinstance(found, InputError)]
        tokens = self.model.tokenize(chain(*(texts + statements for texts, statements, _, _ in good)))
        return [
            found if isinstance(found, InputError) else self._prepare(item, found, tokens)
            for item, found in zip(inputs, asked, strict=True)
        ]

    def _prepare(
        self,
        item: ZeroShotInput,
        asked: tuple[list[str], list[str], list[str], bool],
        found: Mapping[str, np.ndarray | InputError],
    ) -> PreparedLabels | InputError:
        texts, statements, labels, multi_label = asked
        try:
            firsts, seconds = tokens_of(found, texts, "sequences"), tokens_of(found, statements, "labels")
        except InputError as error:
            return error
        rows = []
        for index, first in enumerate(firsts):
            try:
                rows += [self.model.row(first, second, "only_first") for second in seconds]
            except InputError as error:
                return type(error)(f"sequences[{index}] with the hypothesis of a label: {error}")
        return PreparedLabels(item, rows, labels, multi_label)

    def tokens(self, prepared: PreparedLabels) -> int:
        """Tokens of all pairs, with special tokens."""
        return self.model.tokens(prepared)

    def forward(self, prepared: Sequence[PreparedLabels]) -> Iterator[RowOutputs]:
        """Run all pairs of all requests, a slice of them at a time, in order."""
        return self.model.forward(prepared)

    def postprocess(self, prepared: Sequence[PreparedLabels], outputs: Iterable[RowOutputs]) -> list[ZeroShotOutput]:
        """The labels of each request's texts, best first."""
        found = self.model.logits(prepared, outputs)
        return [self._result(item, logits) for item, logits in zip(prepared, found, strict=True)]

    def _result(self, item: PreparedLabels, logits: np.ndarray) -> ZeroShotOutput:
        table = logits.reshape(-1, len(item.labels), self.model.num_labels)
        scores = label_scores(table, self.entailment, self.contradiction, item.multi_label)
        places = top_k(scores)
        labels = [[item.labels[place] for place in row] for row in places.tolist()]
        values = np.take_along_axis(scores, places, axis=1).tolist()
        single = isinstance(item.inputs.sequences, str)
        return ZeroShotOutput(
            sequences=item.inputs.sequences,
            labels=labels[0] if single else labels,
            scores=values[0] if single else values,
        )


def _asked(item: ZeroShotInput, options: ZeroShotOptions) -> tuple[list[str], list[str], list[str], bool] | InputError:
    """Texts, hypotheses and labels of a request, and whether each label counts by itself."""
    try:
        labels, template, multi_label = item.asked(options)
        return item.texts(), hypotheses(labels, template), labels, multi_label
    except InputError as error:
        return error
