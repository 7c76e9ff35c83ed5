"""Accumulators: one block of output rows times one tile of tokens, exact int32 or float32, into a scratch in L1.

Every accumulator has the form ``kernel(x, headers, weights, offsets, scratch, rows, add)`` over raw addresses:

x        tile of activations: uint8 ``[K][TILE]`` (rows), uint8 ``[K/4][TILE][4]`` (quads) or float32 ``[K][TILE]``
headers  int32 ``[rows][2]``: scratch row to write, number of groups
weights, offsets
         streams that are read from front to back; an offset is the place of an activation row in bytes, uint16 for int8
         and int32 for float32
scratch  int32 or float32 ``[rows][TILE]``, written; with ``add`` (0 or 1) added to

A matrix whose activations would not fit the L1 is packed in slices of its input features, each with streams of its own:
a few blocks of rows run over the first slice, then over the next, which adds to the scratch.

Rows of a block come sorted by length, so that the loop's exit is predicted: a misprediction costs as much as a sixth of
a row of 77 nonzeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sparsert.kernels.jit import TIER, TILE
from sparsert.kernels.simd import Simd, Value, micro_kernel

__all__ = [
    "BLOCK_ROWS",
    "GROUP_SIZES",
    "HEADER_BYTES",
    "MOST_GROUPS",
    "WIDE_BLOCK_ROWS",
    "WIDE_ROWS",
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

MOST_GROUPS = 128
"""int16 groups of a row at most, on AVX2: 128 * 255 fits int16."""

DENSE_ROWS = 4
WIDE_ROWS = 6

WIDE_BLOCK_ROWS = 24
"""Rows of a whole block that dense float32 takes in panels of :data:`WIDE_ROWS`; all others in :data:`DENSE_ROWS`."""

_ROW_BYTES = 4 * TILE


HEADER_BYTES = 8

_Add = Callable[[Value, Value], Value]


def _header(v: Simd, headers: Value, row: Value) -> tuple[Value, Value]:
    """Place of a row's header, and its number of groups."""
    header = v.at(headers, v.mul(row, HEADER_BYTES))
    return header, v.load_i32(v.at(header, 4))


def _finish(v: Simd, vectors: Sequence[Value], place: Value, add: Value, total: _Add) -> None:
    """Store vectors of a row, or add them to what an earlier slice left there."""
    results = [v.variable(vector) for vector in vectors]
    with v.when(v.builder.icmp_signed("!=", add, v.integer(0))):
        for k, result in enumerate(results):
            result.set(total(result.get(), v.load(v.at(place, k * v.bytes), vectors[k].type)))
    v.store_row([result.get() for result in results], place)


def _finish_row(v: Simd, scratch: Value, header: Value, vectors: Sequence[Value], add: Value, total: _Add) -> None:
    _finish(v, vectors, v.at(scratch, v.mul(v.load_i32(header), _ROW_BYTES)), add, total)


# -- int8, dot products of four bytes (vpdpbusd or portable) --------------------------------------------------------


def _dot4_unstructured(
    v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value, add: Value
) -> None:
    """Four arbitrary activation rows are interleaved in registers (eight shuffles) and meet four weights at once."""
    x, headers, scratch = v.pointer(x), v.pointer(headers), v.pointer(scratch)
    weight, offset = v.variable(v.pointer(weights)), v.variable(v.pointer(offsets))
    with v.loop(rows) as row:
        header, groups = _header(v, headers, row)
        accumulators = [v.variable(v.zero(v.i32)) for _ in range(4)]
        with v.loop(groups):
            four = [v.load(v.at(x, v.load_i16(v.at(offset.get(), 2 * q))), v.i8) for q in range(4)]
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
        _finish_row(v, scratch, header, v.token_order([a.get() for a in accumulators]), add, v.builder.add)


