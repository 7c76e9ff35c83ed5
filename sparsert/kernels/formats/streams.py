"""Streams: entries of a sparse matrix in the order in which an accumulator reads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsert.kernels.formats.base import BLOCK_ROWS, PackedWeight
from sparsert.kernels.formats.grouping import assign_groups
from sparsert.kernels.jit import jit

__all__ = ["GROUP_SIZES", "SLICE", "Slices", "Streams", "cut", "grouped", "plain"]

GROUP_SIZES = (2, 3, 4, 6, 8)
"""Entries of two or four weights per int16 group, for tiers that sum pairs; the packer picks the size that costs least
for a matrix."""

SLICE = 1020
"""Input features of a slice of an int8 matrix at most: on AVX2 their activations fill an L1 of 32 KB, on AVX-512 their
offsets, uint16 in bytes, end here (64 bytes a feature)."""

_SAMPLE_ROWS = 48
"""Rows looked at to choose the group size."""


@jit()
def _sort_rows(counts, blocks, order):
    """Within each block of rows (first, end), order them by length; ``order`` receives row numbers."""
    for block in range(len(blocks)):
        first = blocks[block, 0]
        # an insertion sort: np.argsort in compiled code takes 9 s to compile
        for row in range(first, blocks[block, 1]):
            place = row
            while place > first and counts[order[place - 1]] > counts[row]:
                order[place] = order[place - 1]
                place -= 1
            order[place] = row


@jit()
def _write_grouped(indptr, columns, values, groups, counts, order, group_entries, scale, out_values, out_offsets):
    """Write entries group by group; ``values`` (entries,) is copied to ``out_values``, padding stays zero."""
    position = 0
    for r in order:
        used = np.zeros(max(counts[r], 1), np.int64)
        for e in range(indptr[r], indptr[r + 1]):
            g = groups[e]
            slot = position + g * group_entries + used[g]
            out_values[slot] = values[e]
            out_offsets[slot] = columns[e] * scale
            used[g] += 1
        position += counts[r] * group_entries


@jit()
def _write_plain(indptr, columns, values, counts, order, unroll, scale, out_values, out_offsets):
    """Write entries in row order, each row padded with zeros to a multiple of ``unroll`` entries."""
    position = 0
    for r in order:
        start = indptr[r]
        for e in range(start, indptr[r + 1]):
            out_values[position + e - start] = values[e]
            out_offsets[position + e - start] = columns[e] * scale
        position += counts[r] * unroll


@dataclass(frozen=True)
class Slices:
    """A matrix cut along its input features: the slices' rows lie below each other."""

    weight: np.ndarray
    count: int
    features: int
    rows: int
    panel: int = 1
    """Rows of output that are one row of entries."""

    @property
    def blocks(self) -> np.ndarray:
        """(blocks, 2): first row of each block of rows, and the row after its last; no block spans two slices."""
        size = BLOCK_ROWS // self.panel
        firsts = np.arange(0, self.rows, size)
        ends = np.minimum(firsts + size, self.rows)
        shifts = np.arange(self.count)[:, None] * self.rows
        return np.stack([(shifts + firsts).ravel(), (shifts + ends).ravel()], axis=1)


