"""Embeddings of BERT in one op: rows of three tables, their sum normalized, and the lengths that a mask tells."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from sparsert.graph.contrib.expansion import Expansion, contrib

__all__: list[str] = []


@contrib([0, 2, 3, 5, 6], 9, outputs=3, epsilon=1e-12, mask_index_type=0)
def EmbedLayerNormalization(e: Expansion) -> list[str | None]:
    tables = [e.input(position) for position in (2, 3, 4)]
    return _embed(e, tables, e.input(5), e.input(6), e.input(7), e.input(8))


@contrib([0, 2, 3, 5, 6, 8, 9, 11, 12, 13, 14, 16, 17], 18, outputs=2, epsilon=1e-12)
def QEmbedLayerNormalization(e: Expansion) -> list[str | None]:
    """The same with tables, scale and shift in bytes."""
    real = [
        e.op("DequantizeLinear", e.input(2 + k), e.input(8 + k), e.input(13 + k)) if e.input(2 + k) else ""
        for k in range(5)
    ]
    return _embed(e, real[:3], real[3], real[4], e.input(7), "")[:2]


def _embed(e: Expansion, tables: list[str], gamma: str, beta: str, mask: str, position_ids: str) -> list[str | None]:
    ids, segments = e.input(0), e.input(1)
    if bool(segments) != bool(tables[2]):
        e.malformed("expected segment ids and a table for them, or neither")
    words, positions = e.op("Gather", tables[0], ids, axis=0), position_ids or position_of_tokens(e, ids)
    total = e.op("Add", words, e.op("Gather", tables[1], positions, axis=0))
    if segments:
        total = e.op("Add", total, e.op("Gather", tables[2], segments, axis=0))
    result = e.op("LayerNormalization", total, gamma, beta, axis=-1, epsilon=e.attribute("epsilon"))
    return [result, _lengths(e, mask) if mask else None, total]


def position_of_tokens(e: Expansion, value: str) -> str:
    """0, 1, 2, ... along the second axis of a value."""
    key = ("positions", e.shape(value)[1])
    if key not in e.shared:
        count = e.op("Gather", e.op("Shape", value), e.constant(1, np.int64), axis=0)
        zero, one = e.constant(0, np.int64), e.constant(1, np.int64)
        e.shared[key] = e.op("Range", zero, count, one)
    return e.shared[key]


def _lengths(e: Expansion, mask: str) -> str:
    """How many ones each row of a mask has."""
    dtype = e.facts.dtype(mask)
    ones = e.op("Equal", mask, e.constant(1, dtype if dtype is not None else np.int32))
    return e.over_axes("ReduceSum", e.op("Cast", ones, to=TensorProto.INT32), [1], keepdims=0)