def _dot4_blocks(
    v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value, add: Value
) -> None:
    """Four adjacent channels a weight block: no shuffle. Two blocks a step, to hide the latency of the dot product."""
    x, headers, scratch = v.pointer(x), v.pointer(headers), v.pointer(scratch)
    weight, offset = v.variable(v.pointer(weights)), v.variable(v.pointer(offsets))
    with v.loop(rows) as row:
        header, groups = _header(v, headers, row)
        accumulators = [v.variable(v.zero(v.i32)) for _ in range(8)]
        with v.loop(groups):
            for half in range(2):
                scalars = v.broadcast_i32(v.at(weight.get(), 4 * half))
                place = v.at(x, v.load_i16(v.at(offset.get(), 2 * half)))
                for k in range(4):
                    accumulator = accumulators[4 * half + k]
                    accumulator.set(v.dot4(accumulator.get(), v.load(v.at(place, k * v.bytes), v.i32), scalars))
            weight.set(v.at(weight.get(), 8))
            offset.set(v.at(offset.get(), 4))
        totals = [v.builder.add(accumulators[k].get(), accumulators[4 + k].get()) for k in range(4)]
        _finish_row(v, scratch, header, totals, add, v.builder.add)


def _dot4_dense(
    v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value, add: Value
) -> None:
    """Four rows times four vectors in registers: 4 loads and 4 broadcasts feed 16 dot products. Two in 16 registers.

    ``offsets`` is the number of quads of input channels, not an address; weights are ``[rows/4][quads][4 rows][4]``.
    """
    # Without an instruction a product takes so many temporaries that sums live in memory anyway.
    width = 4 if v.tier.registers >= 32 or not v.tier.dot4 else 2
    x, scratch = v.pointer(x), v.pointer(scratch)
    weight = v.variable(v.pointer(weights))
    with v.loop(rows, step=DENSE_ROWS) as row:
        for first in range(0, 4, width):
            out = scratch
            if first:  # the same weights again, for the other tokens
                weight.set(v.at(weight.get(), v.mul(offsets, -4 * DENSE_ROWS)))
                out = v.at(scratch, first * v.bytes)
            accumulators = [v.variable(v.zero(v.i32)) for _ in range(width * DENSE_ROWS)]
            with v.loop(offsets) as quad:
                place = v.at(x, v.mul(quad, _ROW_BYTES))
                vectors = [v.load(v.at(place, (first + k) * v.bytes), v.i32) for k in range(width)]
                for r in range(DENSE_ROWS):
                    scalars = v.broadcast_i32(v.at(weight.get(), 4 * r))
                    for k in range(width):
                        accumulator = accumulators[width * r + k]
                        accumulator.set(v.dot4(accumulator.get(), vectors[k], scalars))
                weight.set(v.at(weight.get(), 4 * DENSE_ROWS))
            for r in range(DENSE_ROWS):
                place = v.at(out, v.mul(v.add(row, r), _ROW_BYTES))
                _finish(v, [accumulators[width * r + k].get() for k in range(width)], place, add, v.builder.add)


# -- int8 without a four-byte dot product (AVX2) --------------------------------------------------------------------
#
# vpmaddubsw adds two u8*s8 products in int16 and saturates. The packer knows the weights, so it forms groups whose
# positive weights sum to at most 128 and whose negative ones to at least -128: then every partial sum over uint8
# activations lies in [-255*128, 255*128] and int16 is exact, over several pairs, before anything must be widened.


