"""Numbers one by one: arithmetic, comparison, logic, limits and casts."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
from onnx.helper import tensor_dtype_to_np_dtype

from sparsert.arrays.registry import OPERATORS, Builder, Compute, Form, Unhandled, operator

__all__ = [
    "BitShift",
    "Cast",
    "CastLike",
    "Clip",
    "Div",
    "IsInf",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Pow",
    "Reciprocal",
    "Sum",
]

_BROADCAST = (7, 8, 9, 11, 12, 13, 14, 15, 16, 18, 19)
"""Versions of two-sided ops that broadcast as NumPy does."""

_UFUNCS: dict[Any, dict[str, tuple[int, ...]]] = {
    np.add: {"Add": _BROADCAST},
    np.subtract: {"Sub": _BROADCAST},
    np.multiply: {"Mul": _BROADCAST},
    np.equal: {"Equal": _BROADCAST},
    np.greater: {"Greater": _BROADCAST},
    np.less: {"Less": _BROADCAST},
    np.greater_equal: {"GreaterOrEqual": _BROADCAST},
    np.less_equal: {"LessOrEqual": _BROADCAST},
    np.logical_and: {"And": _BROADCAST},
    np.logical_or: {"Or": _BROADCAST},
    np.logical_xor: {"Xor": _BROADCAST},
    np.bitwise_and: {"BitwiseAnd": _BROADCAST},
    np.bitwise_or: {"BitwiseOr": _BROADCAST},
    np.bitwise_xor: {"BitwiseXor": _BROADCAST},
    np.bitwise_not: {"BitwiseNot": (18,)},
    np.logical_not: {"Not": (1,)},
    np.negative: {"Neg": (6, 13)},
    np.absolute: {"Abs": (6, 13)},
    np.sqrt: {"Sqrt": (6, 13)},
    np.log: {"Log": (6, 13)},
    np.floor: {"Floor": (6, 13)},
    np.ceil: {"Ceil": (6, 13)},
    np.rint: {"Round": (11, 22)},
    np.sign: {"Sign": (9, 13)},
    np.sin: {"Sin": (7, 22)},
    np.cos: {"Cos": (7, 22)},
    np.tan: {"Tan": (7, 22)},
    np.arcsin: {"Asin": (7, 22)},
    np.arccos: {"Acos": (7, 22)},
    np.arctan: {"Atan": (7, 22)},
    np.sinh: {"Sinh": (9, 22)},
    np.cosh: {"Cosh": (9, 22)},
    np.arcsinh: {"Asinh": (9, 22)},
    np.arccosh: {"Acosh": (9, 22)},
    np.arctanh: {"Atanh": (9, 22)},
    np.isnan: {"IsNaN": (9, 13, 20)},
    np.where: {"Where": (9, 16)},
}
"""Functions of NumPy that are an op as they are."""


def _as_it_is(function: Compute) -> Builder:
    return lambda form: function


for _function, _ops in _UFUNCS.items():
    for _op, _versions in _ops.items():
        OPERATORS[_op] = (_versions, _as_it_is(_function))


@operator(7, 13, 14)
def Div(form: Form) -> Compute:
    """Integers are divided as in C, towards zero."""

    def run(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if a.dtype.kind not in "iu":
            return np.divide(a, b)
        quotient = np.floor_divide(a, b)
        if a.dtype.kind == "u":
            return quotient
        return quotient + ((quotient < 0) & (quotient * b != a)).astype(quotient.dtype)

    return run


@operator(10, 13)
def Mod(form: Form) -> Compute:
    return np.fmod if form.attributes["fmod"] else np.mod


@operator(7, 12, 13, 15)
def Pow(form: Form) -> Compute:
    """The result has the type of the base; integers go through float64, as in ONNX Runtime."""

    def run(x: np.ndarray, exponent: np.ndarray) -> np.ndarray:
        if exponent.size == 1 and exponent.ndim <= x.ndim and exponent.item() in (2, 3):
            y = np.square(x)
            y = y if exponent.item() == 2 else y * x
            return y if exponent.ndim <= np.ndim(y) else y.reshape(exponent.shape)
        if x.dtype == exponent.dtype and x.dtype.kind == "f":
            return np.power(x, exponent)
        return np.power(x.astype(np.float64), exponent.astype(np.float64)).astype(x.dtype)

    return run


@operator(11)
def BitShift(form: Form) -> Compute:
    return np.left_shift if form.attributes["direction"] == "LEFT" else np.right_shift


@operator(8, 12, 13)
def Min(form: Form) -> Compute:
    """NaN wins."""
    return lambda *arrays: reduce(np.minimum, arrays)


@operator(8, 12, 13)
def Max(form: Form) -> Compute:
    """NaN wins."""
    return lambda *arrays: reduce(np.maximum, arrays)


@operator(8, 13)
def Sum(form: Form) -> Compute:
    return lambda *arrays: reduce(np.add, arrays)


@operator(8, 13)
def Mean(form: Form) -> Compute:
    return lambda *arrays: np.divide(reduce(np.add, arrays), arrays[0].dtype.type(len(arrays)))


@operator(6, 11, 12, 13)
def Clip(form: Form) -> Compute:
    low, high = form.attributes.get("min"), form.attributes.get("max")

    def run(x: np.ndarray, least: np.ndarray | None = None, most: np.ndarray | None = None) -> np.ndarray:
        if form.version == 6:
            least, most = x.dtype.type(low), x.dtype.type(high)
        # a limit may come as a vector of one
        y = x if least is None else np.maximum(x, least.reshape(()))
        return y if most is None else np.minimum(y, most.reshape(()))

    return run


@operator(6, 13)
def Reciprocal(form: Form) -> Compute:
    return lambda x: np.divide(x.dtype.type(1), x)


@operator(10, 20)
def IsInf(form: Form) -> Compute:
    negative, positive = form.attributes["detect_negative"], form.attributes["detect_positive"]
    if negative and positive:
        return np.isinf
    if positive:
        return np.isposinf
    return np.isneginf if negative else lambda x: np.zeros(x.shape, np.bool_)


@operator(6, 9, 13, 19, 21, 23, 24, 25)
def Cast(form: Form) -> Compute | None:
    """A float beyond the range of an integer type becomes what the CPU makes of it, as in ONNX Runtime."""
    dtype = tensor_dtype_to_np_dtype(form.attributes["to"])
    if not _standard(dtype):
        return None

    def run(x: np.ndarray) -> np.ndarray:
        return _cast(x, dtype)

    return run


@operator(15, 19, 21, 23, 24, 25)
def CastLike(form: Form) -> Compute:
    return lambda x, like: _cast(x, like.dtype)


def _cast(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if not (_standard(x.dtype) and _standard(dtype)):
        raise Unhandled
    return x.astype(dtype)


def _standard(dtype: np.dtype) -> bool:
    """Whether it is a number that NumPy itself knows: no text, and none of the small types of ml_dtypes."""
    return dtype.kind in "biuf" and dtype.isbuiltin == 1
