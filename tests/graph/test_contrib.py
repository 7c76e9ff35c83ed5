"""ONNX Runtime's own ops, each in the forms that matter, against ONNX Runtime on the same file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fusion_checks import onnxruntime_outputs
from onnx import TensorProto, helper, numpy_helper

from sparsert import Engine
from sparsert.errors import ModelFormatError, UnsupportedOpError
from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.ops import Attention, Linear

FLOAT, INT32, UINT8, INT8 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.UINT8, TensorProto.INT8
OWN = "com.microsoft"
B, S, H, HEADS = 2, 5, 16, 4
TOKENS = ["batch", "sequence", H]
RNG = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[Any]]],
    outputs: Mapping[str, tuple[int, Any]],
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
) -> Path:
    graph = helper.make_graph(
        list(nodes),
        "own",
        [helper.make_tensor_value_info(name, *info) for name, info in inputs.items()],
        [helper.make_tensor_value_info(name, *info) for name, info in outputs.items()],
        [numpy_helper.from_array(np.array(array, order="C"), name) for name, array in (constants or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(OWN, 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def own(
    op: str, inputs: Sequence[str], outputs: Sequence[str] = ("y",), domain: str = OWN, **more: Any
) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), list(outputs), "the_node", domain=domain, **more)


def agree(path: Path, feeds: Mapping[str, np.ndarray], error: float = 2e-5) -> list[np.ndarray]:
    engine = Engine(path, batch_size=None)
    got = engine.run([feeds[name] for name in engine.input_names])
    want = onnxruntime_outputs(path, dict(feeds))
    for name, array in zip(engine.output_names, got, strict=True):
        assert array.dtype == want[name].dtype
        np.testing.assert_allclose(
            array.astype(np.float64), want[name].astype(np.float64), rtol=0, atol=error, err_msg=name
        )
    return got


def fused_kinds(path: Path) -> list[str]:
    return [node.op if node.fused is not None else f"onnx {node.op}" for node in fuse_graph(load_graph(path)).nodes]


X, Y = {"x": (FLOAT, TOKENS)}, {"y": (FLOAT, None)}

ACTIVATIONS = [
    (own("Gelu", ["x"]), {}),
    (own("BiasGelu", ["x", "b"]), {"b": normal(H)}),
    (own("FastGelu", ["x"]), {}),
    (own("FastGelu", ["x", "b"]), {"b": normal(H)}),
    (own("QuickGelu", ["x"]), {}),
    (own("QuickGelu", ["x"], alpha=1.0), {}),
    (own("QuickGelu", ["x"], alpha=0.5), {}),
]


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize(("node", "constants"), ACTIVATIONS)
def test_activations(node: onnx.NodeProto, constants: dict[str, np.ndarray], opset: int, tmp_path: Path) -> None:
    agree(save(tmp_path / "m.onnx", [node], X, Y, constants, opset), {"x": normal(B, S, H)})


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sums", [True, False])
@pytest.mark.parametrize("op", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_skip_normalizations(op: str, sums: bool, bias: bool, opset: int, tmp_path: Path) -> None:
    constants = {name: normal(H) for name in ("gamma", "beta", "bias")}
    betas = ["beta"] if op == "SkipLayerNormalization" else []
    inputs = ["x", "skip", "gamma", *betas, *(["bias"] if bias else [])]
    outputs = ["y", "", "", "total"] if sums else ["y"]
    results = Y | ({"total": (FLOAT, None)} if sums else {})
    node = own(op, inputs, outputs, epsilon=1e-5)
    path = save(tmp_path / "m.onnx", [node], X | {"skip": (FLOAT, TOKENS)}, results, constants, opset)
    assert not any(kind.startswith("onnx") for kind in fused_kinds(path))
    agree(path, {"x": normal(B, S, H), "skip": normal(B, S, H)})


@pytest.mark.parametrize("op", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_normalizations_in_an_old_opset(op: str, tmp_path: Path) -> None:
    """In the default domain, where that opset has no such op."""
    constants = {"gamma": normal(H), "beta": normal(H)}
    inputs = ["x", "gamma", "beta"] if op == "LayerNormalization" else ["x", "gamma"]
    node = own(op, inputs, domain="", epsilon=1e-3, axis=-1)
    agree(save(tmp_path / "m.onnx", [node], X, Y, constants, opset=13), {"x": normal(B, S, H)})
    # one that does not fuse, since its scale is no constant
    path = save(tmp_path / "n.onnx", [node], X | {"gamma": (FLOAT, [H])}, Y, {"beta": normal(H)}, opset=13)
    agree(path, {"x": normal(B, S, H), "gamma": normal(H)})


@pytest.mark.parametrize("flags", [{}, {"transA": 1}, {"transB": 1}, {"transA": 1, "transB": 1, "alpha": 0.25}])
@pytest.mark.parametrize("batches", [{}, {"transBatchA": 1}, {"transBatchB": 1}])
def test_fused_matmul(flags: dict[str, Any], batches: dict[str, int], tmp_path: Path) -> None:
    shapes = []
    for side, (rows, columns) in (("A", (3, 4)), ("B", (4, 6))):
        shape = [2, 5, rows, columns]
        if flags.get(f"trans{side}"):
            shape[-2:] = shape[:-3:-1]
        if batches.get(f"transBatch{side}"):
            shape = [shape[-2], *shape[:-2], shape[-1]]
        shapes.append(shape)
    node = own("FusedMatMul", ["a", "b"], **flags, **batches)
    inputs = {"a": (FLOAT, shapes[0]), "b": (FLOAT, shapes[1])}
    agree(save(tmp_path / "m.onnx", [node], inputs, Y), {"a": normal(*shapes[0]), "b": normal(*shapes[1])})


def test_fused_matmul_with_a_matrix(tmp_path: Path) -> None:
    node = own("FusedMatMul", ["x", "w"], transB=1, alpha=0.5)
    path = save(tmp_path / "m.onnx", [node], X, Y, {"w": normal(24, H)})
    assert "Linear" in fused_kinds(path)
    agree(path, {"x": normal(B, S, H)})


def packed(rows: int, columns: int, bits: int, block: int, zeros: str, flat: bool) -> dict[str, np.ndarray]:
    count = -(-columns // block)
    constants = {
        "w": RNG.integers(0, 256, (rows, count, block * bits // 8), np.uint8),
        "s": RNG.uniform(0.01, 0.1, rows * count if flat else (rows, count)).astype(np.float32),
    }
    if zeros == "packed":
        width = -(-count * bits // 8)
        constants["z"] = RNG.integers(0, 256, rows * width if flat else (rows, width), np.uint8)
    elif zeros == "float":
        constants["z"] = RNG.uniform(0, 2**bits, (rows, count)).astype(np.float32)
    return constants


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", ["", "packed", "float"])
@pytest.mark.parametrize(
    ("columns", "block", "flat"), [(64, 16, True), (96, 32, False), (80, 32, False), (33, 64, False), (300, 256, False)]
)
def test_matmul_of_few_bits(bits: int, zeros: str, columns: int, block: int, flat: bool, tmp_path: Path) -> None:
    if bits == 8 and zeros == "float":
        pytest.skip("ONNX Runtime has none for 8 bits")
    rows = 24
    constants = packed(rows, columns, bits, block, zeros, flat) | {"bias": normal(rows)}
    inputs = ["x", "w", "s", "z" if zeros else "", "", "bias"]
    node = own("MatMulNBits", inputs, K=columns, N=rows, bits=bits, block_size=block)
    path = save(tmp_path / "m.onnx", [node], {"x": (FLOAT, ["batch", "sequence", columns])}, Y, constants)
    assert fused_kinds(path) == ["Linear"]
    agree(path, {"x": normal(B, S, columns)}, error=3e-4)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_dynamic_quantize_matmul(kind: type, bias: bool, per_channel: bool, tmp_path: Path) -> None:
    limits = np.iinfo(kind)
    scale = RNG.uniform(0.01, 0.02, 24 if per_channel else ()).astype(np.float32)
    zero = np.full(scale.shape, 0 if kind is np.int8 else 128, kind)
    constants = {
        "w": RNG.integers(limits.min, limits.max, (H, 24), kind, endpoint=True),
        "s": scale,
        "z": zero,
        "bias": normal(24),
    }
    inputs = ["x", "w", "s", "z", "bias" if bias else ""]
    path = save(tmp_path / "m.onnx", [own("DynamicQuantizeMatMul", inputs)], X, Y, constants)
    assert fused_kinds(path) == ["DynamicQuantize", "Linear"]
    agree(path, {"x": normal(B, S, H)}, error=1e-4)


def test_matmul_integer_to_float(tmp_path: Path) -> None:
    constants = {
        "w": RNG.integers(-128, 127, (H, 24), np.int8),
        "ws": np.float32(0.01).reshape(()),
        "wz": np.int8(3).reshape(()),
        "xs": np.float32(0.1).reshape(()),
        "xz": np.uint8(120).reshape(()),
        "bias": normal(24),
    }
    node = own("MatMulIntegerToFloat", ["x", "w", "xs", "ws", "xz", "wz", "bias"])
    path = save(tmp_path / "m.onnx", [node], {"x": (UINT8, TOKENS)}, Y, constants)
    assert fused_kinds(path) == ["Linear"]
    agree(path, {"x": RNG.integers(0, 256, (B, S, H), np.uint8)}, error=1e-4)


MASKS = {
    "none": ([], None),
    "lengths": (["batch"], np.array([5, 3], np.int32)),
    "keys": (["batch", "sequence"], np.array([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0]], np.int32)),
    "scores": (
        ["batch", "sequence", "sequence"],
        (RNG.random((B, S, S)) < 0.7).astype(np.int32) | np.eye(S, dtype=np.int32),
    ),
}


@pytest.mark.parametrize("mask", list(MASKS))
@pytest.mark.parametrize(
    "more",
    [{}, {"unidirectional": 1}, {"scale": 0.3, "mask_filter_value": -5000.0}, {"qkv_hidden_sizes": [H, H, 2 * H]}],
)
def test_attention(mask: str, more: dict[str, Any], tmp_path: Path) -> None:
    dims, values = MASKS[mask]
    if mask == "scores" and more.get("unidirectional"):
        pytest.skip("a query without keys")
    width = sum(more.get("qkv_hidden_sizes", [3 * H]))
    constants = {"w": normal(H, width) * 0.3, "b": normal(width)}
    inputs, feeds = dict(X), {"x": normal(B, S, H)}
    if values is not None:
        inputs["mask"], feeds["mask"] = (INT32, dims), values
    node = own("Attention", ["x", "w", "b", "mask" if values is not None else ""], num_heads=HEADS, **more)
    path = save(tmp_path / "m.onnx", [node], inputs, Y, constants)
    if mask in ("none", "keys") and "unidirectional" not in more and "qkv_hidden_sizes" not in more:
        assert sum(kind in ("Attention", "Linear") for kind in fused_kinds(path)) == 4
    agree(path, feeds)


def test_attention_without_bias_and_with_a_bias_of_scores(tmp_path: Path) -> None:
    node = own("Attention", ["x", "w", "", "", "", "scores"], num_heads=HEADS)
    inputs = X | {"scores": (FLOAT, [1, HEADS, "sequence", "sequence"])}
    path = save(tmp_path / "m.onnx", [node], inputs, Y, {"w": normal(H, 3 * H)})
    agree(path, {"x": normal(B, S, H), "scores": normal(1, HEADS, S, S)})


@pytest.mark.parametrize("mask", ["none", "lengths", "keys"])
@pytest.mark.parametrize("bias", [True, False])
def test_multi_head_attention(bias: bool, mask: str, tmp_path: Path) -> None:
    dims, values = MASKS[mask]
    inputs = dict.fromkeys("qkv", (FLOAT, TOKENS))
    feeds = {name: normal(B, S, H) for name in "qkv"}
    if values is not None:
        inputs["mask"], feeds["mask"] = (INT32, dims), values
    node = own(
        "MultiHeadAttention",
        ["q", "k", "v", "b" if bias else "", "mask" if values is not None else ""],
        num_heads=HEADS,
    )
    path = save(tmp_path / "m.onnx", [node], inputs, Y, {"b": normal(3 * H)} if bias else {})
    if mask != "lengths":
        assert "Attention" in fused_kinds(path)
    agree(path, feeds)


@pytest.mark.parametrize("mask", ["none", "keys"])
def test_quantized_attention(mask: str, tmp_path: Path) -> None:
    dims, values = MASKS[mask]
    inputs, feeds = dict(X), {"x": normal(B, S, H)}
    if values is not None:
        inputs["mask"], feeds["mask"] = (INT32, dims), values
    constants = {
        "w": RNG.integers(-127, 127, (H, 3 * H), np.int8),
        "ws": np.float32(0.004).reshape(()),
        "wz": np.int8(0).reshape(()),
        "b": normal(3 * H),
    }
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["x8", "xs", "xz"]),
        own(
            "QAttention",
            ["x8", "w", "b", "xs", "ws", "mask" if values is not None else "", "xz", "wz"],
            num_heads=HEADS,
        ),
    ]
    path = save(tmp_path / "m.onnx", nodes, inputs, Y, constants)
    kinds = fused_kinds(path)
    assert kinds.count("Linear") == 3 and "Attention" in kinds
    agree(path, feeds, error=1e-4)


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("positions", [True, False])
def test_embeddings_and_lengths_of_a_mask(positions: bool, segments: bool, tmp_path: Path) -> None:
    ids = {"ids": (INT32, ["batch", "sequence"]), "mask": (INT32, ["batch", "sequence"])}
    feeds = {
        "ids": RNG.integers(0, 30, (B, S)).astype(np.int32),
        "mask": np.array([[1] * 5, [1, 1, 1, 0, 0]], np.int32),
    }
    if segments:
        ids["seg"], feeds["seg"] = (INT32, ["batch", "sequence"]), RNG.integers(0, 2, (B, S)).astype(np.int32)
    if positions:
        ids["pos"], feeds["pos"] = (INT32, ["batch", "sequence"]), RNG.integers(0, 9, (B, S)).astype(np.int32)
    constants = {
        "word": normal(30, H),
        "position": normal(9, H),
        "segment": normal(2, H),
        "g": normal(H),
        "b": normal(H),
    }
    constants |= {"w": normal(H, 3 * H)}
    names = ["ids", "seg" if segments else "", "word", "position", "segment" if segments else "", "g", "b", "mask"]
    names += ["pos"] if positions else []
    nodes = [
        own("EmbedLayerNormalization", names, ["e", "lengths", "sum"], epsilon=1e-5),
        helper.make_node("Attention", ["e", "w", "", "lengths"], ["y"], "attention", domain=OWN, num_heads=HEADS),
    ]
    results = Y | {"sum": (FLOAT, None), "lengths": (INT32, None)}
    path = save(tmp_path / "m.onnx", nodes, ids, results, constants)
    assert {"Embeddings", "PrefixMask", "Attention"} <= set(fused_kinds(path))
    agree(path, feeds)
    if not positions:
        rows = save(tmp_path / "r.onnx", nodes, ids, Y, constants)
        engine, kept = Engine(rows, batch_size=None), feeds["mask"].astype(bool)
        (whole,) = engine.run([feeds[name] for name in engine.input_names])
        assert engine.supports_ragged
        (ragged,) = engine.run_ragged([feeds[name][kept] for name in engine.input_names], kept.sum(1))
        np.testing.assert_array_equal(ragged, whole[kept])


def test_a_mask_with_holes_is_the_count_of_its_ones(tmp_path: Path) -> None:
    """As ONNX Runtime has it; the model before was another one there."""
    nodes = [
        helper.make_node("ReduceSum", ["mask", "one"], ["lengths"], keepdims=0),
        own("Attention", ["x", "w", "", "lengths"], num_heads=HEADS),
    ]
    inputs = X | {"mask": (INT32, ["batch", "sequence"])}
    path = save(tmp_path / "m.onnx", nodes, inputs, Y, {"w": normal(H, 3 * H), "one": np.array([1])})
    assert "PrefixMask" in fused_kinds(path)
    agree(path, {"x": normal(B, S, H), "mask": np.array([[0, 0, 1, 1, 1], [1, 0, 1, 0, 0]], np.int32)})


def quantized(name: str) -> tuple[list[str], dict[str, np.ndarray]]:
    scale, zero = RNG.uniform(0.01, 0.05), RNG.integers(100, 150)
    values = {f"{name}s": np.array(scale, np.float32), f"{name}z": np.array(zero, np.uint8)}
    return [name, f"{name}s", f"{name}z"], values


@pytest.mark.parametrize(
    "op",
    [
        "QLinearAdd",
        "QLinearMul",
        "QLinearSigmoid",
        "QLinearLeakyRelu",
        "QLinearSoftmax",
        "QLinearWhere",
        "QLinearConcat",
    ],
)
def test_elementwise_ops_on_bytes(op: str, tmp_path: Path) -> None:
    (a, a_values), (b, b_values), (y, y_values) = quantized("a"), quantized("b"), quantized("out")
    binary = op in ("QLinearAdd", "QLinearMul", "QLinearWhere", "QLinearConcat")
    inputs = {"a": (UINT8, TOKENS)} | ({"b": (UINT8, TOKENS)} if binary else {})
    feeds: dict[str, np.ndarray] = {name: RNG.integers(0, 256, (B, S, H), np.uint8) for name in inputs}
    more: dict[str, Any] = {"QLinearSoftmax": {"axis": -1, "opset": 13}, "QLinearConcat": {"axis": 2}}.get(op, {})
    names = [*a, *b, *y[1:]] if binary else [*a, *y[1:]]
    if op == "QLinearWhere":
        names = ["c", *names]
        inputs["c"], feeds["c"] = (TensorProto.BOOL, TOKENS), RNG.random((B, S, H)) < 0.5
    elif op == "QLinearConcat":
        names = [*y[1:], *a, *b]
    path = save(
        tmp_path / "m.onnx", [own(op, names, **more)], inputs, {"y": (UINT8, None)}, a_values | b_values | y_values
    )
    agree(path, feeds, error=1)  # a byte, where rounding decides


REFUSED = [
    (own("Attention", ["x", "w", "", "", "past"], num_heads=HEADS), UnsupportedOpError, "cache of keys"),
    (own("Attention", ["x", "w"], num_heads=HEADS, do_rotary=1), UnsupportedOpError, "rotary"),
    (own("Attention", ["x", "w"], num_heads=5), ModelFormatError, "number of heads that divides 16, came 5"),
    (own("Attention", ["x", "x"], num_heads=HEADS), UnsupportedOpError, "'x' is no constant"),
    (own("Attention", ["x"], num_heads=HEADS), ModelFormatError, "expected at most 7 inputs"),
    (own("BiasGelu", ["x", "w", "w"]), ModelFormatError, "expected at most 2 inputs"),
    (own("BiasGelu", ["x", "w"], bogus=1), ModelFormatError, "came 'bogus'"),
    (own("FusedMatMul", ["x", "w"], alpha="much"), ModelFormatError, "expected a float as attribute 'alpha'"),
    (own("SkipLayerNormalization", ["x", "x", "g"], ["", "y"]), UnsupportedOpError, "output 'y' is read"),
    (own("MatMulNBits", ["x", "w", "g"], K=H, N=3, block_size=16), ModelFormatError, "bytes of weights"),
    (own("MatMulNBits", ["x", "w", "g", "", "g"], K=H, N=3, block_size=16), UnsupportedOpError, "g_idx"),
    (own("MultiHeadAttention", ["x", "", ""], num_heads=HEADS), ModelFormatError, "expected at most 11 inputs"),
    (own("QOrderedMatMul", ["x", "w"]), UnsupportedOpError, "use the one that it was made from"),
]


@pytest.mark.parametrize(("node", "error", "words"), REFUSED)
def test_refused(node: onnx.NodeProto, error: type, words: str, tmp_path: Path) -> None:
    constants = {"w": normal(H, 3 * H), "g": normal(H), "past": normal(2, B, HEADS, S, 4)}
    path = save(tmp_path / "m.onnx", [node], X, Y, constants)
    with pytest.raises(error, match=words):
        Engine(path)


def test_half_weights_of_attention_are_widened(tmp_path: Path) -> None:
    half = TensorProto.FLOAT16
    node = own("Attention", ["x", "w", "b"], num_heads=HEADS)
    constants = {"w": (normal(H, 3 * H) * 0.3).astype(np.float16), "b": normal(3 * H).astype(np.float16)}
    path = save(tmp_path / "m.onnx", [node], {"x": (half, TOKENS)}, {"y": (half, TOKENS)}, constants)
    fused = fuse_graph(load_graph(path))
    assert [type(node.fused) for node in fused.nodes] == [Linear, Linear, Linear, Attention]
    (got,) = Engine(path, batch_size=None).run([x := normal(B, S, H).astype(np.float16)])
    want = onnxruntime_outputs(path, {"x": x})["y"]
    np.testing.assert_allclose(got.astype(np.float32), want.astype(np.float32), rtol=0, atol=1e-2)
