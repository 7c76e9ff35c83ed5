"""Entities of a text read through windows: from scores put together token by token, or from entities by window."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from sparsert.pipelines.token_classification.entities import Entity, Labels, aggregate, without_overlaps
from sparsert.pipelines.token_classification.words import Tokens, Vocabulary

__all__ = ["default_overlap", "entities_of_windows", "joined_scores", "own_ranges"]

# Tokens that windows share: the context of an entity rarely reaches further, and it costs an eighth of windows of 512.
_OVERLAP = 64


def default_overlap(budget: int) -> int:
    """Tokens that consecutive windows of ``budget`` tokens share: 64, or a quarter of a window if that is less."""
    return min(_OVERLAP, budget // 4)


def own_ranges(ranges: np.ndarray) -> np.ndarray:
    """The tokens of each window that lie deeper in it than in any other one; they make up the text.

    Parameters
    ----------
    ranges : int64 array, shape (W, 2)
        Windows as of :func:`sparsert.pipelines.windows.window_ranges`, no token in more than two of them.

    Returns
    -------
    int64 array, shape (W, 2)
        Half-open ranges. Of two windows in which a token is equally far from the edge, the left one has it; the ends of
        the text are no edges.
    """
    ordered = np.sort(ranges, axis=0)
    seams = (ordered[:-1, 1] - 1 + ordered[1:, 0]) // 2 + 1
    own = np.stack([np.append(ordered[0, 0], seams), np.append(seams, ordered[-1, 1])], axis=1)
    return own if ranges[0, 0] == ordered[0, 0] else own[::-1]


def entities_of_windows(
    tokens: Tokens,
    ranges: np.ndarray,
    scores: Sequence[np.ndarray],
    labels: Labels,
    vocabulary: Vocabulary,
    strategy: str = "none",
    ignored: Collection[str] = ("O",),
    window_by_window: bool = False,
) -> list[Entity]:
    """The entities of a text.

    Parameters
    ----------
    tokens : Tokens
        Those of the whole text.
    ranges : int64 array, shape (W, 2)
        Windows through which it was read: none where it has no tokens; with a single one, perhaps not all of it.
    scores : sequence of float32 arrays, each of shape (T_w, L)
        Probabilities of the labels of each token of each window.
    labels, vocabulary, strategy, ignored
        See :func:`aggregate`.
    window_by_window : bool
        Whether entities are made of each window by itself, and overlapping ones then chosen from; otherwise each token
        gets its scores from the window that it lies deepest in, and no entity ends with a window.

    Returns
    -------
    list of Entity
        In the order of the text. Windows have rows of their own, and so do the indices of their tokens; where scores
        are put together, indices are those that a row of the whole text would have.
    """
    if len(ranges) == 1 or not window_by_window:
        chosen = tokens.window(int(ranges.min()), int(ranges.max())) if len(ranges) else tokens.window(0, 0)
        return aggregate(chosen, joined_scores(ranges, scores), labels, vocabulary, strategy, ignored)
    found = [
        entity
        for (begin, end), part in zip(ranges.tolist(), scores, strict=True)
        for entity in aggregate(tokens.window(begin, end), part, labels, vocabulary, strategy, ignored)
    ]
    return without_overlaps(found)


def joined_scores(ranges: np.ndarray, scores: Sequence[np.ndarray]) -> np.ndarray:
    """Scores of each token of a text, shape (T, L), each from the window that it lies deepest in."""
    if not len(ranges):
        return np.empty((0, 0), dtype=np.float32)
    own = own_ranges(ranges)
    rows = own - ranges[:, :1]
    return np.concatenate([scores[place][slice(*rows[place])] for place in np.argsort(ranges[:, 0])])
