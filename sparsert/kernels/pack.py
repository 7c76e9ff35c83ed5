"""Packing: a weight matrix into the streams that the accumulators read. Done once, when a model is compiled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsert.kernels.accumulate import (
    BLOCK_ROWS,
    DENSE_ROWS,
    GROUP_SIZES,
    MOST_GROUPS,
    WIDE_BLOCK_ROWS,
    WIDE_ROWS,
)
from sparsert.kernels.entries import block_entries, float_entries, integer_entries
from sparsert.kernels.grouping import assign_groups, lane_sums
from sparsert.kernels.jit import TIER, TILE, jit

__all__ = [
    "PackedWeight",
    "pack_blocks",
    "pack_dense",
    "pack_float_dense",
    "pack_float_sparse",
    "pack_unstructured",
]

_SLICE = 1020
"""Input features of a slice of an int8 matrix at most: on AVX2 their activations fill an L1 of 32 KB, on AVX-512 their
offsets, uint16 in bytes, end here (64 bytes a feature)."""

_FLOAT_SLICE = 256
"""The same for float32: 32 KB on AVX2."""

_SAMPLE_ROWS = 48
"""Rows looked at to choose the group size."""


@dataclass(frozen=True)
class PackedWeight:
    """Streams of one matrix, slice after slice.

    Blocks of :data:`BLOCK_ROWS` rows start at ``starts`` (blocks of all slices, 2), bytes into weights and offsets;
    ``headers`` has a line for every row of every slice.
    """

    form: str
    """What the activations must look like: "rows" (uint8 [K][TILE]), "quads" (uint8 [K/4][TILE][4]) or "floats"."""
    kernel: str
    """"unstructured", "blocks", "dense", "float_sparse" or "float_dense"."""
    variant: int
    """Index into GROUP_SIZES for the grouped AVX2 kernels, else 0."""
    out_features: int
    in_features: int
    headers: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    starts: np.ndarray
    slices: int = 1
    slice_features: int = 0
    """Input features from the start of one slice to the start of the next; 0 without slices."""

    @property
    def nbytes(self) -> int:
        """Memory of the packed matrix in bytes."""
        return self.headers.nbytes + self.weights.nbytes + self.offsets.nbytes + self.starts.nbytes


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
class _Slices:
    """A matrix cut along its input features: the slices' rows lie below each other."""

    weight: np.ndarray
    count: int
    features: int
    rows: int

    @property
    def blocks(self) -> np.ndarray:
        """(blocks, 2): first row of each block of rows, and the row after its last; no block spans two slices."""
        firsts = np.arange(0, self.rows, BLOCK_ROWS)
        ends = np.minimum(firsts + BLOCK_ROWS, self.rows)
        shifts = np.arange(self.count)[:, None] * self.rows
        return np.stack([(shifts + firsts).ravel(), (shifts + ends).ravel()], axis=1)


