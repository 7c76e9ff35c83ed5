"""Rows of a tile as they are: floats, or bytes dequantized."""

from __future__ import annotations

from sparsert.kernels.jit import TILE
from sparsert.kernels.records import parameter
from sparsert.kernels.rows.sources import add_source
from sparsert.kernels.simd import Simd, Value


def load_rows(v: Simd, x: Value, block: Value, rows: Value, *unused: Value) -> None:
    """Copy float32 rows of a tile into the block."""
    x, block = v.pointer(x), v.pointer(block)
    with v.loop(rows) as row:
        offset = v.mul(row, 4 * TILE)
        v.store_row(v.load_row(v.at(x, offset), v.f32), v.at(block, offset))


def dequantize_rows(
    v: Simd, x: Value, block: Value, rows: Value, statistics: Value, gamma: Value, beta: Value, parameters: Value
) -> None:
    """(uint8 - zero_point) * scale into the block."""
    x, block, parameters = v.pointer(x), v.pointer(block), v.pointer(parameters)
    scale, zero_point = parameter(v, parameters, "scale"), parameter(v, parameters, "zero_point")
    with v.loop(rows) as row:
        wide = v.widen_u8(v.load(v.at(x, v.mul(row, TILE)), v.i8))[: v.row]
        values = [v.builder.fmul(v.to_float(v.builder.sub(value, zero_point)), scale) for value in wide]
        v.store_row(values, v.at(block, v.mul(row, 4 * TILE)))


add_source("load", 0, load_rows)
add_source("dequantize", 1, dequantize_rows)
