"""Loading ONNX files: what arrives in the graph, and what is refused with which error."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sparsert.errors import InputTypeError, ModelError, ModelFormatError, ModelNotFoundError, ShapeError
from sparsert.graph import load_graph, mapped
from sparsert.graph.ir import Graph
from sparsert.graph.mapped import let_go
from sparsert.graph.tensors import ELEMENT_TYPES

FLOAT = TensorProto.FLOAT
X = helper.make_tensor_value_info("x", FLOAT, ["batch", 4])
Y = helper.make_tensor_value_info("y", FLOAT, ["batch", 4])


def build(
    nodes: list[onnx.NodeProto],
    initializers: list[TensorProto] | None = None,
    inputs: list[onnx.ValueInfoProto] | None = None,
    outputs: list[onnx.ValueInfoProto] | None = None,
    *,
    ir_version: int = 8,
    opsets: dict[str, int] | None = None,
    **more: Any,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "tiny", [X] if inputs is None else inputs, [Y] if outputs is None else outputs, initializers or []
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": 17}).items()]
    return helper.make_model(graph, ir_version=ir_version, opset_imports=imports, **more)


def linear(weight: np.ndarray | None = None) -> onnx.ModelProto:
    """y = Relu(x @ w + b), with one small initializer and one beyond the size that stays in the skeleton."""
    weight = np.arange(4 * 512, dtype=np.float32).reshape(4, 512) if weight is None else weight
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["xw"], name="matmul"),
        helper.make_node("Add", ["xw", "b"], ["sum"], name="add"),
        helper.make_node("Relu", ["sum"], ["y"], name="relu"),
    ]
    bias = numpy_helper.from_array(np.linspace(-1, 1, weight.shape[1], dtype=np.float32), "b")
    return build(nodes, [numpy_helper.from_array(weight, "w"), bias])


@pytest.fixture
def load(tmp_path: Path) -> Callable[[onnx.ModelProto | bytes], Graph]:
    """Write a model or bytes to a file and load it."""

    def write_and_load(model: onnx.ModelProto | bytes) -> Graph:
        path = tmp_path / "model.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return load_graph(path)

    return write_and_load


def relu_of(name: str) -> onnx.NodeProto:
    return helper.make_node("Relu", [name], ["y"], name="relu")


# What a sound file becomes.


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
    gelu = helper.make_node("Gelu", ["h"], ["y"], domain="com.microsoft")
    graph = load(build([node, gelu], opsets={"ai.onnx": 17, "com.microsoft": 1}))
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
        tensor = _external(tensor, "data.bin", offset=3, length=len(tensor.raw_data))
    loaded = load(build([relu_of("x")], [tensor])).constants["c"]
    reference = numpy_helper.to_array(tensor, base_dir=str(tmp_path))
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


def _external(tensor: TensorProto, location: str, **entries: Any) -> TensorProto:
    """Point a tensor to external data; an entry of None is left out."""
    moved = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    moved.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        if value is not None:
            moved.external_data.add(key=key, value=str(value))
    return moved


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
    tensor = _external(numpy_helper.from_array(value, "c"), "data.bin")
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


def _model_with_functions() -> onnx.ModelProto:
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    inner = helper.make_function("local", "Double", ["a"], ["r"], [helper.make_node("Add", ["a", "a"], ["r"])], opset)
    outer = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["r"],
        [
            helper.make_node("Double", ["a"], ["t"], domain="local"),
            helper.make_node("Double", ["t"], ["r"], domain="local"),
        ],
        opset,
    )
    nodes = [helper.make_node("Twice", ["x"], ["h"], domain="local"), helper.make_node("Add", ["h", "w"], ["y"])]
    weight = numpy_helper.from_array(np.ones((2000, 4), np.float32), "w")
    return build(nodes, [weight], opsets={"": 17, "local": 1}, functions=[inner, outer])


def test_local_functions_are_inlined(load: Callable) -> None:
    graph = load(_model_with_functions())
    assert [node.op for node in graph.nodes] == ["Add", "Add", "Add"]
    assert graph.source_node_count == 3
    np.testing.assert_array_equal(graph.constants["w"], np.ones((2000, 4), np.float32))


def test_dimensions_of_inputs(load: Callable) -> None:
    info = helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", None, 7, -1])
    assert load(build([relu_of("x")], inputs=[info])).inputs[0].shape == ("batch", None, 7, None)


# External data.


def test_external_data_roundtrip(tmp_path: Path) -> None:
    model = linear()
    expected = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    path = tmp_path / "sub" / "model.onnx"
    path.parent.mkdir()
    onnx.save_model(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert os.path.getsize(path) < os.path.getsize(tmp_path / "sub" / "weights.bin")
    graph = load_graph(str(path))
    for name, array in expected.items():
        np.testing.assert_array_equal(graph.constants[name], array)


def test_external_data_relative_to_a_bare_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save_model(linear(), str(tmp_path / "m.onnx"), save_as_external_data=True, location="w.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    assert graph_names(load_graph("m.onnx")) == ["b", "w"]


def graph_names(graph: Graph) -> list[str]:
    return sorted(graph.constants)


def test_external_data_in_a_cache_of_links(tmp_path: Path) -> None:
    """Download caches keep blobs in one folder and a snapshot of links beside it."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    onnx.save_model(linear(), str(blobs / "m"), save_as_external_data=True, location="w.bin", size_threshold=0)
    (blobs / "w.bin").rename(blobs / "d")
    (snapshot / "model.onnx").symlink_to(blobs / "m")
    (snapshot / "w.bin").symlink_to(blobs / "d")
    assert graph_names(load_graph(snapshot / "model.onnx")) == ["b", "w"]


