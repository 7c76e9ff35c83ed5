"""Pooling: one vector for each sequence from the vectors of its tokens.

Sequences lie one after another without padding, and each is reduced by itself in the order of its tokens, so that a
vector does not depend on the sequences beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["POOLING_MODES", "pool"]


def pool(hidden: np.ndarray, lengths: np.ndarray, modes: Sequence[str], skipped: np.ndarray | int = 0) -> np.ndarray:
    """Pool the token vectors of sequences that lie one after another.

    Parameters
    ----------
    hidden : float32 array, shape (N, H)
        Vectors of all tokens.
    lengths : int array, shape (W,)
        Tokens of each sequence; their sum is ``N``.
    modes : sequence of str
        Of :data:`POOLING_MODES`; the vectors of several stand one after another.
    skipped : int array, shape (W,), or int
        Tokens at the beginning of each sequence that are left out: those of a prompt. ``weightedmean`` counts them
        nevertheless. A sequence of nothing else has a vector of zeros, or its first token's by ``cls``.

    Returns
    -------
    float32 array, shape (W, len(modes) * H)
    """
    ends = np.cumsum(lengths)
    begins = ends - lengths
    kept = begins + np.minimum(skipped, lengths)
    rows, width = len(lengths), hidden.shape[1]
    result = np.zeros((rows, len(modes), width), dtype=np.float32)
    for place, mode in enumerate(modes):
        if mode == "cls":
            result[:, place] = hidden[np.where(kept < ends, kept, begins)]
        elif mode == "lasttoken":
            result[:, place] = np.where((kept < ends)[:, None], hidden[ends - 1], 0)
        else:
            reduce = _REDUCTIONS[mode]
            for row, (begin, first, end) in enumerate(zip(begins.tolist(), kept.tolist(), ends.tolist(), strict=True)):
                if first < end:
                    result[row, place] = reduce(hidden[first:end], first - begin)
    return result.reshape(rows, -1)


# Sums along the first axis add whole vectors in the order of the tokens, which is what makes them reproducible; a
# product of a BLAS would be free to choose another order.


def _mean(vectors: np.ndarray, before: int) -> np.ndarray:
    return vectors.sum(axis=0) / np.float32(len(vectors))


def _mean_sqrt(vectors: np.ndarray, before: int) -> np.ndarray:
    return vectors.sum(axis=0) / np.sqrt(np.float32(len(vectors)))


def _weighted_mean(vectors: np.ndarray, before: int) -> np.ndarray:
    weights = np.arange(before + 1, before + 1 + len(vectors), dtype=np.float32)
    return (vectors * weights[:, None]).sum(axis=0) / weights.sum()


def _max(vectors: np.ndarray, before: int) -> np.ndarray:
    return vectors.max(axis=0)


_REDUCTIONS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
}

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""Names as sentence-transformers has them: the first token, the greatest number of each dimension, the mean, the sum
over the square root of the number of tokens, the mean with weights 1, 2, 3 and so on, the last token."""
