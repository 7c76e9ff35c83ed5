"""The step that looks up embeddings."""

from __future__ import annotations

import numpy as np

from sparsert.kernels.embed import ADD_CODES, ADD_ROWS, STAGED_CHANNELS, round_sums, transpose_channels
from sparsert.kernels.formats import BLOCK_ROWS
from sparsert.kernels.jit import TILE, inner
from sparsert.kernels.loop.places import FLOAT_ROW, field, place
from sparsert.kernels.memory import load_i64, store_f32
from sparsert.kernels.table import ELEMENT, EMBED, INDEX, PIECE, PIECE_COLUMNS, TABLE, TABLE_COLUMNS, TILE_META

__all__ = ["embed_step"]

_add_table_row = ADD_ROWS.dispatcher()


@inner()
def _row_of(table, token, position):
    """The row of a table for a token: the number of the token among all, and its place in its sequence."""
    index, row = field(table, TABLE.index), field(table, TABLE.first_row)
    if index == INDEX.input:
        row = load_i64(field(table, TABLE.ids) + 8 * token)
        if row < 0:
            row += field(table, TABLE.rows)
    elif index == INDEX.position:
        row += position
    return row


@inner()
def embed_step(step, tile, band, strip, strips, meta, scratch):
    """Sum of table rows for every token of a tile, written transposed; tokens beyond the sequence become zero."""
    out = place(step[EMBED.out], step[EMBED.out_stride], tile, band, scratch)
    channels, valid = step[EMBED.channels], meta[tile, TILE_META.tokens]
    blocks = (channels + BLOCK_ROWS - 1) // BLOCK_ROWS
    last = min((strip + 1) * blocks // strips * BLOCK_ROWS, channels)
    for begin in range(strip * blocks // strips * BLOCK_ROWS, last, STAGED_CHANNELS):
        count = min(STAGED_CHANNELS, last - begin)
        for word in range(valid * STAGED_CHANNELS, TILE * STAGED_CHANNELS):
            store_f32(scratch + 4 * word, np.float32(0.0))
        piece = meta[tile, TILE_META.pieces]
        for lane in range(valid):
            if lane == field(piece, PIECE.stop_lane):
                piece += 8 * PIECE_COLUMNS
            position = field(piece, PIECE.position) + lane - field(piece, PIECE.first_lane)
            sums = scratch + lane * (4 * STAGED_CHANNELS)
            for index in range(step[EMBED.tables]):
                table = step[EMBED.table_table] + index * (8 * TABLE_COLUMNS)
                element = field(table, TABLE.element)
                offset = _row_of(table, meta[tile, TILE_META.first_token] + lane, position) * channels + begin
                if element == ELEMENT.float32:
                    offset *= 4
                row, scale = field(table, TABLE.weight) + offset, field(table, TABLE.scale)
                code = ADD_CODES * element + np.int64(index > 0)
                _add_table_row(code, row, count, scale, field(table, TABLE.zero_point), sums)
                if field(table, TABLE.rounding) != 0:
                    round_sums(sums, field(table, TABLE.rounding))
        transpose_channels(scratch, count, out + begin * FLOAT_ROW)
