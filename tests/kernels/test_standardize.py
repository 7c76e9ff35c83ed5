"""Rows standardized with a variance that is rounded to bytes, against brute force."""

from __future__ import annotations

import naive_kernels as naive
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_drivers import buffer, finish_rows

from sparsert.kernels.jit import TILE
from sparsert.kernels.records import STATISTICS_PARAMETERS

ROUNDING = 2.0**-24
"""Relative error of one float32 rounding."""

Pair = tuple[float, int] | None


def standardize(x: np.ndarray, epsilon: float, variance: Pair, total: Pair) -> np.ndarray:
    record = np.zeros(1, STATISTICS_PARAMETERS)
    record["epsilon"], record["inverse_rows"] = epsilon, 1 / len(x)
    for name, pair in (("variance", variance), ("sum", total)):
        if pair is not None:
            scale, zero_point = pair
            record[name] = (1 / scale, scale, -zero_point, 255 - zero_point)
    return finish_rows("standardize", x, buffer(record))


# Powers of two: dividing by them and multiplying with their inverse is the same.
pairs = st.none() | st.tuples(st.sampled_from([2.0**-6, 2.0**-3]), st.sampled_from([0, 3]))


@settings(max_examples=40)
@given(
    rows=st.integers(4, 400),
    epsilon=st.sampled_from([1e-12, 1e-2]),
    variance=pairs,
    total=pairs,
    seed=st.integers(0, 999),
)
def test_standardize(rows: int, epsilon: float, variance: Pair, total: Pair, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((rows, TILE)).astype(np.float32) * 2
    got = standardize(x, epsilon, variance, total)
    wide = x.astype(np.float64)
    exact = wide.var(axis=0)
    # The variance is known to a few roundings of its sum; where that much changes a byte, either byte is right.
    error = exact * (rows + 20) * ROUNDING
    ends = [
        naive.rounded((exact + sign * error).astype(np.float32), variance) + np.float32(epsilon) for sign in (-1, 1)
    ]
    ends = [naive.rounded(end, total).astype(np.float64) for end in ends]
    centred = wide - wide.mean(axis=0)
    with np.errstate(divide="ignore"):
        one, other = (centred / np.sqrt(end) for end in ends)
    slack = (rows + 40) * ROUNDING * (1 + np.abs(one))
    assert ((got >= np.minimum(one, other) - slack) & (got <= np.maximum(one, other) + slack)).all()
    assert (ends[0] != ends[1]).mean() < 0.2 or variance is total is None


def test_a_variance_that_rounds_to_nothing_divides_by_zero() -> None:
    x = np.random.default_rng(0).standard_normal((8, TILE)).astype(np.float32) * np.float32(1e-3)
    got = standardize(x, 0.0, (2.0**-6, 0), None)
    np.testing.assert_array_equal(got, np.where(x > x.mean(axis=0), np.inf, -np.inf))
