"""Rotary embeddings: their array forms, the spellings that are recognised, what only looks like one, and lengths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import naive
import numpy as np
import onnx
import pytest
import small_models
from fusion_checks import counts, fused_ops, left, onnxruntime_outputs
from onnx import helper
from program_checks import run
from small_models import FLOAT, INT64

from sparsert import Engine
from sparsert.errors import InputRangeError
from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.graph.ir import FUSED_DOMAIN, Graph, Node
from sparsert.ops import Linear, run_fused
from sparsert.ops.rotary import TOKEN, ComputedTable, PositionRows, Rotary
from sparsert.plan import compile_graph

HEADS, SIZE, VOCAB = 3, 8, 50
HIDDEN = HEADS * SIZE
IDS = ("batch", "sequence")
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = np.random.default_rng(1).bit_generator.state


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    return lambda *parts, **options: small_models.save(tmp_path / "model.onnx", *parts, **options)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


# -- in NumPy


def test_array_form_of_the_rotation() -> None:
    partners = np.array([2, 2, -2, -2, 1, -1, 0, 0])
    op = Rotary(HEADS, partners, np.array([0, 1, 0, 1, 2, 2, 0, 0]), np.array([3, 4, 3, 4, 5, 5, 0, 0]))
    for lead in ((2, 5), (7,), (0, 3)):
        inputs = [normal(*lead, HIDDEN), normal(*lead, 6)]
        (got,) = run_fused(op, inputs)
        (expected,) = naive.run_node(Node("Rotary", [], [], domain=FUSED_DOMAIN, fused=op), inputs, {})
        assert got.dtype == np.float32 and got.shape == inputs[0].shape
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


def test_array_form_of_the_factors() -> None:
    op = PositionRows(ComputedTable.of((("Cos", ("Mul", 0.25, ("ToFloat", TOKEN))), ("Sin", ("ToFloat", TOKEN)))))
    (got,) = run_fused(op, [np.zeros((2, 9), np.int64)])
    np.testing.assert_allclose(got[1, :, 0], np.cos(0.25 * np.arange(9)), atol=1e-7)
    np.testing.assert_allclose(got[0, :, 1], np.sin(np.arange(9)), atol=1e-7)


# -- spellings


class Model:
    """One layer of attention over rotated heads, node by node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def __call__(self, op: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; arrays become constants. Returns the name of its output, or names if there are several."""
        names = [item if isinstance(item, str) else self.constant(item) for item in inputs]
        results = [f"v{len(self.nodes)}.{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(op, names, results, **attributes))
        return results[0] if outputs == 1 else results

    def constant(self, array: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def positions(self) -> str:
        """0, 1, ... of shape (S)."""
        shape = self("Shape", "input_ids")
        return self("Range", np.int64(0), self("Gather", shape, np.int64(1)), np.int64(1))

    def angles(self, way: str, pairs: int) -> str:
        """(S, pairs) or (1, S, pairs), of which cosine and sine are taken."""
        frequencies = np.float32(10.0 ** -np.linspace(0, 1, pairs))
        positions = self("Cast", self.positions(), to=FLOAT)
        if way == "einsum":
            return self("Einsum", positions, frequencies, equation="i,j->ij")
        if way == "matmul":
            column = self("Unsqueeze", positions, np.array([0, 1]))
            return self("Transpose", self("MatMul", frequencies.reshape(1, pairs, 1), column), perm=[0, 2, 1])
        return self("Mul", self("Unsqueeze", positions, np.array([1])), frequencies)

    def factors(self, way: str, pairs: int, adjacent: bool) -> list[str]:
        """Cosines and sines of shape (S, 2 * pairs) or (1, S, 2 * pairs)."""
        if way in ("gather", "slice"):
            angles = np.arange(64)[:, None] * np.float32(10.0 ** -np.linspace(0, 1, pairs))
            angles = angles.repeat(2, 1) if adjacent else np.concatenate([angles, angles], 1)
            tables = [np.float32(np.cos(angles)), np.float32(np.sin(angles))]
            if way == "gather":
                return [self("Gather", table, self.positions()) for table in tables]
            end = self("Slice", self("Shape", "input_ids"), np.array([1]), np.array([2]))
            return [self("Slice", table, np.array([0]), end, np.array([0])) for table in tables]
        angles = self.angles(way, pairs)
        if adjacent:
            tall = self("Unsqueeze", angles, np.array([-1]))
            twice = self("Concat", tall, tall, axis=-1)
            angles = self("Reshape", twice, np.array([0] * (2 if way == "matmul" else 1) + [2 * pairs]))
        else:
            angles = self("Concat", angles, angles, axis=-1)
        # scaled, as by YaRN
        return [self("Mul", self(op, angles), np.float32(1.25)) for op in ("Cos", "Sin")]

    def part(self, x: str, start: int, end: int, step: int = 1) -> str:
        return self("Slice", x, *(np.array([number]) for number in (start, end, -1, step)))

    def rotated(self, x: str, factors: list[str], spelling: str, rank: int) -> str:
        """Heads (B, A, S, D) or (B, S, A, D), all channels of each head."""
        cosines, sines = factors
        if spelling == "adjacent":
            even, odd = self.part(x, 0, SIZE, 2), self.part(x, 1, SIZE, 2)
            tall = [self("Unsqueeze", item, np.array([-1])) for item in (self("Neg", odd), even)]
            turned = self("Reshape", self("Concat", *tall, axis=-1), np.array([0, 0, 0, SIZE]))
        elif spelling == "difference":
            half = SIZE // 2
            first, second = self.part(x, 0, half), self.part(x, half, SIZE)
            c, s = self.part(cosines, 0, half), self.part(sines, 0, half)
            a = self("Sub", self("Mul", first, c), self("Mul", s, second))
            return self("Concat", a, self("Add", self("Mul", first, s), self("Mul", second, c)), axis=-1)
        else:
            first, second = self("Split", x, np.array([SIZE // 2] * 2), axis=-1, outputs=2)
            turned = self("Concat", self("Neg", second), first, axis=-1)
        return self("Add", self("Mul", x, cosines), self("Mul", turned, sines))

    def heads(self, way: str, x: str) -> list[str]:
        """Q, K and V of shape (B, S, A, D)."""
        if way == "separate":
            linears = [self("MatMul", x, normal(HIDDEN, HIDDEN) / 5) for _ in range(3)]
            return [self("Reshape", linear, np.array([0, 0, HEADS, SIZE])) for linear in linears]
        both = self("Add", self("MatMul", x, normal(HIDDEN, 3 * HIDDEN) / 5), normal(3 * HIDDEN))
        if way == "split":
            parts = self("Split", both, np.array([HIDDEN] * 3), axis=-1, outputs=3)
            return [self("Reshape", part, np.array([0, 0, HEADS, SIZE])) for part in parts]
        if way == "gathered":
            split = self("Reshape", both, np.array([0, 0, 3, HEADS, SIZE]))
            return [self("Gather", split, np.int64(number), axis=2) for number in range(3)]
        # within each head
        split = self("Reshape", both, np.array([0, 0, HEADS, 3 * SIZE]))
        return self("Split", split, np.array([SIZE] * 3), axis=3, outputs=3)

    def attend(self, q: str, k: str, v: str) -> None:
        """From (B, A, S, D) to the output, which no Linear follows."""
        scores = self("MatMul", self("Mul", q, np.float32(SIZE**-0.5)), self("Transpose", k, perm=[0, 1, 3, 2]))
        context = self("Transpose", self("MatMul", self("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        self.nodes.append(helper.make_node("Reshape", [context, self.constant(np.array([0, 0, HIDDEN]))], ["y"]))

    def save(self, save: Callable[..., Path]) -> Path:
        return save(self.nodes, [("input_ids", INT64, IDS)], [("y", FLOAT, (*IDS, HIDDEN))], self.constants, opset=18)


def transposed(model: Model, x: str) -> str:
    return model("Transpose", x, perm=[0, 2, 1, 3])


def build(spelling: str = "halves", way: str = "mul", packed: str = "separate", late: bool = True) -> Model:
    """``late``: rotated after the heads are moved before the tokens."""
    model = Model()
    q, k, v = model.heads(packed, model("Gather", normal(VOCAB, HIDDEN), "input_ids"))
    factors = model.factors(way, SIZE // 2, spelling == "adjacent")
    # (S, D) and (1, S, D) to (1, 1, S, D) or (1, S, 1, D)
    rank = 3 if way == "matmul" else 2
    axes = np.array(([0, 1] if rank == 2 else [1]) if late else ([0, 2] if rank == 2 else [2]))
    factors = [model("Unsqueeze", item, axes) for item in factors]
    if late:
        q, k, v = (transposed(model, item) for item in (q, k, v))
    q, k = (model.rotated(item, factors, spelling, rank) for item in (q, k))
    if not late:
        q, k, v = (transposed(model, item) for item in (q, k, v))
    model.attend(q, k, v)
    return model


def compare(path: Path, tokens: int = 37) -> Graph:
    """Fuse, and run by twins and by kernels as ONNX Runtime does."""
    fused, feeds = fuse_graph(load_graph(path)), {"input_ids": RNG.integers(0, VOCAB, (2, tokens))}
    want = onnxruntime_outputs(path, feeds)["y"]
    for got in (naive.run_graph(fused, feeds), run(compile_graph(fused), feeds)):
        # sums over 24 channels and 37 keys, and angles of up to 37 that are rounded in another order
        np.testing.assert_allclose(got["y"], want, rtol=0, atol=1e-5)
    return fused


def recognised(path: Path) -> Graph:
    fused = compare(path)
    assert left(fused) == [] and counts(fused)["Attention"] == 1
    assert counts(fused)["Rotary"] == 2 and counts(fused)["PositionRows"] == 1
    return fused


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("spelling", ["halves", "adjacent", "difference"])
@pytest.mark.parametrize("way", ["mul", "matmul", "einsum", "gather", "slice"])
def test_spellings(spelling: str, way: str, late: bool, save: Callable[..., Path]) -> None:
    fused = recognised(build(spelling, way, late=late).save(save))
    (rotation, _) = fused_ops(fused, Rotary)
    assert abs(rotation.partners).tolist() == [1 if spelling == "adjacent" else SIZE // 2] * SIZE


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("packed", ["split", "gathered", "within"])
def test_packed_projections(packed: str, late: bool, save: Callable[..., Path]) -> None:
    fused = recognised(build(packed=packed, late=late).save(save))
    assert [linear.weight.shape for linear in fused_ops(fused, Linear)] == [(HIDDEN, HIDDEN)] * 3


def test_parts_of_heads(save: Callable[..., Path]) -> None:
    """The last channels of a head stay as they are."""
    model = Model()
    q, k, v = model.heads("separate", model("Gather", normal(VOCAB, HIDDEN), "input_ids"))
    q, k, v = (transposed(model, item) for item in (q, k, v))
    cosines, sines = model.factors("mul", 2, adjacent=False)
    results = []
    for x in (q, k):
        inside, rest = model.part(x, 0, 4), model.part(x, 4, SIZE)
        turned = model("Concat", model("Neg", model.part(inside, 2, 4)), model.part(inside, 0, 2), axis=-1)
        rotated = model("Add", model("Mul", turned, sines), model("Mul", inside, cosines))
        results.append(model("Concat", rotated, rest, axis=-1))
    model.attend(*results, v)
    fused = recognised(model.save(save))
    assert fused_ops(fused, Rotary)[0].partners.tolist() == [2, 2, -2, -2, 0, 0, 0, 0]


def test_heads_that_are_stacked_after_their_rotation(save: Callable[..., Path]) -> None:
    """Q, K and V in one value of five dimensions again, as in the code that came with Nomic's models."""
    model = Model()
    q, k, v = model.heads("gathered", model("Gather", normal(VOCAB, HIDDEN), "input_ids"))
    factors = [model("Unsqueeze", item, np.array([1])) for item in model.factors("mul", SIZE // 2, adjacent=False)]
    q, k = (model.rotated(item, factors, "halves", 2) for item in (q, k))
    stacked = model("Concat", *(model("Unsqueeze", item, np.array([2])) for item in (q, k, v)), axis=2)
    moved = model("Transpose", stacked, perm=[0, 3, 2, 1, 4])
    parts = model("Split", moved, np.array([1, 1, 1]), axis=2, outputs=3)
    model.attend(*(model("Squeeze", part, np.array([2])) for part in parts))
    recognised(model.save(save))


def test_two_frequencies_have_a_table_each_and_layers_share_them(save: Callable[..., Path]) -> None:
    model = Model()
    x = model("Gather", normal(VOCAB, HIDDEN), "input_ids")
    for layer in range(4):
        q, k, v = (transposed(model, item) for item in model.heads("separate", x))
        factors = model.factors("mul" if layer % 2 else "matmul", SIZE // 2, adjacent=False)
        if layer % 2:
            factors = [model("Mul", item, np.float32(0.5)) for item in factors]
        q, k = (model.rotated(item, factors, "halves", 3) for item in (q, k))
        model.attend(q, k, v)
        x = model.nodes[-1].output[0] = "y" if layer == 3 else f"layer{layer}"
    fused = compare(model.save(save))
    assert left(fused) == [] and counts(fused)["Rotary"] == 8 and counts(fused)["PositionRows"] == 2


# -- what only looks like one


def by_ids(model: Model, factors: list[str]) -> list[str]:
    """Angles that depend on the ids."""
    ids = model("Unsqueeze", model("Cast", "input_ids", to=FLOAT), np.array([1, 3]))
    return [model("Add", factors[0], model("Mul", ids, np.float32(1e-3))), factors[1]]


def by_length(model: Model, factors: list[str]) -> list[str]:
    """Factors that depend on how many tokens there are: those of a longer sequence would not do."""
    count = model("Cast", model("Gather", model("Shape", "input_ids"), np.int64(1)), to=FLOAT)
    return [model("Mul", factors[0], model("Div", count, np.float32(64))), factors[1]]


def by_batch(model: Model, factors: list[str]) -> list[str]:
    return [model("Add", factors[0], np.float32([[[[0.0]]], [[[0.5]]]])), factors[1]]


def by_head(model: Model, factors: list[str]) -> list[str]:
    return [model("Add", factors[0], normal(1, HEADS, 1, 1)), factors[1]]


@pytest.mark.parametrize("change", [by_ids, by_length, by_batch, by_head])
def test_factors_of_something_else_than_positions(
    change: Callable[[Model, list[str]], list[str]], save: Callable[..., Path]
) -> None:
    model = Model()
    q, k, v = model.heads("separate", model("Gather", normal(VOCAB, HIDDEN), "input_ids"))
    q, k, v = (transposed(model, item) for item in (q, k, v))
    factors = [model("Unsqueeze", item, np.array([0, 1])) for item in model.factors("mul", SIZE // 2, False)]
    factors = change(model, factors)
    q, k = (model.rotated(item, factors, "halves", 2) for item in (q, k))
    model.attend(q, k, v)
    assert counts(compare(model.save(save)))["Rotary"] == 0


def test_a_sum_of_two_values_is_no_rotation(save: Callable[..., Path]) -> None:
    model = Model()
    q, k, v = model.heads("separate", model("Gather", normal(VOCAB, HIDDEN), "input_ids"))
    q, k, v = (transposed(model, item) for item in (q, k, v))
    cosines, sines = model.factors("mul", SIZE // 2, adjacent=False)
    turned = model("Concat", model("Neg", model.part(k, 4, 8)), model.part(k, 0, 4), axis=-1)
    model.attend(model("Add", model("Mul", q, cosines), model("Mul", turned, sines)), k, v)
    assert counts(compare(model.save(save)))["Rotary"] == 0


def test_positions_along_the_heads_are_no_positions(save: Callable[..., Path]) -> None:
    """As many heads as tokens, and the factors on the wrong axis."""
    model = Model()
    q, k, v = model.heads("separate", model("Gather", normal(VOCAB, HIDDEN), "input_ids"))
    q, k, v = (transposed(model, item) for item in (q, k, v))
    factors = [model("Unsqueeze", item, np.array([1])) for item in model.factors("mul", SIZE // 2, False)]
    q, k = (model.rotated(item, factors, "halves", 2) for item in (q, k))
    model.attend(q, k, v)
    assert counts(compare(model.save(save), tokens=HEADS))["Rotary"] == 0


# -- lengths


def test_any_length_and_ragged_batches(save: Callable[..., Path]) -> None:
    """Tables of formulas grow with the sequences; those that have been made stay in use."""
    path = build().save(save)
    engine = Engine(path, batch_size=None)
    for tokens in (5, 700, 40, 1100):
        ids = RNG.integers(0, VOCAB, (1, tokens))
        want = onnxruntime_outputs(path, {"input_ids": ids})["y"]
        np.testing.assert_allclose(engine.run([ids])[0], want, rtol=0, atol=1e-5)
    lengths = [5, 40, 1, 33, 32, 7]
    rows = [RNG.integers(0, VOCAB, length) for length in lengths]
    (flat,) = engine.run_ragged([np.concatenate(rows)], lengths)
    alone = np.concatenate([engine.run([row[None]])[0][0] for row in rows])
    np.testing.assert_array_equal(flat, alone)


@pytest.mark.parametrize("way", ["gather", "slice"])
def test_a_table_in_the_file_has_an_end(way: str, save: Callable[..., Path]) -> None:
    engine = Engine(build(way=way).save(save), batch_size=None)
    engine.run([RNG.integers(0, VOCAB, (1, 64))])
    with pytest.raises(InputRangeError, match="position 64, but the model's position table has 64 rows"):
        engine.run([RNG.integers(0, VOCAB, (1, 65))])
