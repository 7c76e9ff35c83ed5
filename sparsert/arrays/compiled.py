"""What NumPy is slow at, or does with threads of its own: compiled loops for float32, NumPy for all else."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import get_num_threads

from sparsert.kernels.arrays import gather
from sparsert.kernels.arrays.numbers import NUMBERS, apply
from sparsert.kernels.arrays.products import multiply
from sparsert.kernels.arrays.softmax import softmax_rows

__all__ = ["erf", "exp", "gather_rows", "gelu", "gelu_tanh", "matmul", "sigmoid", "silu", "softmax", "tanh"]

_Function = Callable[[np.ndarray], np.ndarray]

_FEWEST_PRODUCTS = 1 << 19
"""Multiplications below which BLAS is done sooner, on one thread: for 1 x 16 tokens in 12 us instead of 30."""

_MOST_TERMS = 1 << 12
"""Terms of a product above which a panel leaves the L2."""


def _by_kernel(name: str, others: _Function) -> _Function:
    """The kernel of that name, for float32; ``others`` for what else comes."""
    code = NUMBERS.codes[name]

    def run(x: np.ndarray) -> np.ndarray:
        if x.dtype != np.float32:
            return others(x)
        flat = np.ascontiguousarray(x).reshape(-1)
        y = np.empty_like(flat)
        apply(code, flat, y, get_num_threads())
        return y.reshape(x.shape)

    return run


def _erf(x: np.ndarray) -> np.ndarray:
    from scipy.special import erf as of_doubles  # here: few models need it

    return np.asarray(of_doubles(x)).astype(x.dtype)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.divide(1, 1 + np.exp(-x), dtype=x.dtype)


def _widened(function: _Function) -> _Function:
    """Half precision by way of single, other types by way of double."""

    def run(x: np.ndarray) -> np.ndarray:
        return function(x.astype(np.float64 if x.dtype == np.float64 else np.float32)).astype(x.dtype)

    return run


def _gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + _erf(x * math.sqrt(0.5)))


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


exp = _by_kernel("exp", np.exp)
tanh = _by_kernel("tanh", np.tanh)
erf = _by_kernel("erf", _erf)
sigmoid = _by_kernel("sigmoid", _sigmoid)
silu = _by_kernel("silu", lambda x: x * _sigmoid(x))
gelu = _by_kernel("gelu", _widened(_gelu))
gelu_tanh = _by_kernel("gelu_tanh", _widened(_gelu_tanh))


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis, of float32 or float64."""
    if x.dtype != np.float32:
        raised = np.exp(x - np.max(x, -1, keepdims=True, initial=-np.inf))
        return raised / raised.sum(-1, keepdims=True)
    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1]) if x.size else x.reshape(0, 1)
    y = np.empty_like(rows)
    softmax_rows(rows, y, get_num_threads())
    return y.reshape(x.shape)


class _Stack(NamedTuple):
    """A stack of products, as the shapes and strides of its operands tell it."""

    shape: tuple[int, ...]
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    """Bytes from each operand's first number to those of its matrices."""
    sizes: tuple[int, int, int]


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``np.matmul``; of float32 on the threads of the team, whatever the strides."""
    if a.dtype != np.float32 or b.dtype != np.float32:
        return np.matmul(a, b)
    if b.ndim == 2 and a.ndim > 2 and a.flags.c_contiguous:  # one product instead of many
        return matmul(a.reshape(math.prod(a.shape[:-1]), a.shape[-1]), b).reshape(*a.shape[:-1], b.shape[1])
    stack = _stack(a.shape, a.strides, b.shape, b.strides)
    if stack is None:
        return np.matmul(a, b)
    c = np.empty(stack.shape, np.float32)
    places = stack.a + a.ctypes.data, stack.b + b.ctypes.data, stack.c + c.ctypes.data
    multiply(*places, stack.sizes, a.strides[-2:], b.strides[-2:], c.strides[-2], get_num_threads())
    return c


@functools.lru_cache(maxsize=256)
def _stack(
    a_shape: tuple[int, ...], a_strides: tuple[int, ...], b_shape: tuple[int, ...], b_strides: tuple[int, ...]
) -> _Stack | None:
    """None where NumPy does as well, or has an error to raise."""
    if min(len(a_shape), len(b_shape)) < 2 or a_shape[-1] != b_shape[-2]:
        return None
    (rows, terms), columns = a_shape[-2:], b_shape[-1]
    lead = np.broadcast_shapes(a_shape[:-2], b_shape[:-2])
    if math.prod(lead) * rows * terms * columns < _FEWEST_PRODUCTS or terms > _MOST_TERMS or min(rows, columns) == 1:
        return None
    shape = (*lead, rows, columns)
    c_strides = tuple(4 * math.prod(shape[axis + 1 :]) for axis in range(len(lead)))
    return _Stack(
        shape,
        _places(a_shape[:-2], a_strides, lead),
        _places(b_shape[:-2], b_strides, lead),
        _places(lead, c_strides, lead),
        (rows, terms, columns),
    )


def _places(shape: tuple[int, ...], strides: tuple[int, ...], lead: tuple[int, ...]) -> np.ndarray:
    """Bytes from an array's first number to that of each of its matrices, broadcast to ``lead``."""
    place: Any = np.zeros((), np.int64)
    for size, stride in zip(shape, strides, strict=False):
        place = np.add.outer(place, np.arange(size, dtype=np.int64) * stride)
    return np.broadcast_to(place, lead).reshape(-1).copy()


def gather_rows(x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Numbers of the last axis at the places of ``indices``, whose other axes are those of ``x``, or shorter.

    Raises
    ------
    IndexError
        An index lies beyond the axis.
    """
    kept = x[tuple(map(slice, indices.shape[:-1]))]
    if x.itemsize != 4 or indices.dtype != np.int64 or indices.ndim < 2 or not indices.size or not kept.size:
        return np.take_along_axis(kept, indices, -1)
    lead, threads = indices.shape[:-1], get_num_threads()
    y, wrong = np.empty(indices.shape, x.dtype), np.zeros((threads, 8), np.int64)
    gather.gather_rows(
        _row_places(lead, kept.strides[:-1]) + kept.ctypes.data,
        _row_places(lead, indices.strides[:-1]) + indices.ctypes.data,
        y.ctypes.data,
        (kept.shape[-1], indices.shape[-1]),
        (kept.strides[-1], indices.strides[-1]),
        wrong,
        threads,
    )
    if wrong.any():
        raise IndexError(f"an index lies outside of [{-kept.shape[-1]}, {kept.shape[-1]})")
    return y


@functools.lru_cache(maxsize=64)
def _row_places(lead: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    return _places(lead, strides, lead)
