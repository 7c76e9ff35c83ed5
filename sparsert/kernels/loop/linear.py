"""The step that multiplies a matrix with tiles."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from sparsert.kernels.formats import ACCUMULATORS, BLOCK_ROWS, HEADER_BYTES
from sparsert.kernels.jit import entry, inner
from sparsert.kernels.loop.places import BLOCK_BYTES, field, narrowing, place, run_stages
from sparsert.kernels.memory import call
from sparsert.kernels.table import LINEAR, START, START_COLUMNS

__all__ = ["accumulator_entry", "linear_step"]

_START_BYTES = 8 * START_COLUMNS

_dispatch = ACCUMULATORS.dispatcher()


def _accumulate(kernel, x, headers, weights, offsets, block, rows, add):
    _dispatch(kernel, x, headers, weights, offsets, block, rows, add)


@functools.cache
def accumulator_entry() -> Any:
    """All accumulators, compiled once."""
    return entry(_accumulate, 1 + ACCUMULATORS.arity)


@inner()
def linear_step(step, band, tiles, strip, strips, meta, scratch):
    """Accumulators of ``tiles`` tiles from ``band`` on, through the stages.

    Panels of a few blocks of rows come first and tiles second: a panel's weights are read from memory once and stay in
    the L2 for the whole band, a tile's activations stay in the L1 for the whole panel, or, if they do not fit there,
    a slice of them stays while the panel's blocks collect what it contributes.
    """
    rows, panel, slices = step[LINEAR.rows], step[LINEAR.panel_blocks], step[LINEAR.slices]
    blocks = (rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    last = (strip + 1) * blocks // strips
    for start in range(strip * blocks // strips, last, panel):
        for tile in range(band, band + tiles):
            x = place(step[LINEAR.x], step[LINEAR.x_stride], tile, band, scratch)
            narrower = narrowing(meta, tile)
            for turn in range(slices):
                for index in range(start, min(start + panel, last)):
                    first = index * BLOCK_ROWS
                    size = min(BLOCK_ROWS, rows - first)
                    block = scratch
                    if slices > 1:
                        block += (index - start) * BLOCK_BYTES
                    starts = step[LINEAR.starts] + _START_BYTES * (turn * blocks + index)
                    arguments = (
                        step[LINEAR.kernel] + narrower,
                        x + turn * step[LINEAR.slice_bytes],
                        step[LINEAR.headers] + HEADER_BYTES * (turn * rows + first),
                        step[LINEAR.weights] + field(starts, START.weights),
                        step[LINEAR.offsets] + field(starts, START.offsets),
                        block,
                        size,
                        np.int64(turn > 0),
                    )
                    call(step[LINEAR.run], arguments)
                    if turn == slices - 1:
                        table, count = step[LINEAR.stage_table], step[LINEAR.stages]
                        run_stages(table, count, block, first, size, tile, band, narrower, scratch)
