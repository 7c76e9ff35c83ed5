"""Rows normalized by their root mean square: one statistic of every token, then one block of rows at a time."""

from __future__ import annotations

from sparsert.kernels.jit import TILE
from sparsert.kernels.rows.sources import add_source
from sparsert.kernels.rows.sums import column_sums
from sparsert.kernels.simd import Simd, Value


def rms_norm_statistics(v: Simd, x: Value, rows: Value, epsilon: Value, statistics: Value) -> None:
    """1 / sqrt(mean square + epsilon) of every token over all rows, as one row of a tile.

    ``epsilon`` points to two floats: epsilon and 1 / rows.
    """
    b = v.builder
    x, epsilon, statistics = v.pointer(x), v.pointer(epsilon), v.pointer(statistics)
    one, offset, inverse = v.constant(v.f32, 1.0), v.broadcast_f32(epsilon), v.broadcast_f32(v.at(epsilon, 4))
    factors = []
    for (total,) in column_sums(v, x, rows, lambda value, k: (b.fmul(value, value),)):
        factors.append(b.fdiv(one, v.sqrt(b.fadd(b.fmul(total, inverse), offset))))
    v.store_row(factors, statistics)


def rms_norm_rows(
    v: Simd, x: Value, block: Value, rows: Value, statistics: Value, gamma: Value, *unused: Value
) -> None:
    """x * factor * gamma[row] into the block."""
    b = v.builder
    x, block, gamma = v.pointer(x), v.pointer(block), v.pointer(gamma)
    factors = v.load_row(v.pointer(statistics), v.f32)
    with v.loop(rows) as row:
        weight, offset = v.broadcast_f32(v.at(gamma, v.mul(row, 4))), v.mul(row, 4 * TILE)
        pairs = zip(v.load_row(v.at(x, offset), v.f32), factors, strict=True)
        v.store_row([b.fmul(b.fmul(value, factor), weight) for value, factor in pairs], v.at(block, offset))


add_source("rms_norm", 3, rms_norm_rows, rms_norm_statistics)
