"""Dense int8: panels of four rows, or of two on tiers that sum pairs."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsert.kernels.formats.base import BLOCK_ROWS, Format, PackedWeight, add_format
from sparsert.kernels.formats.emit import ROW_BYTES, finish, header_of
from sparsert.kernels.formats.entries import two_row_entries
from sparsert.kernels.formats.grouping import lane_sums
from sparsert.kernels.formats.matrix import Rows
from sparsert.kernels.formats.streams import GROUP_SIZES, SLICE, Slices, cut, grouped
from sparsert.kernels.jit import TIER, TILE
from sparsert.kernels.registry import ANY_ROW, Emit
from sparsert.kernels.simd import Simd, Sums, Value

_PANEL_ROWS = 4


def _dot4_dense(
    v: Simd, x: Value, headers: Value, weights: Value, count: Value, scratch: Value, rows: Value, add: Value
) -> None:
    """Four rows times four vectors in registers: 4 loads and 4 broadcasts feed 16 dot products. Two in 16 registers.

    ``count`` is the number of quads of input channels; weights are ``[rows/4][quads][4 rows][4]``.
    """
    # Without an instruction a product takes so many temporaries that sums live in memory anyway.
    width = min(v.row, 4 if v.tier.registers >= 32 or not v.tier.dot4 else 2)
    x, scratch = v.pointer(x), v.pointer(scratch)
    weight = v.variable(v.pointer(weights))
    with v.loop(rows, step=_PANEL_ROWS) as row:
        for first in range(0, v.row, width):
            held = range(min(width, v.row - first))
            out = scratch
            if first:  # the same weights again, for the other tokens
                weight.set(v.at(weight.get(), v.mul(count, -4 * _PANEL_ROWS)))
                out = v.at(scratch, first * v.bytes)
            sums = [Sums(v, [v.zero(v.i32)] * len(held)) for _ in range(_PANEL_ROWS)]
            with v.loop(count) as quad:
                place = v.at(x, v.mul(quad, ROW_BYTES))
                vectors = [v.load(v.at(place, (first + k) * v.bytes), v.i32) for k in held]
                for total, scalars in zip(sums, v.broadcasts(weight.get(), _PANEL_ROWS, v.i32), strict=True):
                    total.add(vectors, scalars)
                weight.set(v.at(weight.get(), 4 * _PANEL_ROWS))
            for r, total in enumerate(sums):
                finish(v, total.get(), v.at(out, v.mul(v.add(row, r), ROW_BYTES)), add, v.builder.add)


def _two_rows(group: int) -> Emit:
    """Two rows times two vectors: four loads feed four products. ``group`` of them are summed in int16, as in blocks.

    The two rows share the order in which their blocks of four channels are dealt, and so the reading of activations,
    which is what binds a kernel of single rows: 64 MACs take 4.5 vector operations either way, and 2.6 loads, not 3.5.
    """

    def emit(
        v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value, add: Value
    ) -> None:
        x, headers, scratch = v.pointer(x), v.pointer(headers), v.pointer(scratch)
        weight, offset = v.variable(v.pointer(weights)), v.variable(v.pointer(offsets))
        ones = v.constant(v.i16, 1)
        with v.loop(v.builder.ashr(v.add(rows, 1), v.integer(1))) as pair:
            header, groups = header_of(v, headers, pair)
            out = v.at(scratch, v.mul(v.load_i32(header), ROW_BYTES))
            for first in range(0, v.row, 2):
                width = min(2, v.row - first)
                if first:  # the same weights again, for the other tokens
                    weight.set(v.at(weight.get(), v.mul(groups, -8 * group)))
                    offset.set(v.at(offset.get(), v.mul(groups, -2 * group)))
                totals = [v.variable(v.zero(v.i32)) for _ in range(2 * width)]
                with v.loop(groups):
                    sums = _sum_group(v, x, weight.get(), offset.get(), group, (first, width))
                    for total, partial in zip(totals, sums, strict=True):
                        total.set(v.dot2(total.get(), partial, ones))
                    weight.set(v.at(weight.get(), 8 * group))
                    offset.set(v.at(offset.get(), 2 * group))
                for r in range(2):
                    place = v.at(out, r * ROW_BYTES + first * v.bytes)
                    vectors = [total.get() for total in totals[r * width : (r + 1) * width]]
                    finish(v, vectors, place, add, v.builder.add)

    return emit


def _sum_group(v: Simd, x: Value, weight: Value, offset: Value, group: int, part: tuple[int, int]) -> list[Value]:
    """int16 sums of a group, row by row, for the vectors of ``part``: the first, and how many."""
    first, width = part
    sums: list[Any] = [None] * (2 * width)
    for block in range(group):
        place = v.at(x, v.load_i16(v.at(offset, 2 * block)))
        vectors = [v.load(v.at(place, (first + k) * v.bytes), v.i8) for k in range(width)]
        for r in range(2):
            scalars = v.broadcast_i32(v.at(weight, 8 * block + 4 * r))
            for k in range(width):
                index, products = r * width + k, v.multiply_pairs_u8s8(vectors[k], scalars)
                sums[index] = products if block == 0 else v.builder.add(sums[index], products)
    return sums


_BLOCK_COST = 14.0
"""A block of :func:`_two_rows`, in the unit of costs of groups."""


def _pack_two_rows(weight: np.ndarray) -> PackedWeight:
    """Pack integer weights (N, K), values in -255..255, for kernels of two rows; a last odd row has one of zeros."""
    cuts = cut(np.pad(weight, ((0, len(weight) % 2), (0, 0))), SLICE)
    indptr, columns, values = two_row_entries(cuts.weight)
    slices = Slices(cuts.weight, cuts.count, cuts.features, cuts.rows // 2, panel=2)
    streams = grouped(
        indptr,
        columns,
        values.view(np.int64).ravel(),
        lane_sums(values),
        slices,
        entries_per_step=1,
        scale=4 * TILE,
        step_cost=_BLOCK_COST,
    )
    size = GROUP_SIZES[streams.variant]
    return streams.packed("dense", weight, 8 * size, 2 * size)


def _pack(weight: np.ndarray) -> PackedWeight:
    """Pack int8 weights (N, K) as panels of rows."""
    if TIER.pairs:
        return _pack_two_rows(weight)
    rows, columns = weight.shape
    quads = np.pad(weight, ((0, -rows % _PANEL_ROWS), (0, -columns % 4))).astype(np.int8)
    count = quads.shape[1] // 4
    panels = quads.reshape(-1, _PANEL_ROWS, count, 4).transpose(0, 2, 1, 3)
    starts = np.zeros((-(-rows // BLOCK_ROWS), 2), np.int64)
    starts[:, 0] = np.arange(len(starts)) * (BLOCK_ROWS * count * 4)
    return PackedWeight(
        "dense",
        0,
        *weight.shape,
        headers=np.zeros((0, 2), np.int32),
        weights=np.ascontiguousarray(panels).view(np.int32).ravel(),
        offsets=np.zeros(0, np.uint16),
        starts=starts,
        count=count,
    )


def _accepts(rows: Rows) -> bool:
    """Panels of four rows hold bytes; those of two take weights beyond them in parts."""
    return TIER.pairs or not ((rows.weight > 127) | (rows.weight < -128)).any()


add_format(
    Format(
        name="dense",
        title="dense",
        code=2,
        form="quads",
        pack=_pack,
        kernels=tuple(_two_rows(size) for size in GROUP_SIZES) if TIER.pairs else (_dot4_dense,),
        rows=ANY_ROW,
        kept=lambda rows: 1.0,
        # avx2 and generic measured on Zen 3 (2.25 GHz, 768 x 768), avx512_vnni on Zen 5
        rates={
            "avx512_vnni": 450.0,
            "avx2": 75.0,
            "generic": 23.0,
            # by instructions
            "avx_vnni": 198.0,
            "neon_i8mm": 148.0,
            "neon_dot": 109.0,
        },
        accepts=_accepts,
        adjacent=0,
        panel_rows=2 if TIER.pairs else _PANEL_ROWS,
    )
)
