"""AVX-512 with VNNI: 64-byte vectors, products of four bytes."""

from __future__ import annotations

from llvmlite import ir

from sparsert.kernels.simd.vector import Simd, Value

__all__ = ["Instructions"]


class Instructions(Simd):
    """The vocabulary with the instructions of AVX-512 and VNNI."""

    def dot4(self, acc: Value, unsigned_bytes: Value, signed_bytes: Value) -> Value:
        """``vpdpbusd``."""
        dot = self._declare("llvm.x86.avx512.vpdpbusd.512", self.i32, [self.i32] * 3)
        return self.builder.call(dot, [acc, unsigned_bytes, signed_bytes])

    def dot2(self, acc: Value, a: Value, b: Value) -> Value:
        """``vpdpwssd``."""
        dot = self._declare("llvm.x86.avx512.vpdpwssd.512", self.i32, [self.i32] * 3)
        return self.builder.call(dot, [acc, self.cast(a, self.i32), self.cast(b, self.i32)])

    def round_to_i32(self, value: Value) -> Value:
        """``vcvtps2dq``, with the rounding mode of the thread (4) and no lane masked."""
        mask, mode = ir.IntType(16), ir.IntType(32)
        convert = self._declare("llvm.x86.avx512.mask.cvtps2dq.512", self.i32, [self.f32, self.i32, mask, mode])
        return self.builder.call(convert, [value, self.zero(self.i32), mask(-1), mode(4)])
