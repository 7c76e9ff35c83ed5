"""Bytes for floats and back: static and dynamic quantization."""

from __future__ import annotations

import numpy as np
from onnx.helper import tensor_dtype_to_np_dtype

from sparsert.arrays.registry import Compute, Form, Unhandled, operator

__all__ = ["DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"]

_INTEGERS = tuple(map(np.dtype, (np.uint8, np.int8, np.uint16, np.int16)))


def _along(vector: np.ndarray, x: np.ndarray, axis: int) -> np.ndarray:
    """One number for all, or a number for each place along an axis."""
    if vector.size == 1:
        return vector.reshape(())
    if vector.ndim != 1:
        raise Unhandled
    return vector.reshape((-1,) + (1,) * (x.ndim - 1 - axis % x.ndim))


@operator(10, 13, 19, 21, 23, 24, 25)
def QuantizeLinear(form: Form) -> Compute | None:
    axis, stated = form.attributes.get("axis", 1), form.attributes.get("output_dtype", 0)
    if form.attributes.get("block_size", 0) or form.attributes.get("precision", 0):
        return None
    default = tensor_dtype_to_np_dtype(stated) if stated else np.dtype(np.uint8)

    def run(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None = None) -> np.ndarray:
        dtype = default if zero_point is None else zero_point.dtype
        if dtype not in _INTEGERS or x.dtype != np.float32 or scale.dtype != np.float32:
            raise Unhandled
        y = np.divide(x, _along(scale, x, axis))
        y = np.rint(y)
        if zero_point is not None:
            y = y + _along(zero_point.astype(np.float32), x, axis)
        limits = np.iinfo(dtype)
        return np.clip(y, limits.min, limits.max).astype(dtype)

    return run


@operator(10, 13, 19, 21, 23, 24, 25)
def DequantizeLinear(form: Form) -> Compute | None:
    axis = form.attributes.get("axis", 1)
    if form.attributes.get("block_size", 0) or form.attributes.get("output_dtype", 0):
        return None

    def run(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray | None = None) -> np.ndarray:
        if x.dtype not in _INTEGERS and x.dtype != np.int32 or scale.dtype != np.float32:
            raise Unhandled
        if zero_point is not None and x.dtype == np.int32:
            y = np.subtract(x, _along(zero_point, x, axis)).astype(np.float32)
        elif zero_point is not None:
            y = np.subtract(x, _along(zero_point, x, axis), dtype=np.float32)
        else:
            y = x.astype(np.float32)
        return y * _along(scale, x, axis)

    return run


@operator(11)
def DynamicQuantizeLinear(form: Form) -> Compute:
    """The range holds zero; of zeros alone the scale is 1, as in ONNX Runtime."""

    def run(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        zero = np.float32(0)
        low, high = x.min(initial=zero), x.max(initial=zero)
        scale = np.float32((high - low) / np.float32(255)) or np.float32(1)
        zero_point = np.rint(np.clip(-low / scale, zero, np.float32(255)))
        y = np.divide(x, scale)
        y = np.clip(np.rint(y) + zero_point, zero, np.float32(255))
        return y.astype(np.uint8), np.array(scale), np.array(zero_point).astype(np.uint8)

    return run
