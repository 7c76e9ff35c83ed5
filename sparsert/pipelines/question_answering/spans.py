"""Post-processing: from start and end logits to the best spans of text, scored by the sum of their logits.

The rules are those of the SQuAD evaluation of BERT, as DeepSparse applies them, with the following made definite:

- Candidates are positions of context tokens only; padding, question and special tokens take no place among the best.
- A span that several windows see counts once, with its best score. Spans without text do not count.
- Order: higher score first; equal scores by earlier start, then by shorter text. "No answer" loses a tie.
- Of equal logits the earlier position is the better candidate.

Everything works on the windows of many requests at once: a server answers thousands of short questions, and a loop over
the spans of each would cost more than the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsert.errors import EngineError
from sparsert.pipelines.question_answering.windows import PackedWindows

__all__ = ["LogitSums", "Ranking", "Spans", "best_positions", "context_matrix", "null_logits"]

_NOTHING = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Spans:
    """Pieces of a context, as arrays of equal length.

    Attributes
    ----------
    scores : float32 array
        What they are ranked by.
    starts, ends : int64 arrays
        Code points: each is ``context[start:end]``.
    start_logits, end_logits : float32 arrays
        Logits of the first and of the last token.
    """

    scores: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    start_logits: np.ndarray
    end_logits: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: np.ndarray | slice) -> Spans:
        return Spans(*(values[chosen] for values in self._columns))

    @property
    def _columns(self) -> tuple[np.ndarray, ...]:
        return self.scores, self.starts, self.ends, self.start_logits, self.end_logits

    @staticmethod
    def concatenate(parts: list[Spans]) -> Spans:
        """All spans of some, in order."""
        return Spans(*(np.concatenate(columns) for columns in zip(*(part._columns for part in parts), strict=True)))


@dataclass(frozen=True)
class Ranking:
    """The best spans of one request, best first, and the score of "no answer"."""

    item: int
    spans: Spans
    null: float


class LogitSums:
    """Rank spans by ``start_logit + end_logit``, summed in float32.

    Windows come in slices, in order; a request that continues in the next slice is kept until it is complete.

    Parameters
    ----------
    n_best_size : int
        Number of best starts and of best ends that each window contributes, and of spans in a ranking.
    max_answer_length : int
        Most tokens of a span.
    """

    def __init__(self, n_best_size: int, max_answer_length: int) -> None:
        self.n_best_size = n_best_size
        self.max_answer_length = max_answer_length
        self._open: Ranking | None = None

    def rank(self, windows: PackedWindows, start: np.ndarray, end: np.ndarray) -> list[Ranking]:
        """Rankings of the requests that are complete with this slice.

        Parameters
        ----------
        windows : PackedWindows
            ``N`` tokens.
        start, end : float arrays, shape (N,)
            Logits.

        Raises
        ------
        EngineError
            A logit is not a number.
        """
        items, spans = self._candidates(windows, start, end)
        nulls = np.minimum.reduceat(np.add(*null_logits(windows, start, end)), windows.reading_rows)
        if self._open is not None:
            spans = Spans.concatenate([self._open.spans, spans])
            items = np.concatenate([np.full(len(spans) - len(items), self._open.item), items])
            nulls[0] = min(nulls[0], self._open.null)
            self._open = None
        order = _ranked(items, spans)
        items, spans = items[order], spans[order]
        present = [reading.item for reading in windows.readings]
        begins, stops = np.searchsorted(items, present), np.searchsorted(items, present, side="right")
        rankings = [
            Ranking(item, spans[begin : min(begin + self.n_best_size, stop)], null)
            for item, begin, stop, null in zip(present, begins.tolist(), stops.tolist(), nulls.tolist(), strict=True)
        ]
        if not windows.readings[-1].last:
            self._open = rankings.pop()
        return rankings

    def _candidates(self, windows: PackedWindows, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, Spans]:
        """All spans that each window's best starts and ends form, and the request of each."""
        start_logits, valid = context_matrix(windows, start)
        end_logits, _ = context_matrix(windows, end)
        firsts, has_first = best_positions(start_logits, valid, self.n_best_size)
        lasts, has_last = best_positions(end_logits, valid, self.n_best_size)
        tokens = lasts[:, None, :] - firsts[:, :, None]
        fits = (tokens >= 0) & (tokens < self.max_answer_length) & has_first[:, :, None] & has_last[:, None, :]
        rows, chosen_first, chosen_last = np.nonzero(fits)
        first, last = firsts[rows, chosen_first], lasts[rows, chosen_last]
        origin = windows.context_rows[rows]
        offsets = windows.offsets
        starts, ends = offsets[origin + first, 0], offsets[origin + last, 1]
        first_logits, last_logits = start_logits[rows, first], end_logits[rows, last]
        spans = Spans(first_logits + last_logits, starts, ends, first_logits, last_logits)
        has_text = ends > starts
        return windows.items[rows[has_text]], spans[has_text]


