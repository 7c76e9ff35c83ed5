"""NEON with products of signed bytes (Armv8.2 DotProd): 16-byte vectors."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from sparsert.kernels.simd.vector import Simd, Value

__all__ = ["Instructions"]


class Instructions(Simd):
    """The vocabulary with the instructions of NEON and DotProd."""

    register_class = "w"

    def dot4(self, acc: Value, first_bytes: Value, signed_bytes: Value) -> Value:
        """``sdot``, of signed bytes alone."""
        return self._dot("sdot", acc, first_bytes, signed_bytes)

    def _dot(self, name: str, acc: Value, first_bytes: Value, signed_bytes: Value) -> Value:
        dot = self._declare(f"llvm.aarch64.neon.{name}.v4i32.v16i8", self.i32, [self.i32, self.i8, self.i8])
        return self.builder.call(dot, [acc, self.cast(first_bytes, self.i8), self.cast(signed_bytes, self.i8)])

    def broadcasts(self, place: Value, count: int, kind: ir.VectorType) -> list[Value]:
        """Elements of vectors of four words or two, which products take as they are: no load for each of them."""
        broadcasts: list[Value] = []
        while len(broadcasts) < count:
            first = self.at(place, 4 * len(broadcasts))
            size = min(self.lanes, count - len(broadcasts))
            words = self.load(first, ir.VectorType(kind.element, size), 4)
            broadcasts += [self.shuffle(words, words, [k] * self.lanes) for k in range(size)]
        return broadcasts

    def round_to_i32(self, value: Value) -> Value:
        """``fcvtns``, which gives 0 for NaN."""
        convert = self._declare("llvm.aarch64.neon.fcvtns.v4i32.v4f32", self.i32, [self.f32])
        return self.builder.call(convert, [self.number(value)])

    def pack_u8(self, values: Sequence[Value]) -> list[Value]:
        """``sqxtn`` and ``sqxtun``, where portable IR clamps every vector first."""
        words, bytes_ = ir.VectorType(ir.IntType(16), 4), ir.VectorType(ir.IntType(8), 8)
        to_words = self._declare("llvm.aarch64.neon.sqxtn.v4i16", words, [self.i32])
        to_bytes = self._declare("llvm.aarch64.neon.sqxtun.v8i8", bytes_, [self.i16])
        narrow = [self.builder.call(to_words, [value]) for value in values]
        pairs = [self.concatenate(narrow[k : k + 2]) for k in range(0, len(narrow), 2)]
        halves = [self.builder.call(to_bytes, [pair]) for pair in pairs]
        return [self.concatenate(halves[k : k + 2]) for k in range(0, len(halves), 2)]
