"""Loops over plain arrays against float64: functions of numbers, softmax, products, gathering."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf, expit

from sparsert.kernels.arrays.gather import gather_rows
from sparsert.kernels.arrays.numbers import NUMBERS, apply
from sparsert.kernels.arrays.products import multiply
from sparsert.kernels.arrays.softmax import softmax_rows

RNG = np.random.default_rng(0)

FUNCTIONS = {
    "exp": np.exp,
    "sigmoid": expit,
    "silu": lambda x: x * expit(x),
    "tanh": np.tanh,
    "erf": erf,
    "gelu": lambda x: 0.5 * x * (1 + erf(x * np.sqrt(0.5))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
}
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 88.72, 88.73, -87.4, -103.9, -104.1, 1e-40, 3e38, -3e38])


def call(name: str, x: np.ndarray, threads: int = 1) -> np.ndarray:
    y = np.full_like(x, 7)
    apply(NUMBERS.codes[name], x, y, threads)
    return y


def test_every_function_is_tested() -> None:
    assert FUNCTIONS.keys() == NUMBERS.codes.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_numbers(name: str) -> None:
    """Relative to the result where that is not close to zero: 4 units in the last place, 2e-6 of gelu's difference."""
    points = [np.linspace(-110, 95, 20011), RNG.standard_normal(5003), RNG.uniform(-1e-3, 1e-3, 500), SPECIAL]
    x = np.concatenate(points).astype(np.float32)
    with np.errstate(all="ignore"):
        exact = FUNCTIONS[name](x.astype(np.float64))
        wanted = exact.astype(np.float32)
        np.testing.assert_array_equal(call(name, x)[~np.isfinite(wanted)], _limits(name, x)[~np.isfinite(wanted)])
    finite = np.isfinite(wanted)
    bound = 2e-6 if "gelu" in name else 5e-7
    np.testing.assert_allclose(call(name, x)[finite], exact[finite], rtol=5e-7, atol=bound if name != "exp" else 1e-44)


def _limits(name: str, x: np.ndarray) -> np.ndarray:
    """What becomes of infinities and NaN: a product of zero and infinity is NaN, as in ONNX Runtime."""
    return FUNCTIONS[name](x.astype(np.float64)).astype(np.float32)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, 40_001])
def test_any_size_in_any_number_of_shares(size: int) -> None:
    x = RNG.standard_normal(size).astype(np.float32)
    for threads in (1, 2, 5):
        np.testing.assert_array_equal(call("tanh", x, threads), call("tanh", x))


@pytest.mark.parametrize("count", [1, 5, 8, 16, 31, 600])
def test_softmax_of_rows(count: int) -> None:
    x = (20 * RNG.standard_normal((23, count))).astype(np.float32)
    x[3, 0] = np.nan
    x[4] = -np.inf
    x[5, 1:] = -np.inf
    y = np.empty_like(x)
    softmax_rows(x, y, 3)
    with np.errstate(all="ignore"):
        raised = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
        np.testing.assert_allclose(y, raised / raised.sum(1, keepdims=True), rtol=2e-6, atol=1e-9)
    assert not y[5, 1:].any()  # what is masked is exactly zero


@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 3, 2), (6, 8, 16), (13, 70, 33), (64, 9, 130)])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_products(sizes: tuple[int, int, int], threads: int) -> None:
    """Rows, terms and columns with rests, the matrices transposed or not, more shares than products."""
    rows, terms, columns = sizes
    for turned_a in (False, True):
        for turned_b in (False, True):
            a = RNG.standard_normal((2, terms, rows) if turned_a else (2, rows, terms)).astype(np.float32)
            b = RNG.standard_normal((2, columns, terms) if turned_b else (2, terms, columns)).astype(np.float32)
            a, b = a.swapaxes(1, 2) if turned_a else a, b.swapaxes(1, 2) if turned_b else b
            c = np.full((2, rows + 2, columns + 3), 7, np.float32)
            places = [x.ctypes.data + np.arange(2) * x.strides[0] for x in (a, b, c[:, 1:-1])]
            multiply(*places, sizes, a.strides[1:], b.strides[1:], c.strides[1], threads)
            wanted = np.full(c.shape, 7.0)
            wanted[:, 1:-1, :-3] = a.astype(np.float64) @ b.astype(np.float64)
            np.testing.assert_allclose(c, wanted, rtol=1e-5, atol=1e-5)  # and nothing around it was written


def test_gathering_counts_from_the_end_and_tells_of_wrong_places() -> None:
    x = RNG.standard_normal((50, 70)).astype(np.float32)
    places = RNG.integers(-70, 70, (50, 200))
    y, wrong = np.empty(places.shape, np.float32), np.zeros((3, 8), np.int64)

    def gather() -> None:
        rows = [array.ctypes.data + np.arange(50) * array.strides[0] for array in (x, places)]
        gather_rows(*rows, y.ctypes.data, (70, 200), (4, 8), wrong, 3)

    gather()
    np.testing.assert_array_equal(y, np.take_along_axis(x, places, 1))
    assert not wrong.any()
    places[49, 7] = 70
    gather()
    assert wrong.any()
