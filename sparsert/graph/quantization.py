"""Affine quantization: what a scale and a zero point mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Quantization"]


@dataclass(frozen=True)
class Quantization:
    """Affine quantization: ``real = (stored - zero_point) * scale``; ONNX QuantizeLinear rounds half to even.

    ``scale`` is float32 and ``zero_point`` an integer array, both of shape () or (N,); ``dtype`` is uint8 or int8.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    dtype: np.dtype

    @property
    def scalar(self) -> bool:
        """Whether one scale and zero point serve the whole tensor."""
        return np.size(self.scale) == 1 and np.size(self.zero_point) == 1

    @property
    def in_kernels(self) -> bool:
        """Whether kernels can take it: one scale, and a number that has an inverse."""
        return self.scalar and bool(np.isfinite(self.scale) and np.isfinite(np.float32(1) / np.float32(self.scale)))

    @property
    def unsigned_zero_point(self) -> int:
        """Zero point of the uint8 form: kernels run int8 activations as uint8, shifted by 128."""
        return int(self.zero_point) + (128 if np.dtype(self.dtype) == np.int8 else 0)

    def same_as(self, other: Quantization) -> bool:
        """Whether both describe the same mapping between numbers and bytes."""
        return (
            self.dtype == other.dtype
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """Divide by the scale, round half to even, add the zero point, saturate (ONNX QuantizeLinear).

        NaN becomes the least number, as in ONNX Runtime.
        """
        x = np.asarray(x, np.float32)
        limits = np.iinfo(self.dtype)
        stored = np.divide(x, self.scale, out=np.empty(x.shape, np.float32))
        np.rint(stored, out=stored)
        np.add(stored, np.asarray(self.zero_point, np.float32), out=stored)
        np.fmax(stored, limits.min, out=stored)
        np.minimum(stored, limits.max, out=stored)
        return stored.astype(self.dtype)

    def dequantize(self, stored: np.ndarray) -> np.ndarray:
        """``(stored - zero_point) * scale`` (ONNX DequantizeLinear)."""
        # A difference of bytes is exact in float32.
        real = np.subtract(
            stored, self.zero_point, dtype=np.float32, casting="same_kind", out=np.empty(stored.shape, np.float32)
        )
        return np.multiply(real, self.scale, out=real)
