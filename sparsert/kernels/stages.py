"""Stages: what happens to a block of rows between the accumulator and memory, four vectors (one row) at a time.

A block is float32 (or int32, fresh from an integer accumulator) ``[rows][TILE]`` in a scratch in L1. A stage transforms
it in place or sinks it into a tile; common sequences are fused so that values stay in registers. Every stage is
``kernel(block, rows, acc_bias, scale, bias, params, source, destination)`` over raw addresses; the per-row arrays and
tiles already point to the block's first row.

``params`` is the 32-byte record :data:`PARAMETERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsert.kernels.jit import TIER, TILE
from sparsert.kernels.simd import Simd, Value, micro_kernel

__all__ = [
    "PARAMETERS",
    "STAGES",
    "STAGE_NUMBERS",
    "dequantize_rows",
    "load_rows",
    "normalize_rows",
    "normalize_statistics",
]

PARAMETERS = np.dtype(
    [
        ("inverse_scale", "<f4"),
        ("scale", "<f4"),
        ("zero_point", "<i4"),
        ("low", "<f4"),
        ("high", "<f4"),
        ("acc_scale", "<f4"),
        ("unused", "<f4", 2),
    ]
)
"""Quantization of one tensor, with ``low``/``high`` the range of ``quantized - zero_point``; written before a run in
the static forms and during it in the dynamic one. ``acc_scale`` is 1 in the static forms."""

_FLOAT_ROW = 4 * TILE


@dataclass
class _Block:
    """Pointers of one call, as the emitters need them."""

    acc_bias: Value
    scale: Value
    bias: Value
    params: Value
    source: Value
    destination: Value


_Row = list[Any]
_Transform = Callable[[Simd, _Block, Value, _Row], _Row]
_Sink = Callable[[Simd, _Block, Value, Sequence[_Row]], None]


def _parameter(v: Simd, block: _Block, name: str) -> Value:
    place = v.at(block.params, PARAMETERS.fields[name][1])  # type: ignore[index]
    return v.broadcast_i32(place) if name == "zero_point" else v.broadcast_f32(place)


def _dequantize(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    """(acc + acc_bias[row]) * scale[row] + bias[row]"""
    word = v.mul(row, 4)
    offset = v.broadcast_i32(v.at(block.acc_bias, word))
    scale, bias = v.broadcast_f32(v.at(block.scale, word)), v.broadcast_f32(v.at(block.bias, word))
    return [v.fma(v.to_float(v.builder.add(value, offset)), scale, bias) for value in values]


def _dequantize_dynamic(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    """(acc - zero_point * column_sum[row]) * (acc_scale * scale[row]) + bias[row], parameters known at run time only"""
    word = v.mul(row, 4)
    column_sum = v.broadcast_i32(v.at(block.acc_bias, word))
    offset = v.builder.mul(column_sum, _parameter(v, block, "zero_point"))
    scale = v.builder.fmul(v.broadcast_f32(v.at(block.scale, word)), _parameter(v, block, "acc_scale"))
    bias = v.broadcast_f32(v.at(block.bias, word))
    return [v.fma(v.to_float(v.builder.sub(value, offset)), scale, bias) for value in values]


def _bias(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    bias = v.broadcast_f32(v.at(block.bias, v.mul(row, 4)))
    return [v.builder.fadd(value, bias) for value in values]


def _add(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    other = v.load_row(v.at(block.source, v.mul(row, _FLOAT_ROW)), v.f32)
    return [v.builder.fadd(value, second) for value, second in zip(values, other, strict=True)]


def _gelu(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    return v.one_by_one(v.gelu, values)


def _gelu_tanh(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))"""
    b, result = v.builder, []
    for x in values:
        cubic = v.fma(b.fmul(b.fmul(x, x), v.constant(v.f32, 0.044715)), x, x)
        half = b.fmul(x, v.constant(v.f32, 0.5))
        result.append(v.fma(half, v.tanh(b.fmul(cubic, v.constant(v.f32, 0.7978845608028654))), half))
    return result


