"""Scoring by probability against a twin that does what transformers 4 does, one window and one span at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsert.errors import EngineError
from sparsert.pipelines.question_answering.probabilities import SpanProbabilities
from sparsert.pipelines.question_answering.windows import PackedWindows, Reading
from sparsert.pipelines.tokenization import TokenizedText

TEXT = "Ab aB cd Ab\u0301 ef-gh ab CD ij kl mn ab"
# Tokens of up to two letters; "ef-gh" is one word of three tokens here, and tokens without text stand for oddities.
PIECES = [(0, 2, 0), (3, 5, 1), (6, 8, 2), (9, 12, 3), (13, 15, 4), (15, 16, 4), (16, 18, 4), (19, 21, 5), (22, 24, 6)]
PIECES += [(24, 24, 6), (25, 27, 7), (28, 30, 8), (31, 33, 9), (34, 36, 10)]
OFFSETS = np.array([piece[:2] for piece in PIECES])
WORDS = np.array([piece[2] for piece in PIECES])
QUESTION = TokenizedText(np.zeros(2, np.int64), np.zeros((2, 2), np.int64))
CONTEXT = TokenizedText(np.zeros(len(PIECES), np.int64), OFFSETS, WORDS)


def packed(ranges: list[list[tuple[int, int]]], last: bool = True, first_item: int = 0) -> PackedWindows:
    """Windows of several requests, each a null token, two of the question and some of the context."""
    readings = [
        Reading(first_item + item, TEXT, QUESTION, CONTEXT, np.array(found), last or item < len(ranges) - 1)
        for item, found in enumerate(ranges)
    ]
    sizes = np.array([last - first for found in ranges for first, last in found])
    lengths = sizes + 3
    return PackedWindows(readings, {}, lengths, np.cumsum(lengths) - lengths + 3, sizes)


def softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()


def naive_answers(
    windows: list[tuple[tuple[int, int], np.ndarray, np.ndarray]], top_k: int, longest: int, align: bool
) -> tuple[list[tuple[float, int, int]], float]:
    """Answers as transformers 4 finds them, best first, and the null score."""
    answers: dict[str, list] = {}
    null = np.inf
    for (first, last), start_logits, end_logits in windows:
        allowed = [0, *range(3, 3 + last - first)]
        start, end = np.zeros(len(start_logits)), np.zeros(len(end_logits))
        start[allowed], end[allowed] = softmax(start_logits[allowed]), softmax(end_logits[allowed])
        null = min(null, start[0] * end[0])
        spans = [
            (-start[3 + s] * end[3 + e], s, e)
            for s in range(last - first)
            for e in range(s, min(s + longest, last - first))
        ]
        for score, s, e in sorted(spans)[: 2 * top_k + 10 if align else top_k]:
            same_start = [token for token in range(first, last) if WORDS[token] == WORDS[first + s]]
            same_end = [token for token in range(first, last) if WORDS[token] == WORDS[first + e]]
            begin = OFFSETS[same_start[0] if align else first + s][0]
            stop = OFFSETS[same_end[-1] if align else first + e][1]
            if stop > begin:
                answer = answers.setdefault(TEXT[begin:stop].lower(), [0.0, int(begin), int(stop)])
                answer[0] -= score
    ranked = sorted(answers.values(), key=lambda answer: -answer[0])
    return [(score, begin, stop) for score, begin, stop in ranked], float(null)


@settings(max_examples=80)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 6), st.booleans())
def test_equal_to_the_twin(seed: int, top_k: int, longest: int, align: bool) -> None:
    rng = np.random.Generator(np.random.PCG64(seed))
    requests = []
    for _ in range(3):
        cuts = np.sort(rng.integers(0, len(PIECES) + 1, (2, 2)), axis=1)
        requests.append([(int(first), int(last)) for first, last in cuts])
    logits = [
        [rng.normal(0, 3, (2, last - first + 3)).astype(np.float32) for first, last in request] for request in requests
    ]

    def flat(index: int, items: slice, windows: slice = slice(None)) -> np.ndarray:
        return np.concatenate([found[index] for request in logits[items] for found in request[windows]])

    scoring = SpanProbabilities(top_k, longest, align)
    rankings = scoring.rank(packed(requests[:2]), flat(0, slice(2)), flat(1, slice(2)))
    # The last request comes in two slices.
    for window, last in ((slice(1), False), (slice(1, 2), True)):
        arrays = flat(0, slice(2, 3), window), flat(1, slice(2, 3), window)
        rankings += scoring.rank(packed([requests[2][window]], last=last, first_item=2), *arrays)
    assert [ranking.item for ranking in rankings] == [0, 1, 2]
    for ranking, request, found in zip(rankings, requests, logits, strict=True):
        windows = [(places, start, end) for places, (start, end) in zip(request, found, strict=True)]
        expected, null = naive_answers(windows, top_k, longest, align)
        # float32 softmax against float64
        np.testing.assert_allclose(ranking.spans.scores, [score for score, _, _ in expected], rtol=2e-5)
        spans = list(zip(ranking.spans.starts.tolist(), ranking.spans.ends.tolist(), strict=True))
        assert spans == [(begin, stop) for _, begin, stop in expected]
        assert ranking.null == pytest.approx(null, rel=2e-5)


def test_logits_that_are_not_numbers_are_refused() -> None:
    logits = np.zeros(5, np.float32)
    for place in (0, 4):
        bad = logits.copy()
        bad[place] = np.nan
        with pytest.raises(EngineError, match="NaN"):
            SpanProbabilities(1, 15, True).rank(packed([[(0, 2)]]), logits, bad)