@pytest.fixture
def load_external(load: Callable, tmp_path: Path) -> Callable[..., Graph]:
    """Load a model whose initializer ``c`` (4 float32) points to external data with the given entries."""
    (tmp_path / "data.bin").write_bytes(np.arange(8, dtype=np.float32).tobytes())

    def load_with(location: str, **entries: Any) -> Graph:
        tensor = _external(numpy_helper.from_array(np.zeros(4, np.float32), "c"), location, **entries)
        return load(build([relu_of("x")], [tensor]))

    return load_with


@pytest.mark.parametrize(("offset", "first"), [(None, 0), (0, 0), (16, 4)])
@pytest.mark.parametrize("length", [None, 16])
def test_external_offset_and_length(
    load_external: Callable, offset: int | None, length: int | None, first: int
) -> None:
    graph = load_external("data.bin", offset=offset, length=length)
    np.testing.assert_array_equal(graph.constants["c"], np.arange(first, first + 4, dtype=np.float32))


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": 17},
        {"offset": 32},
        {"offset": 1 << 62},
        {"offset": 1 << 80},
        {"offset": -16},
        {"offset": "1_6"},
        {"offset": "9" * 5000},
        {"length": 15},
        {"length": 17},
        {"length": 1 << 62},
        {"length": -1},
        {"length": "sixteen"},
    ],
)
def test_external_data_shorter_or_longer_than_claimed(load_external: Callable, entries: dict[str, Any]) -> None:
    with pytest.raises(ModelFormatError, match=r"model\.onnx: initializer 'c': expected .*came|the file has"):
        load_external("data.bin", **entries)


@pytest.mark.parametrize(
    "location", ["", "/etc/passwd", "../data.bin", "a/../../data.bin", "C:\\data.bin", "..\\d", "\\d"]
)
def test_external_location_outside_the_directory(load_external: Callable, location: str) -> None:
    with pytest.raises(ModelFormatError, match="initializer 'c'.*external data"):
        load_external(location)


def test_external_link_that_leaves_the_directory(load_external: Callable, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "secret").write_bytes(bytes(16))
    (tmp_path / "link").symlink_to(outside / "secret")
    (tmp_path / "folder").symlink_to(outside)
    for location in ("link", "folder/secret"):
        with pytest.raises(ModelFormatError, match="initializer 'c'.*link that leaves"):
            load_external(location)


def test_external_data_missing(load_external: Callable) -> None:
    with pytest.raises(ModelNotFoundError, match=r"model\.onnx: initializer 'c'.*'none\.bin'"):
        load_external("none.bin")


def test_external_data_that_is_no_regular_file(load_external: Callable, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # opening it would block for ever
    for location in ("folder", "pipe", "."):
        with pytest.raises(ModelFormatError, match="initializer 'c'"):
            load_external(location)


# Files that are no model.


@pytest.mark.parametrize("name", ["none.onnx", "file/none.onnx", "", "null\0.onnx", "x" * 5000])
def test_missing_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelNotFoundError):
        load_graph(os.path.join(tmp_path, name) if name else name)


