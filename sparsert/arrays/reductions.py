"""Many numbers to one: sums, means, extremes along axes, running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sparsert.arrays.registry import OPERATORS, Compute, Form, operator

__all__ = ["ArgMax", "ArgMin", "CumSum"]

_Axes = tuple[int, ...] | None
_Reduce = Callable[[np.ndarray, Any, bool], np.ndarray]


def _sum(x: np.ndarray, axes: _Axes, keep: bool) -> np.ndarray:
    """In the type of the numbers; half precision is summed in single."""
    wide = np.dtype(np.float32) if x.dtype == np.float16 else x.dtype
    return np.sum(x, axis=axes, keepdims=keep, dtype=wide).astype(x.dtype, copy=False)


def _mean(x: np.ndarray, axes: _Axes, keep: bool) -> np.ndarray:
    """Integers are divided towards zero; half precision is summed in single."""
    if x.dtype.kind == "f":
        return np.mean(x, axis=axes, keepdims=keep)
    total = _sum(x, axes, keep)
    count = x.size // max(1, np.size(total))
    return np.trunc(total / max(1, count)).astype(x.dtype)


def _extreme(function: Any, worst_float: float, largest: bool) -> _Reduce:
    """Of no numbers at all it is the one that any other beats."""

    def run(x: np.ndarray, axes: _Axes, keep: bool) -> np.ndarray:
        if x.size:
            return function.reduce(x, axis=axes, keepdims=keep)
        if x.dtype.kind == "f":
            worst: Any = worst_float
        elif x.dtype.kind == "b":
            worst = not largest
        else:
            worst = np.iinfo(x.dtype).min if largest else np.iinfo(x.dtype).max
        return function.reduce(x, axis=axes, keepdims=keep, initial=x.dtype.type(worst))

    return run


def _l2(x: np.ndarray, axes: _Axes, keep: bool) -> np.ndarray:
    return np.sqrt(_sum(np.square(x), axes, keep)).astype(x.dtype, copy=False)


def _log_sum_exp(x: np.ndarray, axes: _Axes, keep: bool) -> np.ndarray:
    most = _MAX(x, axes, True)
    most = np.where(np.isfinite(most), most, most.dtype.type(0))
    total = np.log(_sum(np.exp(x - most), axes, keep))
    return (total + most.reshape(total.shape)).astype(x.dtype, copy=False)


_MAX, _MIN = _extreme(np.maximum, -np.inf, True), _extreme(np.minimum, np.inf, False)

_REDUCTIONS: dict[str, tuple[_Reduce, tuple[int, ...]]] = {
    "ReduceSum": (_sum, (1, 11, 13)),
    "ReduceMean": (_mean, (1, 11, 13, 18)),
    "ReduceMax": (_MAX, (1, 11, 12, 13, 18, 20)),
    "ReduceMin": (_MIN, (1, 11, 12, 13, 18, 20)),
    "ReduceProd": (
        lambda x, axes, keep: np.prod(x, axis=axes, keepdims=keep, dtype=x.dtype),
        (1, 11, 13, 18),
    ),
    "ReduceL1": (lambda x, axes, keep: _sum(np.absolute(x), axes, keep), (1, 11, 13, 18)),
    "ReduceL2": (_l2, (1, 11, 13, 18)),
    "ReduceSumSquare": (lambda x, axes, keep: _sum(np.square(x), axes, keep), (1, 11, 13, 18)),
    "ReduceLogSum": (lambda x, axes, keep: np.log(_sum(x, axes, keep)).astype(x.dtype, copy=False), (1, 11, 13, 18)),
    "ReduceLogSumExp": (_log_sum_exp, (1, 11, 13, 18)),
}


def _reduction(form: Form) -> Compute | None:
    function, _ = _REDUCTIONS[form.op]
    fixed, keep = form.attributes.get("axes"), bool(form.attributes["keepdims"])
    idle = form.attributes.get("noop_with_empty_axes", 0)
    if idle and form.op not in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd"):
        return None  # runtimes disagree whether the numbers are at least squared

    def run(x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
        chosen = fixed if axes is None else axes.reshape(-1).tolist()
        if not chosen:
            return x if idle else function(x, None, keep)
        return function(x, tuple(chosen), keep)

    return run


for _op, (_, _versions) in _REDUCTIONS.items():
    OPERATORS[_op] = (_versions, _reduction)


@operator(1, 11, 12, 13)
def ArgMax(form: Form) -> Compute:
    return _place_of(np.argmax, form)


@operator(1, 11, 12, 13)
def ArgMin(form: Form) -> Compute:
    return _place_of(np.argmin, form)


def _place_of(function: Any, form: Form) -> Compute:
    axis, keep = form.attributes["axis"], bool(form.attributes["keepdims"])
    if not form.attributes.get("select_last_index", 0):
        return lambda x: function(x, axis, keepdims=keep)
    return lambda x: x.shape[axis] - 1 - function(np.flip(x, axis), axis, keepdims=keep)


@operator(11, 14)
def CumSum(form: Form) -> Compute:
    """The axis may be a vector of one, as other runtimes take it."""
    exclusive, reverse = form.attributes["exclusive"], form.attributes["reverse"]

    def run(x: np.ndarray, axis: np.ndarray) -> np.ndarray:
        along = int(axis.reshape(()))
        total = np.cumsum(np.flip(x, along) if reverse else x, along, dtype=x.dtype)
        if exclusive:
            total = np.roll(total, 1, along)
            np.moveaxis(total, along, 0)[:1] = 0
        return np.flip(total, along) if reverse else total

    return run
