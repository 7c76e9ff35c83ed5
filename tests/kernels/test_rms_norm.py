"""Rows normalized by their root mean square, against brute force."""

from __future__ import annotations

import naive_kernels as naive
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_drivers import buffer, finish_rows

from sparsert.kernels.jit import TILE

ROUNDING = 2.0**-24
"""Relative error of one float32 rounding."""


def normalize(x: np.ndarray, gamma: np.ndarray, epsilon: float) -> np.ndarray:
    return finish_rows("rms_norm", x, buffer(np.float32([epsilon, 1 / len(x)])), gamma)


@settings(max_examples=40)
@given(
    rows=st.integers(1, 1100),
    magnitude=st.sampled_from([1e-6, 1.0, 1e6]),
    mean=st.sampled_from([0.0, 30.0]),
    epsilon=st.sampled_from([1e-12, 1e-6, 1e-5]),
    seed=st.integers(0, 2**16),
)
def test_rms_norm(rows: int, magnitude: float, mean: float, epsilon: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = ((rng.standard_normal((rows, TILE)) + mean) * magnitude).astype(np.float32)
    gamma = rng.standard_normal(rows).astype(np.float32)
    exact = naive.rms_norm(x, gamma, epsilon)
    # The terms of the sum of squares are positive, so its relative error is at most that of one term's way through
    # sums of 16 rows and through the sum of these; the root halves it. Squares, 1 / rows, epsilon and the products of
    # the end round a few times more.
    bound = ROUNDING * ((min(rows, 16) + rows / 16) / 2 + 8)
    assert (np.abs(normalize(x, gamma, epsilon) - exact) <= bound * np.abs(exact)).all()


def test_zeros_stay_zero_and_nan_stays_in_its_token() -> None:
    x = np.zeros((6, TILE), np.float32)
    x[2, 7], x[3, TILE - 1] = np.nan, np.inf
    got = normalize(x, np.arange(6, dtype=np.float32), 1e-12)
    assert np.isnan(got[:, 7]).all()
    assert np.isnan(got[3, TILE - 1])
    np.testing.assert_array_equal(np.delete(got, [7, TILE - 1], axis=1), 0)
