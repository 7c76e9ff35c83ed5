"""Rotary embeddings: rows of factors that follow from a token's position, and the rotation of pairs of channels."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsert.graph.grids import compute
from sparsert.graph.ir import Node
from sparsert.graph.symbolic import Expr
from sparsert.ops.base import Builder, FusedOp
from sparsert.ops.embeddings import Table
from sparsert.ops.steps import Step, padded

__all__ = ["TOKEN", "Column", "ComputedTable", "PositionRows", "Rotary"]

TOKEN: Expr = ("index", "token", 0)
"""The position of a token in its sequence, as a leaf of expressions."""


@dataclass(frozen=True)
class Column:
    """Numbers by position, as ``("Element", column, index)`` takes them. As bytes they compare and hash at once."""

    data: bytes
    dtype: np.dtype

    @property
    def numbers(self) -> np.ndarray:
        """The numbers, shape (n,)."""
        return np.frombuffer(self.data, self.dtype)


_FEWEST = 512
"""Rows that a computed table has at least."""


@dataclass(frozen=True)
class ComputedTable(Table):
    """A table of positions of which the file has the formula: ``columns`` are functions of :data:`TOKEN`."""

    columns: tuple[Expr, ...] = ()

    @classmethod
    def of(cls, columns: tuple[Expr, ...]) -> ComputedTable:
        """The table of these columns."""
        return cls(np.empty((0, len(columns)), np.float32), None, "position", columns=columns)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ComputedTable) and self.columns == other.columns

    def __hash__(self) -> int:
        return hash(self.columns)

    @property
    def positions(self) -> int | None:
        return min(filter(None, map(_positions, self.columns)), default=None)

    def up_to(self, positions: int) -> np.ndarray:
        wanted = max(_FEWEST, 1 << (positions - 1).bit_length())
        return _computed(self.columns, min(wanted, self.positions or wanted))


def _positions(expr: Expr) -> int | None:
    """How many positions an expression has numbers for; None if any."""
    if not isinstance(expr, tuple):
        return None
    if expr[0] == "Element":
        _, column, index = expr
        if index == TOKEN:
            return len(column.numbers)
        if isinstance(index, tuple) and index[0] == "Add" and index[2] == TOKEN and isinstance(index[1], int):
            return len(column.numbers) - index[1]
    return min(filter(None, map(_positions, expr[1:])), default=None)


@functools.lru_cache(maxsize=8)
def _computed(columns: tuple[Expr, ...], positions: int) -> np.ndarray:
    """The rows of the first positions, shape (positions, columns); engines that share a formula share them."""
    numbers = np.arange(positions)
    table = np.empty((positions, len(columns)), np.float32)
    for place, column in enumerate(columns):
        table[:, place] = compute(column, {TOKEN: numbers}, {})
    table.setflags(write=False)
    return table


@dataclass(frozen=True)
class PositionRows(FusedOp):
    """inputs: [ids (B, S), of which only the shape counts] -> outputs: [row ``s`` of the table (B, S, F)]."""

    table: ComputedTable
    keeps_lead = False
    mixes = True
    layer_kind = "Embeddings"

    def tile_inputs(self, node: Node) -> list[str]:
        return []

    def out_channels(self, sizes: Sequence[int | None]) -> int:
        return len(self.table.columns)

    def fits(self, sizes: Sequence[int | None]) -> bool:
        return True

    def compute(self, ids: np.ndarray) -> np.ndarray:
        tokens = ids.shape[-1]
        rows = self.table.rows(0, np.arange(tokens))
        return np.broadcast_to(rows, (*ids.shape, rows.shape[-1])).copy()

    def lower(self, builder: Builder, node: Node) -> None:
        builder.add_ids(node.inputs)
        (result,) = node.outputs
        out = builder.new_buffer(result, "floats", len(self.table.columns))
        builder.add(Step("embed", [], [out], rows=out.rows, constants={"tables": (self.table,), "ids": []}))
        builder.derive(result)


@dataclass(frozen=True)
class Rotary(FusedOp):
    """Pairs of channels of every head, turned by angles: Su et al., https://arxiv.org/abs/2104.09864.

    inputs: [x (B, S, H), factors (B, S, F)] -> outputs: [(B, S, H)]. For channel ``d`` of a head, ``p = partners[d]``:
    ``x[d] * factors[cosines[d]] - x[d + p] * factors[sines[d]]`` if p > 0, the sum of both if p < 0, and ``x[d]`` if
    p = 0.
    """

    heads: int
    partners: np.ndarray
    cosines: np.ndarray
    sines: np.ndarray
    leading = 2
    keeps_lead = True

    @property
    def in_channels(self) -> int:
        return self.heads * len(self.partners)

    def fits(self, sizes: Sequence[int | None]) -> bool:
        factors = 1 + max(self.cosines.max(), self.sines.max())
        return sizes[0] == self.in_channels and sizes[1] is not None and sizes[1] >= factors

    def compute(self, x: np.ndarray, factors: np.ndarray) -> np.ndarray:
        split = x.reshape(*x.shape[:-1], self.heads, len(self.partners))
        cosines, sines = (factors[..., None, numbers] for numbers in (self.cosines, self.sines))
        others = split[..., np.arange(len(self.partners)) + self.partners]
        turned = split * cosines - np.sign(self.partners).astype(np.float32) * others * sines
        return np.where(self.partners == 0, split, turned).reshape(x.shape)

    def lower(self, builder: Builder, node: Node) -> None:
        x, factors = (builder.buffer(name) for name in node.inputs)
        partners = padded(np.tile(self.partners, self.heads), x.rows, np.int32)
        places = padded(np.tile(self.cosines | self.sines << 16, self.heads), x.rows, np.int32)
        constants = {"gamma": partners, "beta": places}
        step = Step("rows", [x], source="rotary", rows=x.rows, parameters=factors, constants=constants)
        builder.produce(step, node.outputs[0])
