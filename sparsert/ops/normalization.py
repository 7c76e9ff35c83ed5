"""LayerNorm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsert.graph.ir import Node
from sparsert.ops.base import Builder, FusedOp
from sparsert.ops.linear import row_blocks
from sparsert.ops.steps import Step, padded

__all__ = ["LayerNorm"]


@dataclass(frozen=True)
class LayerNorm(FusedOp):
    """inputs: [x] -> outputs: [(x - mean) / sqrt(var + epsilon) * gamma + beta] over the last axis."""

    gamma: np.ndarray
    beta: np.ndarray
    epsilon: float
    keeps_lead = True
    layer_kind = "Normalization"

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
            wide -= wide.mean(axis=-1, keepdims=True)
            variance = np.einsum("ij,ij->i", wide, wide)[:, None] / x.shape[-1]
            wide /= np.sqrt(variance + self.epsilon)
            wide *= self.gamma
            wide += self.beta
            rows_out[block] = wide
        return y

    def lower(self, builder: Builder, node: Node) -> None:
        x, rows = builder.buffer(node.inputs[0]), len(self.gamma)
        constants = {"gamma": padded(self.gamma, rows), "beta": padded(self.beta, rows)}
        epsilon = np.array([self.epsilon, 1.0 / rows], np.float32)
        step = Step("rows", [x], source="layer_norm", rows=rows, parameters=epsilon, constants=constants)
        builder.produce(step, node.outputs[0])
