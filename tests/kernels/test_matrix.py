"""Weights turned into rows: every element in its place, and densities that padded blocks have too."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparsert.kernels.formats.matrix import Rows, float_rows, integer_rows


def check_rows(rows: Rows, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(rows.weight, expected)
    assert rows.weight.flags.c_contiguous
    assert rows.density() == rows.density(1)
    for width in (1, 2, 3, 4, 8, 12):
        padded = np.pad(expected != 0, ((0, 0), (0, -expected.shape[1] % width)))
        blocks = padded.reshape(len(expected), padded.shape[1] // width, width).any(axis=2)
        assert rows.density(width) == (blocks.mean() if blocks.size else 0), width


def draw(shape: tuple[int, int], dtype: str, density: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    limits = np.iinfo(dtype)
    values = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return np.where(rng.random(shape) < density, values, 0).astype(dtype)


matrices = st.builds(
    draw,
    shape=st.tuples(st.integers(0, 150), st.integers(0, 150)),
    dtype=st.sampled_from(["int8", "uint8"]),
    density=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 2**16),
)


@settings(max_examples=60)
@given(stored=matrices, per_row=st.booleans(), transposed=st.booleans(), seed=st.integers(0, 2**16))
@example(stored=np.full((65535, 1), 255, np.uint8), per_row=False, transposed=False, seed=0)
def test_integers(stored: np.ndarray, per_row: bool, transposed: bool, seed: int) -> None:
    """int8 and uint8, one zero point or one a row, whatever the order of axes in memory."""
    if transposed:
        stored = np.asfortranarray(stored)
    limits = np.iinfo(stored.dtype)
    size = stored.shape[1] if per_row else ()
    zero_point = np.random.default_rng(seed).integers(limits.min, limits.max, size, stored.dtype, endpoint=True)
    rows = integer_rows(stored, zero_point)
    expected = stored.T.astype(np.int64) - np.reshape(zero_point, (-1, 1)).astype(np.int64)
    assert rows.weight.dtype == np.int16
    check_rows(rows, expected)
    np.testing.assert_array_equal(rows.sums, expected.sum(axis=1))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (7, 9), (64, 64), (65, 130), (200, 63)])
@pytest.mark.parametrize("order", ["C", "F", "unaligned"])
def test_floats(shape: tuple[int, int], order: str) -> None:
    """Also at odd addresses, where a model's file has them; NaN counts as nonzero, and -0.0 does not."""
    rng = np.random.default_rng(0)
    stored = np.where(rng.random(shape) < 0.3, rng.standard_normal(shape), 0).astype(np.float32)
    stored[stored == 0] *= -1
    stored[: min(shape[0], 1), : min(shape[1], 1)] = np.nan
    expected = stored.T.copy()
    if order == "F":
        stored = np.asfortranarray(stored)
    elif order == "unaligned":
        held = np.zeros(stored.nbytes + 1, np.uint8)
        held[1:] = stored.reshape(-1).view(np.uint8)
        stored = held[1:].view(np.float32).reshape(shape)
    rows = float_rows(stored)
    assert rows.weight.dtype == np.float32
    check_rows(rows, expected)
    assert not rows.sums.any()
