"""Half precision widened: float16 and bfloat16 of a file are float32 in the graph.

The kernels compute in no halves, and NumPy is a hundred times slower in them than in floats. Whatever a half can be, a
float32 is too, so weights and constants keep their values; results differ from the file's own arithmetic by its
roundings, which are left out, and are finite where a half overflows.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

from sparsert.errors import UnsupportedOpError
from sparsert.graph.ir import Graph, TensorInfo
from sparsert.graph.mapped import is_mapped

__all__ = ["HALVES", "widen", "widened"]

HALVES = frozenset({np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)})

_Kinds = onnx.TensorProto
_CODES = frozenset({_Kinds.FLOAT16, _Kinds.BFLOAT16})
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type", "softmax_precision")
"""Attributes that hold the code of a data type."""


def widened(array: np.ndarray) -> np.ndarray:
    """The array, in float32 if it holds halves."""
    return array.astype(np.float32) if array.dtype in HALVES else array


def widen(graph: Graph) -> None:
    """Make float32 of every half in a loaded graph, in place; its ``stated`` keeps the types of inputs and outputs.

    A large constant on the mapped file stays what it is there: who reads it widens it (:func:`widened`), a matrix at a
    time, so that weights are never in memory twice. Facts about values call it float32.

    Raises
    ------
    UnsupportedOpError
        A node looks at the bits of a value, which are others now.
    """
    for infos in (graph.inputs, graph.outputs):
        infos[:] = [_widened_info(info, graph.stated) for info in infos]
    halves = bool(graph.stated)
    for name, array in graph.constants.items():
        if array.dtype in HALVES:
            halves = True
            graph.constants[name] = array if is_mapped(array) else widened(array)
    for node in graph.nodes:
        for key, value in node.attributes.items():
            if key in _TYPE_ATTRIBUTES and isinstance(value, int) and value in _CODES:
                halves = True
                node.attributes[key] = int(_Kinds.FLOAT)
            else:
                node.attributes[key] = _widened_value(value)
    bits = next((node for node in graph.nodes if node.op == "BitCast"), None) if halves else None
    if bits is not None:
        raise UnsupportedOpError(
            f"{graph.path}: node {bits.name!r} (BitCast) looks at the bits of values, in a file with float16 or "
            "bfloat16, which is computed in float32. Expected a float32 model; export it again in that type."
        )


def _widened_info(info: TensorInfo, stated: dict[str, np.dtype]) -> TensorInfo:
    if info.dtype not in HALVES:
        return info
    stated[info.name] = info.dtype
    return TensorInfo(info.name, np.dtype(np.float32), info.shape)


def _widened_value(value: Any) -> Any:
    """An attribute's value without halves."""
    if isinstance(value, np.ndarray):
        return widened(value)
    if isinstance(value, list) and value and not isinstance(value[0], (int, float, str)):
        return [_widened_value(item) for item in value]
    if isinstance(value, onnx.GraphProto):
        _widen_subgraph(value)
    return value


def _widen_subgraph(graph: onnx.GraphProto) -> None:
    """The same for a subgraph, which stays a protobuf message."""
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for info in [*graph.input, *graph.output, *graph.value_info]:
        if info.type.tensor_type.elem_type in _CODES:
            info.type.tensor_type.elem_type = _Kinds.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _CODES:
                attribute.i = _Kinds.FLOAT
            for tensor in [attribute.t] if attribute.HasField("t") else attribute.tensors:
                _widen_tensor(tensor)
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _widen_subgraph(inner)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _CODES:
        tensor.CopyFrom(numpy_helper.from_array(widened(numpy_helper.to_array(tensor)), tensor.name))
