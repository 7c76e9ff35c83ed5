"""Nodes and initializers of a graph, written with the weights of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from sparsert.errors import ModelFormatError
from sparsert.export.weights import Weights

__all__ = ["ACTIVATIONS", "GraphBuilder"]

OPSET, IR_VERSION = 20, 9
"""The first opset in which LayerNormalization and Gelu are single nodes."""

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "swish": "silu",
    "linear": "linear",
}
"""Names in the transformers library, and what they compute."""


class GraphBuilder:
    """Collects the nodes of one graph; values are named after what computes them."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.inputs = ["input_ids", "attention_mask"]
        """All are int64 of shape (batch, sequence)."""
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}
        """In the type of the file, and transposed views of it: nothing is copied before it is saved."""

    def op(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output; return the output's name."""
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}_output"], name, **attributes))
        return f"{name}_output"

    def constant(self, value: Any, dtype: Any = np.float32, name: str = "") -> str:
        """Add a constant, once; return its name, which tells its value unless it is given."""
        array = np.asarray(value, dtype)
        name = name or f"constant_{array.dtype}_{array.tolist()}"
        self.initializers.setdefault(name, array)
        return name

    def table(self, name: str, width: int) -> str:
        """An embedding table of so many columns; return its name."""
        self.initializers[f"{name}.weight"] = self.weights.take(f"{name}.weight", (None, width))
        return f"{name}.weight"

    def linear(self, x: str, name: str, in_features: int, out_features: int | None = None) -> str:
        """``x @ weight.T + bias``."""
        matrix = self.weights.take(f"{name}.weight", (out_features, in_features))
        bias = self.weights.take(f"{name}.bias", (len(matrix),))
        self.initializers |= {f"{name}.weight": matrix.T, f"{name}.bias": bias}
        return self.op("Add", [self.op("MatMul", [x, f"{name}.weight"]), f"{name}.bias"])

    def layer_norm(self, x: str, name: str, size: int, epsilon: float) -> str:
        """Normalization over the last axis."""
        for part in ("weight", "bias"):
            self.initializers[f"{name}.{part}"] = self.weights.take(f"{name}.{part}", (size,))
        return self.op("LayerNormalization", [x, f"{name}.weight", f"{name}.bias"], axis=-1, epsilon=epsilon)

    def activation(self, x: str, name: str) -> str:
        """A function of :data:`ACTIVATIONS`.

        Raises
        ------
        ModelFormatError
            It is none of them.
        """
        function = ACTIVATIONS.get(name)
        if function is None:
            raise ModelFormatError(
                f"{self.weights.source.parent}: unknown activation {name!r} in config.json; expected one of "
                f"{', '.join(ACTIVATIONS)}. Export the model to ONNX with optimum or torch."
            )
        if function == "linear":
            return x
        if function == "silu":
            return self.op("Mul", [x, self.op("Sigmoid", [x])])
        if function.startswith("gelu"):
            return self.op("Gelu", [x], approximate="tanh" if function == "gelu_tanh" else "none")
        return self.op(function.capitalize(), [x])

    def rename(self, value: str, name: str) -> None:
        """Give a value another name, that of an output."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [name if item == value else item for item in names]

    def finish(self, outputs: dict[str, Sequence[str | int]]) -> onnx.ModelProto:
        """The model without its initializers; ``outputs`` are names and shapes."""
        shape = ["batch", "sequence"]
        graph = helper.make_graph(
            self.nodes,
            "encoder",
            [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in self.inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims)) for name, dims in outputs.items()],
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, producer_name="sparsert.export", opset_imports=opsets, ir_version=IR_VERSION)
