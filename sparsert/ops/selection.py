"""Parts of a value that leave the tiles: one token of every sequence, or one feature of every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsert.errors import InputShapeError
from sparsert.graph.ir import Node
from sparsert.ops.base import Builder, FusedOp
from sparsert.ops.steps import Step

__all__ = ["SelectFeature", "SelectToken"]


@dataclass(frozen=True)
class SelectToken(FusedOp):
    """inputs: [x (B, S, H)] -> outputs: [x[:, index, :] (B, H)]. The pooler's view of the first token."""

    index: int
    selects = True

    def compute(self, x: np.ndarray) -> np.ndarray:
        if not -x.shape[1] <= self.index < x.shape[1]:
            raise InputShapeError(
                f"SelectToken: expected a sequence that has token {self.index}, got {x.shape[1]} tokens. Give longer "
                "inputs."
            )
        return x[:, self.index, :].copy()

    def lower(self, builder: Builder, node: Node) -> None:
        x = builder.buffer(node.inputs[0])
        step = Step("select", [x], rows=x.rows, constants={"token": self.index})
        builder.add(step)
        builder.output(node.outputs[0], "items", x.rows, step)


@dataclass(frozen=True)
class SelectFeature(FusedOp):
    """inputs: [x (B, S, N)] -> outputs: [x[:, :, index] (B, S)]. One logit of a question-answering head."""

    index: int
    selects = True

    def out_channels(self, sizes: Sequence[int | None]) -> None:
        return None

    def compute(self, x: np.ndarray) -> np.ndarray:
        return x[..., self.index].copy()

    def lower(self, builder: Builder, node: Node) -> None:
        x = builder.buffer(node.inputs[0])
        step = Step("gather", [x], rows=1, constants={"row": self.index % x.rows, "width": 1, "column": 0})
        builder.add(step)
        builder.output(node.outputs[0], "feature", 1, step)
