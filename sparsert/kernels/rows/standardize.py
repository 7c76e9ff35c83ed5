"""Rows standardized with a variance that is quantized: statistics as for LayerNorm, then no gamma and no beta."""

from __future__ import annotations

from sparsert.kernels.jit import TILE
from sparsert.kernels.records import STATISTICS_PARAMETERS, offset_of, round_trip
from sparsert.kernels.rows.layer_norm import moments
from sparsert.kernels.rows.sources import add_source
from sparsert.kernels.simd import Simd, Value


def standardize_statistics(v: Simd, x: Value, rows: Value, parameters: Value, statistics: Value) -> None:
    """Mean and 1 / sqrt(r(q(variance) + epsilon)) of every token over all rows, as two rows of a tile."""
    b = v.builder
    x, parameters, statistics = v.pointer(x), v.pointer(parameters), v.pointer(statistics)
    inner, outer = (v.at(parameters, offset_of(STATISTICS_PARAMETERS, name)) for name in ("variance", "sum"))
    one, epsilon = v.constant(v.f32, 1.0), v.broadcast_f32(parameters)
    means, variances = moments(v, x, rows, v.broadcast_f32(v.at(parameters, 4)))
    v.store_row(means, statistics)
    inverses = []
    for variance in variances:
        rounded = round_trip(v, b.fadd(round_trip(v, variance, inner), epsilon), outer)
        inverses.append(b.fdiv(one, v.sqrt(rounded)))
    v.store_row(inverses, v.at(statistics, 4 * TILE))


def standardized_rows(
    v: Simd, x: Value, block: Value, rows: Value, statistics: Value, gamma: Value, beta: Value, parameters: Value
) -> None:
    """(x - mean) * inverse deviation into the block."""
    b = v.builder
    x, block, statistics = v.pointer(x), v.pointer(block), v.pointer(statistics)
    means, inverses = v.load_row(statistics, v.f32), v.load_row(v.at(statistics, 4 * TILE), v.f32)
    with v.loop(rows) as row:
        offset, values = v.mul(row, 4 * TILE), []
        for value, mean, inverse in zip(v.load_row(v.at(x, offset), v.f32), means, inverses, strict=True):
            values.append(b.fmul(b.fsub(value, mean), inverse))
        v.store_row(values, v.at(block, offset))


add_source("standardize", 16, standardized_rows, standardize_statistics)
