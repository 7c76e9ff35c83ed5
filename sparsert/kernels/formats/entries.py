"""Entries of a sparse matrix, row by row: nonzeros, or aligned blocks of four, as the packers deal them out.

Compiled: ``np.nonzero`` and indexing by its results took longer than all the rest of packing for AVX-512.
"""

from __future__ import annotations

import numpy as np

from sparsert.kernels.jit import inner, jit

__all__ = ["LIMIT", "block_entries", "float_entries", "integer_entries", "two_row_entries"]

LIMIT = 128
"""Sum of the positive (or negative) weights of an int16 group: 255 * 128 = 32640 fits int16."""

_PARTS = 4
"""Blocks that a block of weights in -255..255 is split into at most: 255 + 255 is 4 times (64 + 64) at most."""


@jit()
def _count_nonzeros(weight, indptr):
    """Entries of each row; a weight beyond int8 is as many as it takes."""
    indptr[0] = 0
    for row in range(weight.shape[0]):
        count = 0
        for column in range(weight.shape[1]):
            value = np.int32(weight[row, column])
            count += (value != 0) + (value > 127) + (value > 254) + (value < -128)
        indptr[row + 1] = indptr[row] + count


@jit()
def _write_nonzeros(weight, indptr, columns, values):
    """Entries in the order of columns, then what is left of weights beyond int8, and what is left of that.

    ``columns`` and ``values`` have one element more than there are entries: all are stored, without a branch, and the
    place moves on after those to keep.
    """
    width = np.uint64(weight.shape[1])
    for row in range(weight.shape[0]):
        place, end = np.uint64(indptr[row]), np.uint64(indptr[row + 1])
        for column in range(width):
            value = weight[row, column]
            columns[place] = column
            values[place] = min(max(value, -128), 127)
            place += np.uint64(value != 0)
        taken = 1
        while place < end:
            for column in range(width):
                value = np.int32(weight[row, column])
                rest = max(value - 127 * taken, 0) + min(value + 128 * taken, 0)
                columns[place] = column
                values[place] = min(max(rest, -128), 127)
                place += np.uint64(rest != 0)
            taken += 1


@jit()
def _count_floats(weight, indptr):
    indptr[0] = 0
    for row in range(weight.shape[0]):
        count = 0
        for column in range(weight.shape[1]):
            count += weight[row, column] != 0
        indptr[row + 1] = indptr[row] + count


@jit()
def _write_floats(weight, indptr, columns, values):
    for row in range(weight.shape[0]):
        place = np.uint64(indptr[row])
        for column in range(np.uint64(weight.shape[1])):
            value = weight[row, column]
            columns[place] = column
            values[place] = value
            place += np.uint64(value != 0)


