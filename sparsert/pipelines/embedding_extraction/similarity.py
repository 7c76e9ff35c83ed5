"""How alike embeddings are: cosine, dot product, and distances with a minus sign, as sentence-transformers has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsert.errors import InputError, InputShapeError
from sparsert.pipelines.sentence_layers import UnitLength

__all__ = ["SIMILARITIES", "similarity", "similarity_pairwise"]

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")

_unit_length = UnitLength()


def similarity(
    first: np.ndarray | Sequence[np.ndarray], second: np.ndarray | Sequence[np.ndarray], function: str = "cosine"
) -> np.ndarray:
    """How alike each embedding of one collection is to each of another; more is more alike.

    Parameters
    ----------
    first, second : array, shape (N, H) and (M, H)
        Embeddings; a single one may have shape (H,). Integers are taken as float32, so that products cannot overflow.
    function : {"cosine", "dot", "euclidean", "manhattan"}
        The last two are distances with a minus sign.

    Returns
    -------
    float32 array, shape (N, M)

    Raises
    ------
    InputError
        The function is unknown, or the embeddings have different dimensions.
    """
    left, right = _checked(np.atleast_2d(_floats(first)), np.atleast_2d(_floats(second)), function)
    if function == "cosine":
        left, right = _unit_length(left), _unit_length(right)
    if function in ("cosine", "dot"):
        return np.asarray(left @ right.T)
    from scipy.spatial.distance import cdist  # a fifth of a second to import, for two functions that few want

    return -cdist(left, right, "euclidean" if function == "euclidean" else "cityblock").astype(np.float32)


def similarity_pairwise(
    first: np.ndarray | Sequence[np.ndarray], second: np.ndarray | Sequence[np.ndarray], function: str = "cosine"
) -> np.ndarray:
    """How alike embeddings are in pairs: ``first[i]`` and ``second[i]``; see :func:`similarity`.

    Returns
    -------
    float32 array, shape (N,), or () for single embeddings
    """
    left, right = _checked(_floats(first), _floats(second), function)
    if function == "cosine":
        left, right = (_unit_length(np.atleast_2d(side)).reshape(side.shape) for side in (left, right))
    if function in ("cosine", "dot"):
        return (left * right).sum(axis=-1)
    difference = left - right
    if function == "euclidean":
        return -np.sqrt(np.square(difference).sum(axis=-1))
    return -np.abs(difference).sum(axis=-1)


def _floats(values: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)


def _checked(left: np.ndarray, right: np.ndarray, function: str) -> tuple[np.ndarray, np.ndarray]:
    if function not in SIMILARITIES:
        raise InputError(f"the similarity function must be one of {list(SIMILARITIES)}, got {function!r}")
    if left.shape[-1:] != right.shape[-1:]:
        raise InputShapeError(
            f"embeddings to compare must have the same dimension, got shapes {left.shape} and {right.shape}"
        )
    return left, right
