"""What attention adds to a score for the positions of its query and its key: tables, made for the lengths that come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sparsert.errors import InputRangeError, InputShapeError
from sparsert.graph.grids import as_distance, compute
from sparsert.graph.symbolic import Expr
from sparsert.kernels.jit import TILE
from sparsert.kernels.loop.attention import UNBOUNDED

__all__ = ["HIDDEN", "NO_BIAS", "BiasTable", "PositionBias", "bias_of_array"]

HIDDEN = -1e9
"""What is at most this and added to a score hides a key: no score outweighs it."""

_DISTANCE: Expr = ("distance",)
_STEP = 64
"""Tables are made for lengths in steps of so many tokens, so that they are made rarely."""

_BEYOND = 2 * TILE
"""Numbers on either side of a table that kernels read for lanes and keys of nobody; they are 0."""


@dataclass(frozen=True, eq=False)
class BiasTable:
    """Numbers of query and key as kernels read them.

    Attributes
    ----------
    values : float32 array
        Holds the numbers; those of consecutive queries are adjacent.
    address : int
        Of the number of the first sequence, head, query and key; 0 if nothing is added.
    item, head, stride : int
        Bytes from there to those of the next sequence, head and key.
    before, after : int
        How many keys before its own place and behind it a query sees at most.
    """

    values: np.ndarray
    address: int = 0
    item: int = 0
    head: int = 0
    stride: int = 0
    before: int = UNBOUNDED
    after: int = UNBOUNDED


NO_BIAS = BiasTable(np.zeros(0, np.float32))


class PositionBias:
    """A function of the head, the position of the query and that of the key in their sequence, and of nothing else.

    Parameters
    ----------
    expr : Expr
        The function; it reads ``indices`` and ``tables``.
    indices : (Expr, Expr, Expr)
        The index variables of head, query and key.
    tables : dict
        Constants by name.
    heads : int
    """

    def __init__(
        self, expr: Expr, indices: tuple[Expr, Expr, Expr], tables: Mapping[str, np.ndarray], heads: int
    ) -> None:
        self.expr, self.indices, self.tables, self.heads = expr, indices, tables, heads
        self._distances = as_distance(expr, indices[1], indices[2], _DISTANCE)
        self._made: tuple[int, BiasTable] | None = None

    def values(self, tokens: int) -> np.ndarray:
        """All numbers of sequences of so many tokens, float32 (heads or 1, queries, keys).

        Raises
        ------
        InputRangeError
            The model's table has no numbers for so many tokens.
        """
        try:
            return self._values(tokens)
        except IndexError as error:
            raise InputRangeError(
                f"The input has a sequence of {tokens} tokens, for which the model's table of relative positions is "
                "too small; shorten the sequence"
            ) from error

    def table(self, tokens: int) -> BiasTable:
        """The numbers of sequences of up to so many tokens, for kernels; errors are those of :meth:`values`."""
        made = self._made
        if made is None or made[0] < tokens:
            rounded = -(-tokens // _STEP) * _STEP
            try:
                made = rounded, self._table(rounded)
            except IndexError:
                self.values(tokens)
                made = tokens, self._table(tokens)
            self._made = made
        return made[1]

    def _values(self, tokens: int) -> np.ndarray:
        head, query, key = self.indices
        places = np.arange(tokens)
        leaves = {head: np.arange(self.heads)[:, None, None], query: places[:, None], key: places}
        values = compute(self.expr, leaves, self.tables).astype(np.float32, copy=False)
        values = values.reshape((1,) * (3 - values.ndim) + values.shape)
        return np.broadcast_to(values, (len(values), tokens, tokens))

    def _table(self, tokens: int) -> BiasTable:
        if self._distances is None:
            values = self._values(tokens)
            if not np.array_equal(values[:, 1:, 1:], values[:, :-1, :-1]):
                return _of_pairs(values[None])
            line = np.concatenate([values[:, 0, :0:-1], values[:, :, 0]], axis=1)
        else:
            leaves = {self.indices[0]: np.arange(self.heads)[:, None], _DISTANCE: np.arange(1 - tokens, tokens)}
            found = compute(self._distances, leaves, self.tables).astype(np.float32, copy=False)
            found = found.reshape((1,) * (2 - found.ndim) + found.shape)
            line = np.broadcast_to(found, (len(found), 2 * tokens - 1))
        return _of_distances(line, tokens)


def _of_distances(line: np.ndarray, tokens: int) -> BiasTable:
    """The table of numbers (heads or 1, 2 tokens - 1) of the distances, query minus key, from 1 - tokens on."""
    before = after = UNBOUNDED
    seen = np.flatnonzero((line > HIDDEN).any(axis=0)) - (tokens - 1)
    if len(seen) and len(seen) == seen[-1] - seen[0] + 1 and seen[0] <= 0 <= seen[-1]:
        before = int(seen[-1]) if seen[-1] < tokens - 1 else UNBOUNDED
        after = int(-seen[0]) if seen[0] > 1 - tokens else UNBOUNDED
    values = np.pad(line, ((0, 0), (_BEYOND, _BEYOND)))
    address = values.ctypes.data + 4 * (_BEYOND + tokens - 1)
    head = values.strides[0] if len(values) > 1 else 0
    return BiasTable(values, address, head=head, stride=-4, before=before, after=after)


def _of_pairs(values: np.ndarray) -> BiasTable:
    """The table of numbers (sequences or 1, heads or 1, queries, keys)."""
    items, heads, queries, keys = values.shape
    table = np.zeros((items, heads, keys + 8, queries + 2 * _BEYOND), np.float32)
    table[:, :, 4:-4, _BEYOND:-_BEYOND] = values.swapaxes(2, 3)
    item, head = (table.strides[axis] if table.shape[axis] > 1 else 0 for axis in (0, 1))
    stride = table.strides[2]
    return BiasTable(table, table.ctypes.data + 4 * stride + 4 * _BEYOND, item, head, stride)


def bias_of_array(array: np.ndarray, items: int, heads: int, lead: tuple[int, ...]) -> BiasTable:
    """The table of an array that is added to scores (items, heads, tokens, tokens); ``lead`` is (items, tokens).

    Raises
    ------
    InputShapeError
        The array does not broadcast to that shape.
    """
    tokens = lead[-1]
    shape = (1,) * (4 - array.ndim) + array.shape
    if (
        len(lead) != 2
        or len(shape) != 4
        or any(size not in (1, full) for size, full in zip(shape, (items, heads, tokens, tokens), strict=True))
    ):
        raise InputShapeError(
            f"What is added to the scores of attention has shape {array.shape}, expected one that broadcasts to "
            f"({items}, {heads}, {tokens}, {tokens})"
        )
    return _of_pairs(np.broadcast_to(array.reshape(shape), (*shape[:2], tokens, tokens)))
