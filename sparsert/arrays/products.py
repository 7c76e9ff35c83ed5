"""Matrix products by compiled loops and BLAS: of floats, and exactly of bytes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sparsert.arrays.compiled import matmul
from sparsert.arrays.registry import Compute, Form, Unhandled, operator

__all__ = ["Einsum", "Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "float_product", "integer_product"]

_EXACT_TERMS = (1 << 24) // (255 * 255)
"""So many products of centred bytes sum to less than 2**24, which float32 holds exactly."""


def float_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``np.matmul``, with half precision summed in single."""
    if a.dtype == np.float16:
        return matmul(a.astype(np.float32), b.astype(np.float32)).astype(np.float16)
    return matmul(a, b)


@operator(1, 9, 13)
def MatMul(form: Form) -> Compute:
    return float_product


@operator(7, 9, 11, 13)
def Gemm(form: Form) -> Compute:
    alpha, beta = form.attributes["alpha"], form.attributes["beta"]
    flip_a, flip_b = form.attributes["transA"], form.attributes["transB"]

    def run(a: np.ndarray, b: np.ndarray, c: np.ndarray | None = None) -> np.ndarray:
        y = float_product(a.T if flip_a else a, b.T if flip_b else b)
        if alpha != 1:
            y = (y * alpha).astype(a.dtype, copy=False)
        if c is None or beta == 0:
            return y
        return y + (c if beta == 1 else (c * beta).astype(a.dtype, copy=False))

    return run


def integer_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The exact product of centred bytes, given in float32; int32, as what ONNX sums in, wraps.

    BLAS multiplies float32, and rounds no integer below 2**24: so many terms at a time as stay below that.
    """
    terms = a.shape[-1]
    if terms <= _EXACT_TERMS:
        return matmul(a, b).astype(np.int32)
    total: Any = 0
    for start in range(0, terms, _EXACT_TERMS):
        part = slice(start, start + _EXACT_TERMS)
        total = total + matmul(a[..., part], b[..., part, :] if b.ndim > 1 else b[part]).astype(np.int32)
    return total


def _centred(x: np.ndarray, zero_point: np.ndarray | None, last: bool) -> np.ndarray:
    """Bytes without their zero point, which may be one number, one a row (column if ``last``), or fit as it is."""
    if x.dtype not in (np.uint8, np.int8):
        raise Unhandled
    if zero_point is None:
        return x.astype(np.float32)
    if zero_point.ndim == 1 and zero_point.size > 1 and not last:
        zero_point = zero_point[:, None]
    return np.subtract(x, zero_point.reshape(()) if zero_point.size == 1 else zero_point, dtype=np.float32)


@operator(10)
def MatMulInteger(form: Form) -> Compute:
    def run(
        a: np.ndarray, b: np.ndarray, a_zero: np.ndarray | None = None, b_zero: np.ndarray | None = None
    ) -> np.ndarray:
        return integer_product(_centred(a, a_zero, False), _centred(b, b_zero, True))

    return run


@operator(10, 21)
def QLinearMatMul(form: Form) -> Compute:
    def run(
        a: np.ndarray,
        a_scale: np.ndarray,
        a_zero: np.ndarray,
        b: np.ndarray,
        b_scale: np.ndarray,
        b_zero: np.ndarray,
        y_scale: np.ndarray,
        y_zero: np.ndarray,
    ) -> np.ndarray:
        if y_zero.dtype not in (np.uint8, np.int8) or a_scale.dtype != np.float32:
            raise Unhandled
        total = integer_product(_centred(a, a_zero, False), _centred(b, b_zero, True))
        rows = a_scale[:, None] if a_scale.ndim == 1 and a_scale.size > 1 else a_scale
        y = np.rint(total.astype(np.float32) * (rows * b_scale / y_scale)) + y_zero.astype(np.float32)
        limits = np.iinfo(y_zero.dtype)
        return np.clip(y, limits.min, limits.max).astype(y_zero.dtype)

    return run


@operator(12)
def Einsum(form: Form) -> Compute:
    equation = form.attributes["equation"].replace(" ", "")
    terms, _, result = equation.partition("->")
    names = terms.split(",")
    if "->" not in equation:
        result = "".join(sorted(name for name in set(terms) - {","} if terms.count(name) == 1))
    simple = "." not in equation and all(len(set(term)) == len(term) for term in [*names, result])
    if simple and len(names) == 2:
        return lambda a, b: _contract(a, b, names[0], names[1], result)
    return lambda *arrays: np.asarray(np.einsum(equation, *arrays))


def _contract(a: np.ndarray, b: np.ndarray, a_names: str, b_names: str, result: str) -> np.ndarray:
    """A sum over products of two arrays, as products of matrices: axes are of both, of either, or summed."""
    if (a.ndim, b.ndim) != (len(a_names), len(b_names)):
        raise ValueError(f"expected ranks {len(a_names)} and {len(b_names)}, came {a.ndim} and {b.ndim}")
    if a.dtype.kind != "f":
        return np.asarray(np.einsum(f"{a_names},{b_names}->{result}", a, b))
    for name in set(a_names) - set(b_names) - set(result):
        a, a_names = a.sum(a_names.index(name)), a_names.replace(name, "")
    for name in set(b_names) - set(a_names) - set(result):
        b, b_names = b.sum(b_names.index(name)), b_names.replace(name, "")
    both = [name for name in a_names if name in b_names]
    batch, summed = [n for n in both if n in result], [n for n in both if n not in result]
    rows, columns = [n for n in a_names if n not in b_names], [n for n in b_names if n not in a_names]
    left = a.transpose([a_names.index(name) for name in [*batch, *rows, *summed]])
    right = b.transpose([b_names.index(name) for name in [*batch, *summed, *columns]])
    lead = np.broadcast_shapes(left.shape[: len(batch)], right.shape[: len(batch)])
    split = len(batch) + len(rows)
    outer, inner = left.shape[len(batch) : split], right.shape[len(batch) + len(summed) :]
    y = float_product(
        left.reshape(*left.shape[: len(batch)], math.prod(outer), math.prod(left.shape[split:])),
        right.reshape(*right.shape[: len(batch)], math.prod(right.shape[len(batch) : len(batch) + len(summed)]), -1)
        if inner
        else right.reshape(*right.shape[: len(batch)], math.prod(right.shape[len(batch) :]), 1),
    )
    order = [*batch, *rows, *columns]
    return y.reshape((*lead, *outer, *inner)).transpose([order.index(name) for name in result])
