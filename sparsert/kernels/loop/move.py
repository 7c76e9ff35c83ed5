"""Steps that move values between tiles and the arrays of a caller."""

from __future__ import annotations

import numpy as np

from sparsert.kernels.jit import TILE, inner
from sparsert.kernels.loop.places import field, place
from sparsert.kernels.memory import load_f32, store_f32
from sparsert.kernels.table import GATHER, PIECE, PIECE_COLUMNS, SCATTER, SELECT, TILE_META

__all__ = ["gather_step", "scatter_step", "select_step"]


@inner()
def gather_step(step, tile, band, meta, scratch):
    """Rows of a float tile to an array [tokens][columns]."""
    x = place(step[GATHER.x], step[GATHER.x_stride], tile, band, scratch)
    width = step[GATHER.width]
    for lane in range(meta[tile, TILE_META.tokens]):
        token = meta[tile, TILE_META.first_token] + lane
        target = step[GATHER.array] + 4 * (token * width + step[GATHER.column])
        for row in range(step[GATHER.rows]):
            store_f32(target + 4 * row, load_f32(x + 4 * (row * TILE + lane)))


@inner()
def select_step(step, tile, band, meta, scratch):
    """One token of every sequence to an array [sequences][rows]."""
    x = place(step[SELECT.x], step[SELECT.x_stride], tile, band, scratch)
    rows = step[SELECT.rows]
    for index in range(meta[tile, TILE_META.piece_count]):
        piece = meta[tile, TILE_META.pieces] + index * (8 * PIECE_COLUMNS)
        token = step[SELECT.token]
        if token < 0:
            token += field(piece, PIECE.length)
        first = field(piece, PIECE.first_lane)
        lane = first + token - field(piece, PIECE.position)
        if first <= lane < field(piece, PIECE.stop_lane):
            target = step[SELECT.array] + 4 * field(piece, PIECE.sequence) * rows
            for row in range(rows):
                store_f32(target + 4 * row, load_f32(x + 4 * (row * TILE + lane)))


@inner()
def scatter_step(step, tile, band, meta, scratch):
    """An array [tokens][rows] to a float tile; tokens beyond the sequence become zero."""
    x = place(step[SCATTER.x], step[SCATTER.x_stride], tile, band, scratch)
    rows = step[SCATTER.rows]
    for lane in range(TILE):
        source = step[SCATTER.array] + 4 * (meta[tile, TILE_META.first_token] + lane) * rows
        for row in range(rows):
            value = np.float32(0.0)
            if lane < meta[tile, TILE_META.tokens]:
                value = load_f32(source + 4 * row)
            store_f32(x + 4 * (row * TILE + lane), value)