def test_directory_and_device(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="directory"):
        load_graph(tmp_path)
    with pytest.raises(ModelNotFoundError, match="device"):
        load_graph(os.devnull)


def test_a_path_of_the_wrong_type() -> None:
    with pytest.raises(InputTypeError, match="path.*int"):
        load_graph(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 100, b"not a model at all", b"\x80" * 40, b"\x08\x0a", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 9999],
)
def test_bytes_that_are_no_model(load: Callable, content: bytes) -> None:
    with pytest.raises(ModelFormatError, match=r"model\.onnx"):
        load(content)


def test_every_truncation_is_refused(load: Callable) -> None:
    content = linear().SerializeToString()
    for size in [*range(0, 300), *range(300, len(content), 97), *range(len(content) - 100, len(content))]:
        with pytest.raises(ModelFormatError):
            load(content[:size])


def test_a_length_beyond_the_file_is_refused_before_any_allocation(load: Callable) -> None:
    huge = b"\xff" * 8 + b"\x7f"
    with pytest.raises(ModelFormatError, match="claims"):
        load(b"\x08\x08\x3a" + huge + b"\x00" * 64)


def test_text_that_is_not_utf8(load: Callable) -> None:
    content = build([relu_of("x")]).SerializeToString()
    with pytest.raises(ModelFormatError, match="UTF-8"):
        load(content.replace(b"relu", b"\xff\xfe\xfd\xfc"))


# Tensors that do not hold what they claim.


def _raw(dims: list[int], data: bytes, code: int = FLOAT) -> TensorProto:
    return TensorProto(name="c", data_type=code, dims=dims, raw_data=data)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (_raw([4], bytes(15)), r"expected 16 bytes for float32 of shape \(4,\), came 15"),
        (_raw([4], bytes(9000)), "expected 16 bytes"),
        (_raw([3000], bytes(9000)), "expected 12000 bytes"),
        (_raw([1 << 62, 1 << 62], bytes(16)), "expected"),
        (_raw([1 << 40], bytes(16)), "expected 4398046511104 bytes"),
        (_raw([0, 1 << 62], b""), "beyond"),
        (_raw([1] * 100, bytes(4)), "beyond"),
        (_raw([-1, -4], bytes(16)), "dimensions >= 0"),
        (_raw([], b""), "expected 4 bytes"),
        (_raw([2], bytes(8), code=0), "data type"),
        (_raw([2], bytes(8), code=99), "data type"),
        (_raw([2], bytes(8), code=TensorProto.STRING), "string_data"),
        (_raw([3], bytes(1), code=TensorProto.INT4), "expected 2 bytes"),
        (TensorProto(name="c", data_type=FLOAT, dims=[3], float_data=[1, 2]), "expected 3 values in float_data"),
        (TensorProto(name="c", data_type=FLOAT, dims=[1 << 60]), "expected 1152921504606846976 values"),
        (TensorProto(name="c", data_type=TensorProto.UINT8, dims=[1], int32_data=[256]), "fit uint8.*256"),
        (TensorProto(name="c", data_type=TensorProto.INT8, dims=[1], int32_data=[-129]), "fit int8.*-129"),
        (TensorProto(name="c", data_type=TensorProto.UINT32, dims=[1], uint64_data=[1 << 32]), "fit uint32"),
        (TensorProto(name="c", data_type=TensorProto.STRING, dims=[1], string_data=[b"\xff"]), "UTF-8"),
        (TensorProto(name="c", data_type=FLOAT, dims=[0], segment=TensorProto.Segment(begin=0)), "segment"),
        (TensorProto(name="", data_type=FLOAT, dims=[0]), "expected a name"),
    ],
)
def test_tensor_that_does_not_hold_what_it_claims(load: Callable, tensor: TensorProto, message: str) -> None:
    with pytest.raises(ModelFormatError, match=rf"model\.onnx: .*{message}"):
        load(build([relu_of("x")], [tensor]))


@pytest.mark.parametrize(
    ("dims", "indices", "index_dims", "message"),
    [
        ([1 << 20, 1 << 20], [0, 1], [2], "when dense"),
        ([4], [0, 4], [2], "within shape"),
        ([4], [-1, 0], [2], "within shape"),
        ([2, 2], [0, 1, 0, 2], [2, 2], "within shape"),
        ([4], [0, 1, 2], [3], "indices of shape"),
        ([-4], [0, 1], [2], "dimensions >= 0"),
    ],
)
def test_sparse_tensor_that_does_not_fit(
    load: Callable, dims: list[int], indices: list[int], index_dims: list[int], message: str
) -> None:
    model = build([relu_of("x")])
    values = helper.make_tensor("s", FLOAT, [2], [1.0, 2.0])
    where = helper.make_tensor("", TensorProto.INT64, index_dims, indices)
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=where, dims=dims))
    with pytest.raises(ModelFormatError, match=f"sparse initializer 's'.*{message}"):
        load(model)


