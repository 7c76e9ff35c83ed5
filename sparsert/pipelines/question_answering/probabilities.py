"""Post-processing as the question-answering pipeline of transformers 4 does it: spans scored by their probability.

In each window the start and end logits of context tokens and of the null position become probabilities (softmax), and
a span's score is the product of its two. The spans of all windows are pooled; the scores of equal answers (ignoring
case) add up, wherever in the text they stand, so a score may exceed 1.

Source: ``transformers/pipelines/question_answering.py`` of transformers 4.57. Differences, all of them where that code
fails or is undefined: question tokens are no candidates with left padding either; spans without text do not count;
equal scores are ordered by window, start and length.
"""

from __future__ import annotations

import numpy as np

from sparsert.pipelines.question_answering.spans import Ranking, Spans, best_positions, context_matrix, null_logits
from sparsert.pipelines.question_answering.windows import PackedWindows

__all__ = ["SpanProbabilities"]


class SpanProbabilities:
    """Rank spans by probability, as transformers 4 does.

    Windows come in slices, in order; a request that continues in the next slice is kept until it is complete.

    Parameters
    ----------
    top_k : int
        Number of answers that will be asked for.
    max_answer_length : int
        Most tokens of a span.
    align_to_words : bool
        Widen each span to whole words.
    """

    def __init__(self, top_k: int, max_answer_length: int, align_to_words: bool) -> None:
        # Aligned to words, several of them may become the same answer, so more are taken (the number is transformers').
        self._per_window = 2 * top_k + 10 if align_to_words else top_k
        self.max_answer_length = max_answer_length
        self.align_to_words = align_to_words
        self._answers: dict[str, list[float]] = {}
        self._null = np.inf

    def rank(self, windows: PackedWindows, start: np.ndarray, end: np.ndarray) -> list[Ranking]:
        """Rankings of the requests that are complete with this slice, all their spans in them; logits of shape (N,)."""
        probabilities, nulls = self._probabilities(windows, start, end)
        rows, firsts, lasts, scores = self._candidates(windows, *probabilities)
        starts, ends = self._places(windows, rows, firsts, lasts)
        has_text = ends > starts
        rows = rows[has_text]
        found = list(zip(starts[has_text].tolist(), ends[has_text].tolist(), scores[has_text].tolist(), strict=True))
        rankings = []
        window = 0
        bounds = np.searchsorted(rows, np.arange(len(windows.lengths) + 1)).tolist()
        for reading in windows.readings:
            past = window + len(reading.ranges)
            self._null = min(self._null, nulls[window:past].min().item())
            self._add(found[bounds[window] : bounds[past]], reading.text)
            window = past
            if reading.last:
                rankings.append(self._finish(reading.item))
        return rankings

    def _probabilities(
        self, windows: PackedWindows, start: np.ndarray, end: np.ndarray
    ) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
        """Start and end probabilities of context tokens, shape (W, C), which are valid, and null scores, shape (W,)."""
        matrices, null_probabilities = [], []
        for logits, null in zip((start, end), null_logits(windows, start, end), strict=True):
            values, valid = context_matrix(windows, logits)
            values = np.where(valid, values, -np.inf)
            highest = np.maximum(values.max(axis=1), null)
            exponentials = np.exp(values - highest[:, None])
            null_exponentials = np.exp(null - highest)
            total = exponentials.sum(axis=1) + null_exponentials
            matrices.append(exponentials / total[:, None])
            null_probabilities.append(null_exponentials / total)
        return (matrices[0], matrices[1], valid), null_probabilities[0] * null_probabilities[1]

    def _candidates(
        self, windows: PackedWindows, start: np.ndarray, end: np.ndarray, valid: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Window, first and last context token and score of each window's most probable spans, in order of rank."""
        count, width = start.shape
        longest = min(self.max_answer_length, width)
        following = np.zeros((count, width + longest - 1), dtype=np.float32)
        following[:, :width] = end
        # scores[w, s, k] is that of the span from token s to token s + k
        scores = start[:, :, None] * np.lib.stride_tricks.sliding_window_view(following, longest, axis=1)
        lasts = np.arange(width)[:, None] + np.arange(longest)
        fits = (lasts < windows.context_lengths[:, None, None]).reshape(count, -1)
        flat = scores.reshape(count, -1)
        chosen, found = best_positions(flat, fits, self._per_window)
        rows, _ = np.nonzero(found)
        chosen = chosen[found]
        firsts, more = np.divmod(chosen, longest)
        return rows, firsts, firsts + more, flat[rows, chosen]

    def _places(
        self, windows: PackedWindows, rows: np.ndarray, firsts: np.ndarray, lasts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """First code point of each span and the one after its last."""
        origin = windows.context_rows[rows]
        starts, ends = windows.offsets[:, 0], windows.offsets[:, 1]
        if self.align_to_words and len(starts):
            words = windows.words
            begins_word = np.ones(len(words), dtype=bool)
            begins_word[1:] = (words[1:] != words[:-1]) | (words[1:] < 0)
            begins_word[windows.context_rows[windows.context_lengths > 0]] = True
            word_firsts = np.flatnonzero(begins_word)
            word = np.cumsum(begins_word) - 1
            starts = starts[word_firsts][word]
            ends = ends[np.append(word_firsts[1:], len(words)) - 1][word]
        return starts[origin + firsts], ends[origin + lasts]

    def _add(self, spans: list[tuple[int, int, float]], context: str) -> None:
        for start, end, score in spans:
            answer = self._answers.setdefault(context[start:end].lower(), [0.0, start, end])
            answer[0] += score

    def _finish(self, item: int) -> Ranking:
        answers = sorted(self._answers.values(), key=lambda answer: -answer[0])
        table = np.array(answers, dtype=np.float64).reshape(-1, 3)
        nothing = np.full(len(table), np.nan, dtype=np.float32)
        places = table[:, 1:].astype(np.int64)
        ranking = Ranking(item, Spans(table[:, 0], places[:, 0], places[:, 1], nothing, nothing), self._null)
        self._answers, self._null = {}, np.inf
        return ranking
