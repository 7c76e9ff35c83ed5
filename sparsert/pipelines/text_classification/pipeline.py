"""Text classification: a head's logits for each text or pair of texts become labels with scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sparsert.errors import InputError
from sparsert.pipelines.base import Pipeline
from sparsert.pipelines.heads import activate, head_function, top_k
from sparsert.pipelines.row_model import PreparedRows, RowOutputs
from sparsert.pipelines.sequence_classifier import SequenceClassifier
from sparsert.pipelines.text_classification.options import TextClassificationOptions
from sparsert.pipelines.text_classification.schemas import TextClassificationInput, TextClassificationOutput

__all__ = ["TextClassificationPipeline", "best_labels"]


@Pipeline.register("text_classification", task_aliases=["sentiment_analysis", "glue"])
class TextClassificationPipeline(Pipeline):
    """Give texts, or pairs of texts, the labels of a model.

    All texts of all requests of a batch run together, without padding where the engine allows that, each different text
    tokenized once.

    Parameters
    ----------
    model_path, **options
        Fields of :class:`TextClassificationOptions`.

    Attributes
    ----------
    function : str
        What makes scores of logits, one of :data:`~sparsert.pipelines.heads.FUNCTIONS`.

    Raises
    ------
    ModelError
        The model cannot be found, read or run, or is not for classification.
    InputError
        An option makes no sense.
    """

    options: TextClassificationOptions
    options_type = TextClassificationOptions
    input_schema = TextClassificationInput
    output_schema = TextClassificationOutput
    main_field = "sequences"
    example = {"sequences": ["I like bees.", "I do not like wasps."]}
    scorer = "sparsert.pipelines.text_classification.evaluation:ClassificationScorer"
    metric_functions = {
        "pipeline_inputs": {"number_of_texts": lambda inputs: len(inputs.texts())},
        "pipeline_outputs": {"least_score": lambda output: min(map(_best, output.scores))},
    }

    def __init__(self, model_path: str | Path | None = None, **options: Any) -> None:
        super().__init__(model_path, **options)
        self.model = model = SequenceClassifier(self.resolve_model(), self.options)
        self.function = head_function(model.config.problem_type, model.num_labels, self.options.function_to_apply)

    def preprocess(self, inputs: Sequence[TextClassificationInput]) -> list[PreparedRows | InputError]:
        """Tokenize texts, each different one once, and make a row of each text or pair."""
        requests = [_texts_of(item) for item in inputs]
        good = [texts for texts in requests if not isinstance(texts, InputError)]
        found = self.model.tokenize(text for pair in chain(*good) for text in pair if text is not None)
        return [
            texts if isinstance(texts, InputError) else self._prepare(item, texts, found)
            for item, texts in zip(inputs, requests, strict=True)
        ]

    def _prepare(
        self,
        item: TextClassificationInput,
        texts: Sequence[tuple[str, str | None]],
        found: Mapping[str, np.ndarray | InputError],
    ) -> PreparedRows | InputError:
        rows = []
        for index, (text, beside) in enumerate(texts):
            try:
                second = None if beside is None else _checked(found[beside])
                rows.append(self.model.row(_checked(found[text]), second))
            except InputError as error:
                return type(error)(f"sequences[{index}]: {error}")
        return PreparedRows(item, rows)

    def tokens(self, prepared: PreparedRows) -> int:
        """Tokens of all rows, with special tokens."""
        return self.model.tokens(prepared)

    def forward(self, prepared: Sequence[PreparedRows]) -> Iterator[RowOutputs]:
        """Run all rows of all requests, a slice of them at a time, in order."""
        return self.model.forward(prepared)

    def postprocess(
        self, prepared: Sequence[PreparedRows], outputs: Iterable[RowOutputs]
    ) -> list[TextClassificationOutput]:
        """The labels of each request's texts."""
        results = []
        for item, logits in zip(prepared, self.model.logits(prepared, outputs), strict=True):
            asked = None if item.inputs.return_all_scores else self.options.labels_asked
            scores = self.scores(logits, item.inputs.function_to_apply)
            labels, values = best_labels(scores, self.model.labels, asked)
            results.append(TextClassificationOutput(labels=labels, scores=values))
        return results

    def scores(self, logits: np.ndarray, function: str | None = None) -> np.ndarray:
        """What logits say in the end, both of shape (W, L): probabilities, or numbers of a regression.

        ``function`` goes before that of the pipeline.
        """
        return activate(logits, function or self.function)


def _best(scores: float | list[float]) -> float:
    return scores[0] if isinstance(scores, list) else scores


def _texts_of(item: TextClassificationInput) -> list[tuple[str, str | None]] | InputError:
    try:
        return item.texts()
    except InputError as error:
        return error


def _checked(ids: np.ndarray | InputError) -> np.ndarray:
    if isinstance(ids, InputError):
        raise ids
    return ids


def best_labels(scores: np.ndarray, names: Sequence[str], k: int | None) -> tuple[list[Any], list[Any]]:
    """Labels and scores of each row, best first, as lists; with ``k`` of 1 a label and a score for each row.

    Parameters
    ----------
    scores : float array, shape (W, L)
    names : sequence of str
        L of them.
    k : int, optional
        How many labels; None for all.
    """
    places = top_k(scores, k)
    values = np.take_along_axis(scores, places, axis=-1).tolist()
    labels = [[names[place] for place in row] for row in places.tolist()]
    if k == 1:
        return [row[0] for row in labels], [row[0] for row in values]
    return labels, values