def _cut(weight: np.ndarray, most: int, finer: int = 1) -> _Slices:
    """Cut (N, K) into slices of at most ``most`` input features, or into ``finer`` times as many."""
    rows, columns = weight.shape
    count = max(1, -(-columns // most)) * finer
    if count == 1:
        return _Slices(weight, 1, 0, rows)
    width = -(-columns // (4 * count)) * 4
    padded = np.zeros((count, rows, width), weight.dtype)
    for i in range(count):
        part = weight[:, i * width : (i + 1) * width]
        padded[i, :, : part.shape[1]] = part
    return _Slices(padded.reshape(count * rows, width), count, width, rows)


def _block_starts(
    counts: np.ndarray, order: np.ndarray, slices: _Slices, weight_bytes: int, offset_bytes: int
) -> np.ndarray:
    """(blocks, 2): where the streams of each block of rows start, in bytes."""
    ends = np.concatenate([[0], np.cumsum(counts[order], dtype=np.int64)])
    firsts = ends[slices.blocks[:, 0]]
    return np.ascontiguousarray(np.stack([firsts * weight_bytes, firsts * offset_bytes], axis=1))


def _headers(counts: np.ndarray, order: np.ndarray, slices: _Slices) -> np.ndarray:
    """(rows, 2) int32: scratch row and number of groups."""
    scratch_rows = order % max(slices.rows, 1) % BLOCK_ROWS
    return np.ascontiguousarray(np.stack([scratch_rows, counts[order]], axis=1).astype(np.int32))


def _grouped(
    indptr: np.ndarray,
    columns: np.ndarray,
    values: np.ndarray,
    lanes: np.ndarray,
    *,
    slices: _Slices,
    entries_per_step: int,
    scale: int,
    step_cost: float,
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Group entries for AVX2 with the group size that costs least: (variant, counts, order, values, offsets).

    ``lanes`` holds what each entry adds to the sums of its group, as :func:`lane_sums` gives it.
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
    return best, counts, order, out_values, out_offsets


_PAIR_COST, _BLOCK_COST, _GROUP_COST = 11.0, 14.0, 9.0
"""Instructions per pair, per 4-block and per group of the AVX2 kernels, counted in their assembly."""


def pack_unstructured(weight: np.ndarray) -> PackedWeight:
    """Pack integer weights (N, K), zero point removed, values in -255..255, for any sparsity pattern."""
    slices = _cut(weight, _SLICE)
    if not TIER.pairs:
        variant, counts, order, values, offsets = _plain(*integer_entries(slices.weight), slices, unroll=4, scale=TILE)
        starts = _block_starts(counts, order, slices, 4, 8)
        stream = values.view(np.int32)
        return _packed("rows", "unstructured", variant, weight, slices, counts, order, stream, offsets, starts)
    finer = 1
    while True:
        indptr, columns, values = integer_entries(slices.weight)
        lanes = lane_sums(values[:, None])
        variant, counts, order, out, offsets = _grouped(
            indptr, columns, values, lanes, slices=slices, entries_per_step=2, scale=TILE, step_cost=_PAIR_COST
        )
        if not counts.size or counts.max() <= MOST_GROUPS:
            break
        finer *= 2
        slices = _cut(weight, _SLICE, finer)
    stream = np.empty((len(out) // 2, 4), np.int16)
    stream[:, 0] = stream[:, 1] = out.view(np.int16)
    stream[:, 2:] = offsets.reshape(-1, 2).view(np.int16)
    starts = _block_starts(counts, order, slices, 8 * GROUP_SIZES[variant], 0)
    return _packed("rows", "unstructured", variant, weight, slices, counts, order, stream.ravel(), offsets[:0], starts)


def _packed(
    form: str,
    kernel: str,
    variant: int,
    weight: np.ndarray,
    slices: _Slices,
    counts: np.ndarray,
    order: np.ndarray,
    stream: np.ndarray,
    offsets: np.ndarray,
    starts: np.ndarray,
) -> PackedWeight:
    headers = _headers(counts, order, slices)
    return PackedWeight(
        form, kernel, variant, *weight.shape, headers, stream, offsets, starts, slices.count, slices.features
    )


def _plain(
    indptr: np.ndarray, columns: np.ndarray, values: np.ndarray, slices: _Slices, *, unroll: int, scale: int
) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    counts = -(-np.diff(indptr) // unroll)
    order = np.zeros(len(counts), np.int64)
    _sort_rows(counts, slices.blocks, order)
    out_values = np.zeros(int(counts.sum()) * unroll, values.dtype)
    offsets = np.zeros(len(out_values), np.int32 if values.dtype == np.float32 else np.uint16)
    _write_plain(indptr, columns, values, counts, order, unroll, scale, out_values, offsets)
    return 0, counts, order, out_values, offsets


def _quads(weight: np.ndarray) -> np.ndarray:
    """(N, K) padded to (N, ceil(K / 4), 4) int8; 9-bit values continue in additional quads of the same channels."""
    padded = np.pad(weight, ((0, 0), (0, -weight.shape[1] % 4)))
    return padded.reshape(len(weight), -1, 4)


def pack_blocks(weight: np.ndarray) -> PackedWeight:
    """Pack integer weights (N, K), values in -255..255: the aligned blocks of 4 channels that hold a nonzero."""
    slices = _cut(weight, _SLICE)
    indptr, columns, blocks = block_entries(slices.weight, paired=TIER.pairs)
    values = blocks.view(np.int32).ravel()
    scale = 4 * TILE
    if TIER.pairs:
        lanes = lane_sums(blocks)
        variant, counts, order, stream, offsets = _grouped(
            indptr, columns, values, lanes, slices=slices, entries_per_step=1, scale=scale, step_cost=_BLOCK_COST
        )
        starts = _block_starts(counts, order, slices, 4 * GROUP_SIZES[variant], 2 * GROUP_SIZES[variant])
    else:
        variant, counts, order, stream, offsets = _plain(indptr, columns, values, slices, unroll=2, scale=scale)
        starts = _block_starts(counts, order, slices, 8, 4)
    return _packed("quads", "blocks", variant, weight, slices, counts, order, stream, offsets, starts)


def pack_dense(weight: np.ndarray) -> PackedWeight:
    """Pack int8 weights (N, K) without a sparsity format; on AVX2 the grouped 4-block kernel is the dense kernel."""
    if TIER.pairs or ((weight > 127) | (weight < -128)).any():
        return pack_blocks(weight)
    quads = np.pad(_quads(weight), ((0, -len(weight) % DENSE_ROWS), (0, 0), (0, 0))).astype(np.int8)
    panels = quads.reshape(-1, DENSE_ROWS, quads.shape[1], 4).transpose(0, 2, 1, 3)
    stream = np.ascontiguousarray(panels).view(np.int32).ravel()
    block_bytes = BLOCK_ROWS * quads.shape[1] * 4
    starts = np.zeros((-(-len(weight) // BLOCK_ROWS), 2), np.int64)
    starts[:, 0] = np.arange(len(starts)) * block_bytes
    headers, offsets = np.zeros((0, 2), np.int32), np.zeros(0, np.uint16)
    return PackedWeight("quads", "dense", 0, *weight.shape, headers, stream, offsets, starts)


def pack_float_sparse(weight: np.ndarray) -> PackedWeight:
    """Pack float32 weights (N, K) as CSR with byte offsets."""
    slices = _cut(weight, _FLOAT_SLICE)
    indptr, columns, values = float_entries(slices.weight)
    variant, counts, order, stream, offsets = _plain(indptr, columns, values, slices, unroll=2, scale=4 * TILE)
    starts = _block_starts(counts, order, slices, 8, 8)
    return _packed("floats", "float_sparse", variant, weight, slices, counts, order, stream, offsets, starts)


@jit()
def _write_panels(weight, stream):
    """Panel after panel: weights of panel rows r, r + 1, ... of the first column, then of the next."""
    rows, columns = weight.shape
    row = 0
    while row < rows:
        inside = row % BLOCK_ROWS
        whole = row - inside + BLOCK_ROWS <= rows
        panel = WIDE_ROWS if whole and inside < WIDE_BLOCK_ROWS else DENSE_ROWS
        held = min(panel, rows - row)
        for column in range(columns):
            start = row * columns + column * panel
            for r in range(held):
                stream[start + r] = weight[row + r, column]
        row += panel


def pack_float_dense(weight: np.ndarray) -> PackedWeight:
    """Pack float32 weights (N, K) as panels of rows, see :func:`sparsert.kernels.accumulate.accumulate_float_dense`."""
    stream = np.zeros(-(-len(weight) // DENSE_ROWS) * DENSE_ROWS * weight.shape[1], np.float32)
    _write_panels(weight, stream)
    starts = np.zeros((-(-len(weight) // BLOCK_ROWS), 2), np.int64)
    starts[:, 0] = np.arange(len(starts)) * (BLOCK_ROWS * weight.shape[1] * 4)
    headers, offsets = np.zeros((0, 2), np.int32), np.zeros(0, np.int32)
    return PackedWeight("floats", "float_dense", 0, *weight.shape, headers, stream, offsets, starts)
