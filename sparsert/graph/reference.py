"""Run one standard ONNX node on arrays with the reference operators of the ``onnx`` package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from sparsert.graph.ir import Node


def evaluate_node(node: Node, inputs: Sequence[np.ndarray | None], opsets: Mapping[str, int]) -> list[np.ndarray]:
    """Compute the outputs of one ONNX node.

    Parameters
    ----------
    node : Node
        A node of a standard domain, without subgraphs.
    inputs : sequence of arrays
        One per entry of ``node.inputs``; None for an absent optional input.
    opsets : mapping
        Domain to opset version, as the model declares them.
    """
    attributes = {name: value for name, value in node.attributes.items() if value is not None}
    for name, value in attributes.items():
        if isinstance(value, np.ndarray):
            attributes[name] = onnx.numpy_helper.from_array(value)
    proto = onnx.helper.make_node(node.op, node.inputs, node.outputs, node.name, domain=node.domain, **attributes)
    feeds = {name: array for name, array in zip(node.inputs, inputs, strict=True) if name and array is not None}
    graph = onnx.helper.make_graph(
        [proto],
        "node",
        [
            onnx.helper.make_tensor_value_info(k, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in feeds.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in node.outputs if name],
    )
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = onnx.helper.make_model(graph, opset_imports=imports)
    results = iter(ReferenceEvaluator(model).run(None, feeds))
    return [np.asarray(next(results)) if name else np.empty(0) for name in node.outputs]
