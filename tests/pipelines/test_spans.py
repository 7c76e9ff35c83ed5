"""Span selection against a brute-force twin that follows the documented rules word by word."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsert.errors import EngineError
from sparsert.pipelines.spans import Span, best_spans, null_score, window_spans


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
    for _ in range(draw(st.integers(0, 3))):
        first = draw(st.integers(0, tokens))
        last = draw(st.integers(first, tokens))
        count = last - first
        start = np.array(draw(st.lists(logits, min_size=count, max_size=count)), dtype=np.float32)
        end = np.array(draw(st.lists(logits, min_size=count, max_size=count)), dtype=np.float32)
        result.append((start, end, offsets[first:last]))
    return result


@settings(max_examples=150)
@given(windows(), st.integers(1, 8), st.integers(1, 8))
def test_equal_to_brute_force(windows: list[tuple], n_best_size: int, max_answer_length: int) -> None:
    candidates = [span for window in windows for span in window_spans(*window, n_best_size, max_answer_length)]
    spans = best_spans(candidates, n_best_size)
    assert [(span.score, span.start, span.end) for span in spans] == naive_best_spans(
        windows, n_best_size, max_answer_length
    )
    for span in spans:
        assert span.score == np.float32(span.start_logit) + np.float32(span.end_logit)


def spaced(tokens: int) -> np.ndarray:
    """Offsets of one-letter words with a space between them."""
    return np.array([[2 * token, 2 * token + 1] for token in range(tokens)]).reshape(-1, 2)


def test_ties_go_to_the_earlier_start_then_to_the_shorter_text() -> None:
    zeros = np.zeros(6, dtype=np.float32)
    spans = best_spans(window_spans(zeros, zeros, spaced(6), 20, 3), 20)
    assert [(span.start, span.end) for span in spans[:4]] == [(0, 1), (0, 3), (0, 5), (2, 3)]


def test_score_is_the_float32_sum_of_raw_logits() -> None:
    start, end = np.array([16777216.0, 0.0], np.float32), np.array([0.0, 1.0], np.float32)
    (best, *_) = best_spans(window_spans(start, end, spaced(2), 20, 15), 1)
    assert best == Span(16777216.0, 0, 1, 16777216.0, 0.0)


def test_the_same_span_of_two_windows_counts_once_with_its_best_score() -> None:
    low, high = np.array([1.0], np.float32), np.array([3.0], np.float32)
    candidates = window_spans(low, low, spaced(1), 20, 15) + window_spans(high, low, spaced(1), 20, 15)
    assert best_spans(candidates, 20) == [Span(4.0, 0, 1, 3.0, 1.0)]


def test_no_tokens_give_no_spans() -> None:
    empty = np.zeros(0, dtype=np.float32)
    assert window_spans(empty, empty, spaced(0), 20, 15) == []
    assert best_spans([], 20) == []


def test_logits_that_are_not_numbers_are_refused() -> None:
    start = np.array([0.0, np.nan], dtype=np.float32)
    with pytest.raises(EngineError, match="NaN"):
        window_spans(start, np.zeros(2, np.float32), spaced(2), 20, 15)
    with pytest.raises(EngineError, match="NaN"):
        null_score(start[None], start[None], np.array([1]))


def test_null_score_is_the_least_of_all_windows_at_their_null_positions() -> None:
    start = np.array([[1.0, 9.0], [9.0, 2.0]], dtype=np.float32)
    end = np.array([[3.0, 9.0], [9.0, 1.5]], dtype=np.float32)
    assert null_score(start, end, np.array([0, 1])) == 3.5
