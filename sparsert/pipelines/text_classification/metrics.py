"""Metrics of classification and regression, in percent: accuracy, F1, correlations."""

from __future__ import annotations

import numpy as np

from sparsert.errors import InputError

__all__ = ["classification_metrics", "regression_metrics"]


def classification_metrics(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy and F1 of labels.

    Parameters
    ----------
    truth, predicted : bool array, shape (N, L)
        Which of L labels each of N texts has, and which it was given.

    Returns
    -------
    dict
        ``accuracy``, the share of texts with all labels right and no others; ``f1_macro``, the mean F1 of the labels
        that occur on either side; and ``f1_micro``, the F1 of all decisions together, which is the accuracy where each
        text has one label.
    """
    right = (truth & predicted).sum(axis=0)
    either = truth.sum(axis=0) + predicted.sum(axis=0)
    occurs = either > 0
    total = either.sum()
    return {
        "accuracy": 100 * float((truth == predicted).all(axis=1).mean()),
        "f1_macro": 100 * float((2 * right[occurs] / either[occurs]).mean()) if total else 0.0,
        "f1_micro": 100 * float(2 * right.sum() / total) if total else 0.0,
    }


def regression_metrics(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Correlations of numbers by Pearson and Spearman; 0 where all predictions are equal.

    Parameters
    ----------
    truth, predicted : float array, shape (N,)

    Raises
    ------
    InputError
        The true numbers are all equal, so that nothing can correlate with them.
    """
    if len(truth) < 2 or (truth == truth[0]).all():
        raise InputError(f"a correlation needs records with different numbers as labels, got {len(truth)} with one")
    return {
        "pearson": 100 * _correlation(truth, predicted),
        "spearman": 100 * _correlation(_ranks(truth), _ranks(predicted)),
    }


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(), y - y.mean()
    spread = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / spread if spread else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each value; equal ones share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse])
