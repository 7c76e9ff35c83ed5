"""The functions of the vector vocabulary against the math library, within the errors that their docstrings state."""

from __future__ import annotations

import math
from typing import Any

import naive_kernels as naive
import numpy as np
import pytest
from kernel_drivers import Buffer, buffer, compiled

from sparsert.kernels.jit import TIER
from sparsert.kernels.simd import Simd, Value, micro_kernel

FUNCTIONS = ("exp2", "gelu", "tanh", "round", "round_to_i32", "sqrt")


def _elementwise(name: str) -> Any:
    @micro_kernel(3)
    def elementwise(v: Simd, source: Value, destination: Value, vectors: Value) -> None:
        source, destination = v.pointer(source), v.pointer(destination)
        with v.loop(vectors) as index:
            offset = v.mul(index, v.bytes)
            v.store(getattr(v, name)(v.load(v.at(source, offset), v.f32)), v.at(destination, offset))

    return elementwise


KERNELS = {name: _elementwise(name) for name in FUNCTIONS}


def evaluate(name: str, x: np.ndarray, dtype: Any = np.float32) -> np.ndarray:
    """Apply a function of the vocabulary to a float32 vector of any length."""
    padded = np.pad(np.asarray(x, np.float32), (0, -len(x) % 16))
    source, out = buffer(padded), Buffer(padded.shape, dtype)
    lanes = TIER.vector_bytes // 4
    compiled(KERNELS[name], 3)(source.address, out.address, len(padded) // lanes)
    out.check()
    return out.array[: len(x)].copy()


def points(low: float, high: float) -> np.ndarray:
    """Dense float32 points of an interval, its ends, and points close to zero."""
    small = np.float32(10.0) ** np.arange(-37, 0, dtype=np.float32)
    inside = np.concatenate([np.linspace(low, high, 50021), small, -small, [0.0, -0.0]]).astype(np.float32)
    return inside[(inside >= low) & (inside <= high)]


def test_exp2_has_the_stated_relative_error() -> None:
    x = points(-125.9, 127.0)
    exact = np.array([2.0**value for value in x.astype(np.float64).tolist()])
    assert np.abs(evaluate("exp2", x) / exact - 1).max() < 3e-7


def test_exp2_has_a_floor() -> None:
    low = evaluate("exp2", np.array([-126.0, -127.0, -1e10, -3.4e38, -np.inf], np.float32))
    np.testing.assert_allclose(low, 2.0**-126, rtol=3e-6)


def test_tanh_has_the_stated_absolute_error() -> None:
    x = np.concatenate([points(-12, 12), np.float32([-np.inf, np.inf, 3e38, -3e38])])
    assert np.abs(evaluate("tanh", x) - naive.tanh(x)).max() < 1e-6


def test_gelu_has_the_stated_error() -> None:
    x = np.concatenate([points(-7, 7), points(-1000, 1000), np.float32([1e10, -1e10, 3e38, -3e38])])
    bound = np.where(np.abs(x) < 6, 1.5e-6, 5e-7 * np.abs(x))
    assert (np.abs(evaluate("gelu", x) - naive.gelu(x)) <= bound).all()


def test_gelu_of_infinity() -> None:
    assert evaluate("gelu", np.float32([np.inf]))[0] == np.inf


@pytest.mark.parametrize("name", ["exp2", "gelu", "tanh", "round", "sqrt"])
def test_nan_stays_nan(name: str) -> None:
    x = np.zeros(32, np.float32)
    x[[3, 8, 30]] = np.nan
    np.testing.assert_array_equal(np.isnan(evaluate(name, x)), np.isnan(x))


def test_rounding_is_half_to_even() -> None:
    x = np.float32([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997, 1e6 + 0.5, 8388609, -8388609, 2147483520, -2147483648])
    exact = [round(value) for value in x.astype(np.float64).tolist()]
    np.testing.assert_array_equal(evaluate("round_to_i32", x, np.int32), exact)
    np.testing.assert_array_equal(evaluate("round", x), exact)
    assert (evaluate("round_to_i32", np.float32([-3e9, -np.inf]), np.int32) == -(2**31)).all()


def test_square_roots_are_correctly_rounded() -> None:
    x = np.float32([0, 1, 2, 3, 1e-30, 1e30, 0.1])
    np.testing.assert_array_equal(evaluate("sqrt", x), np.float32([math.sqrt(value) for value in x.tolist()]))
