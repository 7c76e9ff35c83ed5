"""Pre-processing: a context that is longer than the model's sequence is read through overlapping windows.

Question and context are tokenized once each; windows are ranges of the context's tokens. Sequences of model input are
laid out from them some thousand tokens at a time, one after another without padding, so memory stays bounded for a
context of any length. They equal those of the tokenizers library with ``truncation="only_second"`` and overflowing
tokens (the tests compare them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sparsert.pipelines.tokenization import PairTemplate, TextTokenizer, TokenizedText

__all__ = ["PackedWindows", "Reading", "context_budget", "default_overlap", "pack_windows"]


@dataclass(frozen=True)
class Reading:
    """Some windows of one context, to be read for one question.

    Attributes
    ----------
    item : int
        Number of the request among those of its batch.
    text : str
        The context.
    question, context : TokenizedText
        ``Tq`` and ``Tc`` tokens.
    ranges : int64 array, shape (W, 2)
        Context tokens of each window.
    last : bool
        Whether these windows complete the request.
    """

    item: int
    text: str
    question: TokenizedText
    context: TokenizedText
    ranges: np.ndarray
    last: bool = True


@dataclass(frozen=True)
class PackedWindows:
    """Sequences of model input, one per window, one after another in flat arrays: ``N`` tokens of ``W`` windows.

    Attributes
    ----------
    readings : sequence of Reading
        Whose windows these are, in order.
    arrays : dict of int64 arrays, each of shape (N,)
        ``input_ids``, ``attention_mask`` and ``token_type_ids``.
    lengths : int64 array, shape (W,)
        Tokens of each sequence.
    context_starts, context_lengths : int64 arrays, shape (W,)
        Index of each window's first context token in the flat arrays, and number of its context tokens ``C_w``.
    """

    readings: Sequence[Reading]
    arrays: dict[str, np.ndarray]
    lengths: np.ndarray
    context_starts: np.ndarray
    context_lengths: np.ndarray

    @cached_property
    def null_positions(self) -> np.ndarray:
        """Index of each sequence's first token, [CLS] for BERT, whose logits stand for "no answer"; shape (W,)."""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def items(self) -> np.ndarray:
        """Request of each window, shape (W,)."""
        counts = [len(reading.ranges) for reading in self.readings]
        return np.repeat(np.array([reading.item for reading in self.readings]), counts)

    @cached_property
    def reading_rows(self) -> np.ndarray:
        """First window of each reading, shape (R,)."""
        counts = np.array([len(reading.ranges) for reading in self.readings])
        return np.cumsum(counts) - counts

    @cached_property
    def context_rows(self) -> np.ndarray:
        """Index of each window's first row in ``offsets`` and ``words``, shape (W,)."""
        return np.cumsum(self.context_lengths) - self.context_lengths

    @cached_property
    def offsets(self) -> np.ndarray:
        """Code points of the context tokens of all windows, shape (sum C_w, 2)."""
        return np.concatenate(
            [reading.context.offsets[first:last] for reading in self.readings for first, last in reading.ranges]
        )

    @cached_property
    def words(self) -> np.ndarray:
        """Word of each context token of all windows, shape (sum C_w,); -1 for none."""
        return np.concatenate(
            [
                np.full(last - first, -1) if reading.context.words is None else reading.context.words[first:last]
                for reading in self.readings
                for first, last in reading.ranges
            ]
        )


def context_budget(sequence_length: int, question_tokens: int, template: PairTemplate) -> int:
    """Number of context tokens that fit beside a question; negative if not even the question does."""
    return sequence_length - template.special_tokens - question_tokens


def default_overlap(doc_stride: int, budget: int) -> int:
    """Tokens that consecutive windows share if the user leaves it to us: ``doc_stride``, or 3/4 of a window if less.

    Windows that advance by less than a quarter of themselves would read every token more than four times.
    """
    return min(doc_stride, 3 * budget // 4)


def pack_windows(readings: Sequence[Reading], tokenizer: TextTokenizer) -> PackedWindows:
    """Lay out the sequences of all windows of ``readings``, at least one, one after another.

    With right padding the question comes first, with left padding the context.
    """
    template, context_first = tokenizer.template, tokenizer.padding_side == "left"
    prefix, middle, suffix = template.prefix_ids, template.middle_ids, template.suffix_ids
    pieces: list[np.ndarray] = []
    for reading in readings:
        question, context = reading.question.ids, reading.context.ids
        for first, last in reading.ranges.tolist():
            part = context[first:last]
            pair = (part, middle, question) if context_first else (question, middle, part)
            pieces += (prefix, *pair, suffix)

    ranges = np.concatenate([reading.ranges for reading in readings])
    contexts = ranges[:, 1] - ranges[:, 0]
    questions = np.repeat(
        [len(reading.question) for reading in readings], [len(reading.ranges) for reading in readings]
    ).astype(np.int64)
    lengths = contexts + questions + template.special_tokens
    begins = np.cumsum(lengths) - lengths + len(prefix)
    ids = np.concatenate(pieces)
    return PackedWindows(
        readings,
        {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": _types(template, *((contexts, questions) if context_first else (questions, contexts))),
        },
        lengths,
        begins if context_first else begins + questions + len(middle),
        contexts,
    )


def _types(template: PairTemplate, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Token types of pairs with so many tokens of the first and the second text, shapes (W,)."""
    parts: list[tuple[np.ndarray | list[int], np.ndarray | None]] = [
        (template.prefix_types, None),
        ([template.first_type], first),
        (template.middle_types, None),
        ([template.second_type], second),
        (template.suffix_types, None),
    ]
    values = np.concatenate([types for types, _ in parts]).astype(np.int64)
    ones = np.ones(len(first), dtype=np.int64)
    counts = [ones if count is None else count for types, count in parts for _ in range(len(types))]
    return np.repeat(np.tile(values, len(first)), np.stack(counts, axis=1).ravel())
