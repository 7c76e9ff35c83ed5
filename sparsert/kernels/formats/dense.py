"""Dense int8. Tiers that sum pairs have no kernel of their own for it: there it is blocks that are all kept."""

from __future__ import annotations

import numpy as np

from sparsert.kernels.formats.base import BLOCK_ROWS, Format, PackedWeight, add_format
from sparsert.kernels.formats.blocks import pack_blocks
from sparsert.kernels.formats.emit import ROW_BYTES, finish
from sparsert.kernels.formats.matrix import Rows
from sparsert.kernels.jit import TIER
from sparsert.kernels.registry import ANY_ROW
from sparsert.kernels.simd import Simd, Value

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
            accumulators = [v.variable(v.zero(v.i32)) for _ in range(len(held) * _PANEL_ROWS)]
            with v.loop(count) as quad:
                place = v.at(x, v.mul(quad, ROW_BYTES))
                vectors = [v.load(v.at(place, (first + k) * v.bytes), v.i32) for k in held]
                for r in range(_PANEL_ROWS):
                    scalars = v.broadcast_i32(v.at(weight.get(), 4 * r))
                    for k in held:
                        accumulator = accumulators[len(held) * r + k]
                        accumulator.set(v.dot4(accumulator.get(), vectors[k], scalars))
                weight.set(v.at(weight.get(), 4 * _PANEL_ROWS))
            for r in range(_PANEL_ROWS):
                place = v.at(out, v.mul(v.add(row, r), ROW_BYTES))
                finish(v, [accumulators[len(held) * r + k].get() for k in held], place, add, v.builder.add)


def _pack(weight: np.ndarray) -> PackedWeight:
    """Pack int8 weights (N, K) as panels of rows."""
    if TIER.pairs:
        return pack_blocks(weight, "dense")
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
    """Panels hold bytes; blocks take weights beyond them in parts."""
    return TIER.pairs or not ((rows.weight > 127) | (rows.weight < -128)).any()


add_format(
    Format(
        name="dense",
        title="dense",
        code=2,
        form="quads",
        pack=_pack,
        kernels=() if TIER.pairs else (_dot4_dense,),
        kernels_of="blocks" if TIER.pairs else "",
        rows=ANY_ROW,
        kept=lambda rows: 1.0,
        # avx2 and generic measured on Zen 3 (2.25 GHz, 768 x 768), avx512_vnni on Zen 5
        rates={"avx512_vnni": 450.0, "avx2": 75.0, "generic": 23.0},
        accepts=_accepts,
        adjacent=0,
        panel_rows=1 if TIER.pairs else _PANEL_ROWS,
    )
)
