"""Loading ONNX files: what arrives in the graph."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from load_models import FLOAT, X, Y, build, external_tensor, linear, model_with_functions, relu_of
from onnx import TensorProto, helper, numpy_helper

from sparsert._paths import DEFAULT_MODEL
from sparsert.graph import load_graph, mapped
from sparsert.graph.mapped import let_go
from sparsert.graph.tensors import ELEMENT_TYPES
from sparsert.graph.widen import widened


def test_linear(load: Callable, tmp_path: Path) -> None:
    model = linear()
    graph = load(model)
    assert [(node.op, node.inputs, node.outputs) for node in graph.nodes] == [
        ("MatMul", ["x", "w"], ["xw"]),
        ("Add", ["xw", "b"], ["sum"]),
        ("Relu", ["sum"], ["y"]),
    ]
    assert [(info.name, info.dtype, info.shape) for info in graph.inputs] == [("x", np.dtype("f4"), ("batch", 4))]
    assert [info.name for info in graph.outputs] == ["y"]
    assert graph.opsets == {"": 17}
    assert graph.source_node_count == 3
    assert graph.name == "tiny"
    assert graph.path == str(tmp_path / "model.onnx")
    for tensor in model.graph.initializer:
        np.testing.assert_array_equal(graph.constants[tensor.name], numpy_helper.to_array(tensor))
        assert graph.constants[tensor.name].flags.writeable
        assert graph.constants[tensor.name].flags.aligned


def test_the_file_is_left_as_it_was(load: Callable, tmp_path: Path) -> None:
    model = linear()
    load(model)
    assert (tmp_path / "model.onnx").read_bytes() == model.SerializeToString()
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_large_tensors_stay_in_the_file(load: Callable) -> None:
    """Memory that loading takes: a skeleton of some kilobytes, and nothing for an array of 8 MiB."""
    content = linear(np.ones((4, 1 << 19), np.float32)).SerializeToString()
    path = load(content).path
    tracemalloc.start()
    try:
        load_graph(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.01 * len(content)


@pytest.mark.parametrize("external", [False, True])
def test_large_tensors_at_any_address(tmp_path: Path, external: bool) -> None:
    """Their bytes start anywhere in the file: each of four offsets modulo four, some floats and some bytes."""
    rng = np.random.default_rng(0)
    arrays = {f"w{size}": rng.standard_normal(size).astype(np.float32) for size in range(16384, 16396)}
    arrays |= {f"b{size}": rng.integers(0, 255, size, np.uint8) for size in (65535, 65536, 65541)}
    path, tensors = tmp_path / "model.onnx", []
    for name, array in arrays.items():
        tensors.append(numpy_helper.from_array(array, name))
        tensors.append(numpy_helper.from_array(np.zeros(len(tensors) % 3 + 1, np.uint8), f"shift {name}"))
    model = build([relu_of("x")], tensors)
    onnx.save_model(model, str(path), save_as_external_data=external, location="w.bin", size_threshold=0)
    graph = load_graph(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(graph.constants[name], array)
        assert graph.constants[name].flags.writeable == (array.nbytes < 65536)
    path.unlink()  # the mapping outlasts the name
    for name, array in arrays.items():
        let_go(graph.constants[name])
        np.testing.assert_array_equal(graph.constants[name], array)


def test_letting_go_gives_memory_back(load: Callable) -> None:
    """Resident pages of the mapped file: all of 8 MiB after reading, and less than a tenth after letting go."""
    graph = load(build([relu_of("x")], [numpy_helper.from_array(np.ones((4, 1 << 19), np.float32), "w")]))
    array = graph.constants["w"]
    assert float(array.sum(dtype=np.float64)) == array.size
    assert _resident_bytes(graph.path) > 0.99 * array.nbytes
    let_go(array.T[1:])
    assert _resident_bytes(graph.path) < 0.1 * array.nbytes
    own = np.ones((4, 4096), np.float32)
    let_go(own)
    assert own.all()


def _resident_bytes(path: str) -> int:
    """Bytes of this process's mappings of a file that are in memory now."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    places = [index for index, line in enumerate(lines) if line.endswith(path)]
    sizes = [next(line for line in lines[index:] if line.startswith("Rss:")) for index in places]
    return sum(int(size.split()[1]) * 1024 for size in sizes)


