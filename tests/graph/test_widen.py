"""Half precision: files in float16 and bfloat16 fuse as their float32 twins do, and keep the types of their outputs."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from fusion_checks import DATA, close, counts, edited, feeds_for, left, onnxruntime_outputs
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.transformers.float16 import convert_float_to_float16

from sparsert import Engine
from sparsert.errors import InputTypeError, UnsupportedOpError
from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.ops import Gelu, LayerNorm, Linear

FILES = [
    "bert-qa-sdpa-dynamo18",
    "bert-tok-eager-script14",
    "distilbert-cls-eager-dynamo18",
    "roberta-cls-eager-script17",
]
HALF, BFLOAT, FLOAT = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT


def halved(name: str, out: Path, keep_io: bool) -> Path:
    onnx.save(convert_float_to_float16(onnx.load(DATA / f"{name}.onnx"), keep_io_types=keep_io), out)
    return out


def save(
    path: Path, nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray], opset: int = 18
) -> Path:
    graph = helper.make_graph(
        nodes,
        "half",
        [helper.make_tensor_value_info(*info) for info in inputs],
        [helper.make_tensor_value_info(*info) for info in outputs],
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    return path


@pytest.mark.parametrize("keep_io", [True, False])
@pytest.mark.parametrize("name", FILES)
def test_a_half_file_fuses_like_its_float_twin(name: str, keep_io: bool, tmp_path: Path) -> None:
    path = halved(name, tmp_path / "half.onnx", keep_io)
    whole, half = (fuse_graph(load_graph(file)) for file in (DATA / f"{name}.onnx", path))
    assert counts(half) == counts(whole)
    assert left(half) == left(whole)
    engine = Engine(path, batch_size=None)
    feeds = feeds_for(load_graph(path))
    got = dict(zip(engine.output_names, engine.run([feeds[key] for key in engine.input_names]), strict=True))
    # outputs of about 1, and ONNX Runtime rounds every value to 11 bits
    close(got, onnxruntime_outputs(path, feeds), 0.9999, 3e-3)


def test_results_are_those_of_float32_with_the_halves_as_weights(tmp_path: Path) -> None:
    def round_weights(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.data_type == FLOAT:
                array = numpy_helper.to_array(tensor)
                # the converter's own limit, which masks of -inf and of float32's least meet
                array = np.clip(array, -1e4, 1e4).astype(np.float16).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    name = "bert-cls-sdpa-dynamo20"
    twin = edited(DATA / f"{name}.onnx", round_weights, tmp_path / "twin.onnx")
    path = halved(name, tmp_path / "half.onnx", True)
    engine, feeds = Engine(path, batch_size=None), feeds_for(load_graph(path))
    got = engine.mapped_run([feeds[key] for key in engine.input_names])
    # the activation's constants are exact in one and rounded in the other
    close(got, onnxruntime_outputs(twin, feeds), 0.99999, 1e-4)


@pytest.mark.parametrize("kind", [HALF, BFLOAT])
def test_casts_constants_and_branches_of_halves(kind: int, tmp_path: Path) -> None:
    """Every place in which a file may name a half, in a graph whose values are exact in both types."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    half = numpy_helper.from_array(np.array([3], dtype), "filler")
    branches = {
        key: helper.make_graph(
            [
                helper.make_node("Constant", [], [f"{key}_c"], value=numpy_helper.from_array(np.array(2, dtype))),
                helper.make_node("Cast", ["tokens"], [f"{key}_t"], to=kind),
                helper.make_node(op, [f"{key}_t", f"{key}_c"], [f"{key}_s"]),
                helper.make_node("Add", [f"{key}_s", f"{key}_w"], [f"{key}_y"]),
            ],
            key,
            [],
            [helper.make_tensor_value_info(f"{key}_y", kind, [])],
            [numpy_helper.from_array(np.array(1, dtype), f"{key}_w")],
        )
        for key, op in (("then", "Add"), ("other", "Mul"))
    }
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["threes"], value=half),
        helper.make_node("Cast", ["mask"], ["kept"], to=TensorProto.BOOL),
        helper.make_node("Where", ["kept", "x", "lowest"], ["chosen"]),
        helper.make_node("Add", ["chosen", "threes"], ["sum"]),
        helper.make_node("Size", ["x"], ["size"]),
        helper.make_node("Cast", ["size"], ["tokens"], to=kind),
        helper.make_node("Greater", ["tokens", "four"], ["many"]),
        helper.make_node("If", ["many"], ["branch"], then_branch=branches["then"], else_branch=branches["other"]),
        helper.make_node("Max", ["sum", "branch"], ["y"]),
        helper.make_node("Cast", ["y"], ["z"], to=FLOAT),
    ]
    constants = {"lowest": np.array(-128, dtype), "four": np.array(4, dtype)}
    inputs = [("x", kind, ["n"]), ("mask", TensorProto.INT64, ["n"])]
    path = save(tmp_path / "small.onnx", nodes, inputs, [("y", kind, ["n"]), ("z", FLOAT, ["n"])], constants)
    engine = Engine(path, batch_size=None)
    reference = ReferenceEvaluator(onnx.load(path))
    for size in (3, 9):
        x = (np.arange(size) * 4 - 2).astype(dtype)
        mask = (np.arange(size) % 3 > 0).astype(np.int64)
        got, want = engine.run([x, mask]), reference.run(None, {"x": x, "mask": mask})
        assert [array.dtype for array in got] == [np.dtype(dtype), np.dtype(np.float32)]
        for left_array, right_array in zip(got, want, strict=True):
            np.testing.assert_array_equal(left_array.astype(np.float32), right_array.astype(np.float32))
    with pytest.raises(InputTypeError):
        engine.run([x.astype(np.float32), mask])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("form", ["MatMul", "Transpose", "Gemm", "Cast"])
