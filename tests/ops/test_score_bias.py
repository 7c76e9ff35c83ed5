"""Numbers of positions: tables for kernels against the function itself, number by number."""

from __future__ import annotations

import ctypes

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsert.errors import InputRangeError, InputShapeError
from sparsert.graph.grids import as_distance, compute
from sparsert.graph.symbolic import Expr, apply, evaluate
from sparsert.kernels.loop.attention import UNBOUNDED
from sparsert.ops.score_bias import BiasTable, PositionBias, bias_of_array

HEAD, QUERY, KEY = INDICES = tuple(("index", label, ("dim", label)) for label in ("head", "query", "key"))
BIG_TABLE = np.random.default_rng(0).standard_normal((3, 40, 40)).astype(np.float32)
TABLES = {
    "buckets": np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32),
    "pairs": BIG_TABLE,
    "distances": np.stack(
        [np.abs(np.arange(40)[:, None] - np.arange(40)) * -slope for slope in (0.5, 0.25, 0.1)]
    ).astype(np.float32),
}
LOWEST = float(np.finfo(np.float32).min)


def difference(left: Expr, right: Expr) -> Expr:
    return apply("Sub", left, right)


def masked(condition: Expr, value: float = LOWEST) -> Expr:
    return apply("Where", condition, 0.0, value)


DISTANCE = apply("Abs", difference(KEY, QUERY))
EXPRESSIONS = {
    "buckets": ("table", "buckets", apply("Min", DISTANCE, 8), HEAD),
    "slopes": apply("Mul", apply("ToFloat", DISTANCE), -0.125),
    "causal": masked(apply("LessOrEqual", KEY, QUERY)),
    "causal_infinite": masked(apply("GreaterOrEqual", QUERY, KEY), -np.inf),
    "window": masked(apply("LessOrEqual", DISTANCE, 5)),
    "one_sided": masked(apply("And", apply("LessOrEqual", KEY, QUERY), apply("Greater", KEY, apply("Add", QUERY, -4)))),
    "causal_slopes": apply("Add", masked(apply("LessOrEqual", KEY, QUERY)), ("table", "buckets", 2, HEAD)),
    "logarithm": apply("Log", apply("ToFloat", apply("Add", 1, DISTANCE))),
    "pairs": ("table", "pairs", HEAD, QUERY, KEY),
    "distances": ("table", "distances", HEAD, QUERY, KEY),
    "of_keys": ("table", "buckets", apply("Min", KEY, 8), HEAD),
    "blocks": masked(apply("Equal", apply("Div", QUERY, 4), apply("Div", KEY, 4))),
}
WINDOWS = {
    "causal": (UNBOUNDED, 0),
    "causal_infinite": (UNBOUNDED, 0),
    "causal_slopes": (UNBOUNDED, 0),
    "window": (5, 5),
    "one_sided": (3, 0),
}


def bias_of(name: str) -> PositionBias:
    return PositionBias(EXPRESSIONS[name], INDICES, TABLES, 3)  # type: ignore[arg-type]


def read(table: BiasTable, head: int, query: int, key: int, item: int = 0) -> float:
    """The number that a kernel reads."""
    place = table.address + item * table.item + head * table.head + key * table.stride + 4 * query
    begin = table.values.ctypes.data
    assert begin <= place < begin + table.values.nbytes
    return ctypes.c_float.from_address(place).value


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_values_and_tables_are_those_of_the_function(name: str) -> None:
    bias, tokens = bias_of(name), 11
    want = naive.position_bias(bias, tokens)
    np.testing.assert_allclose(np.broadcast_to(bias.values(tokens), want.shape), want, rtol=1e-6)
    table = bias.table(tokens)
    assert (table.before, table.after) == WINDOWS.get(name, (UNBOUNDED, UNBOUNDED))
    for head, query, key in np.ndindex(*want.shape):
        if -table.after <= query - key <= table.before:
            assert read(table, head, query, key) == pytest.approx(want[head, query, key], rel=1e-6)


@pytest.mark.parametrize("name", ["buckets", "causal", "window", "distances", "slopes"])
def test_numbers_of_distances_take_a_line(name: str) -> None:
    table = bias_of(name).table(40)
    assert table.stride == -4 and table.values.size < 3 * 500


def test_a_table_serves_shorter_sequences_and_grows() -> None:
    bias = bias_of("buckets")
    first = bias.table(3)
    assert bias.table(40) is first
    grown = bias.table(100)
    assert grown is not first and read(grown, 1, 99, 0) == TABLES["buckets"][8, 1]


def test_what_is_0_as_far_as_it_is_known_is_added_all_the_same() -> None:
    """int8 attention takes another kernel with numbers of positions; a table that grows must not change the bits."""
    table = PositionBias(masked(apply("LessOrEqual", DISTANCE, 1000)), INDICES, {}, 3).table(64)  # type: ignore[arg-type]
    assert table.address != 0 and table.before == UNBOUNDED


def test_a_window_that_is_wider_than_the_sequence_is_found_once_it_matters() -> None:
    bias = PositionBias(masked(apply("LessOrEqual", DISTANCE, 100)), INDICES, {}, 3)  # type: ignore[arg-type]
    assert bias.table(64).before == UNBOUNDED
    assert bias.table(300).before == 100


def test_sequences_longer_than_the_table_are_refused() -> None:
    bias = bias_of("pairs")
    assert bias.table(40) is not None
    with pytest.raises(InputRangeError, match="41 tokens"):
        bias.table(41)
    with pytest.raises(InputRangeError, match="shorten"):
        bias.values(41)


@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (1, 1, 5, 5), (2, 1, 1, 5), (1, 3, 5, 1), (5, 5), (5,)])
def test_arrays_that_broadcast(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    table, want = bias_of_array(array, 2, 3, (2, 5)), np.broadcast_to(array, (2, 3, 5, 5))
    for item, head, query, key in np.ndindex(*want.shape):
        assert read(table, head, query, key, item) == want[item, head, query, key]


@pytest.mark.parametrize("shape", [(3, 3, 5, 5), (2, 2, 5, 5), (2, 3, 4, 5), (2, 3, 5, 6), (1, 2, 3, 5, 5)])
def test_arrays_that_do_not_broadcast_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputShapeError, match="expected one that broadcasts"):
        bias_of_array(np.zeros(shape, np.float32), 2, 3, (2, 5))


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> Expr:
    if depth == 0 or draw(st.booleans()):
        return draw(st.one_of(st.integers(-5, 5), st.sampled_from([QUERY, KEY])))
    operator = draw(st.sampled_from(["Add", "Sub", "Mul", "Min", "Less", "GreaterOrEqual", "Equal", "Abs", "Neg"]))
    count = 1 if operator in ("Abs", "Neg") else 2
    result = apply(operator, *(draw(trees(depth - 1)) for _ in range(count)))
    return result if operator in ("Add", "Sub", "Mul", "Min", "Abs", "Neg") else apply("ToInt", result)


@settings(max_examples=60)
@given(trees())
def test_what_is_called_a_function_of_the_distance_is_one(expr: Expr) -> None:
    distance = ("distance",)
    found = as_distance(expr, QUERY, KEY, distance)
    places = np.arange(5)
    whole = compute(expr, {QUERY: places[:, None], KEY: places}, {})
    for query, key in np.ndindex(5, 5):
        want = evaluate(expr, {QUERY: query, KEY: key})
        assert np.broadcast_to(whole, (5, 5))[query, key] == want
        if found is not None:
            assert evaluate(found, {distance: query - key}) == want
