"""What becomes of a head's logits, along the last axis: softmax or sigmoid, by which rule, and the best labels."""

from __future__ import annotations

import numpy as np

from sparsert.errors import InputError, ModelError

__all__ = ["FUNCTIONS", "activate", "head_function", "sigmoid", "softmax", "top_k"]

FUNCTIONS = ("softmax", "sigmoid", "none")
"""Names of what may be applied to logits."""


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of labels that exclude each other.

    Parameters
    ----------
    logits : float array, shape (..., L)

    Returns
    -------
    float array, shape (..., L)
        Of the same dtype. A row that holds NaN or positive infinity becomes NaN, wholly or in part.
    """
    with np.errstate(invalid="ignore"):  # infinity less infinity
        # Less the highest, or logits from 89 on would overflow
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True, initial=-np.inf))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probability of each label by itself; any shape, of the same dtype."""
    with np.errstate(over="ignore"):  # one through infinity is the zero that it should be
        return np.asarray(1 / (1 + np.exp(-logits)))


def head_function(problem_type: str | None, num_labels: int, asked: str | None = None) -> str:
    """What is applied to the logits of a classifier, by Hugging Face's rule.

    Parameters
    ----------
    problem_type : str, optional
        As ``config.json`` has it: of ``"regression"`` nothing becomes probabilities, of
        ``"multi_label_classification"`` each label by itself.
    num_labels : int
        One label is a probability by itself; several exclude each other.
    asked : str, optional
        One of ``FUNCTIONS``, or ``"identity"`` for none, which stands above the rule; case does not matter.

    Returns
    -------
    str
        One of ``FUNCTIONS``.

    Raises
    ------
    InputError
        ``asked`` is none of them.
    """
    if asked is not None:
        name = asked.lower() if isinstance(asked, str) else asked
        name = "none" if name == "identity" else name
        if name not in FUNCTIONS:
            raise InputError(f"function_to_apply must be None or one of {list(FUNCTIONS)}, got {asked!r}")
        return name
    if problem_type == "regression":
        return "none"
    return "sigmoid" if problem_type == "multi_label_classification" or num_labels == 1 else "softmax"


def activate(logits: np.ndarray, function: str) -> np.ndarray:
    """Logits after one of ``FUNCTIONS``."""
    if function == "none":
        return logits
    return softmax(logits) if function == "softmax" else sigmoid(logits)


def top_k(scores: np.ndarray, k: int | None = None) -> np.ndarray:
    """Places of the highest scores, highest first, of equal ones the lower place first.

    Parameters
    ----------
    scores : float array, shape (..., L)
    k : int, optional
        How many; all by default, and where it is more than L.

    Returns
    -------
    int64 array, shape (..., min(k, L))

    Raises
    ------
    ModelError
        A score is NaN, which has no place in any order.
    """
    unknown = np.isnan(scores).any(axis=-1)
    if unknown.any():
        raise ModelError(
            f"expected numbers from the model, got NaN in {unknown.sum()} of {unknown.size} rows; its weights hold NaN "
            "or infinity, or its sums overflow: export it again, in float32"
        )
    if k == 1 and scores.shape[-1]:
        return np.asarray(scores.argmax(axis=-1, keepdims=True))
    return np.asarray(np.argsort(-scores, axis=-1, kind="stable")[..., :k])