def _pair_rows(group: int) -> Any:
    """Unstructured: ``group`` pairs of rows, byte-interleaved in registers, are summed in int16.

    A row's total T would need int32, but stays in two int16 sums: ``wrapped``, T modulo 2**16, and ``high``, the sum of
    every group's sum >> 8. With G groups, T - 256 high lies in [0, 255 G], so as long as G is at most
    :data:`MOST_GROUPS`, ``wrapped - 256 high`` is that difference, and one ``vpmaddwd`` makes T of both. This costs
    three instructions a group and vector, where widening every group's sum to int32 costs four, on twice the vectors.

    ``weights`` holds eight bytes a pair: the two weights, twice, and the two offsets; there is no stream of offsets.
    """

    @micro_kernel(7)
    def pair_rows(
        v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value, add: Value
    ) -> None:
        b = v.builder
        x, headers, scratch = v.pointer(x), v.pointer(headers), v.pointer(scratch)
        stream = v.variable(v.pointer(weights))
        eight = v.constant(v.i16, 8)
        with v.loop(rows) as row:
            header, groups = _header(v, headers, row)
            wrapped, high = ([v.variable(v.zero(v.i16)) for _ in range(2)] for _ in range(2))
            with v.loop(groups):
                sums: list[Any] = [None] * 2
                for pair in range(group):
                    scalars = v.broadcast_i32(v.at(stream.get(), 8 * pair))
                    places = [v.at(x, v.load_i16(v.at(stream.get(), 8 * pair + 4 + 2 * q))) for q in range(2)]
                    first, second = (v.load(place, v.i8) for place in places)
                    for k in range(2):
                        products = v.multiply_pairs_u8s8(v.interleave(first, second, k == 1), scalars)
                        sums[k] = products if pair == 0 else b.add(sums[k], products)
                stream.set(v.at(stream.get(), 8 * group))
                for k in range(2):
                    wrapped[k].set(b.add(wrapped[k].get(), sums[k]))
                    high[k].set(b.add(high[k].get(), b.ashr(sums[k], eight)))
            vectors = []
            for k in range(2):
                upper = high[k].get()
                lower = b.sub(wrapped[k].get(), b.shl(upper, eight))
                for second_half in (False, True):
                    both = v.interleave(lower, upper, second_half)
                    vectors.append(v.dot2(v.zero(v.i32), both, v.pattern(v.i16, [1, 256])))
            _finish_row(v, scratch, header, v.token_order(vectors), add, b.add)

    return pair_rows


def _block_rows(group: int) -> Any:
    """4-blocks: ``group`` blocks are summed in int16 (channels 0+1 and 2+3 apart), then widened by ``vpmaddwd``."""

    @micro_kernel(7)
    def block_rows(
        v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value, add: Value
    ) -> None:
        x, headers, scratch = v.pointer(x), v.pointer(headers), v.pointer(scratch)
        weight, offset = v.variable(v.pointer(weights)), v.variable(v.pointer(offsets))
        ones = v.constant(v.i16, 1)
        with v.loop(rows) as row:
            header, groups = _header(v, headers, row)
            totals = [v.variable(v.zero(v.i32)) for _ in range(4)]
            with v.loop(groups):
                sums: list[Any] = [None] * 4
                for block in range(group):
                    scalars = v.broadcast_i32(v.at(weight.get(), 4 * block))
                    place = v.at(x, v.load_i16(v.at(offset.get(), 2 * block)))
                    for k in range(4):
                        products = v.multiply_pairs_u8s8(v.load(v.at(place, k * v.bytes), v.i8), scalars)
                        sums[k] = products if block == 0 else v.builder.add(sums[k], products)
                weight.set(v.at(weight.get(), 4 * group))
                offset.set(v.at(offset.get(), 2 * group))
                for k in range(4):
                    totals[k].set(v.dot2(totals[k].get(), sums[k], ones))
            _finish_row(v, scratch, header, [total.get() for total in totals], add, v.builder.add)

    return block_rows


# -- float32 --------------------------------------------------------------------------------------------------------


