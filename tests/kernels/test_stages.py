"""Stages of a block of rows against brute force: floats within their rounding, bytes exactly unless at a tie."""

from __future__ import annotations

from typing import Any

import naive_kernels as naive
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_drivers import (
    SIDE_BY_SIDE,
    Buffer,
    buffer,
    compiled,
    finish_rows,
    parameters,
    run_stage,
    sink_of,
    token_parameters,
)

from sparsert.kernels.jit import TILE
from sparsert.kernels.records import PARAMETERS, TABLE_PARAMETERS
from sparsert.kernels.rows.quantize import token_extrema
from sparsert.kernels.stages import STAGES

ROUNDING = 2.0**-23
"""Relative error of two float32 roundings."""

BYTES = [name for name in STAGES if "+" not in name and sink_of(name)[0] in (np.uint8, np.int8)]
"""The forms of bytes, those of formats among them."""

AFTER_GELU = [name for name in STAGES if name.startswith("dequantize+gelu+")]

rows_and_seeds = given(rows=st.integers(1, 32), seed=st.integers(0, 2**16))


def floats(rows: int, seed: int, magnitude: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, TILE)) * magnitude).astype(np.float32)


def row_constants(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """acc_bias, scale and bias of every row."""
    rng = np.random.default_rng(seed + 1)
    scale = np.exp(rng.uniform(-12, 0, rows)).astype(np.float32)
    return rng.integers(-(2**24), 2**24, rows, dtype=np.int32), scale, rng.standard_normal(rows).astype(np.float32)


def token_constants(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Zero point and scale of every token."""
    rng = np.random.default_rng(seed + 2)
    return rng.integers(0, 256, TILE), np.exp(rng.uniform(-6, 0, TILE)).astype(np.float32)


def accumulators(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-(2**26), 2**26, (rows, TILE), dtype=np.int32)


def unsigned(name: str, got: np.ndarray) -> np.ndarray:
    """Bytes of a sink as the stored uint8 values."""
    return got.astype(np.int64) + (128 if "signed" in name else 0)


def check_bytes(got: np.ndarray, x: np.ndarray, scale: float, zero_point: int, error: np.ndarray | float) -> None:
    """Bytes of values known to ``error``: exact wherever that cannot change the rounding."""
    least = naive.quantize(x - error, scale, zero_point)
    most = naive.quantize(x + error, scale, zero_point)
    assert ((least <= got) & (got <= most)).all()
    assert (most - least).max() <= 1, "the reference itself must not be vague"
    assert (least != most).mean() < 0.02


# -- transforms


@settings(max_examples=30)
@rows_and_seeds
def test_dequantize(rows: int, seed: int) -> None:
    block, (acc_bias, scale, bias) = accumulators(rows, seed), row_constants(rows, seed)
    got = run_stage("dequantize", block, acc_bias, scale, bias)
    exact = naive.dequantize(block, acc_bias, scale, bias)
    bound = ROUNDING * (np.abs(exact - bias[:, None]) + np.abs(bias[:, None]))
    assert (np.abs(got - exact) <= bound).all()


def test_dequantize_adds_the_ends_of_int32_without_overflow_of_the_sum() -> None:
    block = np.resize(np.int32([2**31 - 1, -(2**31), 0]), (3, TILE))
    acc_bias = np.int32([-(2**31 - 1), 0, 12])
    block[2] = -12
    block[0] = np.abs(np.maximum(block[0], 0))
    got = run_stage("dequantize", block, acc_bias, np.ones(3, np.float32), np.zeros(3, np.float32))
    np.testing.assert_array_equal(got, (block.astype(np.int64) + acc_bias[:, None]).astype(np.float32))


@settings(max_examples=30)
@rows_and_seeds
def test_dequantize_dynamic(rows: int, seed: int) -> None:
    """A scale and a zero point of each token."""
    block, (column_sum, scale, bias) = accumulators(rows, seed), row_constants(rows, seed)
    column_sum >>= 4  # sums of bytes: times 255 they must stay in int32
    zeros, scales = token_constants(seed)
    got = run_stage("dequantize_dynamic", block, column_sum, scale, bias, token_parameters(scales, zeros))
    for lane in range(TILE):
        offset, factor = -zeros[lane] * column_sum.astype(np.int64), scale * scales[lane]
        exact = naive.dequantize(block[:, lane, None], offset, factor, bias)[:, 0]
        bound = ROUNDING * (np.abs(exact - bias) + np.abs(bias))
        assert (np.abs(got[:, lane] - exact) <= bound).all()


@settings(max_examples=20)
@rows_and_seeds
def test_bias_add_and_multiply_round_once(rows: int, seed: int) -> None:
    block, other, bias = floats(rows, seed), floats(rows, seed + 1), row_constants(rows, seed)[2]
    np.testing.assert_array_equal(run_stage("bias", block, bias=bias), block + bias[:, None])
    np.testing.assert_array_equal(run_stage("add", block, source=other), block + other)
    np.testing.assert_array_equal(run_stage("scale", block, bias=bias), block * bias[:, None])
    np.testing.assert_array_equal(run_stage("multiply", block, source=other), block * other)


@pytest.mark.parametrize(
    ("name", "error"),
    # values go up to 12; the error of gelu is 5e-7 of them, that of the rounded argument of tanh half of them, and
    # that of silu 3e-7 from the power and two roundings
    [("gelu", 6e-6), ("gelu_tanh", 1e-5), ("quick_gelu", 1e-5), ("relu", 0.0), ("silu", 8e-6), ("tanh", 1e-6)],
)
@settings(max_examples=15)
@rows_and_seeds
def test_activations(name: str, error: float, rows: int, seed: int) -> None:
    block = floats(rows, seed)
    assert np.abs(run_stage(name, block) - getattr(naive, name)(block)).max() <= error


@rows_and_seeds
@settings(max_examples=20)
def test_scale_tokens(rows: int, seed: int) -> None:
    """One product each, by a number of its token."""
    block, factors = floats(rows, seed), np.random.default_rng(seed).integers(-1, 3, TILE).astype(np.float32)
    got = run_stage("scale_tokens", block, params=buffer(factors))
    np.testing.assert_array_equal(got, block * factors)


@pytest.mark.parametrize(
    "name",
    [
        "bias",
        "scale",
        "gelu",
        "gelu_tanh",
        "quick_gelu",
        "relu",
        "silu",
        "tanh",
        "add",
        "multiply",
        "floats",
        "bias+gelu+floats",
    ],
)
def test_nan_stays_nan(name: str) -> None:
    block = floats(5, 1)
    block[1, 3] = block[4, TILE - 1] = np.nan
    got = run_stage(name, block, bias=np.ones(5, np.float32))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(block))


def test_relu_of_infinities() -> None:
    block = np.resize(np.float32([-np.inf, np.inf, -0.0, 1e-40, -1e-40]), (1, TILE))
    np.testing.assert_array_equal(run_stage("relu", block), np.maximum(block, 0))


def test_silu_of_large_numbers() -> None:
    block = np.resize(np.float32([-1e9, -200, -88, 88, 200, 3e38]), (1, TILE))
    np.testing.assert_allclose(run_stage("silu", block), np.maximum(block, 0), rtol=ROUNDING, atol=1e-28)


# -- quantization

powers_of_two = st.sampled_from([2.0**-7, 0.25, 1.0, 8.0])


@pytest.mark.parametrize("name", BYTES)
@settings(max_examples=40)
@given(rows=st.integers(1, 32), scale=powers_of_two, zero=st.integers(0, 255), seed=st.integers(0, 2**16))
@example(rows=3, scale=1.0, zero=0, seed=0)
@example(rows=3, scale=1.0, zero=255, seed=0)
def test_ties_are_rounded_to_even_and_bytes_saturate(name: str, rows: int, scale: float, zero: int, seed: int) -> None:
    # multiples of a quarter of the scale: a quarter of them are ties, and float32 holds all of it exactly
    steps = np.random.default_rng(seed).integers(-1200, 1200, (rows, TILE))
    block = (steps * (scale / 4)).astype(np.float32)
    got = unsigned(name, run_stage(name, block, params=parameters(scale, zero)))
    np.testing.assert_array_equal(got, naive.quantize(block, scale, zero))


@pytest.mark.parametrize("name", BYTES)
@settings(max_examples=30)
@given(rows=st.integers(1, 32), zero=st.integers(0, 255), seed=st.integers(0, 2**16))
def test_bytes_of_any_scale(name: str, rows: int, zero: int, seed: int) -> None:
    scale = float(np.float32(np.random.default_rng(seed).uniform(0.005, 0.5)))
    block = floats(rows, seed, 100 * scale)
    got = unsigned(name, run_stage(name, block, params=parameters(scale, zero)))
    # multiplied by the rounded reciprocal instead of divided
    check_bytes(got, block, scale, zero, np.abs(block) * 2 * ROUNDING)


@pytest.mark.parametrize("name", BYTES)
def test_huge_values_saturate(name: str) -> None:
    block = np.resize(np.float32([3e38, -3e38, np.inf, -np.inf, 3e9, -3e9, 2.2e9, -2.2e9]), (4, TILE))
    for zero in (0, 128, 255):
        got = unsigned(name, run_stage(name, block, params=parameters(0.5, zero)))
        np.testing.assert_array_equal(got, np.where(block > 0, 255, 0))


@settings(max_examples=30)
@given(rows=st.integers(1, 32), scale=powers_of_two, zero=st.integers(0, 255), seed=st.integers(0, 2**16))
def test_fake_quantize(rows: int, scale: float, zero: int, seed: int) -> None:
    steps = np.random.default_rng(seed).integers(-1200, 1200, (rows, TILE))
    block = (steps * (scale / 4)).astype(np.float32)
    got = run_stage("fake_quantize", block, params=parameters(scale, zero))
    np.testing.assert_array_equal(got, naive.fake_quantize(block, scale, zero))


@settings(max_examples=30)
@given(rows=st.integers(1, 32), scale=powers_of_two, zero=st.integers(0, 255), seed=st.integers(0, 2**16))
def test_lookup(rows: int, scale: float, zero: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    record = np.zeros(1, TABLE_PARAMETERS)
    for name in PARAMETERS.names or ():
        record[name] = parameters(scale, zero).array[name]
    record["table"] = rng.standard_normal(256)
    block = (rng.integers(-1200, 1200, (rows, TILE)) * (scale / 4)).astype(np.float32)
    block[0, :4] = np.inf, -np.inf, 3e38, np.nan
    got = run_stage("lookup", block, params=buffer(record))
    block[0, 3] = -np.inf  # NaN is the least byte, as in ONNX Runtime
    np.testing.assert_array_equal(got, record["table"][0][naive.quantize(block, scale, zero)])


# -- fused sequences


@pytest.mark.parametrize("sink", BYTES)
@pytest.mark.parametrize("rows", [1, 4, 30, 32])
def test_dequantize_and_quantize(sink: str, rows: int) -> None:
    block, (acc_bias, scale, bias) = accumulators(rows, rows), row_constants(rows, rows)
    block >>= 12
    acc_bias >>= 12
    exact = naive.dequantize(block, acc_bias, scale, bias)
    step = float(np.float32(np.abs(exact).max() / 120))
    got = run_stage(f"dequantize+{sink}", block, acc_bias, scale, bias, parameters(step, 117))
    error = 4 * ROUNDING * (np.abs(exact) + np.abs(bias[:, None]))
    check_bytes(unsigned(sink, got), exact, step, 117, error)


@pytest.mark.parametrize("name", AFTER_GELU)
@pytest.mark.parametrize("rows", [1, 4, 31, 32])
def test_dequantize_gelu_and_quantize(name: str, rows: int) -> None:
    rng = np.random.default_rng(rows)
    block = rng.integers(-4000, 4000, (rows, TILE), dtype=np.int32)
    acc_bias = rng.integers(-500, 500, rows, dtype=np.int32)
    scale, bias = np.full(rows, 1e-3, np.float32), rng.standard_normal(rows).astype(np.float32)
    exact = naive.gelu(naive.dequantize(block, acc_bias, scale, bias))
    got = run_stage(name, block, acc_bias, scale, bias, parameters(0.02, 9))
    check_bytes(got, exact, float(np.float32(0.02)), 9, 1e-5)


@pytest.mark.parametrize("rows", [1, 7, 32])
def test_sequences_that_end_in_floats(rows: int) -> None:
    accumulator, (acc_bias, scale, bias) = accumulators(rows, 5) >> 14, row_constants(rows, 5)
    acc_bias >>= 14
    block, other = floats(rows, 6), floats(rows, 7)
    wide = block.astype(np.float64) + bias.astype(np.float64)[:, None]
    fused = naive.dequantize(accumulator, acc_bias, scale, bias)
    tolerance: dict[str, Any] = {"rtol": 4 * ROUNDING, "atol": 4e-6}
    one = token_parameters(1.0, 3)
    dynamic = naive.dequantize(accumulator, -3 * acc_bias.astype(np.int64), scale, bias)
    for name, source, exact in (
        ("dequantize+add+floats", accumulator, fused + other),
        ("dequantize_dynamic+floats", accumulator, dynamic),
        ("dequantize_dynamic+add+floats", accumulator, dynamic + other),
        ("bias+add+floats", block, wide + other),
        ("bias+gelu+floats", block, naive.gelu(wide)),
        ("bias+floats", block, wide),
        ("floats", block, block),
    ):
        got = run_stage(name, source, acc_bias, scale, bias, one, other)
        np.testing.assert_allclose(got, exact, err_msg=name, **tolerance)
    got = run_stage("dequantize_dynamic+gelu+floats", accumulator, acc_bias, scale, bias, one)
    # the series errs by 1.5e-6 and, beyond 6, by 5e-7 of its argument, which is rounded as well
    assert (np.abs(got - naive.gelu(dynamic)) <= 2e-6 + (5e-7 + 4 * ROUNDING) * np.abs(dynamic)).all()


def test_every_stage_is_tested() -> None:
    simple = {
        "dequantize",
        "dequantize_dynamic",
        "bias",
        "gelu",
        "gelu_tanh",
        "quick_gelu",
        "relu",
        "silu",
        "tanh",
        "add",
        "lookup",
        "multiply",
        "scale",
        "scale_tokens",
        "fake_quantize",
    }
    fused = {f"dequantize+{sink}" for sink in BYTES} | {f"dequantize+gelu+{form}" for form in SIDE_BY_SIDE}
    ends = {"dequantize+add+floats", "bias+add+floats", "bias+gelu+floats", "bias+floats", "floats"}
    ends |= {f"dequantize_dynamic+{end}" for end in ("floats", "add+floats", "gelu+floats")}
    forms = {*SIDE_BY_SIDE, "signed_rows", "signed_quads"}
    assert set(STAGES) == simple | fused | ends | forms
    assert set(BYTES) == forms


# -- sources of a block


@pytest.mark.parametrize("rows", [1, 5, 32])
def test_load_rows(rows: int) -> None:
    x = floats(rows, 1)
    np.testing.assert_array_equal(finish_rows("load", x, parameters()), x)


@settings(max_examples=15)
@given(rows=st.integers(1, 32), zero=st.integers(0, 255), seed=st.integers(0, 2**16))
def test_dequantize_rows(rows: int, zero: int, seed: int) -> None:
    stored = np.random.default_rng(seed).integers(0, 256, (rows, TILE), dtype=np.uint8)
    got = finish_rows("dequantize", stored, parameters(0.3, zero))
    np.testing.assert_array_equal(got, (stored.astype(np.float32) - zero) * np.float32(0.3))


@settings(max_examples=30)
@rows_and_seeds
@example(rows=1, seed=0)
def test_quantize_rows(rows: int, seed: int) -> None:
    """Integers before they saturate, ties to even; scales of tokens are powers of two, so that ties are exact."""
    zeros, scales = token_constants(seed)[0], 2.0 ** np.random.default_rng(seed).integers(-8, 4, TILE)
    quarters = np.random.default_rng(seed + 1).integers(-1200, 1200, (rows, TILE)) / 4
    got = finish_rows("quantize", (quarters * scales).astype(np.float32), token_parameters(scales, zeros))
    np.testing.assert_array_equal(got, np.rint(quarters) + zeros)
    np.testing.assert_array_equal(unsigned("rows", run_stage("rows", got)), np.clip(np.rint(quarters) + zeros, 0, 255))


def test_quantized_rows_of_huge_values_saturate() -> None:
    x = np.resize(np.float32([3e38, -3e38, np.inf, -np.inf, 3e9, -3e9, 2.2e9, -2.2e9]), (3, TILE))
    for zero in (0, 128, 255):
        got = run_stage("rows", finish_rows("quantize", x, token_parameters(0.5, zero)))
        np.testing.assert_array_equal(got, np.where(x > 0, 255, 0))


@settings(max_examples=20)
@given(rows=st.integers(1, 70), shift=st.sampled_from([-5.0, 0.0, 5.0]), seed=st.integers(0, 2**16))
def test_extrema_of_tokens(rows: int, shift: float, seed: int) -> None:
    """Zero is within every range; NaN is the range of its token alone."""
    x = floats(rows, seed) + np.float32(shift)
    x[rows // 2, 3], x[0, 4], x[rows - 1, 5] = np.nan, np.inf, -np.inf
    source, extrema = buffer(x), Buffer((2, TILE), np.float32)
    compiled(token_extrema, 3)(source.address, rows, extrema.address)
    extrema.check()
    np.testing.assert_array_equal(extrema.array, [np.minimum(x.min(0), 0), np.maximum(x.max(0), 0)])


def normalize(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float) -> np.ndarray:
    return finish_rows("layer_norm", x, buffer(np.float32([epsilon, 1 / len(x)])), gamma, beta)


@settings(max_examples=30)
@given(
    rows=st.integers(2, 400),
    mean=st.sampled_from([0.0, 1.0, -30.0]),
    epsilon=st.sampled_from([1e-12, 1e-5]),
    seed=st.integers(0, 2**16),
)
def test_layer_norm(rows: int, mean: float, epsilon: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = floats(rows, seed) + np.float32(mean)
    gamma, beta = (rng.standard_normal(rows).astype(np.float32) for _ in range(2))
    exact = naive.layer_norm(x, gamma, beta, epsilon)
    deviation = x.astype(np.float64).std(axis=0)
    # sums over the rows round in proportion to the values, and division by a small deviation magnifies that
    bound = (rows + 20) * ROUNDING * (1 + np.abs(x).max() / deviation.min()) * (1 + np.abs(gamma).max())
    assert np.abs(normalize(x, gamma, beta, epsilon) - exact).max() < bound


def test_layer_norm_of_equal_values_is_beta_and_nan_stays_in_its_token() -> None:
    x = np.full((6, TILE), 2.5, np.float32)
    x[2, 7] = np.nan
    gamma, beta = np.ones(6, np.float32), np.arange(6, dtype=np.float32)
    got = normalize(x, gamma, beta, 1e-12)
    assert np.isnan(got[:, 7]).all()
    np.testing.assert_array_equal(np.delete(got, 7, axis=1), np.repeat(beta[:, None], TILE - 1, axis=1))
