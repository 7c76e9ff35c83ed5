"""Rows quantized with a scale and zero point of each token, and the extrema of tokens that these follow from."""

from __future__ import annotations

from sparsert.kernels.jit import TILE
from sparsert.kernels.rows.sources import add_source
from sparsert.kernels.simd import Simd, Value, micro_kernel
from sparsert.kernels.table import TOKEN

__all__ = ["token_extrema"]

_ROW = 4 * TILE


@micro_kernel(3)
def token_extrema(v: Simd, x: Value, rows: Value, extrema: Value) -> None:
    """Least and greatest value of every token of a float tile, and zero, as two rows; NaN if one is."""
    b = v.builder
    x, extrema = v.pointer(x), v.pointer(extrema)
    lows, highs = ([v.variable(v.zero(v.f32)) for _ in range(v.row)] for _ in range(2))
    with v.loop(rows) as row:
        for value, low, high in zip(v.load_row(v.at(x, v.mul(row, _ROW)), v.f32), lows, highs, strict=True):
            nan = b.fcmp_unordered("uno", value, value)
            for extreme, order in ((low, "<"), (high, ">")):
                beyond = b.or_(nan, b.fcmp_ordered(order, value, extreme.get()))
                extreme.set(b.select(beyond, value, extreme.get()))
    v.store_row([low.get() for low in lows], extrema)
    v.store_row([high.get() for high in highs], v.at(extrema, _ROW))


def quantize_rows(
    v: Simd, x: Value, block: Value, rows: Value, statistics: Value, gamma: Value, beta: Value, tokens: Value
) -> None:
    """round(x / scale) + zero_point into the block, half to even, as floats that a sink of bytes saturates."""
    b = v.builder
    x, block, tokens = v.pointer(x), v.pointer(block), v.pointer(tokens)
    inverses = v.load_row(v.at(tokens, TOKEN.inverse_scale * _ROW), v.f32)
    zero_points = v.load_row(v.at(tokens, TOKEN.zero_point * _ROW), v.i32)
    offsets, bound = [v.to_float(zero_point) for zero_point in zero_points], v.constant(v.f32, 1e9)
    with v.loop(rows) as row:
        place = v.mul(row, _ROW)
        values = []
        for value, inverse, offset in zip(v.load_row(v.at(x, place), v.f32), inverses, offsets, strict=True):
            values.append(b.fadd(v.round(v.minimum(b.fmul(value, inverse), bound)), offset))
        v.store_row(values, v.at(block, place))


add_source("quantize", 4, quantize_rows)
