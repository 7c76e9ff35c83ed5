"""Records that kernels read at an address: quantizations of a tensor, and the constants of attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsert.kernels.simd import Simd, Value

__all__ = [
    "ATTENTION_PARAMETERS",
    "PARAMETERS",
    "ROUNDING",
    "STATISTICS_PARAMETERS",
    "TABLE_PARAMETERS",
    "offset_of",
    "parameter",
    "round_trip",
]

PARAMETERS = np.dtype(
    [
        ("inverse_scale", "<f4"),
        ("scale", "<f4"),
        ("zero_point", "<i4"),
        ("low", "<f4"),
        ("high", "<f4"),
        ("unused", "<f4", 3),
    ]
)
"""Static quantization of one tensor, with ``low``/``high`` the range of ``quantized - zero_point``."""

TABLE_PARAMETERS = np.dtype([*((name, PARAMETERS[name]) for name in PARAMETERS.names or ()), ("table", "<f4", 256)])
"""The same, and a number for each byte."""

ROUNDING = np.dtype([("inverse_scale", "<f4"), ("scale", "<f4"), ("low", "<f4"), ("high", "<f4")])
"""A value quantized and dequantized at once; a scale of 0 leaves it as it is."""

STATISTICS_PARAMETERS = np.dtype(
    [("epsilon", "<f4"), ("inverse_rows", "<f4"), ("variance", ROUNDING), ("sum", ROUNDING)]
)
"""A normalization whose variance is rounded, and its sum with epsilon as well."""

ATTENTION_PARAMETERS = np.dtype(
    [
        ("qk_factor", "<f4"),
        ("low", "<f4"),
        ("high", "<f4"),
        ("score_factor", "<f4"),
        ("probability_factor", "<f4"),
        ("value_offset", "<i4"),
        ("query_zero_point", "<i4"),
        ("key_offset", "<i4"),
        ("probability_top", "<f4"),
        ("softmax_factor", "<f4"),
        ("softmax_top", "<f4"),
        ("scaled", ROUNDING),
        ("masked", ROUNDING),
    ]
)
"""score = clamp(round(acc * qk_factor), low, high) * score_factor + bias[key] (no rounding where scores are not
quantized); probability byte = min(round(p * probability_factor), probability_top), or with a softmax_factor other than
0 the same of p = min(round(p * softmax_factor), softmax_top); value_offset and key_offset are 128 minus the zero point.
``scaled`` and ``masked`` are what rounded scores pass before and after the bias is added."""


def offset_of(record: np.dtype[Any], name: str) -> int:
    """Bytes from the start of a record to a field."""
    assert record.fields is not None
    return int(record.fields[name][1])


def parameter(v: Simd, record: Value, name: str, kind: np.dtype[Any] = PARAMETERS) -> Value:
    """A field of the record at a pointer, repeated over a vector."""
    assert kind.fields is not None
    place = v.at(record, offset_of(kind, name))
    return v.broadcast_f32(place) if kind.fields[name][0].kind == "f" else v.broadcast_i32(place)


def round_trip(v: Simd, value: Value, place: Value) -> Value:
    """The vector quantized and dequantized by the :data:`ROUNDING` at a pointer."""
    inverse, scale, low, high = (
        parameter(v, place, name, ROUNDING) for name in ("inverse_scale", "scale", "low", "high")
    )
    rounded = v.round(v.builder.fmul(value, inverse))
    rounded = v.builder.fmul(v.minimum(v.maximum(rounded, low), high), scale)
    absent = v.builder.fcmp_ordered("==", scale, v.zero(v.f32))
    return v.builder.select(absent, value, rounded)
