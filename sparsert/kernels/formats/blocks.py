"""Blocks of four adjacent input features, kept or dropped together: int8, no shuffle."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsert.kernels.formats.base import Format, PackedWeight, add_format
from sparsert.kernels.formats.emit import finish_row, header_of, sparse_rows
from sparsert.kernels.formats.entries import block_entries
from sparsert.kernels.formats.grouping import lane_sums
from sparsert.kernels.formats.streams import GROUP_SIZES, SLICE, cut, grouped, plain
from sparsert.kernels.jit import TIER, TILE
from sparsert.kernels.registry import ANY_ROW, Emit
from sparsert.kernels.simd import Simd, Value


def _dot4_blocks(v: Simd, *arguments: Value) -> None:
    """Four adjacent channels a weight block, two blocks a step."""
    sparse_rows(v, arguments, False)


def _pair_blocks(group: int) -> Emit:
    """``group`` blocks are summed in int16 (channels 0+1 and 2+3 apart), then widened by ``vpmaddwd``.

    The packer forms groups whose positive weights of a lane sum to at most 128 and whose negative ones to at least
    -128: then every partial sum over uint8 activations lies in [-255*128, 255*128] and int16 is exact.
    """

    def emit(
        v: Simd, x: Value, headers: Value, weights: Value, offsets: Value, scratch: Value, rows: Value, add: Value
    ) -> None:
        x, headers, scratch = v.pointer(x), v.pointer(headers), v.pointer(scratch)
        weight, offset = v.variable(v.pointer(weights)), v.variable(v.pointer(offsets))
        ones = v.constant(v.i16, 1)
        with v.loop(rows) as row:
            header, groups = header_of(v, headers, row)
            totals = [v.variable(v.zero(v.i32)) for _ in range(v.row)]
            with v.loop(groups):
                sums: list[Any] = [None] * v.row
                for block in range(group):
                    scalars = v.broadcast_i32(v.at(weight.get(), 4 * block))
                    place = v.at(x, v.load_i16(v.at(offset.get(), 2 * block)))
                    for k in range(v.row):
                        products = v.multiply_pairs_u8s8(v.load(v.at(place, k * v.bytes), v.i8), scalars)
                        sums[k] = products if block == 0 else v.builder.add(sums[k], products)
                weight.set(v.at(weight.get(), 4 * group))
                offset.set(v.at(offset.get(), 2 * group))
                for k in range(v.row):
                    totals[k].set(v.dot2(totals[k].get(), sums[k], ones))
            finish_row(v, scratch, header, [total.get() for total in totals], add, v.builder.add)

    return emit


_BLOCK_COST = 14.0
"""Instructions per block of the kernels that sum pairs, counted in their assembly."""


def _pack(weight: np.ndarray) -> PackedWeight:
    """Pack integer weights (N, K), values in -255..255: the aligned blocks of 4 channels that hold a nonzero."""
    slices = cut(weight, SLICE)
    indptr, columns, blocks = block_entries(slices.weight, paired=TIER.pairs)
    values, scale = blocks.view(np.int32).ravel(), 4 * TILE
    if not TIER.pairs:
        return plain(indptr, columns, values, slices, unroll=2, scale=scale).packed("blocks", weight, 8, 4)
    streams = grouped(
        indptr, columns, values, lane_sums(blocks), slices, entries_per_step=1, scale=scale, step_cost=_BLOCK_COST
    )
    size = GROUP_SIZES[streams.variant]
    return streams.packed("blocks", weight, 4 * size, 2 * size)


add_format(
    Format(
        name="blocks",
        title="4-block",
        code=1,
        form="quads",
        pack=_pack,
        kernels=tuple(_pair_blocks(size) for size in GROUP_SIZES) if TIER.pairs else (_dot4_blocks,),
        rows=ANY_ROW,
        kept=lambda rows: rows.density(4),
        # avx2 and generic measured on Zen 3 (2.25 GHz, 768 x 768, 10 % dense), avx512_vnni on Zen 5
        rates={
            "avx512_vnni": 255.0,
            "avx2": 62.0,
            "generic": 17.0,
            # by instructions
            "avx_vnni": 127.0,
            "neon_i8mm": 67.0,
            "neon_dot": 45.0,
        },
        adjacent=4,
    )
)