def integer_entries(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nonzeros of an integer matrix; a weight beyond int8 becomes several entries.

    Parameters
    ----------
    weight : int16 array, shape (N, K)
        Values in -255..255.

    Returns
    -------
    indptr : int64 array, shape (N + 1,)
    columns : int64 array, shape (entries,)
    values : int8 array, shape (entries,)
        Those of one place add up to its weight.
    """
    indptr = np.empty(len(weight) + 1, np.int64)
    _count_nonzeros(weight, indptr)
    columns, values = np.empty(indptr[-1] + 1, np.int64), np.empty(indptr[-1] + 1, np.int8)
    _write_nonzeros(weight, indptr, columns, values)
    return indptr, columns[:-1], values[:-1]


def float_entries(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nonzeros of a float32 matrix (N, K): indptr, columns and values as :func:`integer_entries` gives them."""
    indptr = np.empty(len(weight) + 1, np.int64)
    _count_floats(weight, indptr)
    columns, values = np.empty(indptr[-1] + 1, np.int64), np.empty(indptr[-1] + 1, np.float32)
    _write_floats(weight, indptr, columns, values)
    return indptr, columns[:-1], values[:-1]


@inner()
def _fits(block, paired):
    """Whether the kernel can take a block: int8 values, and if ``paired`` no pair that can leave int16."""
    if max(max(block[0], block[1]), max(block[2], block[3])) > 127:
        return False
    if not paired:
        return min(min(block[0], block[1]), min(block[2], block[3])) >= -128
    high = max(max(block[0], 0) + max(block[1], 0), max(block[2], 0) + max(block[3], 0))
    low = min(min(block[0], 0) + min(block[1], 0), min(block[2], 0) + min(block[3], 0))
    return high <= LIMIT and low >= -LIMIT


@inner()
def _blocks_of(quads, paired, columns, words, blocks):
    """Nonzero blocks of a row, those that do not fit halved until they do; returns how many there are.

    ``quads`` (blocks,) and ``words`` hold four int16 in an int64; ``blocks`` is ``words`` as (blocks, 4) int16.
    """
    place = np.uint64(0)
    for quad in range(np.uint64(quads.size)):
        columns[place] = quad
        words[place] = quads[quad]
        place += np.uint64(quads[quad] != 0)
    checked, count = 0, np.int64(place)
    while checked < count:  # w = w // 2 + (w - w // 2)
        first, checked = checked, count
        for i in range(first, checked):
            while not _fits(blocks[i], paired):
                columns[count] = columns[i]
                for lane in range(4):
                    half = blocks[i, lane] >> 1
                    blocks[count, lane] = blocks[i, lane] - half
                    blocks[i, lane] = half
                count += 1
    return count


@jit()
def _count_blocks(quads, paired, columns, words, blocks, indptr):
    indptr[0] = 0
    for row in range(quads.shape[0]):
        indptr[row + 1] = indptr[row] + _blocks_of(quads[row], paired, columns, words, blocks)


@jit()
def _write_blocks(quads, paired, row_columns, words, blocks, indptr, columns, values):
    for row in range(quads.shape[0]):
        first = indptr[row]
        for i in range(_blocks_of(quads[row], paired, row_columns, words, blocks)):
            columns[first + i] = row_columns[i]
            for lane in range(4):
                values[first + i, lane] = blocks[i, lane]


def block_entries(weight: np.ndarray, paired: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks of four adjacent weights that hold a nonzero; one that a kernel cannot take becomes several.

    Parameters
    ----------
    weight : int16 array, shape (N, K)
        Values in -255..255.
    paired : bool
        Whether a block must not only fit int8, but its positive and its negative weights of lanes 0 and 1, and of lanes
        2 and 3, must sum to :data:`LIMIT` at most.

    Returns
    -------
    indptr : int64 array, shape (N + 1,)
    columns : int64 array, shape (entries,)
        Numbers of blocks: input features / 4.
    values : int8 array, shape (entries, 4)
        Those of one place add up to its weights.
    """
    missing = -weight.shape[1] % 4
    quads = (np.pad(weight, ((0, 0), (0, missing))) if missing else weight).view(np.int64)
    most = _PARTS * quads.shape[1] + 1
    row_columns, words = np.empty(most, np.int64), np.empty(most, np.int64)
    blocks = words.view(np.int16).reshape(most, 4)
    indptr = np.empty(len(weight) + 1, np.int64)
    _count_blocks(quads, paired, row_columns, words, blocks, indptr)
    columns, values = np.empty(indptr[-1], np.int64), np.empty((indptr[-1], 4), np.int8)
    _write_blocks(quads, paired, row_columns, words, blocks, indptr, columns, values)
    return indptr, columns, values


@inner()
def _parts_of(weight, row, first):
    """Into how many parts the weights of two rows from column ``first`` on are split, so that each part fits.

    A part's weights are within 1 of the others', so a sum of two is within 1.3 of its share of 127.
    """
    largest = 0
    for r in range(row, row + 2):
        for column in range(first, first + 4, 2):
            high = max(weight[r, column], 0) + max(weight[r, column + 1], 0)
            low = min(weight[r, column], 0) + min(weight[r, column + 1], 0)
            largest = max(largest, max(high, -low))
    return (largest + LIMIT - 2) // (LIMIT - 1)


@jit()
def _count_two_rows(weight, indptr):
    indptr[0] = 0
    for row in range(0, weight.shape[0], 2):
        count = 0
        for first in range(0, weight.shape[1], 4):
            count += _parts_of(weight, row, first)
        indptr[row // 2 + 1] = indptr[row // 2] + count


@jit()
def _write_two_rows(weight, columns, values):
    place = 0
    for row in range(0, weight.shape[0], 2):
        for first in range(0, weight.shape[1], 4):
            parts = _parts_of(weight, row, first)
            for part in range(parts):
                columns[place] = first // 4
                for lane in range(8):
                    value = np.int64(weight[row + lane // 4, first + lane % 4])
                    values[place, lane] = value * (part + 1) // parts - value * part // parts
                place += 1


def two_row_entries(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks of four adjacent weights of two adjacent rows each; those beyond what a kernel can take are several.

    Parameters
    ----------
    weight : int16 array, shape (N, K)
        Values in -255..255; N is even.

    Returns
    -------
    indptr : int64 array, shape (N / 2 + 1,)
    columns : int64 array, shape (entries,)
        Numbers of blocks: input features / 4.
    values : int8 array, shape (entries, 8)
        Four weights of the first row and four of the second. Those of one place add up to its weights, and fit as
        :func:`block_entries` says.
    """
    weight = np.pad(weight, ((0, 0), (0, -weight.shape[1] % 4)))
    indptr = np.empty(len(weight) // 2 + 1, np.int64)
    _count_two_rows(weight, indptr)
    columns, values = np.empty(indptr[-1], np.int64), np.empty((indptr[-1], 8), np.int8)
    _write_two_rows(weight, columns, values)
    return indptr, columns, values
