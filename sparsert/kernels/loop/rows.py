"""The step for rows that need no weights."""

from __future__ import annotations

from sparsert.kernels.formats import BLOCK_ROWS
from sparsert.kernels.jit import inner
from sparsert.kernels.loop.places import BLOCK_BYTES, PANEL_BLOCKS, narrowing, place, run_stages
from sparsert.kernels.rows import FINISH, PREPARE
from sparsert.kernels.table import ROWS

__all__ = ["rows_step"]

_prepare = PREPARE.dispatcher(others_do_nothing=True)
_finish = FINISH.dispatcher()


@inner()
def rows_step(step, tile, band, meta, scratch):
    """Rows of a source, block by block, each block through the stages."""
    narrower, rows = narrowing(meta, tile), step[ROWS.rows]
    source = step[ROWS.source] + narrower
    x = place(step[ROWS.x], step[ROWS.x_stride], tile, band, scratch)
    statistics = scratch + PANEL_BLOCKS * BLOCK_BYTES
    parameters = place(step[ROWS.parameters], step[ROWS.parameters_stride], tile, band, scratch)
    _prepare(source, x, rows, parameters, statistics)
    for first in range(0, rows, BLOCK_ROWS):
        size = min(BLOCK_ROWS, rows - first)
        gamma, beta = step[ROWS.gamma] + 4 * first, step[ROWS.beta] + 4 * first
        begin = x + first * step[ROWS.x_row_bytes]
        _finish(source, begin, scratch, size, statistics, gamma, beta, parameters)
        run_stages(step[ROWS.stage_table], step[ROWS.stages], scratch, first, size, tile, band, narrower, scratch)