def test_a_large_matrix_stays_half_until_it_is_packed(form: str, dtype: type, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weight = rng.normal(size=(256, 160)).astype(dtype)
    bias = rng.normal(size=160).astype(dtype)
    nodes = {
        "MatMul": [helper.make_node("MatMul", ["x", "w"], ["p"])],
        "Transpose": [
            helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "t"], ["p"]),
        ],
        "Gemm": [helper.make_node("Gemm", ["x", "w"], ["p"], transB=1)],
        "Cast": [helper.make_node("Cast", ["w"], ["f"], to=FLOAT), helper.make_node("MatMul", ["x", "f"], ["p"])],
    }[form]
    outside = FLOAT if form == "Cast" else kind
    stored = weight.T.copy() if form in ("Transpose", "Gemm") else weight
    constants = {"w": stored, "b": bias.astype(np.float32) if form == "Cast" else bias}
    nodes = [*nodes, helper.make_node("Add", ["p", "b"], ["y"])]
    path = save(tmp_path / "w.onnx", nodes, [("x", outside, ["n", 256])], [("y", outside, ["n", 160])], constants)
    (node,) = fuse_graph(load_graph(path)).nodes
    assert isinstance(node.fused, Linear)
    assert node.fused.weight.dtype == dtype
    x = rng.normal(size=(5, 256)).astype(helper.tensor_dtype_to_np_dtype(outside))
    (got,) = Engine(path, batch_size=None).run([x])
    want = x.astype(np.float64) @ weight.astype(np.float64) + bias.astype(np.float64)
    assert got.dtype == x.dtype
    error = 1e-4 if form == "Cast" else np.abs(want) * float(ml_dtypes.finfo(dtype).eps) + 1e-4
    assert np.all(np.abs(got.astype(np.float64) - want) <= error)
    np.testing.assert_allclose(node.fused.compute(x.astype(np.float32)), want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_gelu_is_known_by_constants_in_half(dtype: type, tmp_path: Path) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    nodes = [
        helper.make_node("Div", ["x", "root"], ["d"]),
        helper.make_node("Erf", ["d"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["a"]),
        helper.make_node("Mul", ["x", "a"], ["m"]),
        helper.make_node("Mul", ["m", "half"], ["y"]),
    ]
    numbers = {key: np.array(value, dtype) for key, value in (("root", 2**0.5), ("one", 1), ("half", 0.5))}
    path = save(tmp_path / "g.onnx", nodes, [("x", kind, ["n", 8])], [("y", kind, ["n", 8])], numbers)
    (node,) = fuse_graph(load_graph(path)).nodes
    assert isinstance(node.fused, Gelu)


def test_a_normalization_in_float64_between_halves(tmp_path: Path) -> None:
    """As TorchScript writes it where it does not know the type."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[-1]),
        helper.make_node("Sub", ["x", "mean"], ["c"]),
        helper.make_node("Cast", ["c"], ["d"], to=TensorProto.DOUBLE),
        helper.make_node("Pow", ["d", "two"], ["p"]),
        helper.make_node("ReduceMean", ["p"], ["v"], axes=[-1]),
        helper.make_node("Add", ["v", "eps"], ["s"]),
        helper.make_node("Sqrt", ["s"], ["r"]),
        helper.make_node("Div", ["d", "r"], ["n"]),
        helper.make_node("Cast", ["n"], ["f"], to=HALF),
        helper.make_node("Mul", ["f", "g"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    rng = np.random.default_rng(1)
    constants = {"two": np.array(2.0), "eps": np.array(1e-5)}
    constants |= {key: rng.normal(size=8).astype(np.float16) for key in "gb"}
    path = save(tmp_path / "n.onnx", nodes, [("x", HALF, ["n", 8])], [("y", HALF, ["n", 8])], constants, opset=14)
    (node,) = fuse_graph(load_graph(path)).nodes
    assert isinstance(node.fused, LayerNorm)
    x = rng.normal(size=(3, 8)).astype(np.float16)
    (got,) = Engine(path, batch_size=None).run([x])
    np.testing.assert_allclose(got, onnxruntime_outputs(path, {"x": x})["y"], rtol=0, atol=4e-3)


def test_what_looks_at_bits_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("BitCast", ["x"], ["y"], to=TensorProto.INT16)]
    path = save(tmp_path / "b.onnx", nodes, [("x", HALF, ["n"])], [("y", TensorProto.INT16, ["n"])], {}, opset=26)
    with pytest.raises(UnsupportedOpError, match=r"BitCast.*float32"):
        load_graph(path)
