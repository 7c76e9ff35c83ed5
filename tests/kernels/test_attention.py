"""Attention of one head against brute force: int8 contexts exactly, unless a probability lies at a rounding tie."""

from __future__ import annotations

from dataclasses import replace

import naive_kernels as naive
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_drivers import Buffer, buffer, compiled, interleaved, of_all_widths
from naive_kernels import IntegerAttention

from sparsert.kernels.attention import (
    BOUNDED_SPAN,
    SUM_ROWS,
    attend_float,
    attend_int8,
    byte_sums,
)
from sparsert.kernels.jit import TILE
from sparsert.kernels.records import ATTENTION_PARAMETERS, ROUNDING
from sparsert.kernels.table import MODE

LOWEST = np.finfo(np.float32).min
FORM = IntegerAttention(qk_factor=1e-3, score_factor=0.05, probability_factor=255.0)


def _tiles(x: np.ndarray, fill: float) -> np.ndarray:
    """(tokens, D) as [tile][D][TILE]; positions beyond the end hold ``fill``."""
    padded = np.pad(x, ((0, -len(x) % TILE), (0, 0)), constant_values=fill)
    return np.ascontiguousarray(padded.reshape(-1, TILE, x.shape[1]).transpose(0, 2, 1))


def _work(tiles: int) -> Buffer:
    return Buffer((tiles * (5 * TILE * TILE + 4 * TILE) + 8 * TILE,), np.uint8)


def _padded_bias(bias: np.ndarray, lead: int) -> Buffer:
    """In whole fours, of keys that begin with lane ``lead``."""
    padding = (lead % 4, -(lead + len(bias)) % 4)
    return buffer(np.pad(bias.astype(np.float32), padding, constant_values=-np.inf))


def _score_bias(score_bias: np.ndarray | None, rows: int) -> tuple[Buffer | None, int, int]:
    """A table [key][query] with so many more rows on either side; address of the first key's, and its stride."""
    if score_bias is None:
        return None, 0, 0
    queries = -len(score_bias) % TILE
    table = buffer(np.pad(np.ascontiguousarray(score_bias.T), ((rows, rows), (0, queries))))
    stride = table.array.strides[0]
    return table, table.address + rows * stride, stride


def _behind(x: np.ndarray, lead: int, fill: float) -> np.ndarray:
    """Keys or values that begin with lane ``lead`` of a tile, behind those of a neighbour."""
    return np.pad(x, ((lead, 0), (0, 0)), constant_values=fill)


def _mode(form: IntegerAttention) -> int:
    if form.scaled is not None or form.masked is not None:
        return MODE.rounded_scores
    if not form.quantized:
        return MODE.int8
    return MODE.bounded_scores if 255 * form.score_factor <= BOUNDED_SPAN else MODE.quantized_scores


def _rounding(parameters: tuple[float, int] | None) -> np.ndarray:
    if parameters is None:
        return np.zeros(1, ROUNDING)
    scale, zero_point = parameters
    return np.array([(1 / scale, scale, -zero_point, 255 - zero_point)], ROUNDING)


def integer_context(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray,
    form: IntegerAttention,
    lead: int = 0,
    score_bias: np.ndarray | None = None,
) -> np.ndarray:
    """(queries, D) int32 by the kernel; q, k int16 without zero point, v int8. ``lead``: lane of the first key."""
    both = of_all_widths(lambda vectors: _integer_context(q, k, v, bias, form, lead, score_bias, vectors), [2])
    return _tokens(both, len(q))


def _tokens(context: np.ndarray, queries: int) -> np.ndarray:
    """(queries, D) of contexts [tile][D][TILE]."""
    return context.transpose(0, 2, 1).reshape(-1, context.shape[1])[:queries]


