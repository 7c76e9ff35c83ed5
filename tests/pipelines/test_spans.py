"""Span selection against a brute-force twin that follows the documented rules word by word."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsert.errors import EngineError
from sparsert.pipelines.question_answering.spans import LogitSums, Ranking
from sparsert.pipelines.question_answering.windows import PackedWindows, Reading
from sparsert.pipelines.tokenization import TokenizedText


def naive_best_spans(windows: list[tuple], n_best_size: int, max_answer_length: int) -> list[tuple[float, int, int]]:
    """All pairs of all windows, filtered and sorted: ``(score, start, end)``, best first."""
    best: dict[tuple[int, int], float] = {}
    for start_logits, end_logits, offsets in windows:
        positions = range(len(start_logits))
        starts = sorted(positions, key=lambda position: (-start_logits[position], position))[:n_best_size]
        ends = sorted(positions, key=lambda position: (-end_logits[position], position))[:n_best_size]
        for start in starts:
            for end in ends:
                span = (int(offsets[start][0]), int(offsets[end][1]))
                if end < start or end - start + 1 > max_answer_length or span[1] <= span[0]:
                    continue
                score = float(np.float32(start_logits[start]) + np.float32(end_logits[end]))
                best[span] = max(score, best.get(span, -np.inf))
    ranked = sorted((-score, *span) for span, score in best.items())
    return [(-score, start, end) for score, start, end in ranked][:n_best_size]


# Few different logits, so that ties are common; halves, so that sums are exact.
logits = st.integers(-6, 6).map(lambda value: np.float32(value / 2))


@st.composite
def windows(draw: st.DrawFn) -> list[tuple]:
    """Windows over one text whose tokens are one to three characters wide, some without any, with gaps."""
    tokens = draw(st.integers(0, 24))
    widths = draw(st.lists(st.integers(0, 3), min_size=tokens, max_size=tokens))
    gaps = draw(st.lists(st.integers(0, 2), min_size=tokens, max_size=tokens))
    begins = np.cumsum(np.array(gaps, dtype=np.int64)) + np.concatenate([[0], np.cumsum(widths)[:-1]])[:tokens]
    offsets = np.stack([begins, begins + np.array(widths, dtype=np.int64)], axis=1).astype(np.int64)
    result = []
    for _ in range(draw(st.integers(1, 3))):
        first = draw(st.integers(0, tokens))
        last = draw(st.integers(first, tokens))
        count = last - first
        start = np.array(draw(st.lists(logits, min_size=count, max_size=count)), dtype=np.float32)
        end = np.array(draw(st.lists(logits, min_size=count, max_size=count)), dtype=np.float32)
        result.append((start, end, offsets[first:last]))
    return result


NOTHING = TokenizedText(np.zeros(0, np.int64), np.zeros((0, 2), np.int64))


def packed(
    items: list[list[tuple]], nulls: list[tuple[float, float]] | None = None, last: bool = True, first_item: int = 0
) -> tuple[PackedWindows, np.ndarray, np.ndarray]:
    """Windows ``(start logits, end logits, offsets)`` of several requests, each behind a null token; their logits."""
    readings, starts, ends, lengths = [], [], [], []
    for item, found in enumerate(items):
        rows = np.cumsum([0, *(len(offsets) for _, _, offsets in found)])
        offsets = np.concatenate([np.zeros((0, 2), np.int64), *(offsets for _, _, offsets in found)])
        context = TokenizedText(np.zeros(len(offsets), np.int64), offsets)
        ranges = np.stack([rows[:-1], rows[1:]], axis=1)
        readings.append(Reading(first_item + item, "", NOTHING, context, ranges, last or item < len(items) - 1))
        for start, end, _ in found:
            null = (0.0, 0.0) if nulls is None else nulls[len(lengths)]
            starts.append(np.append(np.float32(null[0]), start))
            ends.append(np.append(np.float32(null[1]), end))
            lengths.append(len(start) + 1)
    sizes = np.array(lengths)
    begins = np.cumsum(sizes) - sizes
    windows = PackedWindows(readings, {}, sizes, begins + 1, sizes - 1)
    return windows, np.concatenate(starts).astype(np.float32), np.concatenate(ends).astype(np.float32)


def listed(ranking: Ranking) -> list[tuple[float, int, int]]:
    spans = ranking.spans
    np.testing.assert_array_equal(spans.scores, spans.start_logits + spans.end_logits)
    return list(zip(spans.scores.tolist(), spans.starts.tolist(), spans.ends.tolist(), strict=True))


@settings(max_examples=150)
@given(st.lists(windows(), min_size=1, max_size=3), st.integers(1, 8), st.integers(1, 8), st.data())
def test_equal_to_brute_force(
    items: list[list[tuple]], n_best_size: int, max_answer_length: int, data: st.DataObject
) -> None:
    scoring = LogitSums(n_best_size, max_answer_length)
    rankings = scoring.rank(*packed(items[:-1])) if items[:-1] else []
    # The last request comes in two slices.
    cut = data.draw(st.integers(1, len(items[-1])))
    number = len(items) - 1
    if cut < len(items[-1]):
        assert scoring.rank(*packed([items[-1][:cut]], last=False, first_item=number)) == []
        rankings += scoring.rank(*packed([items[-1][cut:]], first_item=number))
    else:
        rankings += scoring.rank(*packed([items[-1]], first_item=number))
    assert [ranking.item for ranking in rankings] == list(range(len(items)))
    for ranking, found in zip(rankings, items, strict=True):
        assert listed(ranking) == naive_best_spans(found, n_best_size, max_answer_length)


def spaced(tokens: int) -> np.ndarray:
    """Offsets of one-letter words with a space between them."""
    return np.array([[2 * token, 2 * token + 1] for token in range(tokens)], dtype=np.int64).reshape(-1, 2)


def best(found: list[tuple], n_best_size: int = 20, max_answer_length: int = 15) -> list[tuple[float, int, int]]:
    (ranking,) = LogitSums(n_best_size, max_answer_length).rank(*packed([found]))
    return listed(ranking)


def test_ties_go_to_the_earlier_start_then_to_the_shorter_text() -> None:
    zeros = np.zeros(6, dtype=np.float32)
    assert [span[1:] for span in best([(zeros, zeros, spaced(6))], 20, 3)[:4]] == [(0, 1), (0, 3), (0, 5), (2, 3)]
    assert [span[1:] for span in best([(zeros, -zeros, spaced(6))], 1, 3)] == [(0, 1)]  # -0.0 equals 0.0


def test_score_is_the_float32_sum_of_raw_logits() -> None:
    start, end = np.array([16777216.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)
    assert best([(start, end, spaced(2))], 2)[0] == (16777216.0, 0, 1)


def test_the_same_span_of_two_windows_counts_once_with_its_best_score() -> None:
    low, high = np.array([1.0], np.float32), np.array([3.0], np.float32)
    assert best([(low, low, spaced(1)), (high, low, spaced(1))]) == [(4.0, 0, 1)]


def test_no_tokens_give_no_spans() -> None:
    empty = np.zeros(0, dtype=np.float32)
    assert best([(empty, empty, spaced(0))]) == []


def test_infinite_logits_are_ordered_like_others() -> None:
    start = np.array([-np.inf, 1.0, np.inf], np.float32)
    assert best([(start, np.zeros(3, np.float32), spaced(3))], 3, 1) == [(np.inf, 4, 5), (1.0, 2, 3), (-np.inf, 0, 1)]


def test_logits_that_are_not_numbers_are_refused() -> None:
    start, zeros = np.array([0.0, np.nan], dtype=np.float32), np.zeros(2, np.float32)
    for found, nulls in (((start, zeros, spaced(2)), [(0, 0)]), ((zeros, zeros, spaced(2)), [(0, np.nan)])):
        with pytest.raises(EngineError, match="NaN"):
            LogitSums(20, 15).rank(*packed([[found]], nulls))


def test_null_score_is_the_least_of_all_windows_of_a_request() -> None:
    one = (np.ones(1, np.float32), np.ones(1, np.float32), spaced(1))
    scoring = LogitSums(20, 15)
    (first,) = scoring.rank(*packed([[one, one], [one]], [(1.0, 3.0), (2.0, 1.5), (9.0, 9.0)], last=False))
    (second,) = scoring.rank(*packed([[one]], [(8.0, 9.0)], first_item=1))
    assert (first.null, second.null) == (3.5, 17.0)
