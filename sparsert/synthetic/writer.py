"""Writes the nodes and initializers of a graph, with the names that exporters give them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["Writer"]


class Writer:
    """Collects nodes and initializers; nodes are named OpType_<counter>, as torch 1.12 names them."""

    def __init__(self, constant_nodes: bool) -> None:
        self.constant_nodes = constant_nodes
        """Small constants become Constant nodes (torch) or shared initializers (SparseML converts them)."""
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._count = 0

    def number(self) -> int:
        """The next running number."""
        self._count += 1
        return self._count - 1

    def initializer(self, name: str, array: Any, dtype: Any = None) -> str:
        """Add a named array unless the name is taken; return the name."""
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(array, dtype=dtype, order="C"), name)
        return name

    def constant(self, value: Any, dtype: Any) -> str:
        """Add a small constant; return its name."""
        array = np.asarray(value, dtype=dtype)
        if not self.constant_nodes:
            return self.initializer(f"onnx::Constant_{array.dtype}_{array.tolist()}", array)
        name = f"Constant_{self.number()}"
        tensor = numpy_helper.from_array(array)
        self.nodes.append(helper.make_node("Constant", [], [f"onnx::{name}"], name, value=tensor))
        return f"onnx::{name}"

    def op(self, op: str, inputs: list[str], output: str = "", name: str = "", **attributes: Any) -> str:
        """Add a node with one output; return the output's name."""
        name = name or f"{op}_{self.number()}"
        self.nodes.append(helper.make_node(op, inputs, [output or f"{name}_output"], name, **attributes))
        return output or f"{name}_output"

    def op_many(self, op: str, inputs: list[str], outputs: list[str], name: str = "", **attributes: Any) -> list[str]:
        """Add a node with several outputs; return their names."""
        self.nodes.append(helper.make_node(op, inputs, outputs, name or f"{op}_{self.number()}", **attributes))
        return outputs

    def unsqueeze(self, x: str, axis: int) -> str:
        """Insert a dimension of one."""
        return self.op("Unsqueeze", [x, self.constant([axis], np.int64)])

    def view(self, x: str, tail: tuple[int, ...]) -> str:
        """``x.view(x.size(0), x.size(1), *tail)`` with the shape chain that tracing leaves behind."""
        dims = []
        for axis in (0, 1):
            shape = self.op("Shape", [x])
            dims.append(self.unsqueeze(self.op("Gather", [shape, self.constant(axis, np.int64)], axis=0), 0))
        dims += [self.initializer(f"onnx::Concat_{size}", [size], np.int64) for size in tail]
        return self.op("Reshape", [x, self.op("Concat", dims, axis=0)])
