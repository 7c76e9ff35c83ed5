"""A weight matrix as a file stores it, (K, N), turned into rows of output features, counted on the way.

Compiled, because NumPy takes a pass over the matrix and a temporary array for each of: widening, subtracting the zero
point, transposing, finding nonzeros, padding and reducing blocks, and summing. That was a third of the time that
BERT-base took to load.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsert.kernels.jit import inner, jit

__all__ = ["Rows", "float_rows", "integer_rows"]

_SIDE = 64
"""Side of the squares that are transposed at once: of int8 a cache line wide, and of float32 all in the L1."""


@dataclass(frozen=True)
class Rows:
    """A weight matrix with one row an output feature, and the counts that decide its format."""

    weight: np.ndarray
    """(N, K), int16 with the zero point removed, or float32; contiguous."""
    density: float
    """Fraction of nonzeros; 0 for an empty matrix."""
    block_density: float
    """Fraction of nonzero aligned 4-blocks along the input features."""
    sums: np.ndarray
    """(N,) int64: sum of each row, zeros for float32."""


@inner()
def _turn(stored, column, row, columns, rows, square):
    """square[i, j] = stored[column + j, row + i]; strided reads of ``stored`` itself would fall on few cache sets."""
    for j in range(columns):
        for i in range(rows):
            square[i, j] = stored[column + j, row + i]


@jit()
def _widen(stored, flip, zero_points, weight):
    """weight[n, k] = (stored[k, n] ^ flip) - zero_points[n]."""
    out_features, in_features = weight.shape
    square = np.empty((_SIDE, _SIDE + 16), np.uint8)
    for first_row in range(0, out_features, _SIDE):
        # unsigned, since Numba asks of signed indices whether they count from the end: 1.6 to 3.9 ns an element, not 1
        row, rows = np.uint64(first_row), np.uint64(min(_SIDE, out_features - first_row))
        for first_column in range(0, in_features, _SIDE):
            column, columns = np.uint64(first_column), np.uint64(min(_SIDE, in_features - first_column))
            _turn(stored, column, row, columns, rows, square)
            for i in range(rows):
                zero_point = zero_points[row + i]
                for j in range(columns):
                    weight[row + i, column + j] = np.int16(square[i, j] ^ flip) - zero_point


@jit()
def _transpose(stored, weight):
    """weight[n, k] = stored[k, n]."""
    out_features, in_features = weight.shape
    square = np.empty((_SIDE, _SIDE + 4), np.float32)
    for first_row in range(0, out_features, _SIDE):
        row, rows = np.uint64(first_row), np.uint64(min(_SIDE, out_features - first_row))
        for first_column in range(0, in_features, _SIDE):
            column, columns = np.uint64(first_column), np.uint64(min(_SIDE, in_features - first_column))
            _turn(stored, column, row, columns, rows, square)
            for i in range(rows):
                for j in range(columns):
                    weight[row + i, column + j] = square[i, j]


@jit()
def _count(rows, counts):
    """Add the nonzeros and the nonzero 4-blocks of ``rows`` to ``counts``."""
    out_features, in_features = rows.shape
    whole = in_features // 4 * 4
    for row in range(out_features):
        nonzeros, blocks = 0, 0
        for column in range(in_features):
            nonzeros += rows[row, column] != 0
        for first in range(0, whole, 4):
            blocks += (
                (rows[row, first] != 0)
                | (rows[row, first + 1] != 0)
                | (rows[row, first + 2] != 0)
                | (rows[row, first + 3] != 0)
            )
        rest = False
        for column in range(whole, in_features):
            rest |= rows[row, column] != 0
        counts[0] += nonzeros
        counts[1] += blocks + rest


@jit()
def _sum(rows, sums):
    for row in range(rows.shape[0]):
        total = np.int32(0)  # at most 65535 * 255
        for column in range(rows.shape[1]):
            total += np.int32(rows[row, column])
        sums[row] = total


def _rows(weight: np.ndarray, sums: np.ndarray) -> Rows:
    counts = np.zeros(2, np.int64)
    _count(weight, counts)
    blocks = len(weight) * -(-weight.shape[1] // 4)
    nonzeros, nonzero_blocks = counts.tolist()
    return Rows(weight, nonzeros / max(weight.size, 1), nonzero_blocks / max(blocks, 1), sums)


def _read_only(stored: np.ndarray) -> np.ndarray:
    """A view that cannot be written, as those on a mapped file: for Numba another type, compiled on its own."""
    view = stored.view()
    view.flags.writeable = False
    return view


def integer_rows(stored: np.ndarray, zero_point: np.ndarray | int) -> Rows:
    """Rows of an int8 or uint8 matrix.

    Parameters
    ----------
    stored : int8 or uint8 array, shape (K, N)
    zero_point : integer or integer array, shape () or (N,)
    """
    in_features, out_features = stored.shape
    # an int8 with its highest bit flipped is a uint8 that is 128 too high
    flip = 128 if stored.dtype == np.int8 else 0
    zero_points = np.zeros(out_features, np.int16)
    zero_points[:] = np.asarray(zero_point, np.int16) + flip
    weight = np.empty((out_features, in_features), np.int16)
    _widen(_read_only(np.ascontiguousarray(stored).view(np.uint8)), np.uint8(flip), zero_points, weight)
    sums = np.zeros(out_features, np.int64)
    _sum(weight, sums)
    return _rows(weight, sums)


def float_rows(stored: np.ndarray) -> Rows:
    """Rows of a float32 matrix, shape (K, N)."""
    weight = np.empty(stored.shape[::-1], np.float32)
    _transpose(_read_only(np.require(stored, np.float32, ["C_CONTIGUOUS", "ALIGNED"])), weight)
    return _rows(weight, np.zeros(len(weight), np.int64))
