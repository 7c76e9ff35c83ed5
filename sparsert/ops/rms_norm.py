"""RmsNorm: LayerNorm without its mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.graph.known import attribute
from sparsert.graph.matching import mean_of, squared
from sparsert.ops.base import Builder, FusedOp
from sparsert.ops.linear import row_blocks
from sparsert.ops.steps import Step, padded

__all__ = ["RmsNorm"]


@dataclass(frozen=True)
class RmsNorm(FusedOp):
    """inputs: [x] -> outputs: [x / sqrt(mean(x ** 2) + epsilon) * gamma] over the last axis.

    Zhang and Sennrich, https://arxiv.org/abs/1910.07467; https://onnx.ai/onnx/operators/onnx__RMSNormalization.html.
    """

    gamma: np.ndarray
    epsilon: float
    keeps_lead = True
    layer_kind = "Normalization"

    @classmethod
    def recognise(cls, editor: Editor) -> None:
        """The native op, and the chain of six or seven that exporters write, where gamma is constant."""
        for node in editor.nodes("RMSNormalization"):
            _recognise_native(editor, node)
        for node in editor.nodes("ReduceMean"):
            if editor.alive(node):
                _recognise_chain(editor, node)

    @property
    def in_channels(self) -> int:
        return len(self.gamma)

    def out_channels(self, sizes: Sequence[int | None]) -> int:
        return len(self.gamma)

    def compute(self, x: np.ndarray) -> np.ndarray:
        """In float64 and rounded once."""
        y = np.empty(x.shape, np.float32)
        rows_in, rows_out = x.reshape(-1, x.shape[-1]), y.reshape(-1, x.shape[-1])
        for block in row_blocks(len(rows_in), x.shape[-1]):
            wide = rows_in[block].astype(np.float64)
            wide /= np.sqrt(np.einsum("ij,ij->i", wide, wide)[:, None] / x.shape[-1] + self.epsilon)
            wide *= self.gamma
            rows_out[block] = wide
        return y

    def lower(self, builder: Builder, node: Node) -> None:
        x, rows = builder.buffer(node.inputs[0]), len(self.gamma)
        epsilon = np.array([self.epsilon, 1.0 / rows], np.float32)
        constants = {"gamma": padded(self.gamma, rows)}
        step = Step("rows", [x], source="rms_norm", rows=rows, parameters=epsilon, constants=constants)
        builder.produce(step, node.outputs[0])


def _emit(
    editor: Editor, x: str, gamma: np.ndarray | None, epsilon: float | None, output: str, nodes: list[Node]
) -> None:
    """Put the op in the place of ``nodes``, unless it is not over float32, or broadcasting gives it another shape."""
    if gamma is None or epsilon is None or gamma.dtype != np.float32 or not editor.is_float(x):
        return
    if editor.facts.same_shape(x, output):
        editor.emit(RmsNorm(gamma, epsilon), [x], output, nodes)


def _recognise_native(editor: Editor, node: Node) -> None:
    x, size = node.inputs[0], editor.channels(node.inputs[0])
    if size is None or attribute(node, "axis", -1) not in (-1, len(editor.facts.need(x)) - 1):
        return
    if attribute(node, "stash_type", TensorProto.FLOAT) == TensorProto.FLOAT:
        epsilon = float(attribute(node, "epsilon", 1e-5))
        _emit(editor, x, editor.vector(node.inputs[1], size), epsilon, node.outputs[0], [node])


def _recognise_chain(editor: Editor, mean: Node) -> None:
    """From the mean of squares on; only the squares may have other readers."""
    square = squared(editor, mean.inputs[0])
    add = _next(editor, mean, "Add")
    sum_of = editor.split_constant(add) if add else None
    if square is None or add is None or sum_of is None or mean_of(editor, mean.outputs[0]) is None:
        return
    x = square[0]
    divided = _divided(editor, x, add)
    scale = _next(editor, divided[-1], "Mul") if divided else None
    product = editor.split_constant(scale) if scale else None
    size = editor.channels(x)
    if divided is None or scale is None or product is None or size is None:
        return
    nodes = [square[1], mean, add, *divided, scale]
    _emit(editor, x, editor.vector(product[1], size), editor.scalar(sum_of[1]), scale.outputs[0], nodes)


def _divided(editor: Editor, x: str, radicand: Node) -> list[Node] | None:
    """Match ``x / sqrt(radicand)``, ``x * (1 / sqrt(radicand))`` and ``x * radicand ** -0.5``; return the nodes."""
    root = _next(editor, radicand, "Sqrt", "Pow")
    if root is None or (root.op == "Pow" and not _is_inverse_root(editor, root, radicand)):
        return None
    nodes = [root]
    if root.op == "Sqrt":
        divide = _next(editor, root, "Div", "Reciprocal")
        if divide is None:
            return None
        nodes.append(divide)
        if divide.op == "Div" and divide.inputs == [x, root.outputs[0]]:
            return nodes
        if divide.op == "Div" and (divide.inputs[1] != root.outputs[0] or editor.scalar(divide.inputs[0]) != 1):
            return None
    factor = nodes[-1].outputs[0]
    multiply = _next(editor, nodes[-1], "Mul")
    if multiply is None or multiply.inputs not in ([x, factor], [factor, x]):
        return None
    return [*nodes, multiply]


def _is_inverse_root(editor: Editor, power: Node, radicand: Node) -> bool:
    return power.inputs[0] == radicand.outputs[0] and editor.scalar(power.inputs[1]) == -0.5


def _next(editor: Editor, node: Node, *ops: str) -> Node | None:
    """Return the ONNX node of one of ``ops`` that alone reads what a node writes."""
    reader = editor.sole_reader(node.outputs[0])
    return editor.producer(reader.outputs[0], *ops) if reader is not None else None