def test_a_file_that_cannot_be_mapped_is_read(load: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise OSError("no such device")

    weight = np.random.default_rng(0).standard_normal((4, 1 << 15)).astype(np.float32)
    monkeypatch.setattr(mapped.mmap, "mmap", refuse)
    graph = load(linear(weight))
    monkeypatch.undo()
    let_go(graph.constants["w"])
    np.testing.assert_array_equal(graph.constants["w"], weight)


@pytest.mark.parametrize(("ir_version", "opset"), [(3, 7), (6, 11), (7, 13), (8, 17), (10, 20), (11, 23)])
def test_versions(load: Callable, ir_version: int, opset: int) -> None:
    assert load(build([relu_of("x")], ir_version=ir_version, opsets={"ai.onnx": opset})).opsets == {"": opset}


def test_default_domain_is_empty_everywhere(load: Callable) -> None:
    node = helper.make_node("Relu", ["x"], ["h"], domain="ai.onnx")
    inverse = helper.make_node("Inverse", ["h"], ["y"], domain="com.microsoft")
    graph = load(build([node, inverse], opsets={"ai.onnx": 17, "com.microsoft": 1}))
    assert [node.domain for node in graph.nodes] == ["", "com.microsoft"]
    assert graph.opsets == {"": 17, "com.microsoft": 1}


def _sample(code: int, size: int) -> np.ndarray:
    """Random bit patterns of the type, NaN and infinity among them, as an array of ``size`` elements."""
    element = ELEMENT_TYPES[code]
    rng = np.random.default_rng(code)
    if code == TensorProto.STRING:
        return np.array([f"é{i}" for i in range(size)], dtype=object)
    if code == TensorProto.BOOL:
        return rng.random(size) < 0.5
    raw = rng.integers(0, 256, size * element.dtype.itemsize, dtype=np.uint8)
    if element.bits < 8:
        raw &= (1 << element.bits) - 1
    array = raw.view(element.dtype)
    if code in (FLOAT, TensorProto.COMPLEX64):
        # A signalling float32 NaN does not survive the Python float on its way into float_data.
        parts = array.view(np.float32)
        parts[np.isnan(parts)] = np.nan
    return array


@pytest.mark.parametrize("size", [0, 1, 15, 6000])
@pytest.mark.parametrize("form", ["raw", "field", "external"])
@pytest.mark.parametrize("code", sorted(set(TensorProto.DataType.values()) - {0}))
def test_every_data_type_as_numpy_helper_reads_it(
    load: Callable, tmp_path: Path, code: int, form: str, size: int
) -> None:
    array = _sample(code, size).reshape(1, size)
    tensor = numpy_helper.from_array(array, "c")
    assert tensor.data_type == code
    if form == "field" and code != TensorProto.STRING:
        tensor = _to_typed_field(tensor, array)
    elif form == "external" and code != TensorProto.STRING:
        (tmp_path / "data.bin").write_bytes(b"pad" + tensor.raw_data)
        tensor = external_tensor(tensor, "data.bin", offset=3, length=len(tensor.raw_data))
    loaded = load(build([relu_of("x")], [tensor])).constants["c"]
    reference, array = widened(numpy_helper.to_array(tensor, base_dir=str(tmp_path))), widened(array)
    assert loaded.dtype == reference.dtype
    assert loaded.shape == reference.shape
    if code == TensorProto.STRING:
        assert loaded.tolist() == reference.tolist() == array.tolist()
    else:
        # Bytes and not values, so that every NaN counts; both must equal what was written.
        assert loaded.tobytes() == reference.tobytes() == array.tobytes()


def _to_typed_field(tensor: TensorProto, array: np.ndarray) -> TensorProto:
    """Store the same tensor as typed values in place of raw bytes."""
    typed = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    element = ELEMENT_TYPES[tensor.data_type]
    values: np.ndarray = array.reshape(-1)
    if element.bits in (2, 4):
        values = np.frombuffer(tensor.raw_data, np.uint8)
    elif element.dtype.kind == "c":
        values = values.view(np.float32 if element.dtype == np.complex64 else np.float64)
    elif element.dtype.isbuiltin != 1 or element.dtype in (np.float16, np.bool_):
        values = values.view(f"u{values.itemsize}")
    getattr(typed, element.field).extend(values.tolist())
    return typed


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ({"value": numpy_helper.from_array(np.array([[1, 2]], np.int8))}, np.array([[1, 2]], np.int8)),
        ({"value_float": 1.5}, np.array(1.5, np.float32)),
        ({"value_floats": [1.5, 2.5]}, np.array([1.5, 2.5], np.float32)),
        ({"value_int": -7}, np.array(-7, np.int64)),
        ({"value_ints": [1, 2, 3]}, np.array([1, 2, 3], np.int64)),
        ({"value_string": "a"}, np.array("a", object)),
        ({"value_strings": ["a", "b"]}, np.array(["a", "b"], object)),
        (
            {
                "sparse_value": helper.make_sparse_tensor(
                    helper.make_tensor("v", FLOAT, [2], [3.0, 4.0]),
                    helper.make_tensor("i", TensorProto.INT64, [2], [1, 5]),
                    [2, 3],
                )
            },
            np.array([[0, 3, 0], [0, 0, 4]], np.float32),
        ),
    ],
)
def test_constant_nodes_become_constants(load: Callable, attribute: dict[str, Any], expected: np.ndarray) -> None:
    graph = load(build([helper.make_node("Constant", [], ["c"], **attribute), relu_of("x")]))
    assert [node.op for node in graph.nodes] == ["Relu"]
    assert graph.source_node_count == 2
    assert graph.constants["c"].dtype == expected.dtype
    np.testing.assert_array_equal(graph.constants["c"], expected, strict=True)


