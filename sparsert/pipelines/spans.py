"""Post-processing: from start and end logits to the best spans of text.

The rules are those of the SQuAD evaluation of BERT, as DeepSparse applies them, with the following made definite:

- Candidates are positions of context tokens only; padding, question and special tokens take no place among the best.
- A span that several windows see counts once, with its best score. Spans without text do not count.
- Order: higher score first; equal scores by earlier start, then by shorter text. "No answer" loses a tie.
- Of equal logits the earlier position is the better candidate.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from sparsert.errors import EngineError

__all__ = ["Span", "best_spans", "null_score", "window_spans"]


class Span(NamedTuple):
    """A piece of the context, ``context[start:end]``, with ``score == start_logit + end_logit`` summed in float32."""

    score: float
    start: int
    end: int
    start_logit: float
    end_logit: float


def window_spans(
    start_logits: np.ndarray, end_logits: np.ndarray, offsets: np.ndarray, n_best_size: int, max_answer_length: int
) -> list[Span]:
    """All spans of one window that its best start and end positions form, in no particular order.

    Parameters
    ----------
    start_logits, end_logits : float arrays, shape (T,)
        Logits of the window's context tokens.
    offsets : int array, shape (T, 2)
        Code points of each context token in the context.
    n_best_size : int
        Number of best start and of best end positions that are combined.
    max_answer_length : int
        Most tokens in a span.

    Raises
    ------
    EngineError
        A logit is not a number.
    """
    start_logits = np.asarray(start_logits, dtype=np.float32)
    end_logits = np.asarray(end_logits, dtype=np.float32)
    if np.isnan(start_logits).any() or np.isnan(end_logits).any():
        raise EngineError("the model returned logits that are not numbers (NaN), so no answer can be chosen")
    starts = np.argsort(-start_logits, kind="stable")[:n_best_size]
    ends = np.argsort(-end_logits, kind="stable")[:n_best_size]
    length = ends[None, :] - starts[:, None] + 1
    has_text = offsets[ends, 1][None, :] > offsets[starts, 0][:, None]
    rows, columns = np.nonzero((length >= 1) & (length <= max_answer_length) & has_text)
    first, last = starts[rows], ends[columns]
    first_logits, last_logits = start_logits[first], end_logits[last]
    return [
        Span(*values)
        for values in zip(
            (first_logits + last_logits).tolist(),
            offsets[first, 0].tolist(),
            offsets[last, 1].tolist(),
            first_logits.tolist(),
            last_logits.tolist(),
            strict=True,
        )
    ]


def best_spans(candidates: Iterable[Span], n_best_size: int) -> list[Span]:
    """The ``n_best_size`` best different spans, best first, in the order defined above."""
    chosen: list[Span] = []
    seen: set[tuple[int, int]] = set()
    for span in sorted(candidates, key=lambda span: (-span.score, span.start, span.end)):
        if (span.start, span.end) not in seen:
            seen.add((span.start, span.end))
            chosen.append(span)
            if len(chosen) == n_best_size:
                break
    return chosen


def null_score(start_logits: np.ndarray, end_logits: np.ndarray, null_columns: np.ndarray) -> float:
    """Score of "no answer": start plus end logit at the null position, the least over all windows.

    Parameters
    ----------
    start_logits, end_logits : float arrays, shape (W, S)
        Logits of whole rows.
    null_columns : int array, shape (W,)
        The null position of each row.
    """
    rows = np.arange(len(null_columns))
    sums = np.asarray(start_logits[rows, null_columns], dtype=np.float32) + np.asarray(
        end_logits[rows, null_columns], dtype=np.float32
    )
    score = float(sums.min())
    if np.isnan(score):
        raise EngineError("the model returned logits that are not numbers (NaN), so no answer can be chosen")
    return score
