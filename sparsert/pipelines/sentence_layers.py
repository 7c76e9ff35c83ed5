"""What an embedding model does to its pooled vectors: dense layers, layer normalization, unit length.

All of them take and give float32 arrays of shape (rows, features). The result of a row depends on that row alone, to
the bit: BLAS chooses its kernels by the number of rows, so :class:`Dense` multiplies each row by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["ACTIVATIONS", "Dense", "LayerNorm", "UnitLength"]


def _gelu(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf  # here: few models need it

    half = np.float32(0.5)
    return np.asarray(half * x * (1 + erf(x * np.sqrt(half))), dtype=np.float32)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return np.asarray(expit(x), dtype=np.float32)


ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Identity": lambda x: x,
    "Tanh": np.tanh,
    "GELU": _gelu,
    "ReLU": lambda x: np.maximum(x, 0),
    "Sigmoid": _sigmoid,
}
"""Activations of a dense layer by the name of torch's class. GELU is the exact one, with the error function."""


@dataclass(frozen=True, eq=False)
class Dense:
    """``activation(x W' + b)``, and a residual connection if there is one.

    Attributes
    ----------
    weight : float32 array, shape (out_features, in_features)
        Torch's layout.
    bias : float32 array, shape (out_features,), optional
        Added to each row.
    activation : str
        A key of :data:`ACTIVATIONS`.
    residual : float32 array, shape (out_features, in_features), or bool
        Whether the input is added after the activation; an array projects it first.
    """

    weight: np.ndarray
    bias: np.ndarray | None = None
    activation: str = "Tanh"
    residual: np.ndarray | bool = False

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        out = _product(vectors, self.weight)
        if self.bias is not None:
            out += self.bias
        out = ACTIVATIONS[self.activation](out)
        if self.residual is False:
            return out
        return out + (vectors if self.residual is True else _product(vectors, np.asarray(self.residual)))


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """Each row with mean 0 and variance 1, then scaled and shifted; torch's ``LayerNorm``.

    Attributes
    ----------
    weight, bias : float32 array, shape (features,)
        Scale and shift.
    epsilon : float
        Added to the variance.
    """

    weight: np.ndarray
    bias: np.ndarray
    epsilon: float = 1e-5

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        centred = vectors - vectors.mean(axis=1, keepdims=True, dtype=np.float64)
        scaled = centred / np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + self.epsilon)
        return np.asarray(scaled * self.weight + self.bias, dtype=np.float32)


@dataclass(frozen=True)
class UnitLength:
    """Each row divided by its Euclidean length, as torch's ``normalize`` does it: a row of zeros stays one."""

    epsilon: float = 1e-12

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        lengths = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1, keepdims=True))
        return np.asarray(vectors / np.maximum(lengths, self.epsilon), dtype=np.float32)


def _product(vectors: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """``vectors @ weight.T``, by one product of the same shape for each row."""
    rows = np.ascontiguousarray(vectors, dtype=np.float32)[:, None, :]
    return np.matmul(rows, weight.T)[:, 0, :]
