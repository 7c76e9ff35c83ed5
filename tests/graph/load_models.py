"""Small models for the tests of loading, as protocol buffers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
X = helper.make_tensor_value_info("x", FLOAT, ["batch", 4])
Y = helper.make_tensor_value_info("y", FLOAT, ["batch", 4])


def build(
    nodes: list[onnx.NodeProto],
    initializers: list[TensorProto] | None = None,
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    *,
    ir_version: int = 8,
    opsets: dict[str, int] | None = None,
    **more: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "tiny", [X] if inputs is None else inputs, [Y] if outputs is None else outputs, initializers or []
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": 17}).items()]
    return helper.make_model(graph, ir_version=ir_version, opset_imports=imports, **more)


def linear(weight: np.ndarray | None = None) -> onnx.ModelProto:
    """y = Relu(x @ w + b), with one small initializer and one beyond the size that stays in the skeleton."""
    weight = np.arange(4 * 512, dtype=np.float32).reshape(4, 512) if weight is None else weight
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"], name="matmul"),
        helper.make_node("Add", ["xw", "b"], ["sum"], name="add"),
        helper.make_node("Relu", ["sum"], ["y"], name="relu"),
    ]
    bias = numpy_helper.from_array(np.linspace(-1, 1, weight.shape[1], dtype=np.float32), "b")
    return build(nodes, [numpy_helper.from_array(weight, "w"), bias])


def relu_of(name: str) -> onnx.NodeProto:
    return helper.make_node("Relu", [name], ["y"], name="relu")


def external_tensor(tensor: TensorProto, location: str, **entries: Any) -> TensorProto:
    """Point a tensor to external data; an entry of None is left out."""
    moved = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    moved.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        if value is not None:
            moved.external_data.add(key=key, value=str(value))
    return moved


def model_with_functions() -> onnx.ModelProto:
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    inner = helper.make_function("local", "Double", ["a"], ["r"], [helper.make_node("Add", ["a", "a"], ["r"])], opset)
    outer = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["r"],
        [
            helper.make_node("Double", ["a"], ["t"], domain="local"),
            helper.make_node("Double", ["t"], ["r"], domain="local"),
        ],
        opset,
    )
    nodes = [helper.make_node("Twice", ["x"], ["h"], domain="local"), helper.make_node("Add", ["h", "w"], ["y"])]
    weight = numpy_helper.from_array(np.ones((2000, 4), np.float32), "w")
    return build(nodes, [weight], opsets={"": 17, "local": 1}, functions=[inner, outer])