# Graphs that are no graphs.


def _edited(edit: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = linear()
    edit(model)
    return model


def _rewire(node: int, field: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        getattr(model.graph.node[node], field)[0] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.ClearField("graph"), "with a graph"),
        (lambda m: m.ClearField("ir_version"), "ir_version >= 3, came 0"),
        (lambda m: m.ClearField("opset_import"), "opset_import, came none"),
        (lambda m: m.opset_import.add(domain="ai.onnx", version=9), "one version, came 17 and 9"),
        (lambda m: setattr(m.opset_import[0], "version", 0), "version >= 1, came 0"),
        (lambda m: setattr(m.graph.node[1], "domain", "com.other"), r"node 'add' \(Add\).*'com.other'"),
        (lambda m: setattr(m.graph.node[1], "op_type", ""), "op_type"),
        (lambda m: m.graph.initializer.append(m.graph.initializer[0]), "'w'.*several"),
        (lambda m: m.graph.input.append(X), "'x'.*several"),
        (lambda m: m.graph.output.append(Y), "'y'.*several"),
        (lambda m: m.graph.output[0].__setattr__("name", "nobody"), "output 'nobody'"),
        (lambda m: m.graph.ClearField("output"), "outputs"),
        (_rewire(1, "input", "nothing"), "node 'add' .*'nothing'"),
        (_rewire(0, "input", "y"), "node 'matmul'.*cycle matmul <- relu <- add <- matmul"),
        (_rewire(2, "input", "y"), "cycle relu <- relu"),
        (_rewire(1, "output", "xw"), "node 'add'.*'xw' is written by node 'matmul'"),
        (_rewire(1, "output", "w"), "node 'add'.*'w' is an input or initializer"),
        (_rewire(1, "output", "x"), "node 'add'.*'x' is an input or initializer"),
        (lambda m: m.graph.input[0].type.ClearField("tensor_type"), "input 'x'.*tensor"),
        (lambda m: m.graph.input[0].type.tensor_type.__setattr__("elem_type", 99), "input 'x'.*99"),
        (lambda m: m.graph.output[0].ClearField("type"), "output 'y'.*no type"),
        (lambda m: m.graph.node[0].attribute.extend([helper.make_attribute("a", 1)] * 2), "one attribute 'a'"),
        (lambda m: m.graph.node[0].attribute.add(name="a"), "attribute 'a'.*type 0"),
        (lambda m: m.graph.node[0].attribute.add(name="a", ref_attr_name="b"), "attribute 'a'.*reference"),
        (lambda m: m.graph.node[0].attribute.add(name="a", type=3, s=b"\xff"), "attribute 'a'.*UTF-8"),
        (lambda m: m.graph.node.add(op_type="Constant", output=["c"]), "value_float.*came \\[\\]"),
        (lambda m: m.graph.node.add(op_type="Identity", output=["c"]), "one input"),
        (
            lambda m: m.graph.node.append(helper.make_node("Constant", [], ["c"], value_float=3)),
            "float in value_float, came 3",
        ),
        (lambda m: m.graph.node.append(helper.make_node("Constant", [], ["c"], value_ints=[0.5])), "int in value_ints"),
    ],
)
def test_graph_that_is_refused(load: Callable, edit: Callable, message: str) -> None:
    with pytest.raises(ModelFormatError, match=rf"model\.onnx: .*{message}"):
        load(_edited(edit))


@pytest.mark.parametrize("dims", [[-2, 4], [1 << 40, 1 << 40], None])
def test_input_shape_that_is_refused(load: Callable, dims: list[int] | None) -> None:
    with pytest.raises(ShapeError, match="input 'x'"):
        load(build([relu_of("x")], inputs=[helper.make_tensor_value_info("x", FLOAT, dims)]))


