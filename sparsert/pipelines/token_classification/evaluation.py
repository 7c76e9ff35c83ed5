"""How ``sparsert.evaluate`` scores token classification: by entities with exactly the right bounds and type."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparsert.errors import InputError
from sparsert.pipelines.row_model import RowOutputs
from sparsert.pipelines.token_classification.dataset import TaggedText, read_tagged
from sparsert.pipelines.token_classification.metrics import Span, entity_metrics, spans_of_tags
from sparsert.pipelines.token_classification.pipeline import ReadText, TokenClassificationPipeline
from sparsert.pipelines.token_classification.schemas import TokenClassificationInput
from sparsert.pipelines.token_classification.windows import joined_scores

__all__ = ["EntityScorer"]


class EntityScorer:
    """What one pipeline answered so far; see :class:`sparsert.evaluate.evaluation.Scorer`."""

    options: ClassVar[Mapping[str, Any]] = {"aggregation_strategy": "first"}
    flags: ClassVar[Mapping[str, tuple[type, str]]] = {
        "aggregation_strategy": (str, "how tokens of a text become entities; words have tags of their own"),
        "batch_size": (int, "most windows in one call of the engine (default: as many as keep the cores busy)"),
        "num_cores": (int, "cores of either engine (default: all)"),
        "sequence_length": (int, "most tokens of a window (default: what the model takes)"),
    }
    datasets: ClassVar[str] = """\
Datasets are JSON lists or JSON lines of {"tokens": [words], "ner_tags": [tags]}, where a word gets the label of its
first token, or of {"text", "entities": [{"start", "end", "label"}]}. Metrics, in percent, of entities with exactly the
right bounds and type: F1, precision and recall, of all together and of each type."""
    main: ClassVar[str] = "f1"
    read = staticmethod(read_tagged)

    def __init__(self, pipeline: TokenClassificationPipeline) -> None:
        self._pipeline = pipeline
        self._truths: list[list[Span]] = []
        self._found: list[list[Span]] = []
        self._predictions: dict[str, str] = {}

    @staticmethod
    def check(truths: Mapping[str, Sequence[Any]], options: Mapping[str, Any]) -> None:
        """Refuse to compare entities with single tokens."""
        spans = any(isinstance(answer, tuple) for answers in truths.values() for answer in answers)
        if spans and options.get("aggregation_strategy") == "none":
            raise InputError("entities of texts cannot be scored with aggregation_strategy 'none'; choose another one")

    @staticmethod
    def request(example: TaggedText) -> TokenClassificationInput:
        """What the pipeline is asked."""
        if isinstance(example.inputs, str):
            return TokenClassificationInput(inputs=example.inputs)
        return TokenClassificationInput(inputs=list(example.inputs), is_split_into_words=True)

    def add(self, examples: Sequence[TaggedText], parts: Sequence[RowOutputs]) -> tuple[int, int]:
        """Note the entities of some texts; the numbers of windows and of tokens that were read for them."""
        pipeline = self._pipeline
        prepared = [
            item
            for item in pipeline.preprocess([self.request(example) for example in examples])
            if not isinstance(item, InputError)  # none is: all have been prepared before
        ]
        for example, item, scores in zip(examples, prepared, pipeline.scores(prepared, parts), strict=True):
            if isinstance(example.inputs, str):
                self._add_text(example, item.texts[0], scores[0])
            else:
                self._add_words(example, item.texts[0], scores[0])
        return sum(len(part.rows.lengths) for part in parts), sum(int(part.rows.lengths.sum()) for part in parts)

    def _add_text(self, example: TaggedText, text: ReadText, scores: Sequence[np.ndarray]) -> None:
        found = [
            _stripped(text.text, item.start, item.end, item.entity) for item in self._pipeline.entities(text, scores)
        ]
        self._truths.append([answer for answer in example.answers if isinstance(answer, tuple)])
        self._found.append(found)
        self._predictions[example.id] = json.dumps(found, ensure_ascii=False)

    def _add_words(self, example: TaggedText, text: ReadText, scores: Sequence[np.ndarray]) -> None:
        names = self._pipeline.labels.names
        tags = ["O"] * len(example.inputs)
        if scores:
            assert text.tokens.words is not None
            read = text.tokens.words[text.ranges.min() : text.ranges.max()]
            words, firsts = np.unique(read, return_index=True)
            labels = joined_scores(text.ranges, scores)[firsts].argmax(axis=1)
            for word, label in zip(words.tolist(), labels.tolist(), strict=True):
                tags[word] = names[label]
        truth = [self._tag(example, answer) for answer in example.answers]
        self._truths.append(spans_of_tags(truth))
        self._found.append(spans_of_tags(tags))
        self._predictions[example.id] = " ".join(tags)

    def _tag(self, example: TaggedText, answer: Any) -> str:
        """A tag's name; a number is that of a label of the model."""
        names = self._pipeline.labels.names
        if isinstance(answer, str):
            return answer
        if not 0 <= answer < len(names):
            raise InputError(
                f"record {example.id!r} has the tag {answer}, but the model has {len(names)} labels; see id2label in "
                f"{self._pipeline.model.config.path}"
            )
        return names[answer]

    def scores(self, truths: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str], dict[str, float] | None]:
        """Metrics and predictions, once everything is answered.

        Raises
        ------
        InputError
            The dataset has entities, but none of a type that the model knows.
        """
        known = {kind for label in self._pipeline.labels.names for _, _, kind in spans_of_tags([label])}
        known |= {*self._pipeline.labels.groups} - {"O"}
        wanted = {kind for spans in self._truths for _, _, kind in spans}
        if wanted and not wanted & known:
            raise InputError(
                f"the dataset has entities of the types {sorted(wanted)[:20]}, the model knows {sorted(known)[:20]}; "
                f"name them alike, in the dataset or in id2label of {self._pipeline.model.config.path}"
            )
        return entity_metrics(self._truths, self._found), self._predictions, None


def _stripped(text: str, start: int, end: int, label: str) -> Span:
    """A span without the white space at its ends, which the tokens of some tokenizers have."""
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip()), label
