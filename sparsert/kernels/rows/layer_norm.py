"""Rows normalized by LayerNorm: statistics of every token over all rows, then one block of rows at a time."""

from __future__ import annotations

from sparsert.kernels.jit import TILE
from sparsert.kernels.rows.sources import add_source
from sparsert.kernels.rows.sums import column_sums
from sparsert.kernels.simd import Simd, Value


def layer_norm_statistics(v: Simd, x: Value, rows: Value, epsilon: Value, statistics: Value) -> None:
    """Mean and 1 / sqrt(variance + epsilon) of every token over all rows, as two rows of a tile.

    ``epsilon`` points to two floats: epsilon and 1 / rows.
    """
    b = v.builder
    x, epsilon, statistics = v.pointer(x), v.pointer(epsilon), v.pointer(statistics)
    means, variances = moments(v, x, rows, v.broadcast_f32(v.at(epsilon, 4)))
    v.store_row(means, statistics)
    one, offset = v.constant(v.f32, 1.0), v.broadcast_f32(epsilon)
    inverses = [b.fdiv(one, v.sqrt(b.fadd(variance, offset))) for variance in variances]
    v.store_row(inverses, v.at(statistics, 4 * TILE))


def moments(v: Simd, x: Value, rows: Value, inverse: Value) -> tuple[list[Value], list[Value]]:
    """Means and variances of all tokens; ``inverse`` is 1 / rows.

    Two passes: the second sums squared deviations from the first one's mean, and the deviations themselves, which
    correct it. A mean off by a few last bits flips bytes that lie near a rounding boundary, and quantized networks
    carry every flipped byte to the logits.
    """
    b = v.builder
    means = [b.fmul(total, inverse) for (total,) in column_sums(v, x, rows, lambda value, k: (value,))]
    deviations = column_sums(v, x, rows, lambda value, k: _deviation(v, value, means[k]))
    shifts = [b.fmul(total, inverse) for total, _ in deviations]
    variances = []
    for shift, (_, squares) in zip(shifts, deviations, strict=True):
        variances.append(v.fma(b.fneg(shift), shift, b.fmul(squares, inverse)))
    return [b.fadd(mean, shift) for mean, shift in zip(means, shifts, strict=True)], variances


def _deviation(v: Simd, value: Value, mean: Value) -> tuple[Value, Value]:
    deviation = v.builder.fsub(value, mean)
    return deviation, v.builder.fmul(deviation, deviation)


def layer_norm_rows(
    v: Simd, x: Value, block: Value, rows: Value, statistics: Value, gamma: Value, beta: Value, epsilon: Value
) -> None:
    """(x - mean) * inverse deviation * gamma[row] + beta[row] into the block."""
    b = v.builder
    x, block, statistics = v.pointer(x), v.pointer(block), v.pointer(statistics)
    gamma, beta = v.pointer(gamma), v.pointer(beta)
    means, inverses = v.load_row(statistics, v.f32), v.load_row(v.at(statistics, 4 * TILE), v.f32)
    with v.loop(rows) as row:
        word, offset = v.mul(row, 4), v.mul(row, 4 * TILE)
        weight, bias = v.broadcast_f32(v.at(gamma, word)), v.broadcast_f32(v.at(beta, word))
        values = []
        for value, mean, inverse in zip(v.load_row(v.at(x, offset), v.f32), means, inverses, strict=True):
            values.append(v.fma(b.fmul(b.fsub(value, mean), inverse), weight, bias))
        v.store_row(values, v.at(block, offset))


add_source("layer_norm", 2, layer_norm_rows, layer_norm_statistics)