def test_large_tensor_in_a_constant_node(load: Callable) -> None:
    value = np.random.default_rng(0).standard_normal((3, 700)).astype(np.float32)
    node = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(value))
    np.testing.assert_array_equal(load(build([node, relu_of("x")])).constants["c"], value)


def test_identity_of_constants_is_resolved(load: Callable) -> None:
    nodes = [
        helper.make_node("Identity", ["w"], ["w1"]),
        helper.make_node("Identity", ["w1"], ["w2"]),
        helper.make_node("Identity", ["x"], ["x1"]),
        helper.make_node("Add", ["x1", "w2"], ["y"]),
    ]
    graph = load(build(nodes, [numpy_helper.from_array(np.ones(4, np.float32), "w")]))
    assert [node.op for node in graph.nodes] == ["Identity", "Add"]
    assert graph.constants["w2"] is graph.constants["w"]


def test_an_output_may_be_a_constant_or_an_input(load: Callable) -> None:
    weight = helper.make_tensor_value_info("w", FLOAT, [4])
    graph = load(build([], [numpy_helper.from_array(np.ones(4, np.float32), "w")], outputs=[weight, X]))
    assert [info.name for info in graph.outputs] == ["w", "x"]


def test_an_initializer_listed_as_input_is_a_constant(load: Callable) -> None:
    model = linear()
    model.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [4, 512]))
    assert [info.name for info in load(model).inputs] == ["x"]


def test_sparse_initializer_becomes_dense(load: Callable) -> None:
    model = build([helper.make_node("Add", ["x", "s"], ["y"])])
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("s", FLOAT, [2], [3.0, 4.0]),
        helper.make_tensor("", TensorProto.INT64, [2, 2], [0, 1, 1, 2]),
        [2, 4],
    )
    model.graph.sparse_initializer.append(sparse)
    np.testing.assert_array_equal(load(model).constants["s"], np.array([[0, 3, 0, 0], [0, 0, 4, 0]], np.float32))


