"""What the accumulators of several formats have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sparsert.kernels.formats.base import HEADER_BYTES
from sparsert.kernels.jit import TILE
from sparsert.kernels.simd import Simd, Sums, Value

__all__ = ["ROW_BYTES", "finish", "finish_row", "header_of", "joined", "sparse_rows"]

ROW_BYTES = 4 * TILE
"""Bytes of a row of the scratch."""

Add = Callable[[Value, Value], Value]


def header_of(v: Simd, headers: Value, row: Value) -> tuple[Value, Value]:
    """Place of a row's header, and its number of groups."""
    header = v.at(headers, v.mul(row, HEADER_BYTES))
    return header, v.load_i32(v.at(header, 4))


def finish(v: Simd, vectors: Sequence[Value], place: Value, add: Value, total: Add) -> None:
    """Store vectors of a row, or add them to what an earlier slice left there."""
    results = [v.variable(vector) for vector in vectors]
    with v.when(v.builder.icmp_signed("!=", add, v.integer(0))):
        for k, result in enumerate(results):
            result.set(total(result.get(), v.load(v.at(place, k * v.bytes), vectors[k].type)))
    v.store_row([result.get() for result in results], place)


def finish_row(v: Simd, scratch: Value, header: Value, vectors: Sequence[Value], add: Value, total: Add) -> None:
    """:func:`finish` for the row that a header names."""
    finish(v, vectors, v.at(scratch, v.mul(v.load_i32(header), ROW_BYTES)), add, total)


def sparse_rows(v: Simd, arguments: Sequence[Value], floating: bool) -> None:
    """Rows of entries of four bytes, two entries a step into separate sums, to hide the latency of the product.

    An entry meets a whole row of vectors, of float32 or of four bytes a token; ``arguments`` are an accumulator's.
    """
    x, headers, weights, offsets, scratch, rows, add = arguments
    x, headers, scratch = v.pointer(x), v.pointer(headers), v.pointer(scratch)
    weight, offset = v.variable(v.pointer(weights)), v.variable(v.pointer(offsets))
    kind, offset_bytes = (v.f32, 4) if floating else (v.i32, 2)
    load_offset = v.load_i32 if floating else v.load_i16
    total = v.builder.fadd if floating else v.builder.add
    with v.loop(rows) as row:
        header, groups = header_of(v, headers, row)
        both = [Sums(v, [v.zero(kind)] * v.row) for _ in range(2)]
        with v.loop(groups):
            for half, (sums, scalar) in enumerate(zip(both, v.broadcasts(weight.get(), 2, kind), strict=True)):
                place = v.at(x, load_offset(v.at(offset.get(), offset_bytes * half)))
                sums.add(v.load_row(place, kind), scalar)
            weight.set(v.at(weight.get(), 8))
            offset.set(v.at(offset.get(), 2 * offset_bytes))
        finish_row(v, scratch, header, joined(*both, total), add, total)


def joined(first: Sums, second: Sums, total: Add) -> list[Value]:
    """What two sums of the same row have together."""
    return [total(a, b) for a, b in zip(first.get(), second.get(), strict=True)]
