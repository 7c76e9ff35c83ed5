"""Token classification: every token of a text gets a label, and tokens become entities."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from sparsert.errors import InputError, InputRangeError, ModelError, ModelFormatError
from sparsert.model_config import ModelConfig, read_config
from sparsert.pipelines.base import Pipeline
from sparsert.pipelines.heads import softmax
from sparsert.pipelines.row_model import PreparedRows, RowModel, RowOutputs, gather
from sparsert.pipelines.rows import Row
from sparsert.pipelines.token_classification.entities import Labels
from sparsert.pipelines.token_classification.options import TokenClassificationOptions
from sparsert.pipelines.token_classification.schemas import (
    TokenClassificationInput,
    TokenClassificationOutput,
    TokenClassificationResult,
)
from sparsert.pipelines.token_classification.windows import default_overlap, entities_of_windows
from sparsert.pipelines.token_classification.words import Vocabulary, join_words
from sparsert.pipelines.tokenization import TokenizedText
from sparsert.pipelines.windows import window_ranges

__all__ = ["PreparedTexts", "ReadText", "TokenClassificationPipeline", "token_logits"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadText:
    """A text as tokens, and the windows through which the model reads it.

    Attributes
    ----------
    text : str
        The text; of given words, what they make together.
    tokens : TokenizedText
        Its ``T`` tokens.
    ranges : int64 array, shape (W, 2)
        Tokens of each window; none if the text has no tokens.
    """

    text: str
    tokens: TokenizedText
    ranges: np.ndarray


@dataclass(frozen=True)
class PreparedTexts(PreparedRows):
    """A request as rows of model input: those of the windows of its texts, one text after another."""

    texts: Sequence[ReadText]


def _mean_score(output: TokenClassificationOutput) -> float:
    """Of all entities of a request; 0 if there are none."""
    scores = [entity.score for entities in output.predictions for entity in entities]
    return fmean(scores) if scores else 0.0


@Pipeline.register("token_classification", task_aliases=["ner"])
class TokenClassificationPipeline(Pipeline):
    """Find entities in texts.

    A text that is longer than the model's rows is read through overlapping windows. All windows of all texts of all
    requests of a batch run together, without padding where the engine allows that.

    Parameters
    ----------
    model_path, **options
        Fields of :class:`TokenClassificationOptions`.

    Raises
    ------
    ModelError
        The model cannot be found, read or run, or is not for token classification.
    InputError
        An option makes no sense.
    """

    options: TokenClassificationOptions
    options_type = TokenClassificationOptions
    input_schema = TokenClassificationInput
    output_schema = TokenClassificationOutput
    main_field = "inputs"
    scorer = "sparsert.pipelines.token_classification.evaluation:EntityScorer"
    example = {"inputs": "Ada Lovelace was born in London."}
    metric_functions = {
        "pipeline_inputs": {"string_length": lambda item: sum(map(len, item.texts()))},
        "pipeline_outputs": {
            "entities_found": lambda output: sum(map(len, output.predictions)),
            "mean_score": _mean_score,
        },
    }

    def __init__(self, model_path: str | Path | None = None, **options: Any) -> None:
        super().__init__(model_path, **options)
        files = self.resolve_model()
        config = read_config(files.directory)

        def wanted(outputs: Mapping[str, Sequence[Any]]) -> dict[str, str]:
            found = token_logits(outputs)
            _check_labels(config, outputs[found["logits"]][-1])
            return found

        self.model = RowModel(files, self.options, wanted)
        self.labels = Labels(config.labels)
        tokenizer = self.model.tokenizer
        self.vocabulary = Vocabulary(tokenizer.backend, tokenizer.unknown_id, len(tokenizer.single.prefix_ids))
        if self.options.aggregation_strategy not in ("none", "simple") and not self.vocabulary.knows_words:
            _log.warning(
                "the tokenizer of %s does not know words; with aggregation_strategy %r, whatever has no space in it is "
                "taken for one",
                files.directory,
                self.options.aggregation_strategy,
            )
        self._budget = self.model.sequence_length - tokenizer.single.special_tokens
        self._overlap = default_overlap(self._budget) if self.options.stride is None else self.options.stride
        if self._overlap >= self._budget:
            raise InputRangeError(
                f"stride {self._overlap} leaves windows of {self._budget} tokens no room to advance; lower stride, "
                "raise sequence_length, or leave stride out"
            )

    # ---- a batch -----------------------------------------------------------------------------------------------------

    def preprocess(self, inputs: Sequence[TokenClassificationInput]) -> list[PreparedTexts | InputError]:
        """Tokenize texts, each different one once, and place the windows."""
        texts = [
            text
            for item in inputs
            if not item.is_split_into_words and not isinstance(item.inputs, str)
            for text in item.inputs
        ]
        texts += [item.inputs for item in inputs if isinstance(item.inputs, str)]
        found = self._tokenize(list(dict.fromkeys(texts)))
        return [self._prepare(item, found) for item in inputs]

    def _tokenize(self, texts: Sequence[str]) -> dict[str, TokenizedText | InputError]:
        """Tokens of texts; an InputError stands for what the model cannot read."""
        try:
            found = self.model.tokenizer.encode_batch(texts) if texts else []
            return {text: self.model.misfit(tokens.ids) or tokens for text, tokens in zip(texts, found, strict=True)}
        except InputError as error:
            if len(texts) == 1:
                return {texts[0]: error}
            return {text: found for single in texts for text, found in self._tokenize([single]).items()}

    def _prepare(
        self, item: TokenClassificationInput, found: Mapping[str, TokenizedText | InputError]
    ) -> PreparedTexts | InputError:
        try:
            texts = item.texts()
            if item.is_split_into_words:
                read = [self._read(*self._joined(texts))]
            else:
                read = [self._read(text, _checked(index, found[text])) for index, text in enumerate(texts)]
        except InputError as error:
            return error
        rows = [self._row(text, begin, end) for text in read for begin, end in text.ranges.tolist()]
        return PreparedTexts(item, rows, read)

    def _joined(self, words: Sequence[str]) -> tuple[str, TokenizedText]:
        try:
            text, tokens = join_words(self.model.tokenizer, words, self.options.delimiter)
        except InputError:
            for index, word in enumerate(words):
                _checked(index, self._tokenize([word])[word])
            raise
        if (error := self.model.misfit(tokens.ids)) is not None:
            assert tokens.words is not None
            _checked(int(tokens.words[tokens.ids.argmax()]), error)
        return text, tokens

    def _read(self, text: str, tokens: TokenizedText) -> ReadText:
        side = self.model.tokenizer.truncation_side
        ranges = window_ranges(len(tokens), self._budget, self._overlap, side)
        most = 1 if self.options.truncation else len(ranges)
        return ReadText(text, tokens, ranges[: most if len(tokens) else 0])

    def _row(self, text: ReadText, begin: int, end: int) -> Row:
        cut = len(text.tokens) - (end - begin) if self.options.truncation else 0
        return Row(text.tokens.ids[begin:end], None, cut)

    def tokens(self, prepared: PreparedTexts) -> int:
        """Tokens of all windows, which overlap, with special tokens."""
        return self.model.tokens(prepared)

    def forward(self, prepared: Sequence[PreparedTexts]) -> Iterator[RowOutputs]:
        """Run the windows of all texts of all requests, a slice of them at a time, in order."""
        return self.model.forward(prepared)

    def postprocess(
        self, prepared: Sequence[PreparedTexts], outputs: Iterable[RowOutputs]
    ) -> list[TokenClassificationOutput]:
        """The entities of each text of each request."""
        return [
            TokenClassificationOutput(
                predictions=[self.entities(text, parts) for text, parts in zip(item.texts, scores, strict=True)]
            )
            for item, scores in zip(prepared, self.scores(prepared, outputs), strict=True)
        ]

    def scores(
        self, prepared: Sequence[PreparedTexts], outputs: Iterable[RowOutputs]
    ) -> Iterator[list[list[np.ndarray]]]:
        """Probabilities of the labels of each token: for each request, its texts and their windows, shapes (T_w, L).

        Raises
        ------
        ModelError
            The model has another number of labels than its configuration, or gives no numbers.
        """
        prefix = len(self.model.tokenizer.single.prefix_ids)
        for item, rows in zip(prepared, gather(prepared, outputs, "logits", per_token=True), strict=True):
            remaining = iter(zip(item.rows, rows, strict=True))
            yield [
                [self._window_scores(prefix, *next(remaining)) for _ in range(len(text.ranges))] for text in item.texts
            ]

    def _window_scores(self, prefix: int, row: Row, logits: np.ndarray) -> np.ndarray:
        _check_labels(self.model.config, logits.shape[-1])
        scores = softmax(logits[prefix : prefix + len(row)])
        if np.isnan(scores).any():
            raise ModelError(
                f"expected numbers from {self.model.config.path.parent}, got NaN; the model's weights hold NaN or "
                "infinity, or its sums overflow: export it again, in float32"
            )
        return scores

    def entities(self, text: ReadText, scores: Sequence[np.ndarray]) -> list[TokenClassificationResult]:
        """The entities of a text, from the scores of its windows."""
        options = self.options
        found = entities_of_windows(
            self.vocabulary.tokens(text.text, text.tokens.ids, text.tokens.offsets),
            text.ranges,
            scores,
            self.labels,
            self.vocabulary,
            options.aggregation_strategy,
            options.ignore_labels or (),
            window_by_window=options.stride is not None,
        )
        return [
            TokenClassificationResult(
                entity=entity.label,
                score=entity.score,
                word=entity.word,
                start=entity.start,
                end=entity.end,
                index=entity.index,
                is_grouped=options.aggregation_strategy != "none",
            )
            for entity in found
        ]


def token_logits(outputs: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """Which output of a model has the logits of tokens: the one of that name, or the only one with three axes.

    Raises
    ------
    ModelFormatError
        There is none.
    """
    found = [name for name, shape in outputs.items() if len(shape) == 3]
    name = "logits" if "logits" in found else found[0] if len(found) == 1 else None
    if name is None:
        shapes = {name: list(shape) for name, shape in outputs.items()}
        raise ModelFormatError(
            f"expected one output of shape [batch, tokens, labels], called logits if there are others; the model's "
            f"outputs are {shapes}: export it with a head for token classification"
        )
    return {"logits": name}


def _check_labels(config: ModelConfig, width: Any) -> None:
    """Refuse a configuration whose labels are not those of so many logits; a width that no file says is no number."""
    if not config.labels:
        raise ModelFormatError(
            f"{config.path} names no labels: token classification needs id2label there, a name for each of the model's "
            "logits; save the model's configuration beside it"
        )
    if isinstance(width, int) and len(config.labels) != width:
        raise ModelFormatError(
            f"{config.path} names {len(config.labels)} labels (id2label or num_labels), but the model gives {width} "
            "logits for each token; correct it, or export the model again"
        )


def _checked(index: int, found: TokenizedText | InputError) -> TokenizedText:
    if isinstance(found, InputError):
        raise type(found)(f"inputs[{index}]: {found}") from found
    return found
