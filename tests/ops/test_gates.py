"""Gated products: their array form, SiLU in its spellings, and blocks of feed-forward networks with a gate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import naive
import numpy as np
import onnx
import pytest
import small_models
from fusion_checks import counts, left, onnxruntime_outputs
from onnx import helper
from program_checks import run
from small_models import FLOAT

from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.graph.ir import FUSED_DOMAIN, Graph, Node
from sparsert.ops import Activation, Linear, Multiply, run_fused
from sparsert.plan import compile_graph

HIDDEN, WIDE = 24, 40
ROWS = ("batch", "tokens", HIDDEN)
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = np.random.default_rng(1).bit_generator.state


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    return lambda *parts, **options: small_models.save(tmp_path / "model.onnx", *parts, **options)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def compare(path: Path, feeds: dict[str, np.ndarray]) -> Graph:
    """Fuse, and run by twins and by kernels as ONNX Runtime does."""
    fused = fuse_graph(load_graph(path))
    want = onnxruntime_outputs(path, feeds)
    for got in (naive.run_graph(fused, feeds), run(compile_graph(fused), feeds)):
        for name, array in want.items():
            assert got[name].shape == array.shape
            # two sums over 24 and one over 40 channels, all of about one, and the error of a series
            np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-5)
    return fused


@pytest.mark.parametrize("shape", [(HIDDEN,), (2, 3, HIDDEN), (0, HIDDEN)])
def test_array_forms(shape: tuple[int, ...]) -> None:
    a, b = 5 * normal(*shape), normal(*shape)
    for op, inputs in ((Multiply(), [a, b]), (Activation("silu"), [a])):
        (got,) = run_fused(op, inputs)
        node = Node(type(op).__name__, [], [], domain=FUSED_DOMAIN, fused=op)
        (expected,) = naive.run_node(node, inputs, {})
        assert got.dtype == np.float32 and not np.may_share_memory(got, a)
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def gated(function: str, order: list[str], packed: bool) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """down(act(gate(x)) * up(x)), with both products in one matrix if packed."""
    constants = {"gate_w": normal(HIDDEN, WIDE) / 5, "up_w": normal(HIDDEN, WIDE) / 5, "down_w": normal(WIDE, HIDDEN)}
    constants["down_w"] /= 6
    if packed:
        constants["both_w"] = np.concatenate([constants.pop("gate_w"), constants.pop("up_w")], axis=1)
        nodes = [
            helper.make_node("MatMul", ["x", "both_w"], ["both"]),
            helper.make_node("Split", ["both"], ["gate", "up"], axis=-1, num_outputs=2),
        ]
    else:
        nodes = [
            helper.make_node("MatMul", ["x", "gate_w"], ["gate"]),
            helper.make_node("MatMul", ["x", "up_w"], ["up"]),
        ]
    if function == "silu":
        nodes.append(helper.make_node("Sigmoid", ["gate"], ["sigmoid"]))
        nodes.append(helper.make_node("Mul", ["gate", "sigmoid"], ["act"]))
    else:
        nodes.append(helper.make_node(function, ["gate"], ["act"]))
    nodes.append(helper.make_node("Mul", order, ["product"]))
    nodes.append(helper.make_node("MatMul", ["product", "down_w"], ["y"]))
    return nodes, constants


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", [["act", "up"], ["up", "act"]])
@pytest.mark.parametrize("function", ["silu", "Gelu", "Relu", "Tanh"])
def test_gated_networks(function: str, order: list[str], packed: bool, save: Callable[..., Path]) -> None:
    nodes, constants = gated(function, order, packed)
    path = save(nodes, [("x", FLOAT, ROWS)], [("y", FLOAT, ROWS)], constants, opset=20)
    fused = compare(path, {"x": normal(2, 45, HIDDEN)})
    assert left(fused) == [] and counts(fused)["Multiply"] == 1 and counts(fused)["Linear"] == 3
    assert len(compile_graph(fused).parts) == 1


def test_squares_are_products_of_a_value_with_itself(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Mul", ["h", "h"], ["y"])]
    path = save(nodes, [("x", FLOAT, ROWS)], [("y", FLOAT, ROWS)], {"w": normal(HIDDEN, HIDDEN) / 5})
    assert counts(compare(path, {"x": normal(2, 5, HIDDEN)}))["Multiply"] == 1


@pytest.mark.parametrize("other", ["z", "sigmoid"])
def test_a_sigmoid_of_another_value_is_no_silu(other: str, save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("Sigmoid", ["x"], ["sigmoid"]), helper.make_node("Mul", ["sigmoid", other], ["y"])]
    path = save(nodes, [("x", FLOAT, ROWS), ("z", FLOAT, ROWS)], [("y", FLOAT, ROWS)], {})
    feeds = {"x": normal(2, 5, HIDDEN), "z": normal(2, 5, HIDDEN)}
    assert counts(compare(path, feeds))["Activation"] == 0


def test_a_sigmoid_that_somebody_else_reads_is_no_silu(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["s", "x"], ["y"])]
    path = save(nodes, [("x", FLOAT, ROWS)], [("y", FLOAT, ROWS), ("s", FLOAT, ROWS)], {})
    assert counts(compare(path, {"x": normal(2, 5, HIDDEN)}))["Activation"] == 0


@pytest.mark.parametrize("shape", [(HIDDEN,), (1, 1, HIDDEN), ("batch", "tokens", 1)])
def test_products_that_broadcast_stay(shape: tuple[int | str, ...], save: Callable[..., Path]) -> None:
    node = helper.make_node("Mul", ["x", "z"], ["y"])
    path = save([node], [("x", FLOAT, ROWS), ("z", FLOAT, shape)], [("y", FLOAT, ROWS)], {})
    sizes = [{"batch": 2, "tokens": 5}.get(dim, dim) for dim in shape]
    assert left(compare(path, {"x": normal(2, 5, HIDDEN), "z": normal(*sizes)})) == ["Mul"]


def test_parts_of_a_packed_product_are_views_of_its_weights(save: Callable[..., Path]) -> None:
    nodes, constants = gated("silu", ["act", "up"], packed=True)
    path = save(nodes, [("x", FLOAT, ROWS)], [("y", FLOAT, ROWS)], constants, opset=20)
    linears = [node.fused for node in fuse_graph(load_graph(path)).nodes if isinstance(node.fused, Linear)]
    first, second = (linear.weight for linear in linears if linear.weight.shape == (HIDDEN, WIDE))
    assert first.base is second.base is not None


def test_a_packed_product_that_is_read_as_a_whole_too_stays(save: Callable[..., Path]) -> None:
    nodes, constants = gated("silu", ["act", "up"], packed=True)
    outputs = [("y", FLOAT, ROWS), ("both", FLOAT, None)]
    path = save(nodes, [("x", FLOAT, ROWS)], outputs, constants, opset=20)
    assert left(compare(path, {"x": normal(2, 5, HIDDEN)})) == ["Split"]


@pytest.mark.parametrize("bias", [False, True])
def test_parts_of_a_packed_product_that_is_quantized(bias: bool, save: Callable[..., Path]) -> None:
    """As in static files: bytes in, bytes of the product out, and the bias after these."""
    nodes, constants = gated("silu", ["act", "up"], packed=True)
    weight = constants.pop("both_w")
    constants |= {
        "w8": np.rint(weight / 0.01).clip(-127, 127).astype(np.int8),
        "w_scale": np.float32(0.01),
        "w_zero": np.int8(0),
        "x_scale": np.float32(0.04),
        "x_zero": np.uint8(120),
        "y_scale": np.float32(0.05),
        "y_zero": np.uint8(130),
        "b": normal(2 * WIDE),
    }

    def quantized(x: str, parameters: str, stored: str, real: str) -> list[onnx.NodeProto]:
        names = [f"{parameters}_scale", f"{parameters}_zero"]
        forth = helper.make_node("QuantizeLinear", [x, *names], [stored])
        return [forth, helper.make_node("DequantizeLinear", [stored, *names], [real])]

    head = [
        *quantized("x", "x", "x8", "x_real"),
        helper.make_node("DequantizeLinear", ["w8", "w_scale", "w_zero"], ["w"]),
        helper.make_node("MatMul", ["x_real", "w"], ["product8"]),
        *quantized("product8", "y", "both8", "both_real" if bias else "both"),
        *([helper.make_node("Add", ["both_real", "b"], ["both"])] if bias else []),
    ]
    constants = {name: array for name, array in constants.items() if bias or name != "b"}
    path = save([*head, *nodes[1:]], [("x", FLOAT, ROWS)], [("y", FLOAT, ROWS)], constants, opset=18)
    fused = compare(path, {"x": normal(2, 45, HIDDEN)})
    assert left(fused) == [] and counts(fused)["Linear"] == 3 and counts(fused)["Add"] == 2 * bias
    assert len(compile_graph(fused).parts) == 1