def _ranked(items: np.ndarray, spans: Spans) -> np.ndarray:
    """Indices of different spans, by request and rank."""
    order = np.lexsort((spans.ends, spans.starts, -spans.scores, items))
    # The same text again, with no better score, follows its better one once sorted by place: lexsort is stable.
    by_place = order[np.lexsort((spans.ends[order], spans.starts[order], items[order]))]
    places = np.stack([items[by_place], spans.starts[by_place], spans.ends[by_place]])
    new = np.ones(len(order), dtype=bool)
    new[1:] = (places[:, 1:] != places[:, :-1]).any(axis=0)
    keep = np.zeros(len(order), dtype=bool)
    keep[by_place[new]] = True
    return order[keep[order]]


def context_matrix(windows: PackedWindows, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the context tokens of each window as rows of one matrix, and where it holds any.

    Returns
    -------
    values : float32 array, shape (W, C)
        ``C`` is the greatest number of context tokens in a window, and at least 1.
    valid : bool array, shape (W, C)

    Raises
    ------
    EngineError
        A logit is not a number.
    """
    columns = np.arange(max(int(windows.context_lengths.max()), 1))
    valid = columns < windows.context_lengths[:, None]
    indices = np.where(valid, windows.context_starts[:, None] + columns, 0)
    values = np.asarray(logits, dtype=np.float32)[indices]
    _check_numbers(values[valid])
    return values, valid


def best_positions(values: np.ndarray, valid: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the ``count`` greatest valid values of each row, greatest first, of equal ones the earlier first.

    Parameters
    ----------
    values : float32 array, shape (W, C)
        Numbers.
    valid : bool array, shape (W, C)
        Which of them count.
    count : int
        At least 1.

    Returns
    -------
    positions : int64 array, shape (W, min(count, C))
    valid : bool array of the same shape
        False where a row has fewer valid values.
    """
    # One integer says value and place: floats compare like their bits once negative ones are turned over, and different
    # integers can be partitioned without ties. Adding 0 makes -0.0 equal to 0.0.
    bits = (values + np.float32(0)).view(np.int32).astype(np.int64)
    bits = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    width = values.shape[1]
    keys = np.where(valid, (bits << 32) | np.arange(width - 1, -1, -1), _NOTHING)
    if count < width:
        keys = np.partition(keys, width - count, axis=1)[:, width - count :]
    keys = np.sort(keys, axis=1)[:, ::-1]
    found = keys != _NOTHING
    return np.where(found, width - 1 - (keys & 0xFFFFFFFF), 0), found


def null_logits(windows: PackedWindows, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and end logits at the null position of each window, float32 arrays of shape (W,)."""
    positions = windows.null_positions
    logits = np.asarray(start[positions], dtype=np.float32), np.asarray(end[positions], dtype=np.float32)
    for values in logits:
        _check_numbers(values)
    return logits


def _check_numbers(values: np.ndarray) -> None:
    if np.isnan(values).any():
        raise EngineError("the model returned logits that are not numbers (NaN), so no answer can be chosen")
