"""Normalizations, and the softmax: numbers divided by what their neighbours sum to."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sparsert.arrays.compiled import softmax
from sparsert.arrays.registry import Compute, Form, operator

__all__ = [
    "BatchNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "LogSoftmax",
    "LpNormalization",
    "RMSNormalization",
    "Softmax",
]


@operator(1, 11, 13)
def Softmax(form: Form) -> Compute:
    return _over_axis(form, softmax)


@operator(1, 11, 13)
def LogSoftmax(form: Form) -> Compute:
    return _over_axis(form, _log_softmax)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - np.max(x, -1, keepdims=True, initial=-np.inf)
    shifted -= np.log(np.sum(np.exp(shifted), -1, keepdims=True))
    return shifted


def _over_axis(form: Form, function: Callable[[np.ndarray], np.ndarray]) -> Compute:
    """``function`` over the last axis of float32, at another axis; before opset 13 over it and all that follow."""
    axis, flattens = form.attributes["axis"], form.version < 13

    def run(x: np.ndarray) -> np.ndarray:
        wide = _widened(x)
        if flattens:
            split = axis + x.ndim if axis < 0 else axis
            y = function(wide.reshape(math.prod(x.shape[:split]), math.prod(x.shape[split:]))).reshape(x.shape)
        elif axis in (-1, x.ndim - 1):
            y = function(wide)
        else:
            y = np.moveaxis(function(np.moveaxis(wide, axis, -1)), -1, axis)
        return y.astype(x.dtype, copy=False)

    return run


def _widened(x: np.ndarray) -> np.ndarray:
    """Half precision as single, in which ONNX Runtime computes it."""
    return x if x.dtype in (np.float32, np.float64) else x.astype(np.float32)


@operator(17)
def LayerNormalization(form: Form) -> Compute:
    """Outputs: the normalized numbers, and if wanted their mean and inverse deviation."""
    axis, epsilon, outputs = form.attributes["axis"], form.attributes["epsilon"], form.outputs

    def run(x: np.ndarray, scale: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray | tuple[np.ndarray, ...]:
        wide = _widened(x)
        axes = tuple(range(axis % x.ndim, x.ndim))
        mean = wide.mean(axes, keepdims=True)
        y = wide - mean
        inverse = 1 / np.sqrt(np.square(y).mean(axes, keepdims=True) + wide.dtype.type(epsilon))
        y *= inverse
        y = y * scale
        y = (y if bias is None else y + bias).astype(x.dtype, copy=False)
        return y if outputs == 1 else (y, mean.astype(np.float32), inverse.astype(np.float32))[:outputs]

    return run


@operator(23)
def RMSNormalization(form: Form) -> Compute:
    axis, epsilon = form.attributes["axis"], form.attributes["epsilon"]

    def run(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        wide = _widened(x)
        mean = np.square(wide).mean(tuple(range(axis % x.ndim, x.ndim)), keepdims=True)
        y = (wide / np.sqrt(mean + wide.dtype.type(epsilon))).astype(x.dtype, copy=False)
        return y * scale

    return run


def _by_channel(vector: np.ndarray, rank: int) -> np.ndarray:
    """A number for each channel, the second of ``rank`` axes."""
    return vector.reshape((1, -1) + (1,) * (rank - 2))


@operator(9, 14, 15)
def BatchNormalization(form: Form) -> Compute | None:
    epsilon = form.attributes["epsilon"]
    if form.outputs > 1 or form.attributes.get("training_mode", 0):
        return None

    def run(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
        factor = scale / np.sqrt(variance + variance.dtype.type(epsilon))
        shift = bias - mean * factor
        return (x * _by_channel(factor, x.ndim) + _by_channel(shift, x.ndim)).astype(x.dtype, copy=False)

    return run


@operator(6, 22)
def InstanceNormalization(form: Form) -> Compute:
    epsilon = form.attributes["epsilon"]

    def run(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
        wide, axes = _widened(x), tuple(range(2, x.ndim))
        y = wide - wide.mean(axes, keepdims=True)
        y /= np.sqrt(np.square(y).mean(axes, keepdims=True) + wide.dtype.type(epsilon))
        return (y * _by_channel(scale, x.ndim) + _by_channel(bias, x.ndim)).astype(x.dtype, copy=False)

    return run


@operator(1, 22)
def LpNormalization(form: Form) -> Compute:
    """Numbers whose norm is zero stay zero."""
    axis, p = form.attributes["axis"], form.attributes["p"]

    def run(x: np.ndarray) -> np.ndarray:
        if p == 1:
            norm = np.absolute(x).sum(axis, keepdims=True)
        else:
            norm = np.sqrt(np.square(x).sum(axis, keepdims=True))
        return x / np.where(norm == 0, norm.dtype.type(1), norm)

    return run
