"""Accumulators against brute force: int32 bit for bit, float32 within its rounding."""

from __future__ import annotations

import naive_kernels as naive
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_drivers import accumulate, parameters, run_stage, token_parameters

from sparsert.kernels.formats import FORMATS, PackedWeight
from sparsert.kernels.formats.matrix import Rows
from sparsert.kernels.jit import TILE

INTEGER = [name for name, record in FORMATS.items() if not record.floating]
FLOAT = [name for name, record in FORMATS.items() if record.floating]

DENSITIES = (0.0, 0.1, 0.5, 1.0)
VALUES = ("int8", "nine_bits", "ends", "nine_bit_ends", "small")
ACTIVATIONS = ("random", "zeros", "full", "ends")


def packed(name: str, weight: np.ndarray) -> PackedWeight:
    """A weight in a format; in that of blocks if the format cannot hold it."""
    rows = Rows(weight, np.zeros(0))
    return FORMATS[name if FORMATS[name].accepts(rows) else "blocks"].pack(weight)


def integer_values(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Nonzero integer weights: of int8, of int8 less a zero point, and their extremes."""
    if kind in ("ends", "nine_bit_ends"):
        return rng.choice([-128, 127] if kind == "ends" else [-255, 255], shape).astype(np.int16)
    limits = {"int8": (-128, 127), "nine_bits": (-255, 255), "small": (-3, 3)}[kind]
    values = rng.integers(*limits, shape, endpoint=True).astype(np.int16)
    return np.where(values == 0, np.int16(1), values)


def sparsity(density: float, pattern: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Which weights are kept: anywhere, in aligned blocks of four, or anywhere but in every second row."""
    rows, columns = shape
    if pattern == "blocks":
        return np.repeat(rng.random((rows, -(-columns // 4))) < density, 4, axis=1)[:, :columns]
    kept = rng.random(shape) < density
    if pattern == "empty_rows":
        kept[::2] = False
    return kept


def bytes_of(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    if kind == "ends":
        return rng.choice([0, 255], shape).astype(np.uint8)
    return {
        "random": rng.integers(0, 256, shape),
        "zeros": np.zeros(shape),
        "full": np.full(shape, 255),
    }[kind].astype(np.uint8)


@pytest.mark.parametrize("form", INTEGER)
@settings(max_examples=120)
@given(
    in_features=st.integers(1, 150),
    out_features=st.integers(1, 75),
    density=st.sampled_from(DENSITIES),
    pattern=st.sampled_from(["anywhere", "blocks", "empty_rows"]),
    values=st.sampled_from(VALUES),
    activations=st.sampled_from(ACTIVATIONS),
    seed=st.integers(0, 2**16),
)
@example(1, 1, 1.0, "anywhere", "nine_bit_ends", "full", 0)
@example(3, 33, 1.0, "anywhere", "nine_bit_ends", "full", 1)
@example(64, 32, 0.0, "anywhere", "int8", "full", 2)
def test_integer_sums_are_exact(
    form: str,
    in_features: int,
    out_features: int,
    density: float,
    pattern: str,
    values: str,
    activations: str,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    shape = (out_features, in_features)
    weight = np.where(sparsity(density, pattern, shape, rng), integer_values(values, shape, rng), np.int16(0))
    x = bytes_of(activations, (in_features, TILE), rng)
    got = accumulate(packed(form, weight), x)
    np.testing.assert_array_equal(got, naive.accumulate(weight, x))


@pytest.mark.parametrize("form", INTEGER)
@pytest.mark.parametrize("in_features", [2, 77, 768])
@pytest.mark.parametrize(
    "row",
    [[127], [-128], [127, -128], [127, 127, -128, -128], [255], [-255], [255, -255], [64, 64, 1, 127], [-64, -64, -1]],
    ids=str,
)
def test_nothing_saturates(form: str, in_features: int, row: list[int]) -> None:
    # int16 products of two such bytes leave int16 at 255 * 127 + 255 * 127
    weight = np.resize(np.array(row, np.int16), (1, in_features)).repeat(5, axis=0)
    x = np.full((in_features, TILE), 255, np.uint8)
    x[:, 1::3] = 0
    got = accumulate(packed(form, weight), x)
    np.testing.assert_array_equal(got, naive.accumulate(weight, x))


@pytest.mark.parametrize("form", INTEGER)
@pytest.mark.parametrize(
    ("values", "density"), [("int8", 0.1), ("int8", 0.5), ("ends", 0.5), ("small", 0.5), ("nine_bits", 0.1)]
)
def test_integer_sums_of_a_real_width_are_exact(form: str, values: str, density: float) -> None:
    rng = np.random.default_rng(7)
    shape = (34, 3072)
    weight = np.where(sparsity(density, "anywhere", shape, rng), integer_values(values, shape, rng), np.int16(0))
    x = rng.integers(0, 256, (shape[1], TILE), dtype=np.uint8)
    got = accumulate(packed(form, weight), x)
    np.testing.assert_array_equal(got, naive.accumulate(weight, x))


@pytest.mark.parametrize("form", [name for name in INTEGER if FORMATS[name].adjacent])
def test_the_widest_row_of_the_largest_weights_is_exact(form: str) -> None:
    # slices end where offsets would leave uint16, and on AVX2 every nonzero needs an int16 group of its own
    in_features = 16000
    weight = np.full((1, in_features), 254, np.int16)
    weight[0, -1] = 255
    x = np.full((in_features, TILE), 255, np.uint8)
    got = accumulate(packed(form, weight), x)
    np.testing.assert_array_equal(got, naive.accumulate(weight, x))


@pytest.mark.parametrize("form", INTEGER)
@settings(max_examples=25)
@given(
    in_features=st.integers(1, 90), out_features=st.integers(1, 40), zero=st.integers(0, 255), seed=st.integers(0, 99)
)
@example(5, 3, 255, 0)
@example(5, 3, 0, 0)
def test_zero_points_are_removed_exactly(form: str, in_features: int, out_features: int, zero: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # uint8 weights with a zero point, as ONNX Runtime's dynamic form has them: nine bits without it
    stored = rng.integers(0, 256, (out_features, in_features))
    weight = (stored - rng.integers(0, 256)).astype(np.int16)
    x = rng.integers(0, 256, (in_features, TILE), dtype=np.uint8)
    acc_bias = (-zero * weight.astype(np.int64).sum(axis=1)).astype(np.int32)
    ones, nothing = np.ones(out_features, np.float32), np.zeros(out_features, np.float32)
    accumulator = accumulate(packed(form, weight), x)
    exact = weight.astype(np.int64) @ (x.astype(np.int64) - zero)
    assert np.abs(exact).max() < 2**24, "float32 must hold the sums"
    sums = weight.sum(axis=1, dtype=np.int32)
    for offset, name, params in (
        (acc_bias, "dequantize", parameters(zero_point=zero)),
        (sums, "dequantize_dynamic", token_parameters(1.0, zero)),
    ):
        got = run_stage(name, accumulator, offset, ones, nothing, params)
        np.testing.assert_array_equal(got, exact.astype(np.float32))


@pytest.mark.parametrize("form", FLOAT)
@settings(max_examples=80)
@given(
    in_features=st.integers(1, 150),
    out_features=st.integers(1, 75),
    density=st.sampled_from(DENSITIES),
    pattern=st.sampled_from(["anywhere", "empty_rows"]),
    magnitude=st.sampled_from([1e-20, 1.0, 1e15]),
    seed=st.integers(0, 2**16),
)
def test_float_sums_differ_by_rounding_only(
    form: str, in_features: int, out_features: int, density: float, pattern: str, magnitude: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = (out_features, in_features)
    weight = np.where(sparsity(density, pattern, shape, rng), rng.standard_normal(shape), 0).astype(np.float32)
    x = (rng.standard_normal((in_features, TILE)) * magnitude).astype(np.float32)
    got = accumulate(packed(form, weight), x)
    exact, magnitudes = naive.accumulate_float(weight, x)
    # every one of K additions and multiplications may round once
    assert (np.abs(got - exact) <= (in_features + 2) * 2.0**-23 * magnitudes).all()


@pytest.mark.parametrize("form", FLOAT)
def test_nan_and_infinity_propagate(form: str) -> None:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((37, 21)).astype(np.float32)
    weight[5, 4] = weight[6, 9] = 0
    x = rng.standard_normal((21, TILE)).astype(np.float32)
    x[4, 2], x[9, 3], x[9, 5] = np.nan, np.inf, -np.inf
    got = accumulate(packed(form, weight), x)
    touched = np.ones(37, bool)
    touched[5] = False
    assert np.isnan(got[touched, 2]).all()
    touched[5], touched[6] = True, False
    np.testing.assert_array_equal(got[touched, 3], np.sign(weight[touched, 9]) * np.inf)
    np.testing.assert_array_equal(got[touched, 5], -np.sign(weight[touched, 9]) * np.inf)
    others = np.setdiff1d(np.arange(TILE), [2, 3, 5])
    assert np.isfinite(got[:, others]).all()
