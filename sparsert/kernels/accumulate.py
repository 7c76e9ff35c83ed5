"""Accumulators: one block of output rows times one tile of tokens, exact int32 or float32, into a scratch in L1.

Every accumulator has the form ``kernel(x, headers, weights, offsets, scratch, rows)`` over raw addresses:

x        tile of activations: uint8 ``[K][TILE]`` (rows), uint8 ``[K/4][TILE][4]`` (quads) or float32 ``[K][TILE]``
headers  int32 ``[rows][4]``: scratch row to write, number of groups, two initial values
weights, offsets
         one stream each, read from front to back; an offset is the place of an activation row, uint16 in units of 8
         bytes for int8 and int32 in bytes for float32
scratch  int32 or float32 ``[rows][TILE]``, written

Rows of a block come sorted by length, so that the loop's exit is predicted: a misprediction costs as much as a sixth of
a row of 77 nonzeros.
"""

from __future__ import annotations

from typing import Any

from sparsert.kernels.jit import TIER, TILE
from sparsert.kernels.simd import Simd, Value, Variable, micro_kernel

__all__ = [
    "BLOCK_ROWS",
    "GROUP_SIZES",
    "accumulate_blocks",
    "accumulate_dense",
    "accumulate_float_dense",
    "accumulate_float_sparse",
    "accumulate_unstructured",
    "unsupported",
]

BLOCK_ROWS = 32
"""Output rows per block: 4 KB of int32 scratch on AVX2, 8 KB on AVX-512, small beside the activations in L1."""

GROUP_SIZES = (2, 3, 4, 6, 8)
"""Pairs (or 4-blocks) per int16 group on AVX2; the packer picks the size that costs least for a matrix."""

DENSE_ROWS = 4

_ROW_BYTES = 4 * TILE


def _row_place(v: Simd, scratch: Value, header: Value) -> Value:
    return v.at(scratch, v.mul(v.load_i32(header), _ROW_BYTES))


def _sum_rows(v: Simd, scratch: Value, header: Value, accumulators: list[Variable], halves: int) -> None:
    """Store four vectors, each the sum of ``halves`` independent accumulators."""
    place = _row_place(v, scratch, header)
    for k in range(4):
        total = accumulators[k].get()
        for half in range(1, halves):
            total = v.builder.add(total, accumulators[4 * half + k].get())
        v.store(total, v.at(place, k * v.bytes))


# -- int8, dot products of four bytes (vpdpbusd or portable) --------------------------------------------------------


def _dot4_unstructured(
    v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value
) -> None:
    """Four arbitrary activation rows are interleaved in registers (eight shuffles) and meet four weights at once."""
    x, headers, scratch = v.pointer(x), v.pointer(headers), v.pointer(scratch)
    weight, offset = v.variable(v.pointer(weights)), v.variable(v.pointer(offsets))
    with v.loop(rows) as row:
        header = v.at(headers, v.mul(row, 16))
        accumulators = [v.variable(v.zero(v.i32)) for _ in range(4)]
        with v.loop(v.load_i32(v.at(header, 4))):
            four = [v.load(v.at_scaled8(x, v.load_i16(v.at(offset.get(), 2 * q))), v.i8) for q in range(4)]
            scalars = v.broadcast_i32(weight.get())
            vectors = []
            for high in (False, True):
                ab = v.cast(v.interleave(four[0], four[1], high), v.i16)
                cd = v.cast(v.interleave(four[2], four[3], high), v.i16)
                vectors += [v.cast(v.interleave(ab, cd, upper), v.i32) for upper in (False, True)]
            for accumulator, vector in zip(accumulators, vectors, strict=True):
                accumulator.set(v.dot4(accumulator.get(), vector, scalars))
            weight.set(v.at(weight.get(), 4))
            offset.set(v.at(offset.get(), 8))
        place = _row_place(v, scratch, header)
        for k, vector in enumerate(v.token_order([a.get() for a in accumulators])):
            v.store(vector, v.at(place, k * v.bytes))


def _dot4_blocks(
    v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value
) -> None:
    """Four adjacent channels a weight block: no shuffle. Two blocks a step, to hide the latency of the dot product."""
    x, headers, scratch = v.pointer(x), v.pointer(headers), v.pointer(scratch)
    weight, offset = v.variable(v.pointer(weights)), v.variable(v.pointer(offsets))
    with v.loop(rows) as row:
        header = v.at(headers, v.mul(row, 16))
        accumulators = [v.variable(v.zero(v.i32)) for _ in range(8)]
        with v.loop(v.load_i32(v.at(header, 4))):
            for half in range(2):
                scalars = v.broadcast_i32(v.at(weight.get(), 4 * half))
                place = v.at_scaled8(x, v.load_i16(v.at(offset.get(), 2 * half)))
                for k in range(4):
                    accumulator = accumulators[4 * half + k]
                    accumulator.set(v.dot4(accumulator.get(), v.load(v.at(place, k * v.bytes), v.i32), scalars))
            weight.set(v.at(weight.get(), 8))
            offset.set(v.at(offset.get(), 4))
        _sum_rows(v, scratch, header, accumulators, 2)


