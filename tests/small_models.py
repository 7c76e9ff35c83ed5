"""Small hand-made ONNX files for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, INT32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32
Value = tuple[str, int, Sequence["int | str | None"]]


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
) -> Path:
    """Write a model to ``path`` and return it."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(path))
    return path


def arithmetic(path: Path, shape: Sequence[int | str | None] = ("batch", 8)) -> Path:
    """x, y -> total = x + y, product = x * y."""
    return save(
        path,
        [
            helper.make_node("Add", ["x", "y"], ["total"], "add"),
            helper.make_node("Mul", ["x", "y"], ["product"], "mul"),
        ],
        [("x", FLOAT, shape), ("y", FLOAT, shape)],
        [("total", FLOAT, shape), ("product", FLOAT, shape)],
    )


def relu(path: Path, shape: Sequence[int | str | None] = ("batch", 8)) -> Path:
    """x -> max(x, 0)."""
    return save(path, [helper.make_node("Relu", ["x"], ["y"], "relu")], [("x", FLOAT, shape)], [("y", FLOAT, shape)])


def identity(path: Path) -> Path:
    """x -> x."""
    shape = ("batch", 8)
    return save(path, [helper.make_node("Identity", ["x"], ["y"], "id")], [("x", FLOAT, shape)], [("y", FLOAT, shape)])


def embedding(path: Path, table: np.ndarray, index_type: int = INT64) -> Path:
    """input_ids, attention_mask -> rows of the table where the mask is 1, zeros elsewhere."""
    tokens = ("batch", "sequence")
    return save(
        path,
        [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"], "gather", axis=0),
            helper.make_node("Cast", ["attention_mask"], ["mask"], "cast", to=FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["column"], "unsqueeze"),
            helper.make_node("Mul", ["rows", "column"], ["masked"], "mul"),
        ],
        [("input_ids", index_type, tokens), ("attention_mask", index_type, tokens)],
        [("masked", FLOAT, (*tokens, table.shape[1]))],
        {"table": table, "last": np.array([-1])},
    )
