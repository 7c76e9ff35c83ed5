"""Stages: what happens to a block of rows between the accumulator and memory, one row of vectors at a time.

A block is float32 (or int32, fresh from an integer accumulator) ``[rows][TILE]`` in a scratch in L1. A stage transforms
it in place or sinks it into a tile; common sequences are fused so that values stay in registers. Every stage is
``kernel(block, rows, acc_bias, scale, bias, params, source, destination)`` over raw addresses; the per-row arrays and
tiles already point to the block's first row.

``params`` is the record :data:`sparsert.kernels.records.PARAMETERS`, or the rows :data:`sparsert.kernels.table.TOKEN`
of the tile where the quantization is dynamic, or any row of numbers of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sparsert.kernels.jit import TILE
from sparsert.kernels.records import TABLE_PARAMETERS, offset_of, parameter
from sparsert.kernels.registry import ANY_ROW, Emit, Registry
from sparsert.kernels.simd import LOG2_E, Simd, Value
from sparsert.kernels.table import TOKEN

__all__ = ["STAGES", "Store", "byte_stages"]

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
Store = Callable[[Simd, Sequence[Value], Value], None]
"""``store(v, rows, place)``: writes the byte vectors of the rows of one step."""


def _dequantize(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    """(acc + acc_bias[row]) * scale[row] + bias[row]"""
    word = v.mul(row, 4)
    offset = v.broadcast_i32(v.at(block.acc_bias, word))
    scale, bias = v.broadcast_f32(v.at(block.scale, word)), v.broadcast_f32(v.at(block.bias, word))
    return [v.fma(v.to_float(v.builder.add(value, offset)), scale, bias) for value in values]


def _dequantize_dynamic(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    """(acc - zero_point[token] * column_sum[row]) * (scale[token] * scale[row]) + bias[row]"""
    b, word = v.builder, v.mul(row, 4)
    column_sum = v.broadcast_i32(v.at(block.acc_bias, word))
    weight_scale, bias = v.broadcast_f32(v.at(block.scale, word)), v.broadcast_f32(v.at(block.bias, word))
    zero_points = v.load_row(v.at(block.params, TOKEN.zero_point * _FLOAT_ROW), v.i32)
    scales = v.load_row(v.at(block.params, TOKEN.scale * _FLOAT_ROW), v.f32)
    result = []
    for value, zero_point, scale in zip(values, zero_points, scales, strict=True):
        integer = b.sub(value, b.mul(column_sum, zero_point))
        result.append(v.fma(v.to_float(integer), b.fmul(weight_scale, scale), bias))
    return result


def _bias(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    bias = v.broadcast_f32(v.at(block.bias, v.mul(row, 4)))
    return [v.builder.fadd(value, bias) for value in values]


def _add(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    other = v.load_row(v.at(block.source, v.mul(row, _FLOAT_ROW)), v.f32)
    return [v.builder.fadd(value, second) for value, second in zip(values, other, strict=True)]


def _scale_tokens(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    """x * params[token]"""
    factors = v.load_row(block.params, v.f32)
    return [v.builder.fmul(value, factor) for value, factor in zip(values, factors, strict=True)]


def _multiply(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    other = v.load_row(v.at(block.source, v.mul(row, _FLOAT_ROW)), v.f32)
    return [v.builder.fmul(value, second) for value, second in zip(values, other, strict=True)]


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


def _sigmoid_product(factor: float) -> _Transform:
    """x / (1 + exp(-factor x)); the exponential is bounded where the result is below 1e-35 |x|. NaN stays NaN."""

    def transform(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
        b, result = v.builder, []
        for x in values:
            power = v.exp2(v.minimum(v.constant(v.f32, 126.0), b.fmul(x, v.constant(v.f32, -factor * LOG2_E))))
            result.append(b.fdiv(x, b.fadd(power, v.constant(v.f32, 1.0))))
        return result

    return transform


def _relu(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    """max(x, 0); NaN stays NaN."""
    zero = v.zero(v.f32)
    return [v.builder.select(v.builder.fcmp_ordered("<", value, zero), zero, value) for value in values]


def _tanh(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    return [v.tanh(value) for value in values]


def _fake_quantize(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    """QuantizeLinear followed by DequantizeLinear."""
    inverse, scale = parameter(v, block.params, "inverse_scale"), parameter(v, block.params, "scale")
    low, high = parameter(v, block.params, "low"), parameter(v, block.params, "high")
    result = []
    for value in values:
        nearest = v.round(v.builder.fmul(value, inverse))
        result.append(v.builder.fmul(v.minimum(v.maximum(nearest, low), high), scale))
    return result


def _lookup(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    """QuantizeLinear, then the number that the table has for the byte; in this order NaN is the least byte."""
    table = v.at(block.params, offset_of(TABLE_PARAMETERS, "table"))
    zero_point, inverse = (parameter(v, block.params, name) for name in ("zero_point", "inverse_scale"))
    low, high = parameter(v, block.params, "low"), parameter(v, block.params, "high")
    result = []
    for value in values:
        bounded = v.maximum(v.minimum(high, v.builder.fmul(value, inverse)), low)
        result.append(v.gather_f32(table, v.builder.add(v.round_to_i32(bounded), zero_point)))
    return result


def _scale(v: Simd, block: _Block, row: Value, values: _Row) -> _Row:
    factor = v.broadcast_f32(v.at(block.bias, v.mul(row, 4)))
    return [v.builder.fmul(value, factor) for value in values]


def _quantized(v: Simd, block: _Block, values: _Row) -> _Row:
    """round(x / scale), half to even, as int32 without the zero point; huge values are bounded first.

    NaN stays NaN in this order, and becomes the least integer, so the least byte, as in ONNX Runtime.
    """
    inverse, bound = parameter(v, block.params, "inverse_scale"), v.constant(v.f32, 1e9)
    return [v.round_to_i32(v.minimum(bound, v.builder.fmul(value, inverse))) for value in values]


def _bytes(v: Simd, block: _Block, values: _Row) -> Value:
    zero_point = parameter(v, block.params, "zero_point")
    quantized = [v.builder.add(value, zero_point) for value in _quantized(v, block, values)]
    return v.pack_u8((quantized * 2)[:4])[0]  # a narrow row and what fills the vector


def _sink_floats(v: Simd, block: _Block, row: Value, rows: Sequence[_Row]) -> None:
    v.store_row(rows[0], v.at(block.destination, v.mul(row, _FLOAT_ROW)))


def _store_row(v: Simd, rows: Sequence[Value], place: Value) -> None:
    """``[N][TILE]``"""
    v.store(rows[0], place)


def _store_quads(v: Simd, rows: Sequence[Value], place: Value) -> None:
    """``[N/4][TILE][4]``: four rows interleaved"""
    v.store_row(v.transpose_quads(*rows)[: v.row], place)


def _sink_bytes(store: Store, signed: bool = False) -> _Sink:
    """Quantize to uint8, or to the uint8 value minus 128 as int8, and store."""

    def sink(v: Simd, block: _Block, row: Value, rows: Sequence[_Row]) -> None:
        quantized = [_bytes(v, block, values) for values in rows]
        if signed:
            quantized = [v.builder.xor(value, v.constant(v.i8, -128)) for value in quantized]
        store(v, quantized, v.at(block.destination, v.mul(row, TILE)))

    return sink


def _stage(transforms: Sequence[_Transform], sink: _Sink | None = None, rows_per_step: int = 1) -> Emit:
    """Compose transforms and a sink (None: write back in place) into a kernel over the rows of a block."""

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


def byte_stages(form: str, store: Store, rows_per_step: int = 1) -> dict[str, Emit]:
    """Stages by name that quantize to uint8 in a form: alone, and fused with what precedes it in most models."""
    sink = _sink_bytes(store)
    return {
        form: _stage([], sink, rows_per_step),
        f"dequantize+{form}": _stage([_dequantize], sink, rows_per_step),
        f"dequantize+gelu+{form}": _stage([_dequantize, _gelu], sink, rows_per_step),
    }


STAGES = Registry("stage", 8, ANY_ROW)
"""All stages; a name with plus signs is a sequence fused into one."""

STAGES.add("dequantize", 0, _stage([_dequantize]))
STAGES.add("dequantize_dynamic", 1, _stage([_dequantize_dynamic]))
STAGES.add("bias", 2, _stage([_bias]))
STAGES.add("gelu", 3, _stage([_gelu]))
STAGES.add("gelu_tanh", 4, _stage([_gelu_tanh]))
STAGES.add("relu", 5, _stage([_relu]))
STAGES.add("tanh", 6, _stage([_tanh]))
STAGES.add("add", 7, _stage([_add]))
STAGES.add("fake_quantize", 8, _stage([_fake_quantize]))
STAGES.add("floats", 9, _stage([], _sink_floats))
STAGES.add("dequantize+add+floats", 10, _stage([_dequantize, _add], _sink_floats))
STAGES.add("bias+add+floats", 11, _stage([_bias, _add], _sink_floats))
STAGES.add("bias+gelu+floats", 12, _stage([_bias, _gelu], _sink_floats))
STAGES.add("bias+floats", 13, _stage([_bias], _sink_floats))
STAGES.add("signed_rows", 14, _stage([], _sink_bytes(_store_row, True)))
STAGES.add("signed_quads", 15, _stage([], _sink_bytes(_store_quads, True), 4))
STAGES.add("dequantize+signed_rows", 16, _stage([_dequantize], _sink_bytes(_store_row, True)))
STAGES.add("dequantize+signed_quads", 17, _stage([_dequantize], _sink_bytes(_store_quads, True), 4))
STAGES.add_all(byte_stages("rows", _store_row), 18)
STAGES.add_all(byte_stages("quads", _store_quads, 4), 21)
STAGES.add("dequantize_dynamic+floats", 24, _stage([_dequantize_dynamic], _sink_floats))
STAGES.add("dequantize_dynamic+add+floats", 25, _stage([_dequantize_dynamic, _add], _sink_floats))
STAGES.add("dequantize_dynamic+gelu+floats", 26, _stage([_dequantize_dynamic, _gelu], _sink_floats))
STAGES.add("multiply", 30, _stage([_multiply]))
STAGES.add("silu", 31, _stage([_sigmoid_product(1.0)]))
STAGES.add("quick_gelu", 34, _stage([_sigmoid_product(1.702)]))
STAGES.add("lookup", 60, _stage([_lookup]))
STAGES.add("scale", 61, _stage([_scale]))
STAGES.add("scale_tokens", 40, _stage([_scale_tokens]))