def _dot4_dense(v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value) -> None:
    """Four rows times four vectors in registers: 4 loads and 4 broadcasts feed 16 dot products.

    ``offsets`` is the number of quads of input channels, not an address; weights are ``[rows/4][quads][4 rows][4]``.
    """
    x, scratch = v.pointer(x), v.pointer(scratch)
    weight = v.variable(v.pointer(weights))
    with v.loop(rows, step=DENSE_ROWS) as row:
        accumulators = [v.variable(v.zero(v.i32)) for _ in range(4 * DENSE_ROWS)]
        with v.loop(offsets) as quad:
            place = v.at(x, v.mul(quad, _ROW_BYTES))
            vectors = [v.load(v.at(place, k * v.bytes), v.i32) for k in range(4)]
            for r in range(DENSE_ROWS):
                scalars = v.broadcast_i32(v.at(weight.get(), 4 * r))
                for k in range(4):
                    accumulator = accumulators[4 * r + k]
                    accumulator.set(v.dot4(accumulator.get(), vectors[k], scalars))
            weight.set(v.at(weight.get(), 4 * DENSE_ROWS))
        for r in range(DENSE_ROWS):
            place = v.at(scratch, v.mul(v.add(row, r), _ROW_BYTES))
            for k in range(4):
                v.store(accumulators[4 * r + k].get(), v.at(place, k * v.bytes))


# -- int8 without a four-byte dot product (AVX2) --------------------------------------------------------------------
#
# vpmaddubsw adds two u8*s8 products in int16 and saturates. The packer knows the weights, so it forms groups whose
# positive weights sum to at most 128 and whose negative ones to at least -128: then every partial sum over uint8
# activations lies in [-255*128, 255*128] and int16 is exact, over several pairs, before anything must be widened.


def _pair_rows(group: int) -> Any:
    """Unstructured: ``group`` pairs of rows, byte-interleaved in registers, are summed in int16, then widened.

    Int16 sums start at -32768, which makes their bit pattern the unsigned number sum + 32768. Then ``view += sums`` (as
    int32) and ``odd += sums >> 16`` widen both halves with additions and one shift instead of a multiplication each;
    the row's initial values cancel the 32768s.
    """

    @micro_kernel("avx2", 6)
    def pair_rows(
        v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value
    ) -> None:
        b = v.builder
        x, headers, scratch = v.pointer(x), v.pointer(headers), v.pointer(scratch)
        weight, offset = v.variable(v.pointer(weights)), v.variable(v.pointer(offsets))
        sixteen = v.constant(v.i32, 16)
        with v.loop(rows) as row:
            header = v.at(headers, v.mul(row, 16))
            views = [v.variable(v.broadcast_i32(v.at(header, 8))) for _ in range(2)]
            odds = [v.variable(v.broadcast_i32(v.at(header, 12))) for _ in range(2)]
            with v.loop(v.load_i32(v.at(header, 4))):
                sums = [v.constant(v.i16, -32768)] * 2
                for pair in range(group):
                    scalars = v.broadcast_i32(v.at(weight.get(), 4 * pair))
                    places = [v.at_scaled8(x, v.load_i16(v.at(offset.get(), 4 * pair + 2 * q))) for q in range(2)]
                    first, second = (v.load(place, v.i8) for place in places)
                    for high in (False, True):
                        products = v.multiply_pairs_u8s8(v.interleave(first, second, high), scalars)
                        sums[high] = b.add(sums[high], products)
                weight.set(v.at(weight.get(), 4 * group))
                offset.set(v.at(offset.get(), 4 * group))
                for k in range(2):
                    view = v.cast(sums[k], v.i32)
                    views[k].set(b.add(views[k].get(), view))
                    odds[k].set(b.add(odds[k].get(), b.lshr(view, sixteen)))
            place = _row_place(v, scratch, header)
            vectors = []
            for k in range(2):
                odd = odds[k].get()
                even = b.sub(views[k].get(), b.shl(odd, sixteen))
                vectors += [v.interleave(even, odd, high) for high in (False, True)]
            for k, vector in enumerate(v.token_order(vectors)):
                v.store(vector, v.at(place, k * v.bytes))

    return pair_rows