def test_attributes_become_python_values(load: Callable) -> None:
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "body", [], [Y])
    body.output[0].name = "z"
    tensor = numpy_helper.from_array(np.array([1, 2], np.int64))
    node = helper.make_node(
        "Op",
        ["x"],
        ["y"],
        domain="test",
        i=3,
        f=0.5,
        s="text",
        ints=[1, 2],
        floats=[0.5],
        strings=["a"],
        t=tensor,
        g=body,
    )
    node.attribute.append(helper.make_attribute("tensors", [tensor]))
    attributes = load(build([node], opsets={"": 17, "test": 1})).nodes[0].attributes
    assert isinstance(attributes["g"], onnx.GraphProto)
    assert attributes.pop("g") == body
    np.testing.assert_array_equal(attributes.pop("t"), [1, 2])
    np.testing.assert_array_equal(attributes.pop("tensors")[0], [1, 2])
    assert attributes == {"i": 3, "f": 0.5, "s": "text", "ints": [1, 2], "floats": [0.5], "strings": ["a"]}


def test_unsorted_nodes_are_sorted(load: Callable) -> None:
    model = linear()
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert [node.name for node in load(model).nodes] == ["matmul", "add", "relu"]


def test_a_subgraph_counts_as_reader(load: Callable) -> None:
    """The If reads ``h`` from inside its branches only, so it must come after the node that writes ``h``."""
    branch_output = helper.make_tensor_value_info("b", FLOAT, None)
    unsorted = [helper.make_node("Neg", ["n"], ["b"]), helper.make_node("Abs", ["h"], ["n"])]
    branch = helper.make_graph(unsorted, "branch", [], [branch_output])
    nodes = [
        helper.make_node("If", ["flag"], ["y"], name="if", then_branch=branch, else_branch=branch),
        helper.make_node("Relu", ["x"], ["h"], name="relu"),
    ]
    graph = load(build(nodes, inputs=[X, helper.make_tensor_value_info("flag", TensorProto.BOOL, [])]))
    assert [node.name for node in graph.nodes] == ["relu", "if"]
    assert [node.op_type for node in graph.nodes[1].attributes["then_branch"].node] == ["Abs", "Neg"]


def test_external_data_of_a_subgraph_is_pulled_in(load: Callable, tmp_path: Path) -> None:
    value = np.arange(6, dtype=np.float32)
    (tmp_path / "data.bin").write_bytes(value.tobytes())
    tensor = external_tensor(numpy_helper.from_array(value, "c"), "data.bin")
    branch = helper.make_graph(
        [helper.make_node("Neg", ["c"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", FLOAT, [6])],
        [tensor],
    )
    node = helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch)
    graph = load(build([node], inputs=[helper.make_tensor_value_info("flag", TensorProto.BOOL, [])]))
    loaded = graph.nodes[0].attributes["else_branch"].initializer[0]
    np.testing.assert_array_equal(numpy_helper.to_array(loaded), value)


def test_unnamed_and_equally_named_nodes_get_distinct_names(load: Callable) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], name="same"),
        helper.make_node("Relu", ["b"], ["y"], name="same"),
    ]
    graph = load(build(nodes))
    assert len({node.name for node in graph.nodes}) == 3
    assert [node.sources for node in graph.nodes] == [[node.name] for node in graph.nodes]


def test_local_functions_are_inlined(load: Callable) -> None:
    graph = load(model_with_functions())
    assert [node.op for node in graph.nodes] == ["Add", "Add", "Add"]
    assert graph.source_node_count == 3
    np.testing.assert_array_equal(graph.constants["w"], np.ones((2000, 4), np.float32))


def test_dimensions_of_inputs(load: Callable) -> None:
    info = helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", None, 7, -1])
    assert load(build([relu_of("x")], inputs=[info])).inputs[0].shape == ("batch", None, 7, None)


def test_shipped_model_against_onnx() -> None:
    path = DEFAULT_MODEL / "model.onnx"
    graph = load_graph(path)
    model = onnx.load(str(path))
    assert graph.source_node_count == len(model.graph.node)
    assert [info.name for info in graph.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [info.name for info in graph.outputs] == ["start_logits", "end_logits"]
    for tensor in model.graph.initializer:
        np.testing.assert_array_equal(graph.constants[tensor.name], numpy_helper.to_array(tensor), strict=True)
    assert {output for node in model.graph.node for output in node.output} == (
        {output for node in graph.nodes for output in node.outputs}
        | (set(graph.constants) - {tensor.name for tensor in model.graph.initializer})
    )
