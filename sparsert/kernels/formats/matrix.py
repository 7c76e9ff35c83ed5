"""A weight matrix as a file stores it, (K, N), turned into rows of output features.

Compiled, because NumPy takes a pass over the matrix and a temporary array for each of: widening, subtracting the zero
point, transposing, and summing. That was a third of the time that BERT-base took to load.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from sparsert.kernels.jit import inner, jit

__all__ = ["Rows", "float_rows", "integer_rows"]

_SIDE = 64
"""Side of the squares that are transposed at once: of int8 a cache line wide, and of float32 all in the L1."""


@dataclass(frozen=True)
class Rows:
    """A weight matrix with one row an output feature, and the densities that decide its format."""

    weight: np.ndarray
    """(N, K), int16 with the zero point removed, or float32; contiguous."""
    sums: np.ndarray
    """(N,) int64: sum of each row, zeros for float32."""
    _densities: dict[int, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def density(self, width: int = 1) -> float:
        """Fraction of nonzero aligned blocks of ``width`` input features; 0 for an empty matrix."""
        if width not in self._densities:
            self._densities[width] = _density(self.weight, width)
        return self._densities[width]


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
def _sum(rows, sums):
    for row in range(rows.shape[0]):
        total = np.int32(0)  # at most 65535 * 255
        for column in range(rows.shape[1]):
            total += np.int32(rows[row, column])
        sums[row] = total


def _density(weight: np.ndarray, width: int) -> float:
    """Blocks are read as integers of up to eight bytes, which NumPy counts faster than memory delivers them."""
    marks = weight != 0 if weight.dtype == np.float32 else weight  # the bits of -0.0 are not zero
    missing = -marks.shape[1] % width
    if missing:
        marks = np.pad(marks, ((0, 0), (0, missing)))
    part = math.gcd(width, 8 // marks.itemsize)
    words = marks.view(f"i{part * marks.itemsize}")
    if part < width:
        words = words.reshape(-1, width // part).any(axis=1)
    return np.count_nonzero(words) / max(words.size, 1)


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
    return Rows(weight, sums)


def float_rows(stored: np.ndarray) -> Rows:
    """Rows of a float32 matrix, shape (K, N)."""
    weight = np.empty(stored.shape[::-1], np.float32)
    _transpose(_read_only(np.require(stored, np.float32, ["C_CONTIGUOUS", "ALIGNED"])), weight)
    return Rows(weight, np.zeros(len(weight), np.int64))