def _integer_context(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray,
    form: IntegerAttention,
    lead: int,
    score_bias: np.ndarray | None,
    vectors: int,
) -> np.ndarray:
    """Contexts [tile][D][TILE] of the first ``vectors`` vectors of queries of every tile."""
    # as bytes with any zero points that they can have; a neighbour's keys are the largest, and so are those behind
    query_zero, key_zero = (int(max(-x.min(initial=0), 0)) for x in (q, k))
    queries = [buffer(interleaved((tile + query_zero).astype(np.uint8), 4)) for tile in _tiles(q, 3)]
    stored = _tiles(_behind(k + np.int16(key_zero - 128), lead, 127), 127).astype(np.int8)
    keys = buffer(np.stack([interleaved(tile.view(np.uint8), 4).view(np.int8) for tile in stored]))
    values = buffer(_tiles(_behind(v, lead, -128), 99).astype(np.int8))
    params = np.zeros(1, ATTENTION_PARAMETERS)
    for name in ("qk_factor", "probability_factor", "probability_top", "softmax_factor", "softmax_top", "value_offset"):
        params[name] = getattr(form, name)
    for name in ("low", "high", "score_factor") if form.quantized else ():
        params[name] = getattr(form, name)
    for name in ("scaled", "masked"):
        params[name] = _rounding(getattr(form, name))
    params["query_zero_point"], params["key_offset"] = query_zero, 128 - key_zero
    held, masks, work = buffer(params), _padded_bias(bias, lead), _work(len(keys.array))
    key_sums, query_sums = Buffer((len(keys.array), SUM_ROWS, TILE), np.int32), Buffer((SUM_ROWS, TILE), np.int32)
    summarize = compiled(byte_sums, 6)
    for index, tile in enumerate(keys.array):
        place = key_sums.address + index * key_sums.array[0].nbytes
        summarize(queries[0].address, keys.address + index * tile.nbytes, q.shape[1] // 4, held.address, place, 4)
    table, place, stride = _score_bias(score_bias, 3)
    context = []
    for index, tile in enumerate(queries):
        summarize(tile.address, keys.address, q.shape[1] // 4, held.address, query_sums.address, vectors)
        out = Buffer((q.shape[1], TILE), np.int32)
        attend_int8(
            tile.address,
            query_sums.address,
            keys.address,
            keys.array[0].nbytes,
            key_sums.address,
            key_sums.array[0].nbytes,
            values.address,
            values.array[0].nbytes,
            lead,
            lead + len(k),
            q.shape[1],
            masks.address,
            place + 4 * TILE * index if table else 0,
            stride,
            held.address,
            _mode(form),
            form.value_offset != 0,
            work.address,
            out.address,
            vectors,
        )
        for touched in (out, work, tile, keys, values, masks, held, key_sums, query_sums, *([table] if table else [])):
            touched.check()
        context.append(out.array)
    return np.stack(context)


def float_context(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray,
    factor: float,
    lead: int = 0,
    score_bias: np.ndarray | None = None,
) -> np.ndarray:
    """(queries, D) float32 by the kernel; all around the keys and values is NaN."""
    both = of_all_widths(lambda vectors: _float_context(q, k, v, bias, factor, lead, score_bias, vectors), [2])
    return _tokens(both, len(q))


def _float_context(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray,
    factor: float,
    lead: int,
    score_bias: np.ndarray | None,
    vectors: int,
) -> np.ndarray:
    """Contexts [tile][D][TILE] of the first ``vectors`` vectors of queries of every tile."""
    queries = buffer(_tiles(q, 0.5))
    keys, values = (buffer(_tiles(_behind(x, lead, np.nan), np.nan)) for x in (k, v))
    params = np.zeros(1, ATTENTION_PARAMETERS)
    params["qk_factor"] = factor
    held, masks, work = buffer(params), _padded_bias(bias, lead), _work(len(keys.array))
    table, place, stride = _score_bias(score_bias, 0)
    context = []
    for index in range(len(queries.array)):
        out = Buffer((q.shape[1], TILE), np.float32)
        attend_float(
            queries.address + index * queries.array[0].nbytes,
            keys.address,
            keys.array[0].nbytes,
            values.address,
            values.array[0].nbytes,
            lead,
            lead + len(k),
            q.shape[1],
            masks.address,
            place + 4 * TILE * index if table else 0,
            stride,
            held.address,
            work.address,
            out.address,
            vectors,
        )
        for touched in (out, work, queries, keys, values, masks, held, *([table] if table else [])):
            touched.check()
        context.append(out.array)
    return np.stack(context)


def check_integer(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    bias: np.ndarray,
    form: IntegerAttention,
    vague: float = 1.0,
    lead: int = 0,
    score_bias: np.ndarray | None = None,
) -> None:
    """Compare with brute force; at most a share ``vague`` of the outputs may hang on a rounding tie."""
    got = integer_context(q, k, v, bias, form, lead, score_bias).astype(np.int64)
    # exp2 to 3e-6, differences of scores times log2(e) to 1e-5, and a float32 sum of all keys
    slack = 1.5e-5 + len(k) * 2.0**-24
    added = bias if score_bias is None else score_bias + bias
    least, most = naive.attend_int8(q, k, v, added, form, slack)
    assert ((least <= got) & (got <= most)).all()
    assert (least != most).mean() <= vague


def integers(rng: np.random.Generator, tokens: int, head_dim: int, limit: int) -> np.ndarray:
    """What bytes hold beyond a zero point: -limit to limit as far as a byte reaches, 255 for any zero point."""
    zero = int(rng.integers(256)) if limit == 255 else limit
    return rng.integers(
        -zero, min(zero, 255 - zero) if limit < 255 else 255 - zero, (tokens, head_dim), endpoint=True
    ).astype(np.int16)


@settings(max_examples=50)
@given(
    queries=st.integers(1, 70),
    keys=st.integers(1, 200),
    head_dim=st.sampled_from([4, 12, 32, 64]),
    limit=st.sampled_from([1, 30, 255]),
    quantized=st.booleans(),
    offset=st.sampled_from([0, 128, -127, 5]),
    factor=st.sampled_from([255.0, 1000.0, 20.0]),
    lead=st.integers(0, TILE - 1),
    seed=st.integers(0, 2**16),
)
@example(1, 1, 4, 255, True, -127, 255.0, 0, 0)
@example(1, 1, 4, 255, True, -127, 255.0, TILE - 1, 0)
@example(64, 64, 64, 255, False, 128, 255.0, 0, 1)
def test_integer_attention(
    queries: int,
    keys: int,
    head_dim: int,
    limit: int,
    quantized: bool,
    offset: int,
    factor: float,
    lead: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    q, k = integers(rng, queries, head_dim, limit), integers(rng, keys, head_dim, limit)
    v = rng.integers(-128, 128, (keys, head_dim)).astype(np.int8)
    spread = np.abs(q.astype(np.int64) @ k.astype(np.int64).T).max() or 1
    qk_factor = float(np.float32((100.0 if quantized else 6.0) / spread))
    form = replace(FORM, qk_factor=qk_factor, quantized=quantized, value_offset=offset, probability_factor=factor)
    bias = np.where(rng.random(keys) < 0.3, LOWEST, np.float32(0)).astype(np.float32)
    bias[rng.integers(keys)] = 0
    check_integer(q, k, v, bias, form, lead=lead)


# Powers of two: dividing by them and multiplying with their inverse is the same.
roundings = st.none() | st.tuples(st.sampled_from([2.0**-4, 0.25, 64.0]), st.sampled_from([0, 90, 255]))


@settings(max_examples=50)
@given(
    keys=st.integers(1, 150),
    quantized=st.booleans(),
    scaled=roundings,
    masked=roundings,
    mask=st.sampled_from([0.0, -10000.0, float(LOWEST)]),
    lead=st.integers(0, TILE - 1),
    seed=st.integers(0, 2**16),
)
@example(70, False, (0.25, 90), (float(np.float32(2.0**120)), 255), float(LOWEST), 5, 0)
def test_scores_are_rounded_on_their_way(
    keys: int,
    quantized: bool,
    scaled: tuple[float, int] | None,
    masked: tuple[float, int] | None,
    mask: float,
    lead: int,
    seed: int,
) -> None:
    """As in files whose every op is quantized; a neighbour's keys stay out, however little a mask can say there."""
    rng = np.random.default_rng(seed)
    q, k = integers(rng, 20, 8, 100), integers(rng, keys, 8, 100)
    v = rng.integers(-128, 128, (keys, 8)).astype(np.int8)
    spread = np.abs(q.astype(np.int64) @ k.astype(np.int64).T).max() or 1
    form = replace(
        FORM,
        qk_factor=float(np.float32((100.0 if quantized else 6.0) / spread)),
        quantized=quantized,
        scaled=scaled,
        masked=masked,
    )
    bias = np.where(rng.random(keys) < 0.3, np.float32(mask), np.float32(0)).astype(np.float32)
    check_integer(q, k, v, bias, form, lead=lead)


@pytest.mark.parametrize(("tops", "first", "ratio"), [((255, 255), 255.0, 1.4), ((127, 255), 127.0, 2.0)])
def test_probabilities_are_quantized_twice(tops: tuple[int, int], first: float, ratio: float) -> None:
    """What the softmax gives, and what the product takes, have scales of their own, and signed bytes a lower top."""
    rng = np.random.default_rng(8)
    q, k = integers(rng, 64, 16, 100), integers(rng, 90, 16, 100)
    v = rng.integers(-128, 128, (90, 16)).astype(np.int8)
    form = replace(FORM, qk_factor=2e-3, score_factor=0.03, probability_factor=ratio)
    for twice in (True, False):
        form = replace(form, softmax_factor=first, softmax_top=tops[0], probability_top=tops[1])
        if not twice:
            form = replace(form, softmax_factor=0.0, probability_factor=3000.0, probability_top=127)
        check_integer(q, k, v, np.zeros(90, np.float32), form, vague=0.4)


@pytest.mark.parametrize("keys", [40, 384])
def test_integer_attention_is_exact_but_for_ties(keys: int) -> None:
    rng = np.random.default_rng(5)
    q, k = integers(rng, 64, 32, 128), integers(rng, keys, 32, 128)
    v = rng.integers(-128, 128, (keys, 32)).astype(np.int8)
    form = replace(FORM, qk_factor=float(np.float32(120 / 4e5)), score_factor=0.08)
    check_integer(q, k, v, np.zeros(keys, np.float32), form, vague=0.25)


# -- probabilities at the ends of their range


def chosen(keys: int, selected: list[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """q, k and bias such that the selected keys share the probability of every query equally."""
    bias = np.full(keys, LOWEST, np.float32)
    bias[selected] = 0
    return np.zeros((TILE + 3, 8), np.int16), integers(rng, keys, 8, 255), bias


@pytest.mark.parametrize("value", [-128, 127, None])
@pytest.mark.parametrize("offset", [0, 128, -127])
@pytest.mark.parametrize(
    ("selected", "factor", "byte"),
    [
        ([9], 255.0, 255),
        ([0], 255.0, 255),
        ([150], 255.0, 255),
        ([9], 1000.0, 255),  # a probability beyond the quantized range saturates
        ([8, 9], 510.0, 255),  # the two meet in one int16
        ([9, 10], 510.0, 255),
        ([8, 9, 10, 11], 1020.0, 255),
        ([0, 150], 510.0, 255),
        (list(range(64)), 255.0 * 64, 255),
        (list(range(200)), 1e7, 255),
        (list(range(200)), 2000.0, 10),
        (list(range(0, 200, 2)), 1000.0, 10),
        (list(range(200)), 60.0, 0),
    ],
    ids=lambda value: f"{len(value)}keys" if isinstance(value, list) else str(value),
)
def test_extreme_probabilities_never_saturate_the_sums(
    selected: list[int], factor: float, byte: int, offset: int, value: int | None
) -> None:
    rng = np.random.default_rng(1)
    q, k, bias = chosen(200, selected, rng)
    v = rng.integers(-128, 128, (200, 8)).astype(np.int8)
    if value is not None:
        v[:] = value
    form = replace(FORM, probability_factor=factor, value_offset=offset)
    got = integer_context(q, k, v, bias, form)
    exact = byte * (v[selected].astype(np.int64) + offset).sum(axis=0)
    np.testing.assert_array_equal(got, np.broadcast_to(exact, got.shape))


@pytest.mark.parametrize("second", [1, TILE, 2 * TILE + 1], ids=["neighbour", "next_tile", "tile_after_next"])
@pytest.mark.parametrize("total", [254, 255, 256, 257, 258, 300, 510])
def test_the_limit_of_int16_lanes_is_met_exactly(total: int, second: int) -> None:
    # two keys whose products meet in one int16 lane on AVX2; -128 * 256 is the last sum that fits
    first_byte = total // 2
    bias = np.full(3 * TILE, -np.inf, np.float32)
    bias[0], bias[second] = np.log(first_byte), np.log(total - first_byte)
    q, k = np.zeros((2, 4), np.int16), np.zeros((3 * TILE, 4), np.int16)
    v = np.full((3 * TILE, 4), -128, np.int8)
    got = integer_context(q, k, v, bias, replace(FORM, probability_factor=float(total)))
    np.testing.assert_array_equal(got, np.full((2, 4), -128 * total))


@settings(max_examples=40)
@given(keys=st.integers(2, 260), factor=st.sampled_from([255.0, 300.0, 512.0, 5000.0, 1e6]), seed=st.integers(0, 999))
def test_sums_stay_exact_when_key_tiles_mix_low_and_high_probabilities(keys: int, factor: float, seed: int) -> None:
    # on AVX2 tiles are added up in int16 while that is exact: every way of cutting the run of tiles must be met
    rng = np.random.default_rng(seed)
    q, k = integers(rng, 40, 8, 20), integers(rng, keys, 8, 20)
    v = rng.choice([-128, 127], (keys, 8)).astype(np.int8)
    bias = np.repeat(rng.uniform(-8, 0, -(-keys // TILE)), TILE)[:keys].astype(np.float32)
    form = replace(FORM, qk_factor=0.02, score_factor=0.1, probability_factor=factor)
    check_integer(q, k, v, bias, form)


# -- masks


@pytest.mark.parametrize("keys", [1, 33, 70, 128])
@pytest.mark.parametrize("quantized", [True, False])
def test_a_fully_masked_row_is_uniform_over_the_real_keys(keys: int, quantized: bool) -> None:
    rng = np.random.default_rng(2)
    q, k = integers(rng, 5, 16, 100), integers(rng, keys, 16, 100)
    v = rng.integers(-128, 128, (keys, 16)).astype(np.int8)
    bias = np.full(keys, LOWEST, np.float32)
    form = replace(FORM, quantized=quantized, probability_factor=keys * 10.0, qk_factor=1e-4)
    got = integer_context(q, k, v, bias, form)
    np.testing.assert_array_equal(got, np.broadcast_to(10 * v.astype(np.int64).sum(axis=0), got.shape))
    wide = [x.astype(np.float32) for x in (q, k, v)]
    mean = np.broadcast_to(wide[2].astype(np.float64).mean(axis=0), got.shape)
    np.testing.assert_allclose(float_context(*wide, bias, 1e-4), mean, rtol=1e-5, atol=1e-4)


@settings(max_examples=40)
@given(
    queries=st.integers(1, 70),
    keys=st.integers(1, 200),
    head_dim=st.sampled_from([4, 12, 32, 64]),
    magnitude=st.sampled_from([0.1, 1.0, 4.0]),
    mask=st.sampled_from([0.0, -10000.0, float(LOWEST), float("-inf")]),
    lead=st.integers(0, TILE - 1),
    seed=st.integers(0, 2**16),
)
def test_float_attention(
    queries: int, keys: int, head_dim: int, magnitude: float, mask: float, lead: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    q, k, v = ((rng.standard_normal((n, head_dim)) * magnitude).astype(np.float32) for n in (queries, keys, keys))
    bias = np.where(rng.random(keys) < 0.3, np.float32(mask), np.float32(0)).astype(np.float32)
    bias[rng.integers(keys)] = 0
    factor = float(np.float32(head_dim**-0.5))
    got = float_context(q, k, v, bias, factor, lead)
    exact = naive.attend_float(q, k, v, bias, factor)
    # a score of size s rounds by about s * 2**-23 a few times, which its exponential takes as a relative error
    scores = np.abs(q.astype(np.float64)) @ np.abs(k.astype(np.float64)).T * factor
    bound = (scores.max() * 8 * 2.0**-23 + (keys + 16) * 2.0**-23) * np.abs(v).max()
    assert np.abs(got - exact).max() <= bound


# -- numbers of query and key


@settings(max_examples=30)
@given(
    queries=st.integers(1, 70),
    keys=st.integers(1, 150),
    masked=st.sampled_from([0.0, 0.3]),
    lead=st.integers(0, TILE - 1),
    seed=st.integers(0, 2**16),
)
def test_a_score_bias_is_added_to_every_score(queries: int, keys: int, masked: float, lead: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    score_bias = rng.uniform(-4, 4, (queries, keys)).astype(np.float32)
    score_bias[rng.random((queries, keys)) < masked] = -np.inf
    bias = np.where(rng.random(keys) < masked, LOWEST, np.float32(0)).astype(np.float32)
    own = rng.integers(keys)
    bias[own], score_bias[:, own] = 0, 1
    q, k, v = (rng.standard_normal((n, 12)).astype(np.float32) for n in (queries, keys, keys))
    got = float_context(q, k, v, bias, 0.3, lead, score_bias)
    exact = naive.attend_float(q, k, v, score_bias + bias, 0.3)
    # scores and biases are below 16, as in test_float_attention
    assert np.abs(got - exact).max() <= (16 * 8 + keys + 16) * 2.0**-23 * np.abs(v).max()

    q8, k8 = integers(rng, queries, 12, 60), integers(rng, keys, 12, 60)
    v8 = rng.integers(-128, 128, (keys, 12)).astype(np.int8)
    for quantized in (True, False):
        form = replace(FORM, qk_factor=1e-3 if quantized else 2e-4, quantized=quantized)
        check_integer(q8, k8, v8, bias, form, lead=lead, score_bias=score_bias)


def test_a_score_bias_may_be_a_table_of_distances() -> None:
    rng = np.random.default_rng(8)
    queries, keys, dims = 2 * TILE, 50, 8
    q, k, v = (rng.standard_normal((n, dims)).astype(np.float32) for n in (queries, keys, keys))
    distances = rng.standard_normal(queries + keys - 1).astype(np.float32)
    table = buffer(distances)
    params = np.zeros(1, ATTENTION_PARAMETERS)
    params["qk_factor"] = 0.5
    tiles, held, masks = buffer(_tiles(q, 0)), buffer(params), buffer(np.zeros(keys, np.float32))
    stored, values = buffer(_tiles(k, np.nan)), buffer(_tiles(v, np.nan))
    work, out = _work(len(stored.array)), Buffer((dims, TILE), np.float32)
    size = stored.array[0].nbytes
    for index in range(2):
        # of query 0 and key 0, then of the tile's first query
        place = table.address + 4 * (keys - 1) + 4 * TILE * index
        of_tile = tiles.address + index * tiles.array[0].nbytes
        attend_float(
            of_tile, stored.address, size, values.address, size, 0, keys, dims, masks.address, place, -4, held.address,
            work.address, out.address, 4,
        )  # fmt: skip
        for touched in (tiles, held, masks, stored, values, work, out, table):
            touched.check()
        rows = np.arange(TILE * index, TILE * (index + 1))
        exact = naive.attend_float(q[rows], k, v, distances[keys - 1 + rows[:, None] - np.arange(keys)], 0.5)
        assert np.abs(out.array.T - exact).max() < 1e-5


def test_nan_spreads_to_what_depends_on_it_and_no_further() -> None:
    rng = np.random.default_rng(4)
    q, k, v = (rng.standard_normal((n, 8)).astype(np.float32) for n in (40, 50, 50))
    bias = np.zeros(50, np.float32)
    query = q.copy()
    query[3, 1] = np.nan
    got = np.isnan(float_context(query, k, v, bias, 0.3))
    assert got[3].all()
    assert not np.delete(got, 3, axis=0).any()
    for position in (0, 20, 49):
        key, value = k.copy(), v.copy()
        key[position, 5] = value[position, 2] = np.nan
        assert np.isnan(float_context(q, key, v, bias, 0.3)).all()
        got = np.isnan(float_context(q, k, value, bias, 0.3))
        assert got[:, 2].all()
        assert not np.delete(got, 2, axis=1).any()
