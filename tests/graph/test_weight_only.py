"""Weights that a file stores in bytes beside float activations: as floats by default, with bytes where asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from fusion_checks import onnxruntime_outputs
from onnx import TensorProto, helper
from small_models import save

from sparsert import Engine, compile_model
from sparsert.errors import InputError
from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.ops import DynamicQuantize, Linear

FLOAT = TensorProto.FLOAT
K, N = 48, 40
RNG = np.random.default_rng(7)
X, Y = [("x", FLOAT, ["batch", "tokens", K])], [("y", FLOAT, ["batch", "tokens", N])]


def nodes_of(form: str) -> list[onnx.NodeProto]:
    """From the stored matrix "w" to the float matrix "f"."""
    if form.startswith("cast"):
        nodes = [helper.make_node("Cast", ["w"], ["c"], to=FLOAT), helper.make_node("Mul", ["c", "s"], ["f"])]
    else:
        nodes = [helper.make_node("DequantizeLinear", ["w", "s", "z"], ["f"], axis=0 if "inputs" in form else 1)]
    if form.endswith("transposed"):
        nodes += [helper.make_node("Transpose", ["f"], ["t"], perm=[1, 0])]
    return nodes


def file(form: str, path: Path, kind: type = np.int8) -> tuple[Path, np.ndarray, np.ndarray, np.ndarray]:
    """A product with a stored matrix and a bias; the file, the matrix (K, N) in bytes, its scale and zero point."""
    limits = np.iinfo(kind)
    weight = RNG.integers(limits.min, limits.max, (K, N), kind, endpoint=True)
    size = {"channels": N, "inputs": K}.get(form.split()[1], 1)
    scale = RNG.uniform(0.01, 0.02, size).astype(np.float32)
    zero = np.zeros(size, kind) if form.startswith("cast") else np.full(size, 128 if kind is np.uint8 else 3, kind)
    given = scale if size > 1 else scale.reshape(())
    turned = form.endswith("transposed")
    constants = {"w": weight.T.copy() if turned else weight, "s": given, "z": zero if size > 1 else zero.reshape(())}
    if turned and size > 1:
        constants["s"] = given[:, None]
    if form.startswith("cast"):
        del constants["z"]
    constants["b"] = RNG.normal(size=N).astype(np.float32)
    product = helper.make_node("MatMul", ["x", "t" if turned else "f"], ["p"])
    nodes = [*nodes_of(form), product, helper.make_node("Add", ["p", "b"], ["y"])]
    return save(path, nodes, X, Y, constants), weight, scale, zero


FORMS = ["cast tensor", "cast channels", "cast channels transposed", "dequantize tensor", "dequantize channels"]


@pytest.mark.parametrize("form", [*FORMS, "dequantize inputs"])
def test_floats_by_default(form: str, tmp_path: Path) -> None:
    path = file(form, tmp_path / "m.onnx")[0]
    engine = Engine(path, batch_size=None)
    x = RNG.normal(size=(2, 5, K)).astype(np.float32)
    # as it stands: optimized, ONNX Runtime too would quantize the activations
    want = onnxruntime_outputs(path, {"x": x}, optimize=False)["y"]
    np.testing.assert_allclose(engine.run([x])[0], want, rtol=0, atol=3e-4)
    assert [step.note for step in engine.report()] == ["stored as int8, runs as float32"]


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("form", FORMS)
def test_bytes_where_asked_for(form: str, kind: type, tmp_path: Path) -> None:
    """The result is that of the file whose quantization is spelled out, in ONNX Runtime."""
    path, weight, scale, zero = file(form, tmp_path / "m.onnx", kind)
    graph = load_graph(path)
    kinds = [type(node.fused) for node in fuse_graph(graph, "dynamic").nodes]
    assert kinds == [DynamicQuantize, Linear]
    spelled = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "xs", "xz"]),
        helper.make_node("MatMulInteger", ["q", "w", "xz", "wz"], ["i"]),
        helper.make_node("Cast", ["i"], ["c"], to=FLOAT),
        helper.make_node("Mul", ["xs", "ws"], ["scale"]),
        helper.make_node("Mul", ["c", "scale"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["y"]),
    ]
    constants = {"w": weight, "wz": zero.reshape(() if zero.size == 1 else -1), "ws": scale, "b": graph.constants["b"]}
    twin = save(tmp_path / "twin.onnx", spelled, X, Y, constants)
    x = RNG.normal(size=(2, 5, K)).astype(np.float32)
    engine = compile_model(path, batch_size=None, weight_only="dynamic")
    np.testing.assert_allclose(engine.run([x])[0], onnxruntime_outputs(twin, {"x": x})["y"], rtol=0, atol=2e-5)
    assert "dynamic quantization" in [step.note for step in engine.report()]
    assert Engine(path, batch_size=None).report()[0].note != engine.report()[0].note  # not the same program


def test_products_of_one_value_share_its_bytes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["f"]),
        helper.make_node("MatMul", ["x", "f"], ["p"]),
        helper.make_node("MatMul", ["x", "f"], ["q"]),
        helper.make_node("Add", ["p", "q"], ["y"]),
    ]
    constants = {"w": RNG.integers(-128, 127, (K, N), np.int8), "s": np.float32(0.01).reshape(())}
    path = save(tmp_path / "m.onnx", nodes, X, Y, constants)
    kinds = [node.op for node in fuse_graph(load_graph(path), "dynamic").nodes]
    assert sorted(kinds) == ["Add", "DynamicQuantize", "Linear", "Linear"]


def test_a_scale_for_each_input_stays_float(tmp_path: Path) -> None:
    path = file("dequantize inputs", tmp_path / "m.onnx")[0]
    assert [node.op for node in fuse_graph(load_graph(path), "dynamic").nodes] == ["Linear"]


def test_a_wrong_word_is_refused(tmp_path: Path) -> None:
    path = file("cast tensor", tmp_path / "m.onnx")[0]
    with pytest.raises(InputError, match=r"weight_only must be one of \('float', 'dynamic'\), given 'int8'"):
        Engine(path, weight_only="int8")  # type: ignore[arg-type]
