"""Ops on single values: activations, the product of a gate, and the addition of a residual or a vector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsert.graph.ir import Node
from sparsert.ops.base import Builder, FusedOp
from sparsert.ops.linear import row_blocks
from sparsert.ops.steps import Stage, Step

__all__ = ["Activation", "Add", "Gelu", "Multiply"]


@dataclass(frozen=True)
class Gelu(FusedOp):
    """inputs: [x] -> outputs: [x * Phi(x)]; ``approximate`` is "none" (erf), "tanh", or "sigmoid":
    x * sigmoid(1.702 x).

    Hendrycks and Gimpel, https://arxiv.org/abs/1606.08415.
    """

    approximate: str = "none"
    keeps_lead = True

    def compute(self, x: np.ndarray) -> np.ndarray:
        """In float64 and rounded once."""
        # Here: the import takes 0.1 s, and nearly every model runs its Gelu natively.
        from scipy.special import expit, ndtr

        y = np.empty(x.shape, np.float32)
        flat_in, flat_out = x.reshape(-1), y.reshape(-1)
        for block in row_blocks(x.size, 1):
            wide = flat_in[block].astype(np.float64)
            if self.approximate == "tanh":
                inner = math.sqrt(2 / math.pi) * wide * (1 + 0.044715 * wide * wide)
                flat_out[block] = 0.5 * wide * (1 + np.tanh(inner))
            elif self.approximate == "sigmoid":
                flat_out[block] = wide * expit(1.702 * wide)
            else:
                flat_out[block] = wide * ndtr(wide)
        return y

    def stage(self, builder: Builder, node: Node, value: str) -> tuple[Stage, str]:
        stages = {"none": "gelu", "tanh": "gelu_tanh", "sigmoid": "quick_gelu"}
        return Stage(stages[self.approximate]), node.outputs[0]


@dataclass(frozen=True)
class Activation(FusedOp):
    """inputs: [x] -> outputs: [f(x)]; ``function`` is "relu", "tanh" or "silu", which is ``x / (1 + exp(-x))``."""

    function: str
    keeps_lead = True

    def compute(self, x: np.ndarray) -> np.ndarray:
        if self.function == "silu":
            return np.asarray(x / (np.float32(1) + np.exp(-x)))
        return np.maximum(x, np.float32(0)) if self.function == "relu" else np.tanh(x)

    def stage(self, builder: Builder, node: Node, value: str) -> tuple[Stage, str]:
        return Stage(self.function), node.outputs[0]


@dataclass(frozen=True)
class Add(FusedOp):
    """inputs: [a, b], both float32 of one shape -> outputs: [a + b]. The residual connection.

    ``b`` may be a constant of shape (N,), the size of a's last axis: a bias that does not follow its Linear at once, as
    in static QDQ files, where the product is quantized first.
    """

    leading = None
    keeps_lead = True

    def out_channels(self, sizes: Sequence[int | None]) -> int | None:
        return max((size for size in sizes if size is not None), default=None)

    def takes(self, constants: Sequence[np.ndarray | None]) -> bool:
        """A vector, beside a computed value."""
        vectors = [array for array in constants if array is not None]
        fit = all(array.size == array.shape[-1] and array.dtype == np.float32 for array in vectors if array.ndim)
        return len(vectors) < len(constants) and fit

    def fits(self, sizes: Sequence[int | None]) -> bool:
        return None not in sizes and len(set(sizes)) == 1

    def compute(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.add(a, b)

    def stage(self, builder: Builder, node: Node, value: str) -> tuple[Stage, str] | None:
        first, second = node.inputs
        other = second if first == value else first
        if first != second and other in builder.constants:
            return builder.vector_stage(other), node.outputs[0]
        if first != second and builder.has(other):
            return Stage("add", source=builder.buffer(other)), node.outputs[0]
        return None

    def lower(self, builder: Builder, node: Node) -> None:
        if not _lower_with_itself(builder, node, "add"):
            super().lower(builder, node)


@dataclass(frozen=True)
class Multiply(FusedOp):
    """inputs: [a, b], both float32 of one shape -> outputs: [a * b]. The product of gated feed-forward networks."""

    leading = None
    keeps_lead = True

    def fits(self, sizes: Sequence[int | None]) -> bool:
        return None not in sizes and len(set(sizes)) == 1

    def compute(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.multiply(a, b)

    def stage(self, builder: Builder, node: Node, value: str) -> tuple[Stage, str] | None:
        first, second = node.inputs
        other = second if first == value else first
        if first != second and builder.has(other):
            return Stage("multiply", source=builder.buffer(other)), node.outputs[0]
        return None

    def lower(self, builder: Builder, node: Node) -> None:
        if not _lower_with_itself(builder, node, "multiply"):
            super().lower(builder, node)


def _lower_with_itself(builder: Builder, node: Node, stage: str) -> bool:
    """Lower a node that reads one value twice, which it cannot be a stage of."""
    if node.inputs[0] != node.inputs[1]:
        return False
    x = builder.buffer(node.inputs[0])
    step = Step("rows", [x], stages=[Stage(stage, source=x)], source="load", rows=x.rows)
    builder.produce(step, node.outputs[0])
    return True
