"""Layout: where the tokens of a batch lie in tiles, whatever the lengths of its sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsert.kernels.jit import TILE
from sparsert.kernels.loop.attention import PIECE_OVERHEAD
from sparsert.kernels.table import META_COLUMNS, MODE, PIECE, PIECE_COLUMNS, TILE_META
from sparsert.plan.segment import Segment

__all__ = ["Layout", "Packing", "even_keys"]

_CHUNK_TILES = 4
"""Tiles per thread, at least, that go through the whole network together: enough to balance the threads, few enough
that their activations stay in the L3."""

_RAGGED_CHUNK_TILES = 16
"""The same for sequences that leave a chunk's last tile partly empty, and its tiles of unequal work: both weigh less in
a larger chunk."""


@dataclass(frozen=True)
class Packing:
    """How sequences are packed into tiles.

    Attributes
    ----------
    threads : int
        Threads that share a chunk.
    whole : bool
        Everything goes through the network together, and has one range where a quantization is dynamic.
    even_keys : float
        Keys at which the attention of a token costs as much as its Linears.
    """

    threads: int
    whole: bool = False
    even_keys: float = np.inf


@dataclass(frozen=True, eq=False)
class Layout:
    """A batch of sequences, end to end in tiles, and in chunks that go through the network one after the other.

    Attributes
    ----------
    chunks : list of (int, int)
        First tile of each chunk, and the tile after its last. A sequence lies in one chunk.
    tiles : int
        Tiles of the largest chunk.
    key_tiles : int
        Most tiles over which a sequence extends.
    longest : int
        Most tokens of a sequence.
    meta : int64 array, shape (all tiles, META_COLUMNS)
    pieces : int64 array, shape (pieces, PIECE_COLUMNS)
        ``meta`` holds addresses of its rows.
    """

    chunks: list[tuple[int, int]]
    tiles: int
    key_tiles: int
    longest: int
    meta: np.ndarray
    pieces: np.ndarray
    _bias_places: np.ndarray | slice
    """(tokens,) index of every token's key bias; a slice if that is the token itself."""
    _bias_size: int

    @classmethod
    def of(cls, lengths: Sequence[int] | np.ndarray, packing: Packing) -> Layout:
        """Lay out sequences of these lengths, each at least 1, in their order."""
        sizes = np.asarray(lengths, np.int64)
        count = len(sizes)
        begins, starts, opens = _place(sizes.tolist(), packing)
        first_tiles, last_tiles = starts // TILE, (starts + sizes - 1) // TILE
        tiles = int(last_tiles[-1]) + 1 if count else 0
        bounds = [*(int(starts[index]) // TILE for index in opens), tiles]
        chunks = list(zip(bounds[:-1], bounds[1:], strict=True))
        chunk_tiles = np.repeat(np.asarray(bounds[:-1], np.int64), np.diff([*opens, count]))

        # keys, from the start of the sequence's first tile; their biases in whole fours
        first_keys = starts - first_tiles * TILE
        stop_keys = first_keys + sizes
        rows = -(-stop_keys // 4) * 4 - first_keys // 4 * 4
        biases = np.cumsum(rows) - rows

        spans = last_tiles - first_tiles + 1
        owner = np.repeat(np.arange(count), spans)
        earlier = np.cumsum(spans) - spans
        tile = first_tiles[owner] + np.arange(len(owner)) - earlier[owner]
        origin = tile * TILE - starts[owner]
        pieces = np.empty((len(owner), PIECE_COLUMNS), np.int64)
        pieces[:, PIECE.first_lane] = np.maximum(-origin, 0)
        pieces[:, PIECE.stop_lane] = np.minimum(sizes[owner] - origin, TILE)
        pieces[:, PIECE.position] = np.maximum(origin, 0)
        pieces[:, PIECE.sequence] = owner
        pieces[:, PIECE.length] = sizes[owner]
        pieces[:, PIECE.key_tile] = (first_tiles - chunk_tiles)[owner]
        pieces[:, PIECE.first_key] = first_keys[owner]
        pieces[:, PIECE.stop_key] = stop_keys[owner]
        pieces[:, PIECE.bias] = biases[owner]
        chunk_pieces = np.repeat(earlier[opens], np.diff([*opens, count]))
        first_pieces = earlier - chunk_pieces
        pieces[:, PIECE.first_piece] = 0 if packing.whole else first_pieces[owner]
        pieces[:, PIECE.stop_piece] = len(owner) if packing.whole else (first_pieces + spans)[owner]

        meta = np.zeros((tiles, META_COLUMNS), np.int64)
        each = np.bincount(tile, minlength=tiles)
        first_pieces = np.cumsum(each) - each
        meta[:, TILE_META.pieces] = pieces.ctypes.data + first_pieces * pieces.strides[0]
        meta[:, TILE_META.piece_count] = each
        if tiles:
            meta[:, TILE_META.first_token] = (begins[owner] + pieces[:, PIECE.position])[first_pieces]
            meta[:, TILE_META.tokens] = pieces[first_pieces + each - 1, PIECE.stop_lane]
            work = pieces[:, PIECE.stop_key] - pieces[:, PIECE.first_key] + PIECE_OVERHEAD
            meta[:, TILE_META.work] = np.add.reduceat(work, first_pieces)
        bias_size, tokens = int(rows.sum()), int(sizes.sum())
        places: np.ndarray | slice = slice(None)
        if bias_size > tokens:
            places = np.repeat(biases + first_keys % 4 - begins, sizes) + np.arange(tokens)
        return cls(
            chunks,
            max((stop - start for start, stop in chunks), default=0),
            int(spans.max(initial=0)),
            int(sizes.max(initial=0)),
            meta,
            pieces,
            places,
            bias_size,
        )

    def key_bias(self, values: np.ndarray | float, out: np.ndarray | None = None) -> np.ndarray:
        """Biases (float32) as attention reads them, from those of all tokens, in order: one number, or (tokens,).

        ``out`` is an earlier result of this layout to write to.
        """
        if out is None:
            out = np.full(self._bias_size, -np.inf, np.float32)
        out[self._bias_places] = values
        return out


def _place(lengths: list[int], packing: Packing) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Every sequence's first token and its place, in lanes of all tiles; and which sequences open a chunk.

    A sequence begins where the one before it ends, or on the next tile if that is cheaper: it may save the sequence a
    tile of queries, and costs empty lanes.
    """
    total = sum(-(-length // TILE) for length in lengths)
    even = all(length % TILE == 0 for length in lengths)
    target = (_CHUNK_TILES if even else _RAGGED_CHUNK_TILES) * packing.threads
    if not even:  # chunks of about the same size
        target = -(-total // max(1, round(total / target)))
    starts, begins, opens = [], [], []
    token = lane = chunk = 0
    for index, length in enumerate(lengths):
        gap = -lane % TILE
        if index == 0 or (lane + gap - chunk >= target * TILE and not packing.whole):
            lane = chunk = lane + gap
            opens.append(index)
        elif gap and gap * packing.even_keys <= TILE * length and _tiles(lane % TILE, length) > _tiles(0, length):
            lane += gap
        starts.append(lane)
        begins.append(token)
        lane += length
        token += length
    return np.asarray(begins, np.int64), np.asarray(starts, np.int64), opens


def _tiles(lane: int, length: int) -> int:
    """Tiles over which a sequence extends that begins at a lane."""
    return (lane + length - 1) // TILE + 1


def even_keys(segment: Segment) -> float:
    """About how many keys make the attention of a token as expensive as its Linears; infinite without attention.

    Only the choice between empty lanes and more queries depends on it, so a count of instructions will do: float32
    takes twice the instructions of int8, and the softmax of one key about those of 40 products.
    """
    linear = 0.0
    for packed in segment.packed.values():
        weight = packed.weight
        linear += packed.density * weight.in_features * weight.out_features * _width(weight.form == "floats")
    attention = sum(
        step.constants["heads"] * (step.constants["size"] * _width(step.constants["mode"] == MODE.floats) + 40)
        for step in segment.steps
        if step.opcode == "attention"
    )
    return linear / attention if attention else np.inf


def _width(floating: bool) -> int:
    return 2 if floating else 1
