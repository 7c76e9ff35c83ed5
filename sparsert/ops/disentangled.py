"""Attention of DeBERTa: what a query and a key say of their distance is added to their product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsert.graph.ir import Node
from sparsert.kernels.disentangled import position_table
from sparsert.kernels.records import ATTENTION_PARAMETERS
from sparsert.kernels.table import MODE
from sparsert.ops.base import Builder, FusedOp
from sparsert.ops.steps import PackedLinear, Positions, Step

__all__ = ["DisentangledAttention", "PositionVectors"]

_FARTHEST = 2048
"""Reach up to which vectors are laid out by distance: a layer of 768 channels takes 36 MB there, 10 MB at 512."""

_MASKED_QUERIES = ("attend", "uniform", "zero")


@dataclass(frozen=True, eq=False)
class PositionVectors:
    """A vector for each head and each distance of a query from a key, ``query - key``.

    Attributes
    ----------
    vectors : float32 array, shape (heads, R, D)
    rows : int64 array, shape (2 reach + 1,)
        The row for the distances from ``-reach`` to ``reach``; the first and the last one serve all beyond.
    """

    vectors: np.ndarray
    rows: np.ndarray

    @property
    def reach(self) -> int:
        """The greatest distance that has a row of its own."""
        return len(self.rows) // 2

    def rows_of(self, distances: np.ndarray) -> np.ndarray:
        """Rows of any distances."""
        found: np.ndarray = self.rows[np.clip(distances, -self.reach, self.reach) + self.reach]
        return found


@dataclass(frozen=True, eq=False)
class DisentangledAttention(FusedOp):
    """softmax(scale * (Q K^T + C + P) + mask) V for every head.

    ``C[q, k] = Q[q] . a[q - k]`` and ``P[q, k] = K[k] . b[q - k]``, where ``a`` is ``position_keys`` and ``b``
    ``position_queries``; None stands for zeros. Inputs ([q, k, v, mask?]) and outputs are those of Attention.
    He et al., https://arxiv.org/abs/2006.03654, equation 4.

    ``masked_queries`` says what a query gets that is masked itself: "attend", as any other; "uniform", the mean of all
    values, as where both masks fill scores with the same number; or "zero".
    """

    heads: int
    scale: float
    position_keys: PositionVectors | None
    position_queries: PositionVectors | None
    masked_queries: str = "attend"
    leading = 3
    keeps_lead = True
    mixes = True
    layer_kind = "Attention"

    def fits(self, sizes: Sequence[int | None]) -> bool:
        channels, *others = set(sizes[:3])
        if others or channels is None or channels % self.heads or channels // self.heads % 4:
            return False
        return self.reach <= _FARTHEST

    @property
    def reach(self) -> int:
        """The greatest distance that has a vector of its own."""
        return max(positions.reach for positions in (self.position_keys, self.position_queries) if positions)

    def lower(self, builder: Builder, node: Node) -> None:
        channels = builder.channels[node.inputs[0]]
        size = channels // self.heads
        mask = node.inputs[3] if len(node.inputs) > 3 else ""
        builder.add_mask(mask)
        record = np.zeros(1, ATTENTION_PARAMETERS)
        record["qk_factor"] = self.scale
        none = PositionVectors(np.zeros((self.heads, 1, size), np.float32), np.zeros(1, np.int64))
        keys, queries = (
            position_table(positions.vectors, positions.rows, self.reach)
            for positions in (self.position_keys or none, self.position_queries or none)
        )
        constants = {
            "heads": self.heads,
            "size": size,
            "mask": mask,
            "mode": MODE.floats,
            "positions": None,
            "array": "",
            "distances": Positions(keys, queries, self.reach, _MASKED_QUERIES.index(self.masked_queries)),
            "offset_values": False,
        }
        reads = [builder.buffer(name) for name in node.inputs[:3]]
        builder.produce(
            Step("attention", reads, rows=channels, parameters=record, constants=constants), node.outputs[0]
        )

    def details(self, packed: PackedLinear | None, tier: str) -> dict[str, Any]:
        return {"kernel": f"attention f32 {tier}", "note": f"{self.heads} heads, disentangled"}

    def compute(self, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """One batch item at a time."""
        shape, tokens = q.shape, q.shape[1]
        context = np.empty(shape, np.float32)
        places = np.arange(tokens)
        distances = places[:, None] - places
        if mask is not None:
            mask = np.broadcast_to(mask, shape[:2])
        for item in range(len(q)):
            queries, keys, values = (_heads_first(x[item], self.heads) for x in (q, k, v))
            scores = np.matmul(queries, keys.swapaxes(1, 2))
            if self.position_keys is not None:
                scores += _at_distances(queries, self.position_keys, distances)
            if self.position_queries is not None:
                scores += _at_distances(keys, self.position_queries, distances.T).swapaxes(1, 2)
            scores *= np.float32(self.scale)
            masked = np.zeros(tokens, np.bool_)
            if mask is not None:
                scores += mask[item]
                masked = mask[item] < 0
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            if self.masked_queries != "attend":
                scores[:, masked] = np.float32(1) / tokens if self.masked_queries == "uniform" else 0
            context[item] = np.matmul(scores, values).swapaxes(0, 1).reshape(tokens, -1)
        return context


def _heads_first(x: np.ndarray, heads: int) -> np.ndarray:
    """(S, H) to (heads, S, H / heads)."""
    tokens, channels = x.shape
    return x.reshape(tokens, heads, channels // heads).swapaxes(0, 1)


def _at_distances(x: np.ndarray, positions: PositionVectors, distances: np.ndarray) -> np.ndarray:
    """``x[h, i] . vectors[h, row of distances[i, j]]``, shape (heads, S, S): only rows that occur are multiplied."""
    used, places = np.unique(positions.rows_of(distances), return_inverse=True)
    products = np.matmul(x, positions.vectors[:, used].swapaxes(1, 2))
    index = np.broadcast_to(places.reshape(distances.shape), (len(x), *distances.shape))
    return np.take_along_axis(products, index, axis=2)
