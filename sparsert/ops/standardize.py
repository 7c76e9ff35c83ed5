"""A LayerNorm in parts, as files have it whose quantizer put bytes between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.graph.matching import mean_of, squared
from sparsert.graph.quantization import Quantization
from sparsert.kernels.records import STATISTICS_PARAMETERS
from sparsert.ops.base import Builder, FusedOp
from sparsert.ops.linear import row_blocks
from sparsert.ops.steps import Stage, Step, padded, rounding

__all__ = ["Scale", "Standardize"]


@dataclass(frozen=True)
class Standardize(FusedOp):
    """inputs: [x] -> outputs: [(x - mean) / sqrt(r(q(variance) + epsilon))] over the last axis.

    ``q`` and ``r`` quantize and dequantize with ``variance_quantization`` and ``sum_quantization``, where there is one.
    """

    epsilon: float
    variance_quantization: Quantization | None = None
    sum_quantization: Quantization | None = None
    keeps_lead = True
    layer_kind = "Normalization"

    @classmethod
    def recognise(cls, editor: Editor) -> None:
        """``ReduceMean, Sub, Pow, ReduceMean, Add, Sqrt, Div``, with round trips around the Add."""
        for node in editor.nodes("Sqrt"):
            if editor.alive(node):
                _recognise(editor, node)

    def fits(self, sizes: Sequence[int | None]) -> bool:
        parts = (self.variance_quantization, self.sum_quantization)
        return sizes[0] is not None and all(part is None or part.in_kernels for part in parts)

    def compute(self, x: np.ndarray) -> np.ndarray:
        """Sums in float64; what is quantized is float32, as in the file."""
        y = np.empty(x.shape, np.float32)
        rows_in, rows_out = x.reshape(-1, x.shape[-1]), y.reshape(-1, x.shape[-1])
        for block in row_blocks(len(rows_in), x.shape[-1]):
            wide = rows_in[block].astype(np.float64)
            wide -= wide.mean(axis=-1, keepdims=True)
            variance = (np.einsum("ij,ij->i", wide, wide)[:, None] / x.shape[-1]).astype(np.float32)
            for quantization, addend in ((self.variance_quantization, self.epsilon), (self.sum_quantization, 0.0)):
                if quantization is not None:
                    variance = quantization.dequantize(quantization.quantize(variance))
                variance = variance + np.float32(addend)
            with np.errstate(all="ignore"):
                rows_out[block] = wide / np.sqrt(variance)
        return y

    def lower(self, builder: Builder, node: Node) -> None:
        x = builder.buffer(node.inputs[0])
        record = np.zeros(1, STATISTICS_PARAMETERS)
        record["epsilon"], record["inverse_rows"] = self.epsilon, 1.0 / x.rows
        record["variance"], record["sum"] = rounding(self.variance_quantization), rounding(self.sum_quantization)
        builder.produce(Step("rows", [x], source="standardize", rows=x.rows, parameters=record), node.outputs[0])


@dataclass(frozen=True)
class Scale(FusedOp):
    """inputs: [x] -> outputs: [x * factors], a constant of shape (H,)."""

    factors: np.ndarray
    keeps_lead = True

    @property
    def in_channels(self) -> int:
        return len(self.factors)

    def compute(self, x: np.ndarray) -> np.ndarray:
        return np.multiply(x, self.factors)

    def stage(self, builder: Builder, node: Node, value: str) -> tuple[Stage, str]:
        return Stage("scale", vector=padded(self.factors, len(self.factors))), node.outputs[0]


def _round_trip(editor: Editor, value: str) -> tuple[str, Quantization | None, list[Node]] | None:
    """Step over a pair of a Quantize and a Dequantize that nobody else reads; None if it is not one."""
    back = editor.fused_producer(value, "Dequantize")
    if back is None:
        return value, None, []
    pair = editor.fused_producer(back.inputs[0], "Quantize")
    if pair is None or not pair.fused.quantization.same_as(back.fused.quantization):
        return None
    if any(editor.sole_reader(name) is None for name in (value, back.inputs[0], pair.inputs[0])):
        return None
    return pair.inputs[0], back.fused.quantization, [pair, back]


def _recognise(editor: Editor, sqrt: Node) -> None:
    divide = editor.sole_reader(sqrt.outputs[0])
    outer = _round_trip(editor, sqrt.inputs[0])
    add = editor.producer(outer[0], "Add") if outer else None
    operands = editor.split_constant(add) if add else None
    epsilon = editor.scalar(operands[1]) if operands else None
    inner = _round_trip(editor, operands[0]) if operands else None
    variance = mean_of(editor, inner[0]) if inner else None
    square = squared(editor, variance.inputs[0]) if variance else None
    centred = editor.producer(square[0], "Sub") if square else None
    mean = mean_of(editor, centred.inputs[1]) if centred else None
    if outer is None or inner is None or add is None or variance is None or square is None or epsilon is None:
        return
    if centred is None or mean is None or divide is None or divide.op != "Div" or editor.is_fused(divide):
        return
    x = centred.inputs[0]
    if divide.inputs != [centred.outputs[0], sqrt.outputs[0]] or mean.inputs[0] != x:
        return
    if not editor.is_float(x) or not editor.facts.same_shape(x, divide.outputs[0]):
        return
    nodes = [mean, centred, square[1], variance, *inner[2], add, *outer[2], sqrt]
    members = {id(node) for node in [*nodes, divide]}
    for node in nodes:
        if any(
            name in editor.outputs or any(id(r) not in members for r in editor.readers(name)) for name in node.outputs
        ):
            return
    editor.emit(Standardize(float(epsilon), inner[1], outer[1]), [x], divide.outputs[0], [*nodes, divide])
