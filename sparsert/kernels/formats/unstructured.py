"""Unstructured nonzeros: int8, any pattern."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sparsert.kernels.formats.base import Format, PackedWeight, add_format
from sparsert.kernels.formats.emit import finish_row, header_of
from sparsert.kernels.formats.entries import integer_entries
from sparsert.kernels.formats.grouping import lane_sums
from sparsert.kernels.formats.streams import GROUP_SIZES, SLICE, Streams, cut, grouped, plain
from sparsert.kernels.jit import TIER, TILE
from sparsert.kernels.registry import Emit
from sparsert.kernels.simd import Simd, Sums, Value
from sparsert.kernels.simd.vector import Variable

__all__ = ["MOST_GROUPS", "finish_int16", "int16_streams"]

MOST_GROUPS = 128
"""int16 groups of a row at most, where pairs are summed: 128 * 255 fits int16."""


def _dot4(
    v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value, add: Value
) -> None:
    """Four arbitrary activation rows are interleaved in registers (eight shuffles) and meet four weights at once."""
    x, headers, scratch = v.pointer(x), v.pointer(headers), v.pointer(scratch)
    weight, offset = v.variable(v.pointer(weights)), v.variable(v.pointer(offsets))
    with v.loop(rows) as row:
        header, groups = header_of(v, headers, row)
        sums = Sums(v, [v.zero(v.i32)] * 4)
        with v.loop(groups):
            four = [v.load(v.at(x, v.load_i16(v.at(offset.get(), 2 * q))), v.i8) for q in range(4)]
            scalars = v.broadcast_i32(weight.get())
            vectors = []
            for high in (False, True):
                ab = v.cast(v.interleave(four[0], four[1], high), v.i16)
                cd = v.cast(v.interleave(four[2], four[3], high), v.i16)
                vectors += [v.cast(v.interleave(ab, cd, upper), v.i32) for upper in (False, True)]
            sums.add(vectors, scalars)
            weight.set(v.at(weight.get(), 4))
            offset.set(v.at(offset.get(), 8))
        finish_row(v, scratch, header, v.token_order(sums.get()), add, v.builder.add)


def _pairs(group: int) -> Emit:
    """``group`` pairs of rows, byte-interleaved in registers, are summed in int16, exactly as in blocks.

    ``weights`` holds eight bytes a pair: the two weights, twice, and the two offsets; there is no stream of offsets.
    """

    def emit(
        v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value, add: Value
    ) -> None:
        b = v.builder
        x, headers, scratch = v.pointer(x), v.pointer(headers), v.pointer(scratch)
        stream = v.variable(v.pointer(weights))
        eight = v.constant(v.i16, 8)
        with v.loop(rows) as row:
            header, groups = header_of(v, headers, row)
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
            vectors = finish_int16(v, wrapped, high)
            finish_row(v, scratch, header, v.token_order(vectors), add, b.add)

    return emit


def finish_int16(v: Simd, wrapped: list[Variable], high: list[Variable]) -> list[Value]:
    """int32 totals of a row that was kept in two int16 sums; lanes come in the order of interleaving.

    ``wrapped`` is the total T modulo 2**16, and ``high`` the sum of every group's sum >> 8. With G groups, T - 256 high
    lies in [0, 255 G], so as long as G is at most :data:`MOST_GROUPS`, ``wrapped - 256 high`` is that difference, and
    one ``vpmaddwd`` makes T of both. This costs three instructions a group and vector, where widening every group's sum
    to int32 costs four, on twice the vectors.
    """
    b, eight, vectors = v.builder, v.constant(v.i16, 8), []
    for low_sum, high_sum in zip(wrapped, high, strict=True):
        upper = high_sum.get()
        lower = b.sub(low_sum.get(), b.shl(upper, eight))
        for second_half in (False, True):
            both = v.interleave(lower, upper, second_half)
            vectors.append(v.dot2(v.zero(v.i32), both, v.pattern(v.i16, [1, 256])))
    return vectors


_PAIR_COST = 11.0
"""Instructions per pair of the kernels that sum pairs, counted in their assembly."""


def int16_streams(
    weight: np.ndarray,
    entries: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]],
    *,
    entries_per_step: int,
    scale: int,
    step_cost: float,
) -> Streams:
    """Streams for kernels that end with :func:`finish_int16`, in slices so narrow that no row has too many groups.

    ``entries`` gives those of a slice and their lanes, as :func:`sparsert.kernels.formats.streams.grouped` takes them.
    """
    finer = 1
    while True:
        slices = cut(weight, SLICE, finer)
        found = entries(slices.weight)
        streams = grouped(*found, slices, entries_per_step=entries_per_step, scale=scale, step_cost=step_cost)
        if not streams.counts.size or streams.counts.max() <= MOST_GROUPS:
            return streams
        finer *= 2


def _int16_entries(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    indptr, columns, values = integer_entries(weight)
    return indptr, columns, values, lane_sums(values[:, None])


def _pack(weight: np.ndarray) -> PackedWeight:
    """Pack integer weights (N, K), zero point removed, values in -255..255, for any sparsity pattern."""
    if not TIER.pairs:
        slices = cut(weight, SLICE)
        streams = plain(*integer_entries(slices.weight), slices, unroll=4, scale=TILE)
        return streams.packed("unstructured", weight, 4, 8)
    streams = int16_streams(weight, _int16_entries, entries_per_step=2, scale=TILE, step_cost=_PAIR_COST)
    joined = np.empty((len(streams.values) // 2, 4), np.int16)
    joined[:, 0] = joined[:, 1] = streams.values.view(np.int16)
    joined[:, 2:] = streams.offsets.reshape(-1, 2).view(np.int16)
    return streams.packed("unstructured", weight, 8 * GROUP_SIZES[streams.variant], 0, joined.ravel())


add_format(
    Format(
        name="unstructured",
        title="unstructured",
        code=0,
        form="rows",
        pack=_pack,
        kernels=tuple(_pairs(size) for size in GROUP_SIZES) if TIER.pairs else (_dot4,),
        kept=lambda rows: rows.density(),
        # avx2 and generic measured on Zen 3 (2.25 GHz, 768 x 768, 10 % dense), avx512_vnni on Zen 5
        rates={
            "avx512_vnni": 178.0,
            "avx2": 48.0,
            "generic": 13.0,
            # by instructions
            "avx_vnni": 93.0,
            "neon_i8mm": 41.0,
            "neon_dot": 34.5,
        },
    )
)