@micro_kernel(7)
def accumulate_float_sparse(
    v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value, add: Value
) -> None:
    """CSR rows, two nonzeros a step into separate accumulators, to hide the latency of the multiply-add."""
    x, headers, scratch = v.pointer(x), v.pointer(headers), v.pointer(scratch)
    weight, offset = v.variable(v.pointer(weights)), v.variable(v.pointer(offsets))
    with v.loop(rows) as row:
        header, groups = _header(v, headers, row)
        accumulators = [v.variable(v.zero(v.f32)) for _ in range(8)]
        with v.loop(groups):
            for half in range(2):
                scalar = v.broadcast_f32(v.at(weight.get(), 4 * half))
                place = v.at(x, v.load_i32(v.at(offset.get(), 4 * half)))
                for k in range(4):
                    accumulator = accumulators[4 * half + k]
                    accumulator.set(v.fma(v.load(v.at(place, k * v.bytes), v.f32), scalar, accumulator.get()))
            weight.set(v.at(weight.get(), 8))
            offset.set(v.at(offset.get(), 8))
        totals = [v.builder.fadd(accumulators[k].get(), accumulators[4 + k].get()) for k in range(4)]
        _finish_row(v, scratch, header, totals, add, v.builder.fadd)


@micro_kernel(7)
def accumulate_float_dense(
    v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value, add: Value
) -> None:
    """Panels of six rows (the last of a block of four), times two vectors (AVX2) or four (AVX-512), in registers.

    Twelve sums and more keep two multiply-adds a cycle in flight. ``offsets`` is the number of input channels, not an
    address; the weights of a panel of P rows are ``[K][P]``, see :data:`WIDE_BLOCK_ROWS`.
    """
    b = v.builder
    x, scratch, weights = v.pointer(x), v.pointer(scratch), v.pointer(weights)
    whole = b.icmp_signed("==", rows, v.integer(BLOCK_ROWS))
    wide = b.select(whole, v.integer(WIDE_BLOCK_ROWS), v.integer(0))
    for start, stop, panel in ((v.integer(0), wide, WIDE_ROWS), (wide, rows, DENSE_ROWS)):
        with v.loop(stop, start, panel) as row:
            stream = v.at(weights, v.mul(v.mul(row, 4), offsets))
            _float_panel(v, x, stream, offsets, v.at(scratch, v.mul(row, _ROW_BYTES)), panel, add)


def _float_panel(v: Simd, x: Value, weights: Value, channels: Value, scratch: Value, panel: int, add: Value) -> None:
    width = 4 if v.tier.registers >= 32 else 2
    for first in range(0, 4, width):
        accumulators = [v.variable(v.zero(v.f32)) for _ in range(width * panel)]
        weight = v.variable(weights)
        with v.loop(channels) as channel:
            place = v.at(x, v.add(v.mul(channel, _ROW_BYTES), first * v.bytes))
            vectors = [v.load(v.at(place, k * v.bytes), v.f32) for k in range(width)]
            for r in range(panel):
                scalar = v.broadcast_f32(v.at(weight.get(), 4 * r))
                for k in range(width):
                    accumulator = accumulators[width * r + k]
                    accumulator.set(v.fma(vectors[k], scalar, accumulator.get()))
            weight.set(v.at(weight.get(), 4 * panel))
        for r in range(panel):
            place = v.at(scratch, r * _ROW_BYTES + first * v.bytes)
            _finish(v, [accumulators[width * r + k].get() for k in range(width)], place, add, v.builder.fadd)


# -- the functions of this tier, one per group size (index into GROUP_SIZES; dot4 tiers use the first only) -----------


@micro_kernel(7)
def unsupported(v: Simd, *arguments: Value) -> None:
    """Stands where a tier has no kernel of a kind; the lowering never selects it."""


if TIER.pairs:
    accumulate_unstructured = [_pair_rows(size) for size in GROUP_SIZES]
    accumulate_blocks = [_block_rows(size) for size in GROUP_SIZES]
    accumulate_dense = unsupported
else:
    _decorate = micro_kernel(7)
    accumulate_unstructured = [_decorate(_dot4_unstructured)] + [unsupported] * (len(GROUP_SIZES) - 1)
    accumulate_blocks = [_decorate(_dot4_blocks)] + [unsupported] * (len(GROUP_SIZES) - 1)
    accumulate_dense = _decorate(_dot4_dense)