def _relu(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    """max(x, 0); NaN stays NaN."""
    zero = v.zero(v.f32)
    return [v.builder.select(v.builder.fcmp_ordered("<", value, zero), zero, value) for value in values]


def _tanh(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    return [v.tanh(value) for value in values]


def _fake_quantize(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    """QuantizeLinear followed by DequantizeLinear."""
    inverse, scale = _parameter(v, block, "inverse_scale"), _parameter(v, block, "scale")
    low, high = _parameter(v, block, "low"), _parameter(v, block, "high")
    result = []
    for value in values:
        nearest = v.round(v.builder.fmul(value, inverse))
        result.append(v.builder.fmul(v.minimum(v.maximum(nearest, low), high), scale))
    return result


def _quantized(v: Simd, block: _Block, values: _Row) -> _Row:
    """round(x / scale), half to even, as int32 without the zero point; huge values are bounded first."""
    inverse, bound = _parameter(v, block, "inverse_scale"), v.constant(v.f32, 1e9)
    return [v.round_to_i32(v.minimum(v.builder.fmul(value, inverse), bound)) for value in values]


def _bytes(v: Simd, block: _Block, values: _Row) -> Value:
    zero_point = _parameter(v, block, "zero_point")
    return v.pack_u8([v.builder.add(value, zero_point) for value in _quantized(v, block, values)])[0]


def _sink_floats(v: Simd, block: _Block, row: Value, rows: Sequence[_Row]) -> None:
    v.store_row(rows[0], v.at(block.destination, v.mul(row, _FLOAT_ROW)))


def _sink_rows(v: Simd, block: _Block, row: Value, rows: Sequence[_Row]) -> None:
    """uint8 ``[N][TILE]``"""
    v.store(_bytes(v, block, rows[0]), v.at(block.destination, v.mul(row, TILE)))


def _sink_signed_rows(v: Simd, block: _Block, row: Value, rows: Sequence[_Row]) -> None:
    """The uint8 value minus 128, as int8 ``[N][TILE]``"""
    flipped = v.builder.xor(_bytes(v, block, rows[0]), v.constant(v.i8, -128))
    v.store(flipped, v.at(block.destination, v.mul(row, TILE)))


def _sink_quads(v: Simd, block: _Block, row: Value, rows: Sequence[_Row]) -> None:
    """uint8 ``[N/4][TILE][4]``: four rows interleaved"""
    _store_quads(v, block, row, [_bytes(v, block, values) for values in rows])


def _sink_signed_quads(v: Simd, block: _Block, row: Value, rows: Sequence[_Row]) -> None:
    """The uint8 value minus 128, as int8 ``[N/4][TILE][4]``"""
    flip = v.constant(v.i8, -128)
    _store_quads(v, block, row, [v.builder.xor(_bytes(v, block, values), flip) for values in rows])


def _store_quads(v: Simd, block: _Block, row: Value, rows: Sequence[Value]) -> None:
    place = v.at(block.destination, v.mul(row, TILE))
    for k, quad in enumerate(v.transpose_quads(*rows)):
        v.store(quad, v.at(place, k * v.bytes))


def _stage(transforms: Sequence[_Transform], sink: _Sink | None = None, rows_per_step: int = 1) -> Any:
    """Compose transforms and a sink (None: write back in place) into a kernel over the rows of a block."""

    @micro_kernel(TIER, 8)
    def stage(v: Simd, values: Value, rows: Value, *addresses: Value) -> None:
        pointer = v.pointer(values)
        block = _Block(*(v.pointer(address) for address in addresses))
        integers = any(transform in (_dequantize, _dequantize_dynamic) for transform in transforms)
        with v.loop(rows, step=rows_per_step) as first:
            loaded = []
            for r in range(rows_per_step):
                row = v.add(first, r)
                current = v.load_row(v.at(pointer, v.mul(row, _FLOAT_ROW)), v.i32 if integers else v.f32)
                for transform in transforms:
                    current = transform(v, block, row, current)
                loaded.append(current)
            if sink is None:
                v.store_row(loaded[0], v.at(pointer, v.mul(first, _FLOAT_ROW)))
            else:
                sink(v, block, first, loaded)

    return stage


STAGE_NUMBERS: dict[str, int] = {}
"""Number of each stage in a program."""

STAGES: list[Any] = []
"""The stages' kernels, by number."""


def _register(name: str, transforms: Sequence[_Transform], sink: _Sink | None = None, rows_per_step: int = 1) -> None:
    STAGE_NUMBERS[name] = len(STAGES)
    STAGES.append(_stage(transforms, sink, rows_per_step))


_register("dequantize", [_dequantize])
_register("dequantize_dynamic", [_dequantize_dynamic])
_register("bias", [_bias])
_register("gelu", [_gelu])
_register("gelu_tanh", [_gelu_tanh])
_register("relu", [_relu])
_register("tanh", [_tanh])
_register("add", [_add])
_register("fake_quantize", [_fake_quantize])
_register("floats", [], _sink_floats)
_register("rows", [], _sink_rows)
_register("quads", [], _sink_quads, 4)
_register("signed_quads", [], _sink_signed_quads, 4)
_register("signed_rows", [], _sink_signed_rows)
_register("dequantize+rows", [_dequantize], _sink_rows)
_register("dequantize+quads", [_dequantize], _sink_quads, 4)
_register("dequantize+signed_quads", [_dequantize], _sink_signed_quads, 4)
_register("dequantize+signed_rows", [_dequantize], _sink_signed_rows)
_register("dequantize+gelu+rows", [_dequantize, _gelu], _sink_rows)
_register("dequantize+gelu+quads", [_dequantize, _gelu], _sink_quads, 4)
_register("dequantize+add+floats", [_dequantize, _add], _sink_floats)
_register("bias+add+floats", [_bias, _add], _sink_floats)
_register("bias+gelu+floats", [_bias, _gelu], _sink_floats)
_register("bias+floats", [_bias], _sink_floats)


# -- sources of a block other than accumulators ---------------------------------------------------------------------


@micro_kernel(TIER, 3)
def load_rows(v: Simd, source: Value, block: Value, rows: Value) -> None:
    """Copy float32 rows of a tile into the block."""
    source, block = v.pointer(source), v.pointer(block)
    with v.loop(rows) as row:
        offset = v.mul(row, _FLOAT_ROW)
        v.store_row(v.load_row(v.at(source, offset), v.f32), v.at(block, offset))


@micro_kernel(TIER, 4)
def dequantize_rows(v: Simd, source: Value, block: Value, rows: Value, params: Value) -> None:
    """(uint8 - zero_point) * scale into the block."""
    source, block, params = v.pointer(source), v.pointer(block), v.pointer(params)
    record = _Block(params, params, params, params, params, params)
    scale, zero_point = _parameter(v, record, "scale"), _parameter(v, record, "zero_point")
    with v.loop(rows) as row:
        wide = v.widen_u8(v.load(v.at(source, v.mul(row, TILE)), v.i8))
        values = [v.builder.fmul(v.to_float(v.builder.sub(value, zero_point)), scale) for value in wide]
        v.store_row(values, v.at(block, v.mul(row, _FLOAT_ROW)))


_SUM_ROWS = 16
"""Rows summed on their own before they join the total: the rounding error of a sum of 768 falls to a tenth."""


@micro_kernel(TIER, 4)
def normalize_statistics(v: Simd, source: Value, rows: Value, epsilon: Value, statistics: Value) -> None:
    """Mean and 1 / sqrt(variance + epsilon) of every token over all rows, as two rows of a tile.

    Two passes: the second sums squared deviations from the first one's mean, and the deviations themselves, which
    correct it. A mean off by a few last bits flips bytes that lie near a rounding boundary, and quantized networks
    carry every flipped byte to the logits. ``epsilon`` points to two floats: epsilon and 1 / rows.
    """
    b = v.builder
    source, epsilon, statistics = v.pointer(source), v.pointer(epsilon), v.pointer(statistics)
    inverse = v.broadcast_f32(v.at(epsilon, 4))
    means = [b.fmul(total, inverse) for (total,) in _column_sums(v, source, rows, lambda value, k: (value,))]
    moments = _column_sums(v, source, rows, lambda value, k: _deviation(v, value, means[k]))
    shifts = [b.fmul(total, inverse) for total, _ in moments]
    v.store_row([b.fadd(mean, shift) for mean, shift in zip(means, shifts, strict=True)], statistics)
    one, offset = v.constant(v.f32, 1.0), v.broadcast_f32(epsilon)
    inverses = []
    for shift, (_, squares) in zip(shifts, moments, strict=True):
        variance = v.fma(b.fneg(shift), shift, b.fmul(squares, inverse))
        inverses.append(b.fdiv(one, v.sqrt(b.fadd(variance, offset))))
    v.store_row(inverses, v.at(statistics, _FLOAT_ROW))


def _deviation(v: Simd, value: Value, mean: Value) -> tuple[Value, Value]:
    deviation = v.builder.fsub(value, mean)
    return deviation, v.builder.fmul(deviation, deviation)


def _column_sums(
    v: Simd, source: Value, rows: Value, terms: Callable[[Value, int], tuple[Value, ...]]
) -> list[tuple[Value, ...]]:
    """For each of the four vectors of a row, the sums over all rows of what ``terms(value, vector)`` gives."""
    b, zero = v.builder, v.zero(v.f32)
    count = len(terms(zero, 0))
    totals = [[v.variable(zero) for _ in range(count)] for _ in range(4)]
    with v.loop(rows, step=_SUM_ROWS) as first:
        end = v.add(first, _SUM_ROWS)
        last = b.select(b.icmp_signed("<", end, rows), end, rows)
        partial = [[v.variable(zero) for _ in range(count)] for _ in range(4)]
        with v.loop(last, start=first) as row:
            for k, value in enumerate(v.load_row(v.at(source, v.mul(row, _FLOAT_ROW)), v.f32)):
                for variable, term in zip(partial[k], terms(value, k), strict=True):
                    variable.set(b.fadd(variable.get(), term))
        for total, variable in zip(sum(totals, []), sum(partial, []), strict=True):
            total.set(b.fadd(total.get(), variable.get()))
    return [tuple(variable.get() for variable in row) for row in totals]


@micro_kernel(TIER, 6)
def normalize_rows(
    v: Simd, source: Value, block: Value, rows: Value, statistics: Value, gamma: Value, beta: Value
) -> None:
    """(x - mean) * inverse deviation * gamma[row] + beta[row] into the block."""
    b = v.builder
    source, block, statistics = v.pointer(source), v.pointer(block), v.pointer(statistics)
    gamma, beta = v.pointer(gamma), v.pointer(beta)
    means, inverses = v.load_row(statistics, v.f32), v.load_row(v.at(statistics, _FLOAT_ROW), v.f32)
    with v.loop(rows) as row:
        word, offset = v.mul(row, 4), v.mul(row, _FLOAT_ROW)
        weight, bias = v.broadcast_f32(v.at(gamma, word)), v.broadcast_f32(v.at(beta, word))
        values = []
        for value, mean, inverse in zip(v.load_row(v.at(source, offset), v.f32), means, inverses, strict=True):
            values.append(v.fma(b.fmul(b.fsub(value, mean), inverse), weight, bias))
        v.store_row(values, v.at(block, offset))
