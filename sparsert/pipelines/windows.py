"""Pre-processing: a context that is longer than the model's sequence is read through overlapping windows.

Question and context are tokenized once each; windows are ranges of the context's tokens, and rows of model input are
laid out from them a few at a time, so memory stays bounded for a context of any length. The rows equal those of the
tokenizers library with ``truncation="only_second"`` and overflowing tokens (the tests compare them).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsert.errors import InputRangeError
from sparsert.pipelines.tokenization import PairTemplate, TextTokenizer, TokenizedText

__all__ = ["WindowBatch", "context_budget", "layout_windows", "window_overlap", "window_ranges"]


@dataclass(frozen=True)
class WindowBatch:
    """Rows of model input, one per window.

    Attributes
    ----------
    arrays : dict of int64 arrays, each of shape (W, S)
        ``input_ids``, ``attention_mask`` and ``token_type_ids``.
    context_columns : int64 array, shape (W,)
        Column of each row's first context token.
    null_columns : int64 array, shape (W,)
        Column of each row's first token that is not padding ([CLS], for BERT), whose logits stand for "no answer".
    """

    arrays: dict[str, np.ndarray]
    context_columns: np.ndarray
    null_columns: np.ndarray


def context_budget(sequence_length: int, question_tokens: int, template: PairTemplate) -> int:
    """Number of context tokens that fit beside a question; negative if not even the question does."""
    return sequence_length - template.special_tokens - question_tokens


def window_overlap(doc_stride: int, budget: int) -> int:
    """Tokens that consecutive windows share: ``doc_stride``, or half a window where that would leave no progress.

    Half, and not ``budget - 1``: windows that advance by one token would cost ``budget`` times the work.
    """
    return doc_stride if doc_stride < budget else budget // 2


def window_ranges(tokens: int, budget: int, overlap: int) -> np.ndarray:
    """Half-open ranges of context tokens, one per window.

    Parameters
    ----------
    tokens : int
        Number of context tokens. With none there is still one window, an empty one.
    budget : int
        Context tokens that a window holds.
    overlap : int
        Tokens that consecutive windows share, less than ``budget``.

    Returns
    -------
    int64 array, shape (W, 2)
        Every window is full except perhaps the last.
    """
    if tokens <= budget:
        return np.array([[0, tokens]], dtype=np.int64)
    if budget < 1:
        raise InputRangeError(
            f"no context token fits into a window (budget {budget}); shorten the question, lower max_question_length, "
            "or raise sequence_length"
        )
    if not 0 <= overlap < budget:
        raise InputRangeError(f"windows of {budget} tokens must overlap by 0 to {budget - 1} tokens, got {overlap}")
    step = budget - overlap
    count = -(-(tokens - budget) // step) + 1
    starts = np.arange(count, dtype=np.int64) * step
    return np.stack([starts, np.minimum(starts + budget, tokens)], axis=1)


def layout_windows(
    question: TokenizedText, context: TokenizedText, ranges: np.ndarray, length: int, tokenizer: TextTokenizer
) -> WindowBatch:
    """Lay out one row of model input per range.

    Parameters
    ----------
    question, context : TokenizedText
        ``Tq`` and ``Tc`` tokens.
    ranges : int64 array, shape (W, 2)
        Ranges of context tokens, as of :func:`window_ranges`.
    length : int
        Columns ``S`` of a row. Shorter rows are padded on the tokenizer's padding side.
    tokenizer : TextTokenizer
        Gives the pair's layout and the padding.
    """
    template, left = tokenizer.template, tokenizer.padding_side == "left"
    rows = len(ranges)
    ids = np.full((rows, length), tokenizer.pad_id, dtype=np.int64)
    types = np.full((rows, length), tokenizer.pad_type, dtype=np.int64)
    mask = np.zeros((rows, length), dtype=np.int64)
    # With right padding the question comes first, with left padding the context.
    context_columns = np.full(rows, len(template.prefix_ids), dtype=np.int64)
    if not left:
        context_columns += len(question) + len(template.middle_ids)
    null_columns = np.zeros(rows, dtype=np.int64)
    for row, (start, stop) in enumerate(ranges):
        part = context.ids[start:stop]
        first, second = (part, question.ids) if left else (question.ids, part)
        used = template.special_tokens + len(first) + len(second)
        if used > length:
            raise InputRangeError(f"a window of {used} tokens does not fit into a sequence of {length}")
        begin = length - used if left else 0
        context_columns[row] += begin
        null_columns[row] = begin
        ids[row, begin : begin + used] = np.concatenate(
            [template.prefix_ids, first, template.middle_ids, second, template.suffix_ids]
        )
        types[row, begin : begin + used] = np.concatenate(
            [
                template.prefix_types,
                np.full(len(first), template.first_type, dtype=np.int64),
                template.middle_types,
                np.full(len(second), template.second_type, dtype=np.int64),
                template.suffix_types,
            ]
        )
        mask[row, begin : begin + used] = 1
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return WindowBatch(arrays, context_columns, null_columns)
