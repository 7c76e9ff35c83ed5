"""AVX-VNNI: AVX2 with products of four bytes, as CPUs have it that lack AVX-512."""

from __future__ import annotations

from sparsert.kernels.simd import avx2
from sparsert.kernels.simd.vector import Value

__all__ = ["Instructions"]


class Instructions(avx2.Instructions):
    """The vocabulary with the instructions of AVX2 and AVX-VNNI."""

    def dot4(self, acc: Value, unsigned_bytes: Value, signed_bytes: Value) -> Value:
        """``vpdpbusd``; LLVM has one name for it in AVX-512 and here, and encodes it by the features of the CPU."""
        dot = self._declare("llvm.x86.avx512.vpdpbusd.256", self.i32, [self.i32] * 3)
        return self.builder.call(dot, [acc, unsigned_bytes, signed_bytes])
