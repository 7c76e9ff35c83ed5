"""AVX2: 32-byte vectors, products of bytes in pairs."""

from __future__ import annotations

from collections.abc import Sequence

from sparsert.kernels.simd.vector import Simd, Value

__all__ = ["Instructions"]


class Instructions(Simd):
    """The vocabulary with the instructions of AVX2."""

    register_class = "x"

    def multiply_pairs_u8s8(self, unsigned_bytes: Value, signed_bytes: Value) -> Value:
        """``vpmaddubsw``: int16 sums of two adjacent products. The caller proves that int16 holds them."""
        multiply = self._declare("llvm.x86.avx2.pmadd.ub.sw", self.i16, [self.i8, self.i8])
        return self.builder.call(multiply, [self.cast(unsigned_bytes, self.i8), self.cast(signed_bytes, self.i8)])

    def dot2(self, acc: Value, a: Value, b: Value) -> Value:
        """``vpmaddwd`` and an addition."""
        multiply = self._declare("llvm.x86.avx2.pmadd.wd", self.i32, [self.i16, self.i16])
        return self.builder.add(acc, self.builder.call(multiply, [self.cast(a, self.i16), self.cast(b, self.i16)]))

    def round_to_i32(self, value: Value) -> Value:
        """``vcvtps2dq``."""
        return self.builder.call(self._declare("llvm.x86.avx.cvt.ps2dq.256", self.i32, [self.f32]), [value])

    def pack_u8(self, values: Sequence[Value]) -> list[Value]:
        """``vpackssdw``, ``vpackuswb`` and a permutation, where portable IR clamps every vector first."""
        narrow = self._declare("llvm.x86.avx2.packssdw", self.i16, [self.i32, self.i32])
        bytes_ = self._declare("llvm.x86.avx2.packuswb", self.i8, [self.i16, self.i16])
        packed = []
        for first in range(0, len(values), 4):
            quad = values[first : first + 4]
            halves = [self.builder.call(narrow, [quad[i], quad[i + 1]]) for i in (0, 2)]
            mixed = self.cast(self.builder.call(bytes_, halves), self.i32)
            # packs work per 16-byte lane: dwords come out as 0 2 4 6 | 1 3 5 7
            packed.append(self.cast(self.shuffle(mixed, mixed, [0, 4, 1, 5, 2, 6, 3, 7]), self.i8))
        return packed
