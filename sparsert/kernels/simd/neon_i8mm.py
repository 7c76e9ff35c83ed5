"""NEON with products of unsigned and signed bytes (I8MM, in all CPUs since Armv8.6)."""

from __future__ import annotations

from sparsert.kernels.simd import neon_dot
from sparsert.kernels.simd.vector import Value

__all__ = ["Instructions"]


class Instructions(neon_dot.Instructions):
    """The vocabulary with the instructions of NEON, DotProd and I8MM."""

    def dot4(self, acc: Value, first_bytes: Value, signed_bytes: Value) -> Value:
        """``usdot``."""
        return self._dot("usdot", acc, first_bytes, signed_bytes)
