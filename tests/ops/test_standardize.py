"""Standardize and Scale: array forms, programs, spellings that are recognised and those that only look like them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
import small_models
from fusion_checks import counts, fused_ops, left, onnxruntime_outputs
from onnx import helper
from program_checks import run
from small_models import FLOAT

from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.graph.ir import FUSED_DOMAIN, Graph, Node, TensorInfo
from sparsert.ops import FusedOp, Quantization, linear, run_fused
from sparsert.ops.standardize import Scale, Standardize
from sparsert.plan import compile_graph

CHANNELS = 8
FINE = Quantization(np.float32(2.0**-6), np.uint8(0), np.dtype(np.uint8))
ULP = 2.0**-23


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("op", [Standardize(1e-6), Standardize(1e-6, FINE, FINE), Scale(normal(CHANNELS))], ids=str)
@pytest.mark.parametrize("shape", [(CHANNELS,), (3, CHANNELS), (2, 3, CHANNELS), (0, CHANNELS)])
@pytest.mark.parametrize("block", [1 << 20, 10])
def test_array_form(shape: tuple[int, ...], op: FusedOp, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_BLOCK", block)
    x = 3 + normal(*shape)
    (got,) = run_fused(op, [x])
    (want,) = naive.run_node(Node(type(op).__name__, [], [], domain=FUSED_DOMAIN, fused=op), [x], {})
    assert got.dtype == np.float32 and got.shape == x.shape and not np.may_share_memory(got, x)
    np.testing.assert_allclose(got, want, rtol=2 * ULP)


@pytest.mark.parametrize("op", [Standardize(1e-6), Standardize(1e-6, FINE, FINE), Scale(normal(CHANNELS))], ids=str)
def test_program(op: FusedOp) -> None:
    infos = [TensorInfo(name, np.dtype(np.float32), ("batch", "tokens", CHANNELS)) for name in "xy"]
    node = Node(type(op).__name__, ["x"], ["y"], domain=FUSED_DOMAIN, fused=op)
    graph = Graph("small", infos[:1], infos[1:], [node], {}, {"": 17})
    program = compile_graph(graph)
    assert all(report.kernel != "numpy" for report in program.reports)
    feeds = {"x": normal(2, 40, CHANNELS, seed=1)}
    # sums of eight float32 numbers, and a product with the inverse instead of a division
    np.testing.assert_allclose(run(program, feeds)["y"], naive.run_graph(graph, feeds)["y"], rtol=1e-5, atol=1e-6)


def spelled(rounded: str, **changes: Any) -> list[Any]:
    """The nodes of a LayerNorm with round trips on the edges that ``rounded`` names, as a quantizer writes them."""
    nodes: list[Any] = []

    def node(op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        if name not in rounded.split():
            return name
        nodes.append(helper.make_node("QuantizeLinear", [name, f"{name}_scale", "zero"], [f"{name}_bytes"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_bytes", f"{name}_scale", "zero"], [f"{name}_real"]))
        return f"{name}_real"

    mean = node("ReduceMean", ["x"], "mean", axes=[changes.get("axis", -1)])
    centred = node("Sub", ["x", mean], "centred")
    square = node("Pow", [changes.get("base", centred), "two"], "square")
    variance = node("ReduceMean", [square], "variance", axes=[-1])
    total = node("Add", [variance, "epsilon"], "total")
    root = node("Sqrt", [total], "root")
    divided = node("Div", [centred, root], "divided")
    node("Add", [node("Mul", [divided, "gamma"], "scaled"), "beta"], "y")
    return nodes


ALL = "variance total divided scaled"


def model(tmp_path: Path, nodes: list[Any], outputs: tuple[str, ...] = ("y",)) -> Path:
    shape = ("batch", "tokens", CHANNELS)
    constants = {
        "two": np.float32(2),
        "epsilon": np.float32(1e-5),
        "gamma": 1 + normal(CHANNELS, seed=3) / 4,
        "beta": normal(CHANNELS, seed=4),
        "zero": np.uint8(0),
        **{f"{name}_scale": np.float32(0.02) for name in ALL.split()},
    }
    results = [(name, FLOAT, (None, None, None)) for name in outputs]
    return small_models.save(tmp_path / "model.onnx", nodes, [("x", FLOAT, shape)], results, constants, opset=13)


def check(path: Path, fused: Graph) -> None:
    feeds = {"x": normal(2, 5, CHANNELS, seed=5)}
    for name, want in onnxruntime_outputs(path, feeds, optimize=False).items():
        # a byte that flips at a tie would be a step of 0.02; there is none
        np.testing.assert_allclose(naive.run_graph(fused, feeds)[name], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rounded", [ALL, "variance", "total", "divided", "variance total scaled"])
def test_spelling(rounded: str, tmp_path: Path) -> None:
    path = model(tmp_path, spelled(rounded))
    fused = fuse_graph(load_graph(path))
    (op,) = fused_ops(fused, Standardize)
    assert (op.variance_quantization is not None) == ("variance" in rounded)
    assert (op.sum_quantization is not None) == ("total" in rounded)
    assert left(fused) == [] and (counts(fused)["Scale"], counts(fused)["Add"]) == (1, 1)
    check(path, fused)


def test_without_round_trips_it_is_a_layer_norm(tmp_path: Path) -> None:
    fused = fuse_graph(load_graph(model(tmp_path, spelled(""))))
    assert left(fused) == [] and counts(fused)["LayerNorm"] == 1


@pytest.mark.parametrize(
    ("changes", "outputs"),
    [({"base": "x"}, ("y",)), ({"axis": 1}, ("y",)), ({}, ("y", "variance")), ({}, ("y", "total_real"))],
    ids=["square of x", "another axis", "variance is read", "sum is read"],
)
def test_what_only_looks_like_it_stays(changes: dict[str, Any], outputs: tuple[str, ...], tmp_path: Path) -> None:
    path = model(tmp_path, spelled(ALL, **changes), outputs)
    fused = fuse_graph(load_graph(path))
    assert counts(fused)["Standardize"] == 0
    check(path, fused)