def test_subgraph_that_reads_nothing_known(load: Callable) -> None:
    branch = helper.make_graph(
        [helper.make_node("Neg", ["nobody"], ["b"])], "branch", [], [helper.make_tensor_value_info("b", FLOAT, [6])]
    )
    node = helper.make_node("If", ["flag"], ["y"], name="if", then_branch=branch, else_branch=branch)
    with pytest.raises(ModelFormatError, match="node 'if'.*'nobody'"):
        load(build([node], inputs=[helper.make_tensor_value_info("flag", TensorProto.BOOL, [])]))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.graph.node[0].input.append("x"), "at most 1 inputs and 1 outputs.*came 2 and 1"),
        (lambda m: m.functions[0].node.append(helper.make_node("Twice", ["a"], ["z"], domain="local")), "recursion"),
        (lambda m: m.functions.append(m.functions[0]), "duplicates"),
        (lambda m: m.functions[0].opset_import[0].__setattr__("version", 12), "another opset"),
    ],
)
def test_functions_that_are_refused(load: Callable, edit: Callable, message: str) -> None:
    model = _model_with_functions()
    edit(model)
    with pytest.raises(ModelFormatError, match=rf"model\.onnx: .*{message}"):
        load(model)


def test_functions_that_multiply_are_refused(load: Callable) -> None:
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    functions = []
    for level in range(30):
        op, domain = (f"F{level - 1}", "local") if level else ("Relu", "")
        nodes = [helper.make_node(op, ["a"], ["t"], domain=domain), helper.make_node(op, ["t"], ["r"], domain=domain)]
        functions.append(helper.make_function("local", f"F{level}", ["a"], ["r"], nodes, opset))
    node = helper.make_node("F29", ["x"], ["y"], domain="local")
    with pytest.raises(ModelFormatError, match="1000000 nodes"):
        load(build([node], opsets={"": 17, "local": 1}, functions=functions))


# Anything at all: a graph or a typed error.

_FUZZ = settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _fuzz_seed() -> bytes:
    """Hold every construct that the loader has code for in a few hundred bytes."""
    branch = helper.make_graph(
        [helper.make_node("Neg", ["h"], ["b"])], "branch", [], [helper.make_tensor_value_info("b", FLOAT, ["batch", 4])]
    )
    nodes = [
        helper.make_node("Identity", ["w"], ["v"]),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.arange(4, dtype=np.float16))),
        helper.make_node("Constant", [], ["i"], value_ints=[1, 2]),
        helper.make_node("Add", ["x", "v"], ["h"], name="add"),
        helper.make_node("If", ["flag"], ["y"], name="if", then_branch=branch, else_branch=branch),
    ]
    initializers = [
        numpy_helper.from_array(np.ones(4, np.float32), "w"),
        helper.make_tensor("k", TensorProto.INT4, [3], [1, -2, 3]),
        _external(numpy_helper.from_array(np.ones(4, np.int8), "e"), "data.bin", offset=2, length=4),
    ]
    model = build(nodes, initializers, [X, helper.make_tensor_value_info("flag", TensorProto.BOOL, [])])
    return model.SerializeToString()


_SEED = _fuzz_seed()


def _graph_or_model_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    (path.parent / "data.bin").write_bytes(bytes(8))
    try:
        graph = load_graph(path)
    except ModelError as error:
        assert str(path) in str(error)
        return
    known = {info.name for info in graph.inputs} | set(graph.constants)
    for node in graph.nodes:
        assert {name for name in node.inputs if name} <= known
        known |= set(node.outputs)
    assert {info.name for info in graph.outputs} <= known


def test_the_seed_of_the_fuzz_tests_is_sound(load: Callable, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(bytes(8))
    assert sorted(load(_SEED).constants) == ["c", "e", "i", "k", "v", "w"]


@_FUZZ
@given(content=st.binary(max_size=400))
def test_random_bytes(tmp_path: Path, content: bytes) -> None:
    _graph_or_model_error(tmp_path / "model.onnx", content)


@_FUZZ
@given(
    flips=st.lists(st.tuples(st.integers(0, len(_SEED) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.integers(0, 3 * len(_SEED)),
)
def test_flipped_and_truncated_models(tmp_path: Path, flips: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(_SEED)
    for position, value in flips:
        content[position] = value
    _graph_or_model_error(tmp_path / "model.onnx", bytes(content[:cut]))


# The real model.


def test_shipped_model_against_onnx(shared: Path) -> None:
    path = shared / "models" / "minilm-l6-squad-pruned60_quant" / "model.onnx"
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
