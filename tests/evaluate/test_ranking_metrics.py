"""Metrics of rankings against what sentence-transformers and scikit-learn compute on random ones.

``originals/rank_with_originals.py`` made ``data/ranking-metrics.npz``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sparsert.errors import InputRangeError
from sparsert.evaluate.ranking_metrics import ndcg, recall, reciprocal_rank

# Sums of the same floats in another order.
ROUNDING = {"rel": 1e-12, "abs": 1e-12}


@pytest.fixture(scope="module")
def cases() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "data" / "ranking-metrics.npz") as found:
        return dict(found)


def rankings(cases: dict[str, np.ndarray]) -> Iterator[tuple[np.ndarray, int]]:
    gains = np.split(cases["gains"], np.cumsum(cases["lengths"])[:-1])
    return zip(gains, cases["cutoffs"].tolist(), strict=True)


def test_retrieval_as_sentence_transformers_scores_it(cases: dict[str, np.ndarray]) -> None:
    for (gains, k), missing, expected in zip(rankings(cases), cases["missing"], cases["expected"], strict=True):
        ranked = gains > 0
        relevant = [1] * (ranked.sum() + missing)
        found = (ndcg(ranked, k, relevant), recall(ranked, k, relevant), reciprocal_rank(ranked, k))
        assert found == pytest.approx(expected, **ROUNDING)


def test_graded_gains_as_scikit_learn_scores_them(cases: dict[str, np.ndarray]) -> None:
    for (gains, k), expected in zip(rankings(cases), cases["graded"], strict=True):
        assert ndcg(gains, k) == pytest.approx(expected, **ROUNDING)


def test_nothing_relevant_scores_0() -> None:
    for ranked in ([], [0, 0]):
        assert (ndcg(ranked), recall(ranked), reciprocal_rank(ranked)) == (0, 0, 0)


@pytest.mark.parametrize("metric", [ndcg, recall, reciprocal_rank])
def test_senseless_arguments(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(InputRangeError, match="k must be an int of at least 1, got 0"):
        metric([1, 0], 0)
    for gain in (-1, np.nan):
        with pytest.raises(InputRangeError, match=r"gains must be 0.*the least is"):
            metric([1, gain])
