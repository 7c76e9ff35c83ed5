"""Embeddings: sums of table rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsert.errors import InputRangeError
from sparsert.graph.ir import Node
from sparsert.graph.mapped import detach
from sparsert.graph.quantization import Quantization
from sparsert.ops.base import Builder, FusedOp
from sparsert.ops.steps import PackedLinear, Step

__all__ = ["Embeddings", "Table"]


@dataclass(frozen=True)
class Table:
    """One embedding table. Row ``index[b, s]`` of ``weight`` (V, H), dequantized if ``quantization`` is set."""

    weight: np.ndarray
    quantization: Quantization | None
    index: str
    """Where the row number comes from: "input" (the next entry of the node's inputs, an int32/int64 value (B, S)),
    "position" (row = ``offset`` + token position) or "constant" (row = ``offset`` for every token)."""
    offset: int = 0
    rounding: Quantization | None = None
    """What the sum passes, quantized and dequantized, once this table is added."""

    @property
    def fits(self) -> bool:
        """Whether the run loop can take it."""
        if self.rounding is not None and not self.rounding.in_kernels:
            return False
        if self.quantization is None:
            return bool(self.weight.dtype == np.float32)
        return self.quantization.scalar and self.weight.dtype in (np.uint8, np.int8)

    @property
    def positions(self) -> int | None:
        """How many positions it has rows for; None for any number."""
        return len(self.weight) - self.offset

    def up_to(self, positions: int) -> np.ndarray:
        """The array that holds the rows of so many positions, if it has as many."""
        return self.weight

    def rows(self, number: int, index: np.ndarray) -> np.ndarray:
        """Rows in float32; negative indices count from the end (ONNX Gather). ``number`` is for the message."""
        weight = self.up_to(int(index.max(initial=0)) + 1)
        rows = len(weight)
        outside = index[(index < -rows) | (index >= rows)]
        if outside.size:
            what = "id" if self.index == "input" else "position"
            remedy = "Tokenize with the model's own vocabulary" if self.index == "input" else "Give a shorter sequence"
            raise InputRangeError(
                f"Embeddings: table {number} has {rows} rows, expected a {what} in [{-rows}, {rows}), got "
                f"{outside[0]}. {remedy}."
            )
        part: np.ndarray = weight[index]
        return part if self.quantization is None else self.quantization.dequantize(part)


@dataclass(frozen=True)
class Embeddings(FusedOp):
    """inputs: one integer value (B, S) per table with index "input", in table order -> outputs: [sum of the rows].

    Rows are added in table order (the file's order of Adds). Ids follow ONNX Gather: negative ids wrap, ids outside
    [-V, V) are an error. At least one table has index "input".
    """

    tables: tuple[Table, ...]
    leading = None
    broadcasts = True
    layer_kind = "Embeddings"

    def tile_inputs(self, node: Node) -> list[str]:
        return []

    def out_channels(self, sizes: Sequence[int | None]) -> int:
        return int(self.tables[0].weight.shape[1])

    def fits(self, sizes: Sequence[int | None]) -> bool:
        return len({table.weight.shape[1:] for table in self.tables}) == 1 and all(table.fits for table in self.tables)

    def compute(self, *ids: np.ndarray) -> np.ndarray:
        tokens = ids[0].shape[-1]
        remaining = iter(ids)
        total: np.ndarray | None = None
        for number, table in enumerate(self.tables):
            if table.index == "input":
                index = next(remaining)
            elif table.index == "position":
                index = np.arange(table.offset, table.offset + tokens)
            else:
                index = np.array(table.offset)
            part = table.rows(number, index)
            total = part if total is None else total + part
            if table.rounding is not None:
                total = table.rounding.dequantize(table.rounding.quantize(total))
        assert total is not None, "an Embeddings has at least one table"
        return total

    def lower(self, builder: Builder, node: Node) -> None:
        builder.add_ids(node.inputs)
        (result,) = node.outputs
        out = builder.new_buffer(result, "floats", builder.channels[result])
        constants = {"tables": detach(self.tables), "ids": list(node.inputs)}
        builder.add(Step("embed", [], [out], rows=out.rows, constants=constants))
        builder.derive(result)

    def details(self, packed: PackedLinear | None, tier: str) -> dict[str, Any]:
        nbytes = sum(table.weight.nbytes for table in self.tables)
        return {**super().details(packed, tier), "bytes": nbytes, "shape": tuple(self.tables[0].weight.shape)}
