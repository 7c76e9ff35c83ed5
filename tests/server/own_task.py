"""A task of one's own, as a user may register it: the word of each text that most likely begins an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, Field

from sparsert import Pipeline
from sparsert.errors import InputError
from sparsert.pipelines.engines import Padding, load_engines
from sparsert.pipelines.options import PipelineOptions, at_least, option
from sparsert.pipelines.tokenization import TokenizedText, load_tokenizer

TASK = "beginnings"


class Texts(BaseModel):
    """Texts to read."""

    texts: list[str] = Field(min_length=1, description="Some texts")


class Words(BaseModel):
    """A word of each text."""

    words: list[str]
    scores: list[float]


@dataclass(frozen=True, kw_only=True)
class BeginningsOptions(PipelineOptions):
    """The options of this task."""

    longest: int = option(64, "most tokens of a text")
    capitals: bool = option(False, "write words in capitals")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("longest", self.longest, 1)


@Pipeline.register(TASK, task_aliases=["first-words"], default_model_path="default")
class Beginnings(Pipeline):
    """Each text is a sequence of its own; the engine reads those of a request at once, one request after another."""

    options: BeginningsOptions
    options_type = BeginningsOptions
    input_schema = Texts
    output_schema = Words
    example = {"texts": ["Ada keeps bees.", "Nobody does."]}
    metric_functions = {"pipeline_outputs": {"words_found": lambda output: len(output.words)}}

    def __init__(self, model_path: str | None = None, **options: object) -> None:
        super().__init__(model_path, **options)
        model = self.resolve_model()
        self.tokenizer = load_tokenizer(model.directory)
        length = self.options.longest
        (self._engine,) = load_engines(
            model, self.options, [length], lambda _: {"start logits": "start_logits"}
        ).values()

    def preprocess(self, inputs: Sequence[Texts]) -> list[list[tuple[str, TokenizedText]] | InputError]:
        """Tokenize the texts; an empty one has no word."""
        prepared: list[list[tuple[str, TokenizedText]] | InputError] = []
        for item in inputs:
            texts = self.tokenizer.encode_batch(item.texts)
            if all(map(len, texts)):
                cut = [self.tokenizer.shortened(text, self.options.longest) for text in texts]
                prepared.append(list(zip(item.texts, cut, strict=True)))
            else:
                prepared.append(InputError("a text has no words"))
        return prepared

    def tokens(self, prepared: list[tuple[str, TokenizedText]]) -> int:
        """Tokens of all texts."""
        return sum(len(text) for _, text in prepared)

    def forward(self, prepared: Sequence[list[tuple[str, TokenizedText]]]) -> Iterator[list[np.ndarray]]:
        """Logits of each text, a request at a time."""
        padding = Padding(0, False, {"input_ids": 0, "attention_mask": 0, "token_type_ids": 0})
        for texts in prepared:
            ids = np.concatenate([text.ids for _, text in texts])
            lengths = np.array([len(text) for _, text in texts])
            arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            logits = self._engine.run_packed(arrays, lengths, padding)["start logits"]
            yield np.split(logits, np.cumsum(lengths)[:-1])

    def postprocess(
        self, prepared: Sequence[list[tuple[str, TokenizedText]]], outputs: Iterator[list[np.ndarray]]
    ) -> list[Words]:
        """The word with the greatest logit of each text."""
        results = []
        for texts, logits in zip(prepared, outputs, strict=True):
            best = [int(values.argmax()) for values in logits]
            words = [text[slice(*tokens.offsets[place])] for (text, tokens), place in zip(texts, best, strict=True)]
            words = [word.upper() if self.options.capitals else word for word in words]
            scores = [float(values[place]) for values, place in zip(logits, best, strict=True)]
            results.append(Words(words=words, scores=scores))
        return results


@Pipeline.register("last-words", default_model_path="default")
class LastWords(Beginnings):
    """A task that is derived from another, has no example, and tells nothing but what it does otherwise."""

    example = None

    def postprocess(
        self, prepared: Sequence[list[tuple[str, TokenizedText]]], outputs: Iterator[list[np.ndarray]]
    ) -> list[Words]:
        """The last token of each text."""
        list(outputs)
        words = [[text[slice(*tokens.offsets[-1])] for text, tokens in texts] for texts in prepared]
        return [Words(words=found, scores=[0.0] * len(found)) for found in words]
