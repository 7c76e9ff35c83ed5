"""What attention does on tiers that sum pairs of products in int16: products alone, and V times P in exact runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import carray, types
from numba.extending import intrinsic

from sparsert.kernels.jit import TILE, inner
from sparsert.kernels.simd import Simd, Value, micro_kernel

__all__ = ["add_single_products", "sum_fast", "sum_values"]

_ROW = 4 * TILE

_LANE_LIMIT = 255
"""Probability bytes of one int16 lane whose products with any value stay in int16: 255 * 128 is below 2**15."""


def add_single_products(v: Simd, accumulator: Value, unsigned: Value, signed: Value) -> Value:
    """Plus four u8 * s8 products, whatever they are."""
    for mask in (0x00FF, -256):
        single = v.builder.and_(v.cast(unsigned, v.i16), v.constant(v.i16, mask))
        accumulator = v.dot2(accumulator, v.multiply_pairs_u8s8(single, signed), v.constant(v.i16, 1))
    return accumulator


def _context_int16(split: bool) -> Any:
    """``out += V P`` over tiles whose probability bytes sum to at most 255 per int16 lane, so that
    ``255 * 128`` bounds every partial sum and int16 is exact; widened once per call.

    ``split`` handles one tile that exceeds the bound: single products, widened at every step.
    """

    @micro_kernel(7)
    def context(
        v: Simd,
        values: Value,
        value_stride: Value,
        tiles: Value,
        probabilities: Value,
        rows: Value,
        out: Value,
        vectors: Value,
    ) -> None:
        b = v.builder
        values, probabilities, out = v.pointer(values), v.pointer(probabilities), v.pointer(out)
        ones = v.constant(v.i16, 1)
        with v.loop(rows, step=4) as row:
            with v.loop(vectors, step=2) as first:
                column = v.mul(first, v.bytes)
                places = [
                    [v.at(out, v.add(v.mul(v.add(row, r), _ROW), v.add(column, k * v.bytes))) for k in range(2)]
                    for r in range(4)
                ]
                sums = [[v.variable(v.zero(v.i16)) for _ in range(2)] for _ in range(4)]
                with v.loop(tiles) as tile:
                    base = v.at(values, v.add(v.mul(tile, value_stride), v.mul(row, TILE)))
                    columns = v.at(probabilities, v.add(v.mul(tile, TILE // 4 * _ROW), column))
                    for step in range(TILE // 4):
                        place = v.at(columns, step * _ROW)
                        loaded = [v.load(v.at(place, k * v.bytes), v.i16) for k in range(2)]
                        for r in range(4):
                            scalar = v.broadcast_i32(v.at(base, 4 * step + r * TILE))
                            for k in range(2):
                                if split:
                                    total = v.load(places[r][k], v.i32)
                                    v.store(add_single_products(v, total, loaded[k], scalar), places[r][k])
                                else:
                                    products = v.multiply_pairs_u8s8(loaded[k], scalar)
                                    sums[r][k].set(b.add(sums[r][k].get(), products))
                if not split:
                    for r in range(4):
                        for k in range(2):
                            total = v.dot2(v.load(places[r][k], v.i32), sums[r][k].get(), ones)
                            v.store(total, places[r][k])

    return context


sum_fast, _sum_split = _context_int16(False), _context_int16(True)


@micro_kernel(1)
def _clear_row(v: Simd, place: Value) -> None:
    v.store_row([v.zero(v.i32)] * 4, v.pointer(place))


@intrinsic
def _int16_pointer(typing_context: Any, address: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, values: Sequence[Value]) -> Value:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.int16)(types.int64), codegen


@inner()
def sum_values(values, value_stride, tiles, first_key, stop_key, probabilities, rows, out, lane_sums, vectors):
    """Split the key tiles into runs that stay exact in int16 and add up their contexts: of whole tiles."""
    for quad in range(first_key // 4):
        _clear_row(probabilities + quad * _ROW)
    for quad in range(stop_key // 4, tiles * (TILE // 4)):
        _clear_row(probabilities + quad * _ROW)
    for row in range(rows):
        _clear_row(out + row * _ROW)
    lanes = carray(_int16_pointer(lane_sums), (tiles, 2 * TILE))
    running = np.zeros(2 * TILE, np.int16)
    first = 0
    for tile in range(tiles):
        highest, alone = np.int16(0), np.int16(0)
        for i in range(2 * TILE):
            running[i] += lanes[tile, i]
            highest = max(highest, running[i])
            alone = max(alone, lanes[tile, i])
        if highest <= _LANE_LIMIT:
            continue
        if tile > first:
            start = first * TILE * TILE
            sum_fast(
                values + first * value_stride, value_stride, tile - first, probabilities + start, rows, out, vectors
            )
        first = tile
        for i in range(2 * TILE):  # a slice assignment would add 5 s to the compile time for its error message
            running[i] = lanes[tile, i]
        if alone > _LANE_LIMIT:
            _sum_split(
                values + tile * value_stride, value_stride, 1, probabilities + tile * TILE * TILE, rows, out, vectors
            )
            first = tile + 1
            running[:] = 0
    if tiles > first:
        start = first * TILE * TILE
        sum_fast(values + first * value_stride, value_stride, tiles - first, probabilities + start, rows, out, vectors)
