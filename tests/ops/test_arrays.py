"""Tests of sparsert.ops: every fused op and form against the brute-force twins of tests/naive.py."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Sequence
from typing import Any

import naive
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparsert.errors import InputRangeError, InputShapeError
from sparsert.graph.ir import FUSED_DOMAIN, Node
from sparsert.ops import (
    Activation,
    Add,
    Attention,
    Dequantize,
    DynamicQuantize,
    Embeddings,
    FusedOp,
    Gelu,
    KeyMask,
    LayerNorm,
    Linear,
    Quantization,
    Quantize,
    SelectFeature,
    SelectToken,
    Table,
    all_ops,
    linear,
    run_fused,
)
from sparsert.ops.prefix_mask import PrefixMask

RNG = np.random.default_rng(0)
BYTE_TYPES = [np.dtype(np.uint8), np.dtype(np.int8)]
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = np.random.default_rng(1).bit_generator.state


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def stored(dtype: np.dtype | type, *shape: int) -> np.ndarray:
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max + 1, shape).astype(dtype)


def quantization(scale: float = 0.02, zero_point: int = 3, dtype: Any = np.uint8) -> Quantization:
    return Quantization(np.array(scale, np.float32), np.array(zero_point, dtype), np.dtype(dtype))


def twin(op: FusedOp, inputs: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    node = Node(type(op).__name__, [], [], domain=FUSED_DOMAIN, fused=op)
    return [np.asarray(result) for result in naive.run_node(node, list(inputs), {})]


def check(op: FusedOp, inputs: Sequence[np.ndarray | None], rtol: float = 0, atol: float = 0) -> list[np.ndarray]:
    """Compare types, shapes and values; exactly, unless a tolerance is given."""
    outputs = run_fused(op, inputs)
    for got, expected in zip(outputs, twin(op, inputs), strict=True):
        assert isinstance(got, np.ndarray)
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        assert not any(np.may_share_memory(got, array) for array in inputs if array is not None)
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)
    return outputs


def test_every_op_has_a_twin() -> None:
    assert {kind.__name__ for kind in all_ops()} == set(naive._TWINS)


def test_an_op_may_derive_from_another() -> None:
    derived = type("Derived", (Linear,), {})
    assert derived in all_ops()
    del derived
    gc.collect()  # the class goes, and no other test finds it


# --------------------------------------------------------------------------------------------------------- quantization

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, max_side=5)
FINITE = st.floats(-1e6, 1e6, width=32)
SCALES = st.floats(2.0**-10, 16, width=32)


@given(
    x=hnp.arrays(np.float32, SHAPES, elements=FINITE),
    scale=SCALES,
    dtype=st.sampled_from(BYTE_TYPES),
    zero_point=st.integers(0, 127),
)
def test_quantize(x: np.ndarray, scale: float, dtype: np.dtype, zero_point: int) -> None:
    check(Quantize(quantization(scale, zero_point, dtype)), [x])


def test_quantize_rounds_half_to_even_and_saturates() -> None:
    x = np.array([-0.5, 0.5, 1.5, 2.5, 1e9, -1e9, np.inf, -np.inf], np.float32)
    (unsigned,) = run_fused(Quantize(quantization(1, 10, np.uint8)), [x])
    (signed,) = run_fused(Quantize(quantization(1, 0, np.int8)), [x])
    assert unsigned.tolist() == [10, 10, 12, 12, 255, 0, 255, 0]
    assert signed.tolist() == [0, 0, 2, 2, 127, -128, 127, -128]


@pytest.mark.parametrize("dtype", BYTE_TYPES)
@pytest.mark.parametrize("per_channel", [False, True])
def test_quantize_and_dequantize_of_both_kinds(dtype: np.dtype, per_channel: bool) -> None:
    shape = (6,) if per_channel else ()
    scale = RNG.uniform(0.01, 0.1, shape).astype(np.float32)
    form = Quantization(scale, RNG.integers(0, 100, shape).astype(np.int32), dtype)
    (x8,) = check(Quantize(form), [floats(2, 3, 6)])
    check(Dequantize(form), [x8])


@given(data=st.data(), dtype=st.sampled_from(BYTE_TYPES), scale=SCALES, zero_point=st.integers(0, 127))
def test_dequantize(data: st.DataObject, dtype: np.dtype, scale: float, zero_point: int) -> None:
    x = data.draw(hnp.arrays(dtype, SHAPES))
    check(Dequantize(quantization(scale, zero_point, dtype)), [x])


@given(x=hnp.arrays(np.float32, SHAPES, elements=FINITE))
def test_dynamic_quantize(x: np.ndarray) -> None:
    check(DynamicQuantize(), [x])


@pytest.mark.parametrize("x", [np.zeros((2, 3)), np.full((2, 3), 7.5), np.full((2, 3), -7.5), np.float32(1e-44)])
def test_dynamic_quantize_of_one_value(x: np.ndarray) -> None:
    """Zero belongs to every range, and a range of nothing has scale 1."""
    check(DynamicQuantize(), [np.asarray(x, np.float32)])


# ------------------------------------------------------------------------------------------------------ matrix products


def int8_linear(x_dtype: Any, w_dtype: Any, inputs: int, outputs: int, per_channel: bool, static: bool) -> Linear:
    channels = (outputs,) if per_channel else ()
    weight_scale = RNG.uniform(0.001, 0.01, channels).astype(np.float32)
    form = quantization(0.02, 5, x_dtype)
    return Linear(
        weight=stored(w_dtype, inputs, outputs),
        weight_zero_point=RNG.integers(0, 100, channels).astype(w_dtype),
        weight_scale=weight_scale,
        input_quantization=form if static else None,
        acc_scale=np.asarray(form.scale * weight_scale, np.float32) if static else None,
        bias=floats(outputs),
    )


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8), (2, 2, 3, 8), (0, 3, 8)])
@pytest.mark.parametrize("bias", [None, floats(5)])
def test_linear_float(shape: tuple[int, ...], bias: np.ndarray | None) -> None:
    # Sums of eight products in another order.
    check(Linear(weight=floats(8, 5), bias=bias), [floats(*shape)], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("in_features", [8, 300])  # below and above what float32 sums exactly
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("w_dtype", BYTE_TYPES)
@pytest.mark.parametrize("x_dtype", BYTE_TYPES)
def test_linear_int8_static(x_dtype: np.dtype, w_dtype: np.dtype, per_channel: bool, in_features: int) -> None:
    op = int8_linear(x_dtype, w_dtype, in_features, 7, per_channel, static=True)
    check(op, [stored(x_dtype, 2, 3, in_features)])


@pytest.mark.parametrize("w_dtype", BYTE_TYPES)
@pytest.mark.parametrize("per_channel", [False, True])
def test_linear_int8_dynamic(w_dtype: np.dtype, per_channel: bool) -> None:
    op = int8_linear(np.uint8, w_dtype, 20, 7, per_channel, static=False)
    check(op, run_fused(DynamicQuantize(), [floats(2, 3, 20)]))


def test_linear_without_zero_points_and_with_accumulator_bias() -> None:
    op = Linear(
        weight=stored(np.int8, 20, 7),
        input_quantization=quantization(1, 0),
        acc_bias=RNG.integers(-(10**6), 10**6, 7).astype(np.int32),
        acc_scale=np.array(1e-4, np.float32),
    )
    check(op, [stored(np.uint8, 4, 20)])


@pytest.mark.parametrize("in_features", [258, 259, 5000])
def test_integer_product_is_exact_at_its_extremes(in_features: int) -> None:
    """The largest sums that bytes can have, made odd so that one float32 too narrow would round them."""
    weight = np.full((in_features, 2), 255, np.uint8)
    weight[0, 0] = 254
    op = Linear(
        weight=weight,
        weight_zero_point=np.array(0, np.uint8),
        input_quantization=quantization(1, 0),
        acc_bias=np.array([-255 * 255 * in_features, -255 * 255 * in_features], np.int32),
        acc_scale=np.array(1, np.float32),
    )
    (y,) = run_fused(op, [np.full((3, in_features), 255, np.uint8)])
    assert y.tolist() == [[-255.0, 0.0]] * 3


def test_blocks_of_rows_make_one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_BLOCK", 50)
    x = floats(5, 7, 16)
    check(int8_linear(np.uint8, np.int8, 16, 9, True, static=True), [stored(np.uint8, 5, 7, 16)])
    # float64 throughout, so the roundings to float32 agree but for ties: one unit in the last place.
    check(LayerNorm(floats(16), floats(16), 1e-5), [x], rtol=2e-7, atol=1e-7)
    check(Gelu(), [x], rtol=2e-7, atol=1e-12)


def test_linear_refuses_another_width() -> None:
    with pytest.raises(InputShapeError, match=r"\(\.\.\., 8\), got \(2, 7\)"):
        run_fused(Linear(weight=floats(8, 5)), [floats(2, 7)])


# ---------------------------------------------------------------------------------------------------------- elementwise


@pytest.mark.parametrize("approximate", ["none", "tanh", "sigmoid"])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 8)])
def test_gelu(approximate: str, shape: tuple[int, ...]) -> None:
    # One unit in the last place; the tail below -5, where 1 + erf cancels, differs by less than 1e-14.
    check(Gelu(approximate), [np.asarray(3 * floats(*shape), np.float32)], rtol=2e-7, atol=1e-14)


@pytest.mark.parametrize("kind", ["relu", "tanh"])
@pytest.mark.parametrize("shape", [(), (2, 3, 8)])
def test_activation(kind: str, shape: tuple[int, ...]) -> None:
    # NumPy's vector and scalar tanh may differ in the last place.
    check(Activation(kind), [np.asarray(floats(*shape))], rtol=2e-7)


def test_add() -> None:
    check(Add(), [floats(2, 3, 8), floats(2, 3, 8)])


@pytest.mark.parametrize("shape", [(8,), (3, 8), (2, 3, 8)])
def test_layer_norm(shape: tuple[int, ...]) -> None:
    # float64 throughout, so the roundings to float32 agree but for ties: one unit in the last place.
    check(LayerNorm(floats(8), floats(8), 1e-12), [10 + floats(*shape)], rtol=2e-7, atol=1e-7)


# ------------------------------------------------------------------------------------------------ embeddings and masks


@pytest.mark.parametrize("id_type", [np.int32, np.int64])
def test_embeddings(id_type: type) -> None:
    rows = Quantization(RNG.uniform(0.01, 0.1, 8).astype(np.float32), np.array(4, np.uint8), np.dtype(np.uint8))
    op = Embeddings(
        (
            Table(floats(11, 8), None, "position", offset=2),
            Table(stored(np.uint8, 30, 8), quantization(0.03, 120), "input"),
            Table(floats(2, 8), None, "constant", offset=1),
            Table(stored(np.uint8, 3, 8), rows, "input"),
        )
    )
    ids = RNG.integers(-30, 30, (2, 5)).astype(id_type)
    check(op, [ids, RNG.integers(0, 3, (2, 5)).astype(id_type)])


@pytest.mark.parametrize("bad", [30, -31])
def test_embeddings_name_table_size_and_id(bad: int) -> None:
    op = Embeddings((Table(floats(30, 8), None, "input"),))
    run_fused(op, [np.array([[29, -30]])])
    with pytest.raises(InputRangeError, match=rf"30 rows.*got {bad}\b"):
        run_fused(op, [np.array([[0, 1], [bad, 2]])])


def test_embeddings_name_a_position_beyond_the_table() -> None:
    op = Embeddings((Table(floats(30, 8), None, "input"), Table(floats(6, 8), None, "position", offset=2)))
    run_fused(op, [np.zeros((2, 4), np.int64)])
    with pytest.raises(InputRangeError, match=r"6 rows.*position.*got 6\b"):
        run_fused(op, [np.zeros((2, 5), np.int64)])


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.bool_, np.float32])
@pytest.mark.parametrize("kind", ["linear", "where"])
@pytest.mark.parametrize("value", [-10000.0, float(np.finfo(np.float32).min)])
def test_key_mask(kind: str, value: float, dtype: type) -> None:
    check(KeyMask(kind, value), [MASK.astype(dtype)])


def test_key_mask_of_minus_infinity() -> None:
    check(KeyMask("where", -np.inf), [MASK])


@pytest.mark.parametrize("ones", [True, False])
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8, np.bool_])
def test_prefix_mask(ones: bool, dtype: type) -> None:
    check(PrefixMask(ones), [np.concatenate([MASK, MASK[:, ::-1]]).astype(dtype)])
    check(PrefixMask(ones), [np.array([[0, 2, 1, 0], [0, 0, 0, 0]]).astype(dtype)])


# ------------------------------------------------------------------------------------------------------------ attention

STATIC_QK = {
    "q_quantization": quantization(0.03, 120),
    "k_quantization": quantization(0.02, 4, np.int8),
    "qk_scale": np.array(0.0006, np.float32),
}
STATIC_PV = {
    "probs_quantization": quantization(1 / 255, 0),
    "v_quantization": quantization(0.03, 128),
    "pv_scale": np.array(0.03 / 255, np.float32),
}
RESULTS = {"scores_quantization": quantization(0.05, 128), "context_quantization": quantization(0.02, 128)}
FORMS: dict[str, dict[str, Any]] = {
    "float": {},
    "float between roundings": RESULTS,
    "only scores int8": STATIC_QK,
    "only context int8": STATIC_PV,
    "static": {**STATIC_QK, **STATIC_PV},
    "static with quantized results": {**STATIC_QK, **STATIC_PV, **RESULTS},
    "dynamic": {"dynamic": True},
}


def check_attention(op: Attention, inputs: Sequence[np.ndarray | None], step: float) -> None:
    """Equal but for the rounding of float sums and exponentials; where that flips a byte, by a ``step`` and rarely."""
    (got,), (expected,) = run_fused(op, inputs), twin(op, inputs)
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    difference = np.abs(got - expected)
    assert difference.max() <= step + 1e-5
    assert np.mean(difference > 1e-5) < 0.02


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_attention(form: str, masked: bool) -> None:
    op = Attention(heads=4, scale=0.5, **FORMS[form])
    inputs = [floats(3, 5, 16), floats(3, 5, 16), floats(3, 5, 16)]
    mask = [np.where(MASK != 0, 0, -10000).astype(np.float32)] if masked else [None]
    # A byte of a probability weighs a value of at most 4, a byte of the context 0.02.
    check_attention(op, [*inputs, *mask], step=0 if form == "float" else 4 / 255 + 0.02)


@pytest.mark.parametrize("form", ["static", "dynamic"])
def test_attention_over_more_tokens_than_float32_sums_exactly(form: str) -> None:
    op = Attention(heads=2, scale=0.35, **FORMS[form])
    check_attention(op, [floats(2, 300, 16), floats(2, 300, 16), floats(2, 300, 16)], step=4 / 255)


def test_dynamic_ranges_are_those_of_the_whole_batch() -> None:
    """A twin of the whole batch agrees although the last item alone has the widest probabilities and values."""
    op = Attention(heads=2, scale=1.0, dynamic=True)
    q, k, v = floats(3, 4, 8) * 0.01, floats(3, 4, 8), floats(3, 4, 8)
    q[2] *= 1000
    v[2] *= 10
    (got,) = run_fused(op, [q, k, v])
    np.testing.assert_allclose(got, twin(op, [q, k, v])[0], rtol=1e-5, atol=1e-5)
    (alone,) = run_fused(op, [q[:1], k[:1], v[:1]])
    assert np.abs(got[:1] - alone).max() > 1e-3


@pytest.mark.parametrize("form", FORMS)
def test_attention_of_two_dimensions_is_one_token_an_item(form: str) -> None:
    op = Attention(heads=2, scale=0.5, **FORMS[form])
    q, k, v = floats(3, 8), floats(3, 8), floats(3, 8)
    (got,) = run_fused(op, [q, k, v])
    (expected,) = twin(op, [q[:, None], k[:, None], v[:, None]])
    np.testing.assert_array_equal(got, expected[:, 0])


@pytest.mark.parametrize("form", ["float", "static", "dynamic"])
def test_attention_holds_one_item_of_scores(form: str) -> None:
    batch, tokens, heads = 16, 128, 4
    op = Attention(heads=heads, scale=0.5, **FORMS[form])
    inputs = [floats(batch, tokens, 16) for _ in range(3)]
    tracemalloc.start()
    try:
        run_fused(op, inputs)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Several copies of one item's scores and of the inputs; the scores of the batch alone are 16 of the former.
    assert peak < 8 * heads * tokens * tokens * 4, peak


# --------------------------------------------------------------------------------------------------------------- slices


@pytest.mark.parametrize("index", [0, 2, -1])
def test_select(index: int) -> None:
    x = floats(2, 3, 4)
    check(SelectToken(index), [x])
    check(SelectFeature(index), [x])
    check(SelectToken(index), [stored(np.int8, 2, 3, 4)])


def test_select_token_copies_the_only_token() -> None:
    """A view of one token would be contiguous, and change with the input."""
    check(SelectToken(0), [floats(2, 1, 4)])
    check(SelectFeature(0), [floats(2, 3, 1)])


def test_select_token_beyond_the_sequence() -> None:
    with pytest.raises(InputShapeError, match="token 3, got 3 tokens"):
        run_fused(SelectToken(3), [floats(2, 3, 4)])