def _block_rows(group: int) -> Any:
    """4-blocks: ``group`` blocks are summed in int16 (channels 0+1 and 2+3 apart), then widened by ``vpmaddwd``."""

    @micro_kernel("avx2", 6)
    def block_rows(
        v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value
    ) -> None:
        x, headers, scratch = v.pointer(x), v.pointer(headers), v.pointer(scratch)
        weight, offset = v.variable(v.pointer(weights)), v.variable(v.pointer(offsets))
        ones = v.constant(v.i16, 1)
        with v.loop(rows) as row:
            header = v.at(headers, v.mul(row, 16))
            totals = [v.variable(v.zero(v.i32)) for _ in range(4)]
            with v.loop(v.load_i32(v.at(header, 4))):
                sums: list[Any] = [None] * 4
                for block in range(group):
                    scalars = v.broadcast_i32(v.at(weight.get(), 4 * block))
                    place = v.at_scaled8(x, v.load_i16(v.at(offset.get(), 2 * block)))
                    for k in range(4):
                        products = v.multiply_pairs_u8s8(v.load(v.at(place, k * v.bytes), v.i8), scalars)
                        sums[k] = products if block == 0 else v.builder.add(sums[k], products)
                weight.set(v.at(weight.get(), 4 * group))
                offset.set(v.at(offset.get(), 2 * group))
                for k in range(4):
                    totals[k].set(v.dot2(totals[k].get(), sums[k], ones))
            _sum_rows(v, scratch, header, totals, 1)

    return block_rows


# -- float32 --------------------------------------------------------------------------------------------------------


@micro_kernel(TIER, 6)
def accumulate_float_sparse(
    v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value
) -> None:
    """CSR rows, two nonzeros a step into separate accumulators, to hide the latency of the multiply-add."""
    x, headers, scratch = v.pointer(x), v.pointer(headers), v.pointer(scratch)
    weight, offset = v.variable(v.pointer(weights)), v.variable(v.pointer(offsets))
    with v.loop(rows) as row:
        header = v.at(headers, v.mul(row, 16))
        accumulators = [v.variable(v.zero(v.f32)) for _ in range(8)]
        with v.loop(v.load_i32(v.at(header, 4))):
            for half in range(2):
                scalar = v.broadcast_f32(v.at(weight.get(), 4 * half))
                place = v.at(x, v.load_i32(v.at(offset.get(), 4 * half)))
                for k in range(4):
                    accumulator = accumulators[4 * half + k]
                    accumulator.set(v.fma(v.load(v.at(place, k * v.bytes), v.f32), scalar, accumulator.get()))
            weight.set(v.at(weight.get(), 8))
            offset.set(v.at(offset.get(), 8))
        place = _row_place(v, scratch, header)
        for k in range(4):
            v.store(v.builder.fadd(accumulators[k].get(), accumulators[4 + k].get()), v.at(place, k * v.bytes))


@micro_kernel(TIER, 6)
def accumulate_float_dense(
    v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value
) -> None:
    """Four rows times two vectors (AVX2) or four (AVX-512) in registers.

    ``offsets`` is the number of input channels, not an address; weights are ``[rows/4][K][4 rows]``.
    """
    x, scratch, weights = v.pointer(x), v.pointer(scratch), v.pointer(weights)
    width = 4 if v.tier == "avx512_vnni" else 2
    panel = v.mul(offsets, 4 * DENSE_ROWS)
    with v.loop(rows, step=DENSE_ROWS) as row:
        start = v.at(weights, v.mul(v.builder.sdiv(row, v.integer(DENSE_ROWS)), panel))
        for first in range(0, 4, width):
            accumulators = [v.variable(v.zero(v.f32)) for _ in range(width * DENSE_ROWS)]
            weight = v.variable(start)
            with v.loop(offsets) as channel:
                place = v.at(x, v.add(v.mul(channel, _ROW_BYTES), first * v.bytes))
                vectors = [v.load(v.at(place, k * v.bytes), v.f32) for k in range(width)]
                for r in range(DENSE_ROWS):
                    scalar = v.broadcast_f32(v.at(weight.get(), 4 * r))
                    for k in range(width):
                        accumulator = accumulators[width * r + k]
                        accumulator.set(v.fma(vectors[k], scalar, accumulator.get()))
                weight.set(v.at(weight.get(), 4 * DENSE_ROWS))
            for r in range(DENSE_ROWS):
                place = v.at(scratch, v.add(v.mul(v.add(row, r), _ROW_BYTES), first * v.bytes))
                for k in range(width):
                    v.store(accumulators[width * r + k].get(), v.at(place, k * v.bytes))


# -- the functions of this tier, one per group size (index into GROUP_SIZES; dot4 tiers use the first only) -----------


@micro_kernel(TIER, 6)
def unsupported(v: Simd, *arguments: Value) -> None:
    """Stands where a tier has no kernel of a kind; the lowering never selects it."""


if TIER == "avx2":
    accumulate_unstructured = [_pair_rows(size) for size in GROUP_SIZES]
    accumulate_blocks = [_block_rows(size) for size in GROUP_SIZES]
    accumulate_dense = unsupported
else:
    _decorate = micro_kernel(TIER, 6)
    accumulate_unstructured = [_decorate(_dot4_unstructured)] + [unsupported] * (len(GROUP_SIZES) - 1)
    accumulate_blocks = [_decorate(_dot4_blocks)] + [unsupported] * (len(GROUP_SIZES) - 1)
    accumulate_dense = _decorate(_dot4_dense)
