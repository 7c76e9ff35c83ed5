"""How well relevant documents are ranked: nDCG, recall and reciprocal rank of one query's list.

All take ``ranked``, the gains of the documents in the order of the ranking, best first: 0 for one that is not
relevant, 1 for one that is, or grades. ``relevant`` are the gains of everything that is relevant for the query, in any
order, where the list does not hold all of it. A query without anything relevant scores 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsert.errors import InputRangeError

__all__ = ["ndcg", "recall", "reciprocal_rank"]


def ndcg(ranked: Sequence[float], k: int = 10, relevant: Sequence[float] | None = None) -> float:
    """Normalized discounted cumulative gain of the first ``k`` documents, from 0 to 1.

    A gain at rank ``i`` counts ``1 / log2(i + 1)``; the sum is divided by that of the best order. Source: Järvelin and
    Kekäläinen, Cumulated gain-based evaluation of IR techniques, 2002, with gains as they are (as trec_eval and BEIR).

    Raises
    ------
    InputRangeError
        ``k`` is less than 1, or a gain is negative.
    """
    gains = _gains(ranked, k)
    best = np.sort(gains if relevant is None else _gains(relevant, k))[::-1]
    ideal = _discounted(best[:k])
    return _discounted(gains[:k]) / ideal if ideal else 0.0


def recall(ranked: Sequence[float], k: int = 10, relevant: Sequence[float] | None = None) -> float:
    """Share of the relevant documents that are among the first ``k``, from 0 to 1; a gain above 0 is relevant.

    Raises
    ------
    InputRangeError
        ``k`` is less than 1, or a gain is negative.
    """
    gains = _gains(ranked, k)
    total = np.count_nonzero(gains if relevant is None else _gains(relevant, k))
    return np.count_nonzero(gains[:k]) / total if total else 0.0


def reciprocal_rank(ranked: Sequence[float], k: int = 10) -> float:
    """1 / rank of the first relevant document among the first ``k``, else 0; its mean over queries is the MRR.

    Raises
    ------
    InputRangeError
        ``k`` is less than 1, or a gain is negative.
    """
    found = np.flatnonzero(_gains(ranked, k)[:k])
    return 1 / (int(found[0]) + 1) if len(found) else 0.0


def _gains(values: Sequence[float], k: int) -> np.ndarray:
    if k < 1:
        raise InputRangeError(f"k must be an int of at least 1, got {k!r}")
    gains = np.asarray(values, dtype=np.float64).reshape(-1)
    if not (gains >= 0).all():
        raise InputRangeError(f"gains must be 0, for what is not relevant, or above; the least is {gains.min()}")
    return gains


def _discounted(gains: np.ndarray) -> float:
    return float((gains / np.log2(np.arange(2, len(gains) + 2))).sum())
