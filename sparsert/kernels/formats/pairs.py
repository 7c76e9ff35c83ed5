"""Pairs of adjacent input features, kept or dropped together: int8, half the shuffles of unstructured or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsert.kernels.formats.base import Format, PackedWeight, add_format
from sparsert.kernels.formats.emit import finish_row, header_of, joined
from sparsert.kernels.formats.entries import block_entries
from sparsert.kernels.formats.grouping import lane_sums
from sparsert.kernels.formats.streams import GROUP_SIZES, SLICE, cut, plain
from sparsert.kernels.formats.unstructured import finish_int16, int16_streams
from sparsert.kernels.jit import TIER, TILE
from sparsert.kernels.registry import Emit
from sparsert.kernels.simd import Simd, Sums, Value
from sparsert.kernels.stages import byte_stages

_PAIR_BYTES = 2 * TILE
"""Activations of a pair: two vectors, each of half of the tokens, the two channels of a token side by side."""


def _in_order(v: Simd, low: Value, high: Value) -> list[Value]:
    """What :meth:`Simd.interleave` made of the low and the high halves of 16-byte lanes, in the order of the tokens."""
    low, high = v.cast(low, v.i32), v.cast(high, v.i32)
    starts = [4 * lane + source for lane in range(v.lanes // 4) for source in (0, v.lanes)]
    order = [start + element for start in starts for element in range(4)]
    return [v.shuffle(low, high, half) for half in (order[: v.lanes], order[v.lanes :])]


def _tokens_in_order(v: Simd, totals: Sequence[Value]) -> list[Value]:
    """Totals of a row, two vectors of which belong to one of activations."""
    return [vector for k in range(0, len(totals), 2) for vector in _in_order(v, *totals[k : k + 2])]


def _store_duos(v: Simd, rows: Sequence[Value], place: Value) -> None:
    """``[N/2][TILE][2]``: two rows interleaved"""
    halves = [v.interleave(rows[0], rows[1], high) for high in (False, True)]
    for k, half in enumerate(_in_order(v, *halves)):
        v.store(half, v.at(place, k * v.bytes))


def _dot4(
    v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value, add: Value
) -> None:
    """Two pairs are interleaved by 16 bits (four shuffles) and meet four weights at once.

    Two such steps go into separate sums: fed by so few shuffles, one sum would wait for its last product.
    """
    x, headers, scratch = v.pointer(x), v.pointer(headers), v.pointer(scratch)
    weight, offset = v.variable(v.pointer(weights)), v.variable(v.pointer(offsets))
    with v.loop(rows) as row:
        header, groups = header_of(v, headers, row)
        both = [Sums(v, [v.zero(v.i32)] * v.row) for _ in range(2)]
        with v.loop(groups):
            for half, (sums, scalars) in enumerate(zip(both, v.broadcasts(weight.get(), 2, v.i32), strict=True)):
                first, second = (v.at(x, v.load_i16(v.at(offset.get(), 4 * half + 2 * q))) for q in range(2))
                vectors = []
                for k in range(v.row // 2):
                    a, b = (v.load(v.at(place, k * v.bytes), v.i16) for place in (first, second))
                    vectors += [v.interleave(a, b, high) for high in (False, True)]
                sums.add(vectors, scalars)
            weight.set(v.at(weight.get(), 8))
            offset.set(v.at(offset.get(), 8))
        totals = _tokens_in_order(v, joined(*both, v.builder.add))
        finish_row(v, scratch, header, totals, add, v.builder.add)


def _pairs(group: int) -> Emit:
    """``group`` pairs are summed in int16, exactly as in blocks; totals stay in int16 as in unstructured."""

    def emit(
        v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value, add: Value
    ) -> None:
        b = v.builder
        x, headers, scratch = v.pointer(x), v.pointer(headers), v.pointer(scratch)
        weight, offset = v.variable(v.pointer(weights)), v.variable(v.pointer(offsets))
        eight = v.constant(v.i16, 8)
        with v.loop(rows) as row:
            header, groups = header_of(v, headers, row)
            wrapped, high = ([v.variable(v.zero(v.i16)) for _ in range(v.row // 2)] for _ in range(2))
            with v.loop(groups):
                sums: list[Any] = [None] * (v.row // 2)
                for pair in range(group):
                    scalars = v.broadcast_i32(v.at(weight.get(), 4 * pair))
                    place = v.at(x, v.load_i16(v.at(offset.get(), 2 * pair)))
                    for k in range(v.row // 2):
                        products = v.multiply_pairs_u8s8(v.load(v.at(place, k * v.bytes), v.i8), scalars)
                        sums[k] = products if pair == 0 else b.add(sums[k], products)
                weight.set(v.at(weight.get(), 4 * group))
                offset.set(v.at(offset.get(), 2 * group))
                for k in range(v.row // 2):
                    wrapped[k].set(b.add(wrapped[k].get(), sums[k]))
                    high[k].set(b.add(high[k].get(), b.ashr(sums[k], eight)))
            finish_row(v, scratch, header, _tokens_in_order(v, finish_int16(v, wrapped, high)), add, b.add)

    return emit


_PAIR_COST = 8.0
"""Instructions per pair of the kernels that sum pairs, counted in their assembly."""


def _entries(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs that hold a nonzero, as blocks of four of which the last two are zeros."""
    rows, columns = weight.shape
    spread = np.zeros((rows, -(-columns // 2), 4), np.int16)
    spread[:, :, 0], spread[:, : columns // 2, 1] = weight[:, ::2], weight[:, 1::2]
    return block_entries(spread.reshape(rows, -1), paired=TIER.pairs)


def _int16_entries(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The two weights twice, as a vector of int32 repeats them."""
    indptr, columns, values = _entries(weight)
    lanes = lane_sums(values)
    values[:, 2:] = values[:, :2]
    return indptr, columns, values.view(np.int32).ravel(), lanes


def _pack(weight: np.ndarray) -> PackedWeight:
    """Pack integer weights (N, K), values in -255..255: the aligned pairs of channels that hold a nonzero."""
    if not TIER.pairs:
        slices = cut(weight, SLICE)
        indptr, columns, values = _entries(slices.weight)
        pairs = values.view(np.int16)[:, 0]
        return plain(indptr, columns, pairs, slices, unroll=4, scale=_PAIR_BYTES).packed("pairs", weight, 8, 8)
    streams = int16_streams(weight, _int16_entries, entries_per_step=1, scale=_PAIR_BYTES, step_cost=_PAIR_COST)
    size = GROUP_SIZES[streams.variant]
    return streams.packed("pairs", weight, 4 * size, 2 * size)


add_format(
    Format(
        name="pairs",
        title="pair",
        code=5,
        form="duos",
        pack=_pack,
        kernels=tuple(_pairs(size) for size in GROUP_SIZES) if TIER.pairs else (_dot4,),
        rows=(2, 4),
        stages=byte_stages("duos", _store_duos, 2),
        kept=lambda rows: rows.density(2),
        # By ratios to unstructured in turns (Zen 3, 768 x 768, 10 % dense): 1.11 on avx2, where blocks have 1.31, and
        # 1.05 on generic. avx512_vnni is not measured: its loop takes 4.1 instructions a nonzero (for icelake-server),
        # that of unstructured 6.0 and that of blocks 2.8, so its time is put between theirs in this proportion.
        rates={
            "avx512_vnni": 215.0,
            "avx2": 53.0,
            "generic": 13.7,
            # by instructions
            "avx_vnni": 107.0,
            "neon_i8mm": 54.0,
            "neon_dot": 41.0,
        },
        adjacent=2,
    )
)
