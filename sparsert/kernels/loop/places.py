"""Where tiles lie, and sizes of what threads and buffers need."""

from __future__ import annotations

import functools
from typing import Any

from sparsert.kernels.formats import BLOCK_ROWS
from sparsert.kernels.jit import TILE, entry, inner
from sparsert.kernels.memory import call, load_i64
from sparsert.kernels.registry import NARROWER
from sparsert.kernels.rows import STATISTICS_ROWS
from sparsert.kernels.stages import STAGES
from sparsert.kernels.table import STAGE, STAGE_COLUMNS, TILE_META

__all__ = [
    "ATTENTION_ROWS",
    "ATTENTION_WORK",
    "BLOCK_BYTES",
    "FLOAT_ROW",
    "PANEL_BLOCKS",
    "STEP_SCRATCH",
    "field",
    "narrowing",
    "place",
    "run_stages",
    "stage_entry",
    "vectors_of",
]

FLOAT_ROW = 4 * TILE
"""Bytes of a row of a float tile."""

BLOCK_BYTES = BLOCK_ROWS * FLOAT_ROW

PANEL_BLOCKS = 4
"""Blocks of rows that collect the contributions of slices side by side, 16 KB on AVX2."""

STEP_SCRATCH = PANEL_BLOCKS * BLOCK_BYTES + STATISTICS_ROWS * FLOAT_ROW
"""Scratch bytes that steps other than attention need, besides values of the region."""

ATTENTION_WORK = FLOAT_ROW * TILE + TILE * TILE + FLOAT_ROW
"""Scratch bytes that attention needs per key tile, besides :data:`ATTENTION_ROWS`."""

ATTENTION_ROWS = 8
"""Rows of a tile in scratch that attention needs besides: maxima and sums, and some to spare."""

_STAGE_BYTES = 8 * STAGE_COLUMNS

# Has the stages of formats too: it is made of what is entered when it is compiled, and the import above entered those.
_dispatch = STAGES.dispatcher()


def _run_stage(code, block, rows, acc_bias, scale, bias, parameters, source, destination):
    _dispatch(code, block, rows, acc_bias, scale, bias, parameters, source, destination)


@functools.cache
def stage_entry() -> Any:
    """All stages, compiled once."""
    return entry(_run_stage, 1 + STAGES.arity)


@inner()
def field(record, column):
    """An integer of a row of a table that is known by its address."""
    return load_i64(record + 8 * column)


@inner()
def place(base, stride, tile, band, scratch):
    """Address of tile ``tile``; ``band`` is the first tile of its band."""
    if stride < 0:
        return scratch + base - stride * (tile - band)
    return base + stride * tile


@inner()
def vectors_of(meta, tile):
    """Vectors of a row of a tile, up to the last that holds a token."""
    return (meta[tile, TILE_META.tokens] * 4 + TILE - 1) // TILE


@inner()
def narrowing(meta, tile):
    """What to add to the codes of kernels for a tile."""
    return NARROWER * (4 - vectors_of(meta, tile))


@inner()
def run_stages(table, count, block, first, rows, tile, band, narrower, scratch):
    """All stages of a step on the block whose first row is ``first``."""
    for index in range(count):
        stage = table + index * _STAGE_BYTES
        word = 4 * first
        source = place(field(stage, STAGE.source), field(stage, STAGE.source_stride), tile, band, scratch)
        base, stride = field(stage, STAGE.destination), field(stage, STAGE.destination_stride)
        destination = place(base, stride, tile, band, scratch)
        base, stride = field(stage, STAGE.parameters), field(stage, STAGE.parameters_stride)
        parameters = place(base, stride, tile, band, scratch)
        arguments = (
            field(stage, STAGE.code) + narrower,
            block,
            rows,
            field(stage, STAGE.acc_bias) + word,
            field(stage, STAGE.scale) + word,
            field(stage, STAGE.bias) + word,
            parameters,
            source + first * FLOAT_ROW,
            destination + first * field(stage, STAGE.destination_row_bytes),
        )
        call(field(stage, STAGE.run), arguments)
