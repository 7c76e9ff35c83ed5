"""The steps of dynamic quantization: extrema of every piece of a tile, and what follows for the tokens from them."""

from __future__ import annotations

import numpy as np

from sparsert.kernels.jit import TILE, inner
from sparsert.kernels.loop.places import FLOAT_ROW, field, place
from sparsert.kernels.memory import load_f32, store_f32, store_i32
from sparsert.kernels.rows.quantize import token_extrema
from sparsert.kernels.table import DYNAMIC, EXTREMA, PIECE, PIECE_COLUMNS, TILE_META, TOKEN

__all__ = ["dynamic_step", "extrema_step"]

_PIECE_BYTES = 8 * PIECE_COLUMNS

_PAIR = 8
"""Bytes of the extrema of a piece, low and high."""


@inner()
def _range(lows, highs, stride, first, stop):
    """Least of the lows and greatest of the highs, each ``stride`` bytes after the last; NaN if one is."""
    low, high = np.float32(0.0), np.float32(0.0)
    for index in range(first, stop):
        value = load_f32(lows + stride * index)
        if value < low or value != value:
            low = value
        value = load_f32(highs + stride * index)
        if value > high or value != value:
            high = value
    return low, high


@inner()
def extrema_step(step, tile, band, meta, scratch):
    """Extrema of the pieces of a float tile, and zero."""
    x = place(step[EXTREMA.x], step[EXTREMA.x_stride], tile, band, scratch)
    token_extrema(x, step[EXTREMA.rows], scratch)
    pieces = meta[tile, TILE_META.pieces]
    extrema = place(step[EXTREMA.extrema], step[EXTREMA.extrema_stride], 0, 0, scratch)
    extrema += (pieces - meta[0, TILE_META.pieces]) // _PIECE_BYTES * _PAIR
    for index in range(meta[tile, TILE_META.piece_count]):
        piece = pieces + index * _PIECE_BYTES
        low, high = _range(
            scratch, scratch + FLOAT_ROW, 4, field(piece, PIECE.first_lane), field(piece, PIECE.stop_lane)
        )
        store_f32(extrema + index * _PAIR, low)
        store_f32(extrema + index * _PAIR + 4, high)


@inner()
def dynamic_step(step, tile, band, meta, scratch):
    """DynamicQuantizeLinear's parameters (ONNX page) for every token of a tile; zeros for empty lanes."""
    extrema = place(step[DYNAMIC.extrema], step[DYNAMIC.extrema_stride], 0, 0, scratch)
    tokens = place(step[DYNAMIC.tokens], step[DYNAMIC.tokens_stride], tile, band, scratch)
    known, scale, zero_point = np.int64(-1), np.float32(0.0), np.int64(0)
    for index in range(meta[tile, TILE_META.piece_count]):
        piece = meta[tile, TILE_META.pieces] + index * _PIECE_BYTES
        first = field(piece, PIECE.first_piece)
        if first != known:
            known = first
            low, high = _range(extrema, extrema + 4, _PAIR, first, field(piece, PIECE.stop_piece))
            scale = np.float32((high - low) / np.float32(255.0))
            if scale == np.float32(0.0):
                scale = np.float32(1.0)
            nearest, zero_point = np.rint(-low / scale), np.int64(0)
            if nearest > np.float32(0.0):  # not NaN either
                zero_point = np.int64(min(nearest, np.float32(255.0)))
        for lane in range(field(piece, PIECE.first_lane), field(piece, PIECE.stop_lane)):
            _store_token(tokens + 4 * lane, np.float32(1.0) / scale, scale, zero_point)
    for lane in range(meta[tile, TILE_META.tokens], TILE):
        _store_token(tokens + 4 * lane, np.float32(0.0), np.float32(0.0), 0)


@inner()
def _store_token(lane, inverse_scale, scale, zero_point):
    store_f32(lane + TOKEN.inverse_scale * FLOAT_ROW, inverse_scale)
    store_f32(lane + TOKEN.scale * FLOAT_ROW, scale)
    store_i32(lane + TOKEN.zero_point * FLOAT_ROW, zero_point)
