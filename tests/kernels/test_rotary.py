"""Rows turned in pairs, against brute force."""

from __future__ import annotations

import naive_kernels as naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_drivers import buffer, finish_rows

from sparsert.kernels.jit import TILE

ROUNDING = 2.0**-24
"""Relative error of one float32 rounding."""


def turn(x: np.ndarray, factors: np.ndarray, partners: np.ndarray, places: np.ndarray) -> np.ndarray:
    return finish_rows("rotary", x, buffer(factors), partners.astype(np.int32), places.astype(np.int32))


@settings(max_examples=30)
@given(
    heads=st.integers(1, 4),
    pairs=st.integers(1, 4),
    kept=st.integers(0, 3),
    adjacent=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_pairs(heads: int, pairs: int, kept: int, adjacent: bool, seed: int) -> None:
    """Halves or neighbours of each head are pairs; some rows at the end of a head stay as they are."""
    rng = np.random.default_rng(seed)
    number = np.arange(2 * pairs)
    pair = number // 2 if adjacent else number % pairs
    first = number % 2 == 0 if adjacent else number < pairs
    partners = np.concatenate([np.where(first, 1, -1) * (1 if adjacent else pairs), np.zeros(kept, int)])
    places = np.concatenate([pair + ((pair + pairs) << 16), np.zeros(kept, int)])
    partners, places = np.tile(partners, heads), np.tile(places, heads)
    x, factors = (rng.standard_normal((n, TILE)).astype(np.float32) for n in (len(partners), 2 * pairs))
    exact = naive.rotary(x, factors, partners, places)
    # two products and their sum, each of at most 5 * 5
    np.testing.assert_allclose(turn(x, factors, partners, places), exact, rtol=0, atol=75 * ROUNDING)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_token_and_its_pair(number: float) -> None:
    x = np.ones((6, TILE), np.float32)
    x[1, 7] = x[5, 9] = number
    partners, places = np.array([2, 2, -2, -2, 0, 0]), np.array([1 << 16] * 4 + [0, 0])
    got = turn(x, np.full((2, TILE), 0.5, np.float32), partners, places)
    beyond = ~np.isfinite(got)
    assert beyond[[1, 3], 7].all() and beyond[5, 9] and beyond.sum() == 3
