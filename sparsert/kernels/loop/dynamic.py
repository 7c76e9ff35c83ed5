"""The steps of dynamic quantization: extrema of every tile, and what follows from all of them."""

from __future__ import annotations

import numpy as np

from sparsert.kernels.jit import TILE, inner
from sparsert.kernels.loop.places import place
from sparsert.kernels.memory import load_f32, store_f32, store_i32
from sparsert.kernels.records import PARAMETERS, TILE_EXTREMA, offset_of
from sparsert.kernels.table import DYNAMIC, EXTREMA, TILE_META

__all__ = ["dynamic_step", "extrema_step"]

_INVERSE_SCALE = offset_of(PARAMETERS, "inverse_scale")
_SCALE = offset_of(PARAMETERS, "scale")
_ZERO_POINT = offset_of(PARAMETERS, "zero_point")
_LOW = offset_of(PARAMETERS, "low")
_HIGH = offset_of(PARAMETERS, "high")
_ACC_SCALE = offset_of(PARAMETERS, "acc_scale")

_TILE_BYTES = TILE_EXTREMA.itemsize
_TILE_LOW = offset_of(TILE_EXTREMA, "low")
_TILE_HIGH = offset_of(TILE_EXTREMA, "high")


@inner()
def extrema_step(step, tile, band, meta, scratch):
    """Extrema of the valid tokens of a float tile, and zero."""
    x = place(step[EXTREMA.x], step[EXTREMA.x_stride], tile, band, scratch)
    low, high = np.float32(0.0), np.float32(0.0)
    valid = meta[tile, TILE_META.tokens]
    for row in range(step[EXTREMA.rows]):
        for lane in range(valid):
            value = load_f32(x + 4 * (row * TILE + lane))
            if value < low or value != value:
                low = value
            if value > high or value != value:
                high = value
    extrema = step[EXTREMA.extrema] + _TILE_BYTES * tile
    store_f32(extrema + _TILE_LOW, low)
    store_f32(extrema + _TILE_HIGH, high)


@inner()
def dynamic_step(step, tiles):
    """DynamicQuantizeLinear's parameters from all tiles' extrema (ONNX page)."""
    low, high = np.float32(0.0), np.float32(0.0)
    for tile in range(tiles):
        extrema = step[DYNAMIC.extrema] + _TILE_BYTES * tile
        low = min(low, load_f32(extrema + _TILE_LOW))
        high = max(high, load_f32(extrema + _TILE_HIGH))
    scale = np.float32((high - low) / np.float32(255.0))
    if scale == np.float32(0.0):
        scale = np.float32(1.0)
    zero_point = np.int64(min(max(np.rint(-low / scale), np.float32(0.0)), np.float32(255.0)))
    parameters = step[DYNAMIC.parameters]
    store_f32(parameters + _INVERSE_SCALE, np.float32(1.0) / scale)
    store_f32(parameters + _SCALE, scale)
    store_i32(parameters + _ZERO_POINT, zero_point)
    store_f32(parameters + _LOW, np.float32(-zero_point))
    store_f32(parameters + _HIGH, np.float32(255 - zero_point))
    store_f32(parameters + _ACC_SCALE, scale)
