"""Memory: where the buffers of a segment lie, by their lifetimes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsert.kernels.disentangled import POSITION_ROWS
from sparsert.kernels.jit import TILE
from sparsert.kernels.loop.places import ATTENTION_ROWS, ATTENTION_WORK, FLOAT_ROW, STEP_SCRATCH
from sparsert.kernels.table import QUEUE_COLUMNS
from sparsert.ops.steps import Buffer, Step
from sparsert.plan.regions import Division, Region

__all__ = ["Life", "Memory", "MemoryPlan", "aligned", "allocate", "lives_of", "plan_memory"]

_ALIGNMENT = 64
_PAGE = 4096


@dataclass(frozen=True)
class Life:
    """A buffer, and the first and the last step that touch it."""

    buffer: Buffer
    first: int
    last: int


def lives_of(steps: Sequence[Step]) -> list[Life]:
    """The lives of all buffers of some steps."""
    spans: dict[Buffer, tuple[int, int]] = {}
    for index, step in enumerate(steps):
        for buffer in (*step.reads, *step.writes):
            spans[buffer] = (spans[buffer][0] if buffer in spans else index, index)
    return [Life(buffer, first, last) for buffer, (first, last) in spans.items()]


def allocate(lives: Sequence[Life]) -> tuple[dict[Buffer, int], int]:
    """First-fit offsets such that buffers alive at the same step do not overlap; and the size of the whole."""
    placed: list[tuple[int, int, Life]] = []
    offsets: dict[Buffer, int] = {}
    size = 0
    for life in sorted(lives, key=lambda life: (life.first, -life.buffer.nbytes)):
        offset, nbytes = 0, life.buffer.nbytes
        for start, end, other in sorted(placed, key=lambda place: place[:2]):
            if other.first <= life.last and life.first <= other.last and offset < end and start < offset + nbytes:
                offset = end
        placed.append((offset, offset + nbytes, life))
        offsets[life.buffer] = offset
        size = max(size, offset + nbytes)
    return offsets, size


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets of all buffers: ``shared`` ones of a tile in the arena, ``own`` ones of a band in a thread's scratch."""

    shared: dict[Buffer, int]
    own: dict[Buffer, int]
    tile_bytes: int
    """Arena bytes of one tile."""
    scratch_bytes: int
    """Scratch bytes of one thread."""


def plan_memory(steps: Sequence[Step], regions: Sequence[Region], division: Division, key_tiles: int) -> MemoryPlan:
    """Values of one region go to the thread's scratch, the others to the arena.

    ``key_tiles`` is the number of tiles over which a sequence extends, at most.
    """
    region_of = {index: region for region in regions for index in range(region.first, region.stop)}
    own, shared = [], []
    for life in lives_of(steps):
        first, last = region_of[life.first], region_of[life.last]
        if division.strips == 1 and first is last:
            own.append(life)
        else:  # alive for whole regions, since threads run ahead of each other inside one
            shared.append(Life(life.buffer, first.first, last.stop - 1))
    shared_offsets, tile_bytes = allocate(shared)
    own_offsets, own_bytes = allocate(own)
    attention = 0
    for step in steps:
        if step.opcode == "attention":
            rows = (2 * step.constants["size"] + ATTENTION_ROWS) * FLOAT_ROW
            if step.constants["distances"] is not None:
                rows += (2 * key_tiles * TILE + POSITION_ROWS) * FLOAT_ROW
            attention = max(attention, rows + key_tiles * ATTENTION_WORK)
    needed = max(STEP_SCRATCH + own_bytes * division.band, attention)
    # not a multiple of the page: threads' scratches would fall on the same sets of the caches
    return MemoryPlan(shared_offsets, own_offsets, tile_bytes, -(-needed // _PAGE) * _PAGE + _ALIGNMENT)


class Memory:
    """The memory of a plan, for a division.

    Attributes
    ----------
    places : dict
        Of each buffer, (base, stride) as :mod:`sparsert.kernels.table` describes them.
    queues : int64 array, shape (threads, QUEUE_COLUMNS)
    scratch : int
        Address of the first thread's scratch.
    stride : int
        Bytes from one thread's scratch to the next.
    """

    def __init__(self, plan: MemoryPlan, division: Division) -> None:
        self.arena = aligned(plan.tile_bytes * division.tiles)
        self._scratch = aligned(plan.scratch_bytes * division.threads)
        self.scratch, self.stride = self._scratch.ctypes.data, plan.scratch_bytes
        queues = aligned(8 * QUEUE_COLUMNS * division.threads)
        self.queues = queues.view(np.int64).reshape(division.threads, QUEUE_COLUMNS)
        start = self.arena.ctypes.data
        self.places: dict[Buffer, tuple[int, int]] = {
            buffer: (start + offset * division.tiles, buffer.nbytes) for buffer, offset in plan.shared.items()
        }
        for buffer, offset in plan.own.items():
            self.places[buffer] = (STEP_SCRATCH + offset * division.band, -buffer.nbytes)

    @property
    def nbytes(self) -> int:
        """Memory of the activations and scratch in bytes."""
        return self.arena.nbytes + self._scratch.nbytes


def aligned(size: int) -> np.ndarray:
    """Zeroed bytes at a 64-byte boundary."""
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size]