def cut(weight: np.ndarray, most: int, finer: int = 1) -> Slices:
    """Cut (N, K) into slices of at most ``most`` input features, or into ``finer`` times as many."""
    rows, columns = weight.shape
    count = max(1, -(-columns // most)) * finer
    if count == 1:
        return Slices(weight, 1, 0, rows)
    width = -(-columns // (4 * count)) * 4
    padded = np.zeros((count, rows, width), weight.dtype)
    for i in range(count):
        part = weight[:, i * width : (i + 1) * width]
        padded[i, :, : part.shape[1]] = part
    return Slices(padded.reshape(count * rows, width), count, width, rows)


def _block_starts(
    counts: np.ndarray, order: np.ndarray, slices: Slices, weight_bytes: int, offset_bytes: int
) -> np.ndarray:
    """(blocks, 2): where the streams of each block of rows start, in bytes."""
    ends = np.concatenate([[0], np.cumsum(counts[order], dtype=np.int64)])
    firsts = ends[slices.blocks[:, 0]]
    return np.ascontiguousarray(np.stack([firsts * weight_bytes, firsts * offset_bytes], axis=1))


def _headers(counts: np.ndarray, order: np.ndarray, slices: Slices, out_features: int) -> np.ndarray:
    """(slices * out_features, 2) int32: scratch row and number of groups; a block has those of its panels first."""
    rows, size = max(slices.rows, 1), BLOCK_ROWS // slices.panel
    turn, place = np.divmod(np.arange(len(order)), rows)
    headers = np.zeros((slices.count * out_features, 2), np.int32)
    headers[turn * out_features + place // size * BLOCK_ROWS + place % size] = np.stack(
        [order % rows % size * slices.panel, counts[order]], axis=1
    )
    return headers


@dataclass(frozen=True)
class Streams:
    """Rows of entries, ordered and padded to whole groups."""

    slices: Slices
    variant: int
    counts: np.ndarray
    """Groups of each row."""
    order: np.ndarray
    values: np.ndarray
    offsets: np.ndarray

    def packed(
        self,
        name: str,
        weight: np.ndarray,
        weight_bytes: int,
        offset_bytes: int,
        values: np.ndarray | None = None,
    ) -> PackedWeight:
        """The weight in a format; ``values`` replace those of the streams, and bytes are those of a group.

        Without bytes of offsets these are in the stream of weights.
        """
        return PackedWeight(
            name,
            self.variant,
            *weight.shape,
            headers=_headers(self.counts, self.order, self.slices, len(weight)),
            weights=self.values.view(np.int32) if values is None else values,
            offsets=self.offsets if offset_bytes else self.offsets[:0],
            starts=_block_starts(self.counts, self.order, self.slices, weight_bytes, offset_bytes),
            slices=self.slices.count,
            slice_features=self.slices.features,
        )


def plain(
    indptr: np.ndarray, columns: np.ndarray, values: np.ndarray, slices: Slices, *, unroll: int, scale: int
) -> Streams:
    """Entries in the order of their columns, ``unroll`` of them a group; ``scale`` makes a column an offset."""
    counts = -(-np.diff(indptr) // unroll)
    order = np.zeros(len(counts), np.int64)
    _sort_rows(counts, slices.blocks, order)
    out_values = np.zeros(int(counts.sum()) * unroll, values.dtype)
    offsets = np.zeros(len(out_values), np.int32 if values.dtype == np.float32 else np.uint16)
    _write_plain(indptr, columns, values, counts, order, unroll, scale, out_values, offsets)
    return Streams(slices, 0, counts, order, out_values, offsets)


_GROUP_COST = 5.5
"""What a group costs beside its steps, in instructions of a step.

The kernels that sum pairs have 9 instructions a group, but they take 0.45 (blocks), 0.48 (unstructured) and 0.6 (pairs)
of a step's time (Zen 3, slopes over all sizes of groups on MiniLM's and the roofline's matrices).
"""


def grouped(
    indptr: np.ndarray,
    columns: np.ndarray,
    values: np.ndarray,
    lanes: np.ndarray,
    slices: Slices,
    *,
    entries_per_step: int,
    scale: int,
    step_cost: float,
) -> Streams:
    """Entries in groups whose int16 sums are exact, of the size that costs least; its index is the variant.

    ``lanes`` holds what each entry adds to the sums of its group, as
    :func:`sparsert.kernels.formats.grouping.lane_sums` gives it; ``step_cost`` is the number of instructions of a step
    of ``entries_per_step`` entries.
    """
    rows = len(indptr) - 1
    sample = np.unique(np.linspace(0, max(rows - 1, 0), min(rows, _SAMPLE_ROWS)).astype(np.int64))
    groups = np.zeros(len(values), np.int32)
    best, best_cost = 0, np.inf
    for variant, size in enumerate(GROUP_SIZES):
        counts = np.zeros(len(sample), np.int64)
        assign_groups(indptr, lanes, sample, size * entries_per_step, groups, counts)
        cost = float(counts.sum()) * (size * step_cost + _GROUP_COST)
        if cost < best_cost:
            best, best_cost = variant, cost
    group_entries = GROUP_SIZES[best] * entries_per_step
    counts = np.zeros(rows, np.int64)
    assign_groups(indptr, lanes, np.arange(rows), group_entries, groups, counts)
    order = np.zeros(rows, np.int64)
    _sort_rows(counts, slices.blocks, order)
    out_values = np.zeros(int(counts.sum()) * group_entries, values.dtype)
    out_offsets = np.zeros(len(out_values), np.uint16)
    _write_grouped(indptr, columns, values, groups, counts, order, group_entries, scale, out_values, out_offsets)
    return Streams(slices, best, counts, order, out_values, out_offsets)
