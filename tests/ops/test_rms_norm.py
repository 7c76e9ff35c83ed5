"""RmsNorm: its array form, the spellings that are recognised, what only looks like one, and a block of a T5."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import naive
import numpy as np
import onnx
import pytest
import small_models
from fusion_checks import counts, fused_ops, left, onnxruntime_outputs
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from program_checks import run
from small_models import FLOAT, INT64

from sparsert import Engine
from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.graph.ir import FUSED_DOMAIN, Graph, Node
from sparsert.ops import LayerNorm, linear, run_fused
from sparsert.ops.rms_norm import RmsNorm
from sparsert.plan import compile_graph

CHANNELS = 8
ROWS = ("batch", "tokens", CHANNELS)
RNG = np.random.default_rng(0)
ULP = 2.0**-23


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = np.random.default_rng(1).bit_generator.state


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    return lambda *parts, **options: small_models.save(tmp_path / "model.onnx", *parts, **options)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


# -- in NumPy


@pytest.mark.parametrize("shape", [(CHANNELS,), (3, CHANNELS), (2, 3, CHANNELS), (0, CHANNELS)])
@pytest.mark.parametrize("block", [1 << 20, 10])
def test_array_form(shape: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_BLOCK", block)
    op, x = RmsNorm(normal(CHANNELS), 1e-6), 3 + normal(*shape)
    (got,) = run_fused(op, [x])
    (expected,) = naive.run_node(Node("RmsNorm", [], [], domain=FUSED_DOMAIN, fused=op), [x], {})
    assert got.dtype == np.float32 and got.shape == x.shape and not np.may_share_memory(got, x)
    # float64 throughout, so the roundings to float32 agree but for ties: one unit in the last place
    np.testing.assert_allclose(got, expected, rtol=ULP)


# -- spellings


def spelled(
    square: str = "Pow",
    divide: str = "Div",
    turned: bool = False,
    axes: list[int] | None = None,
    opset: int = 18,
    keepdims: int = 1,
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """The nodes of x / sqrt(mean(x ** 2) + epsilon) * weight; ``turned`` swaps the operands of sums and products."""

    def node(op: str, a: str, b: str, out: str) -> onnx.NodeProto:
        return helper.make_node(op, [b, a] if turned and op in ("Add", "Mul") else [a, b], [out])

    axes = [-1] if axes is None else axes
    attributes: dict[str, Any] = {"axes": axes} if opset < 18 else {}
    reduced = ["squares"] if opset < 18 else ["squares", "axes"]
    nodes = [
        node(square, "x", "two" if square == "Pow" else "x", "squares"),
        helper.make_node("ReduceMean", reduced, ["mean"], keepdims=keepdims, **attributes),
        node("Add", "mean", "epsilon", "sum"),
    ]
    if divide == "Pow":
        nodes.append(node("Pow", "sum", "half", "factor"))
    else:
        nodes.append(helper.make_node("Sqrt", ["sum"], ["root"]))
    if divide == "one over":
        nodes.append(node("Div", "one", "root", "factor"))
    elif divide == "Reciprocal":
        nodes.append(helper.make_node("Reciprocal", ["root"], ["factor"]))
    nodes.append(node("Div", "x", "root", "normal") if divide == "Div" else node("Mul", "x", "factor", "normal"))
    nodes.append(node("Mul", "normal", "weight", "y"))
    constants = {
        "two": np.array(2, np.float32),
        "one": np.ones(1, np.float32),
        "half": np.array(-0.5, np.float32),
        "epsilon": np.array(1e-3, np.float32),
        "axes": np.array(axes),
        "weight": normal(CHANNELS),
    }
    used = {name for node in nodes for name in node.input}
    return nodes, {name: array for name, array in constants.items() if name in used}


def reference_outputs(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    evaluator = ReferenceEvaluator(str(path))
    return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))


onnxruntime_as_written = functools.partial(onnxruntime_outputs, optimize=False)


def compare(
    path: Path, feeds: dict[str, np.ndarray], reference: Callable[..., dict[str, np.ndarray]] = onnxruntime_as_written
) -> Graph:
    """Fuse, and run by twins and by kernels as the reference does."""
    fused = fuse_graph(load_graph(path))
    want = reference(path, feeds)
    for got in (naive.run_graph(fused, feeds), run(compile_graph(fused), feeds)):
        for name, array in want.items():
            assert got[name].shape == array.shape and got[name].dtype == array.dtype
            # the sum of eight squares, and a handful of roundings after it, in any order
            np.testing.assert_allclose(got[name], array, rtol=16 * ULP, atol=1e-7)
    return fused


SPELLINGS = list(itertools.product(["Pow", "Mul"], ["Div", "one over", "Reciprocal", "Pow"], [False, True], [17, 18]))


@pytest.mark.parametrize(("square", "divide", "turned", "opset"), SPELLINGS)
def test_spellings(square: str, divide: str, turned: bool, opset: int, save: Callable[..., Path]) -> None:
    nodes, constants = spelled(square, divide, turned, opset=opset)
    path = save(nodes, [("x", FLOAT, ROWS)], [("y", FLOAT, ROWS)], constants, opset=opset)
    fused = compare(path, {"x": normal(2, 5, CHANNELS)})
    assert [node.op for node in fused.nodes] == ["RmsNorm"] and len(fused.nodes[0].sources) == len(nodes)
    (op,) = fused_ops(fused, RmsNorm)
    np.testing.assert_array_equal(op.gamma, constants["weight"])
    assert op.epsilon == np.float32(1e-3)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_any_rank_and_a_positive_axis(rank: int, save: Callable[..., Path]) -> None:
    shape = (*"abc"[: rank - 1], CHANNELS)
    nodes, constants = spelled(axes=[rank - 1])
    path = save(nodes, [("x", FLOAT, shape)], [("y", FLOAT, shape)], constants, opset=18)
    assert left(compare(path, {"x": normal(*[3] * (rank - 1), CHANNELS)})) == []


def test_weight_of_several_dimensions_along_the_last(save: Callable[..., Path]) -> None:
    nodes, constants = spelled()
    constants["weight"] = constants["weight"].reshape(1, 1, CHANNELS)
    path = save(nodes, [("x", FLOAT, ROWS)], [("y", FLOAT, ROWS)], constants, opset=18)
    assert left(compare(path, {"x": normal(2, 5, CHANNELS)})) == []


def test_squares_that_somebody_else_reads(save: Callable[..., Path]) -> None:
    nodes, constants = spelled()
    outputs = [("y", FLOAT, ROWS), ("squares", FLOAT, ROWS)]
    fused = compare(save(nodes, [("x", FLOAT, ROWS)], outputs, constants, opset=18), {"x": normal(2, 5, CHANNELS)})
    assert left(fused) == ["Pow"] and counts(fused) == {"RmsNorm": 1}


def test_of_centred_values_it_is_a_layer_norm_without_a_shift(save: Callable[..., Path]) -> None:
    nodes, constants = spelled()
    for node in nodes:
        node.input[:] = ["centred" if name == "x" else name for name in node.input]
    centre = [
        helper.make_node("ReduceMean", ["x", "axes"], ["average"]),
        helper.make_node("Sub", ["x", "average"], ["centred"]),
    ]
    path = save([*centre, *nodes], [("x", FLOAT, ROWS)], [("y", FLOAT, ROWS)], constants, opset=18)
    fused = compare(path, {"x": normal(2, 5, CHANNELS)})
    assert counts(fused) == {"LayerNorm": 1} and left(fused) == []
    (norm,) = fused_ops(fused, LayerNorm)
    np.testing.assert_array_equal(norm.gamma, constants["weight"])
    assert not norm.beta.any()


# -- what only looks like one


def refused(path: Path, feeds: dict[str, np.ndarray]) -> None:
    """Nothing is recognised. Compared with onnx.reference, since ONNX Runtime takes some of these for one itself."""
    assert counts(compare(path, feeds, reference_outputs))["RmsNorm"] == 0


@pytest.mark.parametrize("value", ["mean", "sum", "root", "normal"])
def test_values_on_the_way_that_somebody_else_reads(value: str, save: Callable[..., Path]) -> None:
    nodes, constants = spelled()
    outputs = [("y", FLOAT, ROWS), (value, FLOAT, None)]
    refused(save(nodes, [("x", FLOAT, ROWS)], outputs, constants, opset=18), {"x": normal(2, 5, CHANNELS)})
    reader = helper.make_node("Neg", [value], ["z"])
    outputs = [("y", FLOAT, ROWS), ("z", FLOAT, None)]
    path = save([*nodes, reader], [("x", FLOAT, ROWS)], outputs, constants, opset=18)
    refused(path, {"x": normal(2, 5, CHANNELS)})


OTHER_CONSTANTS = {
    "an epsilon for each channel": {"epsilon": np.linspace(0.1, 1, CHANNELS, dtype=np.float32)},
    "an epsilon of a higher rank": {"epsilon": np.full((1, 1, 1, 1), 0.1, np.float32)},
    "a weight for each token": {"weight": np.arange(1, 6, dtype=np.float32).reshape(5, 1)},
    "a weight for each token and channel": {"weight": np.ones((5, CHANNELS), np.float32)},
    "a weight of a higher rank": {"weight": np.ones((1, 1, 1, CHANNELS), np.float32)},
    "one weight": {"weight": np.array(2, np.float32)},
    "one weight in a vector": {"weight": np.array([2], np.float32)},
    "cubes": {"two": np.array(3, np.float32)},
    "another numerator": {"one": np.full(1, 2, np.float32)},
}


@pytest.mark.parametrize("name", OTHER_CONSTANTS)
def test_other_constants(name: str, save: Callable[..., Path]) -> None:
    nodes, constants = spelled(divide="one over")
    constants |= OTHER_CONSTANTS[name]
    path = save(nodes, [("x", FLOAT, (2, 5, CHANNELS))], [("y", FLOAT, None)], constants, opset=18)
    refused(path, {"x": np.abs(normal(2, 5, CHANNELS))})


@pytest.mark.parametrize(
    "form", [{"axes": [1]}, {"axes": [0, 1, 2]}, {"axes": [1, 2]}, {"keepdims": 0}, {"divide": "Pow"}], ids=str
)
def test_other_axes_and_powers(form: dict[str, Any], save: Callable[..., Path]) -> None:
    nodes, constants = spelled(**form)
    if "half" in constants:
        constants["half"] = np.array(-1, np.float32)
    shape = (CHANNELS,) * 3
    path = save(nodes, [("x", FLOAT, shape)], [("y", FLOAT, None)], constants, opset=18)
    refused(path, {"x": normal(*shape)})


def test_other_operands(save: Callable[..., Path]) -> None:
    """What is divided is another value than what is squared, or the root is divided by it; the weight is an input."""
    inputs = [("x", FLOAT, ROWS), ("z", FLOAT, ROWS), ("w", FLOAT, (CHANNELS,))]
    feeds = {"x": normal(2, 5, CHANNELS), "z": normal(2, 5, CHANNELS), "w": normal(CHANNELS)}
    for position, operands in ((4, ["z", "root"]), (4, ["root", "x"]), (5, ["normal", "w"]), (5, ["normal", "normal"])):
        nodes, constants = spelled()
        nodes[position].input[:] = operands
        refused(save(nodes, inputs, [("y", FLOAT, ROWS)], constants, opset=18), feeds)


def test_doubles_and_unknown_channels_stay(save: Callable[..., Path]) -> None:
    nodes, constants = spelled()
    for weight in (constants["weight"], np.array([2], np.float32)):
        unknown = constants | {"weight": weight}
        path = save(nodes, [("x", FLOAT, ("a", "b", "c"))], [("y", FLOAT, None)], unknown, opset=18)
        for channels in (1, CHANNELS):
            refused(path, {"x": normal(2, 5, channels)})
    wide = {name: array.astype(np.float64) if name != "axes" else array for name, array in constants.items()}
    path = save(nodes, [("x", TensorProto.DOUBLE, ROWS)], [("y", TensorProto.DOUBLE, ROWS)], wide, opset=18)
    refused(path, {"x": normal(2, 5, CHANNELS).astype(np.float64)})


def test_integers_stay(save: Callable[..., Path]) -> None:
    """A mean of integers is one itself."""
    nodes, constants = spelled("Mul")
    nodes[1].output[0] = "integers"
    nodes.insert(2, helper.make_node("Cast", ["integers"], ["mean"], to=FLOAT))
    nodes.insert(5, helper.make_node("Cast", ["x"], ["floats"], to=FLOAT))
    nodes[6].input[0] = "floats"
    shape = ("batch", CHANNELS)
    path = save(nodes, [("x", small_models.INT32, shape)], [("y", FLOAT, shape)], constants, opset=18)
    refused(path, {"x": RNG.integers(-9, 9, (3, CHANNELS)).astype(np.int32)})


# -- RMSNormalization


@pytest.mark.parametrize(
    ("attributes", "scale", "native"),
    [
        ({}, normal(CHANNELS), True),
        ({"axis": 2, "epsilon": 0.1}, normal(CHANNELS), True),
        ({"axis": 1}, normal(5, CHANNELS), False),
        ({"axis": -1}, np.array(2, np.float32), False),
        ({"axis": -1}, normal(5, CHANNELS), False),
    ],
)
def test_native_op(attributes: dict[str, Any], scale: np.ndarray, native: bool, save: Callable[..., Path]) -> None:
    """Compared with onnx.reference, since ONNX Runtime may lack it."""
    node = helper.make_node("RMSNormalization", ["x", "scale"], ["y"], **attributes)
    path = save([node], [("x", FLOAT, ("batch", 5, CHANNELS))], [("y", FLOAT, None)], {"scale": scale}, opset=23)
    fused = compare(path, {"x": normal(3, 5, CHANNELS)}, reference_outputs)
    assert counts(fused)["RmsNorm"] == native


def test_native_op_that_asks_for_doubles_on_its_way_stays(save: Callable[..., Path]) -> None:
    node = helper.make_node("RMSNormalization", ["x", "scale"], ["y"], stash_type=TensorProto.DOUBLE)
    constants = {"scale": normal(CHANNELS)}
    path = save([node], [("x", FLOAT, ROWS)], [("y", FLOAT, ROWS)], constants, opset=23)
    assert left(fuse_graph(load_graph(path))) == ["RMSNormalization"]


# -- a block of a T5


HIDDEN, WIDE, VOCAB = 24, 40, 50


@pytest.fixture
def block(save: Callable[..., Path]) -> Path:
    """ids -> embeddings -> h; h + Linear(Gelu(Linear(RmsNorm(h)))) -> RmsNorm, as a PyTorch exporter writes it."""

    def norm(x: str, y: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Pow", [x, "two"], [f"{y}.squares"]),
            helper.make_node("ReduceMean", [f"{y}.squares", "axes"], [f"{y}.mean"]),
            helper.make_node("Add", [f"{y}.mean", "epsilon"], [f"{y}.sum"]),
            helper.make_node("Sqrt", [f"{y}.sum"], [f"{y}.root"]),
            helper.make_node("Div", ["one", f"{y}.root"], [f"{y}.factor"]),
            helper.make_node("Mul", [x, f"{y}.factor"], [f"{y}.normal"]),
            helper.make_node("Mul", [f"{y}.weight", f"{y}.normal"], [y]),
        ]

    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["h"]),
        *norm("h", "a"),
        helper.make_node("MatMul", ["a", "wi"], ["b"]),
        helper.make_node("Gelu", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "wo"], ["d"]),
        helper.make_node("Add", ["h", "d"], ["e"]),
        *norm("e", "y"),
    ]
    constants = {
        "table": normal(VOCAB, HIDDEN),
        "wi": normal(HIDDEN, WIDE) / 5,
        "wo": normal(WIDE, HIDDEN) / 6,
        "two": np.array(2, np.float32),
        "one": np.ones(1, np.float32),
        "epsilon": np.array(1e-6, np.float32),
        "axes": np.array([-1]),
        "a.weight": normal(HIDDEN),
        "y.weight": normal(HIDDEN),
    }
    tokens = ("batch", "sequence")
    return save(nodes, [("input_ids", INT64, tokens)], [("y", FLOAT, (*tokens, HIDDEN))], constants, opset=20)


def test_block_of_a_t5(block: Path) -> None:
    fused = fuse_graph(load_graph(block))
    assert counts(fused) == {"Embeddings": 1, "RmsNorm": 2, "Linear": 2, "Gelu": 1, "Add": 1} and left(fused) == []
    engine = Engine(block, batch_size=None)
    assert engine.supports_ragged and not engine.report().fallbacks
    lengths = [5, 40, 1, 33, 32, 7]
    ids = RNG.integers(0, VOCAB, (len(lengths), max(lengths)))
    (padded,) = engine.run([ids])
    # sums over 40 products, normalized to about one
    want = onnxruntime_outputs(block, {"input_ids": ids})["y"]
    np.testing.assert_allclose(padded, want, rtol=0, atol=2e-5)
    rows = np.arange(max(lengths)) < np.array(lengths)[:, None]
    (flat,) = engine.run_ragged([ids[rows]], lengths)
    np.testing.assert_array_equal(flat, padded[rows])
