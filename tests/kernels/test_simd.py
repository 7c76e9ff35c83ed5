"""Shuffles, packing and integer products of the vector vocabulary, on whole vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_drivers import Buffer, buffer, compiled

from sparsert.kernels.jit import TIER, TILE
from sparsert.kernels.simd import Simd, Sums, Value, micro_kernel

LANES = TILE // 4


def _operation(emit: Callable[[Simd, Sequence[Value]], Sequence[Value]], inputs: int) -> Any:
    """A kernel that loads ``inputs`` vectors, applies ``emit``, and stores what it returns."""

    @micro_kernel(2)
    def operation(v: Simd, source: Value, destination: Value) -> None:
        source, destination = v.pointer(source), v.pointer(destination)
        results = emit(v, [v.load(v.at(source, k * v.bytes), v.i32) for k in range(inputs)])
        for k, result in enumerate(results):
            v.store(result, v.at(destination, k * v.bytes))

    return operation


def _sums(v: Simd, x: Sequence[Value]) -> Sequence[Value]:
    sums = Sums(v, x[:2])
    sums.add(x[2:4], x[4])
    return sums.get()


_products = _operation(_sums, 5)
_dot4 = _operation(lambda v, x: [v.dot4(x[0], x[1], x[2])], 3)
_dot2 = _operation(lambda v, x: [v.dot2(x[0], v.cast(x[1], v.i16), v.cast(x[2], v.i16))], 3)
_pack_u8 = _operation(lambda v, x: v.pack_u8(x), 4)
_widen_u8 = _operation(lambda v, x: v.widen_u8(v.cast(x[0], v.i8)), 1)
_transpose_quads = _operation(lambda v, x: v.transpose_quads(*(v.cast(y, v.i8) for y in x)), 4)
_round_to_i32 = _operation(lambda v, x: [v.round_to_i32(v.cast(y, v.f32)) for y in x], 2)
_to_bytes = _operation(lambda v, x: [v.to_bytes(x)], 4)
_clamp = _operation(lambda v, x: [v.clamp_i32(x[0], -5, 1000)], 1)


def apply(kernel: Any, source: np.ndarray, dtype: Any, count: int) -> np.ndarray:
    held, out = buffer(np.ascontiguousarray(source)), Buffer((count,), dtype)
    compiled(kernel, 2)(held.address, out.address)
    out.check()
    return out.array.copy()


seeds = given(seed=st.integers(0, 2**16), extreme=st.booleans())


def draw(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...] | int, extreme: bool) -> np.ndarray:
    limits = np.iinfo(dtype)
    if extreme:
        return rng.choice([limits.min, limits.max], shape).astype(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


@settings(max_examples=40)
@seeds
def test_dot4_multiplies_bytes_and_wraps(seed: int, extreme: bool) -> None:
    rng = np.random.default_rng(seed)
    acc = draw(rng, np.int32, LANES, extreme)
    first = np.int8 if TIER.signed_dot4 else np.uint8
    a, b = draw(rng, first, (LANES, 4), extreme), draw(rng, np.int8, (LANES, 4), extreme)
    got = apply(_dot4, np.concatenate([acc, a.view(np.int32).ravel(), b.view(np.int32).ravel()]), np.int32, LANES)
    exact = acc.astype(np.int64) + (a.astype(np.int64) * b).sum(axis=1)
    np.testing.assert_array_equal(got, exact.astype(np.int32))


@pytest.mark.skipif(TIER.pairs, reason="exact for pairs that int16 holds: tests/kernels/test_accumulate.py")
@settings(max_examples=40)
@seeds
def test_sums_multiply_unsigned_by_signed_bytes_and_wrap(seed: int, extreme: bool) -> None:
    rng = np.random.default_rng(seed)
    acc, a = draw(rng, np.int32, (2, LANES), extreme), draw(rng, np.uint8, (2, LANES, 4), extreme)
    b = draw(rng, np.int8, (LANES, 4), extreme)
    words = [acc.ravel(), a.view(np.int32).ravel(), b.view(np.int32).ravel()]
    got = apply(_products, np.concatenate(words), np.int32, 2 * LANES)
    exact = acc.astype(np.int64) + (a.astype(np.int64) * b).sum(axis=2)
    np.testing.assert_array_equal(got, exact.astype(np.int32).ravel())


@settings(max_examples=40)
@given(seed=st.integers(0, 2**16))
def test_dot2_multiplies_signed_words(seed: int) -> None:
    rng = np.random.default_rng(seed)
    acc = rng.integers(-(2**20), 2**20, LANES, dtype=np.int32)
    a, b = draw(rng, np.int16, (LANES, 2), False), draw(rng, np.int16, (LANES, 2), False)
    got = apply(_dot2, np.concatenate([acc, a.view(np.int32).ravel(), b.view(np.int32).ravel()]), np.int32, LANES)
    exact = acc.astype(np.int64) + (a.astype(np.int64) * b).sum(axis=1)
    np.testing.assert_array_equal(got, exact.astype(np.int32))


@settings(max_examples=40)
@given(seed=st.integers(0, 2**16), limit=st.sampled_from([300, 40000, 2**31 - 1]))
def test_pack_u8_saturates_and_keeps_the_order(seed: int, limit: int) -> None:
    values = np.random.default_rng(seed).integers(-limit, limit, TILE).astype(np.int32)
    np.testing.assert_array_equal(apply(_pack_u8, values, np.uint8, TILE), np.clip(values, 0, 255))


def test_pack_u8_saturates_the_ends_of_int32() -> None:
    values = np.resize(np.int32([-(2**31), 2**31 - 1, -1, 256, 0, 255]), TILE)
    np.testing.assert_array_equal(apply(_pack_u8, values, np.uint8, TILE), np.clip(values, 0, 255))


def test_widening_and_narrowing_keep_the_order() -> None:
    values = np.random.default_rng(1).integers(0, 256, TILE, dtype=np.uint8)
    wide = apply(_widen_u8, values, np.int32, TILE)
    np.testing.assert_array_equal(wide, values)
    np.testing.assert_array_equal(apply(_to_bytes, wide, np.uint8, TILE), values)


def test_quads_come_out_in_token_order() -> None:
    rows = np.random.default_rng(2).integers(0, 256, (4, TILE), dtype=np.uint8)
    got = apply(_transpose_quads, rows, np.uint8, 4 * TILE)
    np.testing.assert_array_equal(got.reshape(TILE, 4), rows.T)


def test_clamping() -> None:
    values = np.resize(np.int32([-(2**31), -6, -5, 0, 1000, 1001, 2**31 - 1]), LANES)
    np.testing.assert_array_equal(apply(_clamp, values, np.int32, LANES), np.clip(values, -5, 1000))


def test_rounding_goes_to_even_and_nan_to_the_least_integer() -> None:
    values = np.resize(np.float32([0.5, 1.5, -2.5, np.nan, 2.4999, -3.7, 1e9, -(2.0**31)]), 2 * LANES)
    expected = np.resize(np.int32([0, 2, -2, -(2**31), 2, -4, 10**9, -(2**31)]), 2 * LANES)
    np.testing.assert_array_equal(apply(_round_to_i32, values.view(np.int32), np.int32, 2 * LANES), expected)


def test_a_kernel_states_how_many_arguments_it_takes() -> None:
    with pytest.raises(Exception, match="clear takes 1 integers, got 2"):

        @micro_kernel(1)
        def clear(v: Simd, place: Value) -> None:
            v.store(v.zero(v.i32), v.pointer(place))

        compiled(clear, 2)(0, 0)
