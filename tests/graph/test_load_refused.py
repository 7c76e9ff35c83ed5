"""Files that are refused, each with the error that says why; and any bytes at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from load_models import FLOAT, X, Y, build, external_tensor, linear, model_with_functions, relu_of
from onnx import TensorProto, helper, numpy_helper

from sparsert.errors import InputTypeError, ModelError, ModelFormatError, ModelNotFoundError, ShapeError
from sparsert.graph import load_graph

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
        (lambda m: setattr(m.opset_import[0], "version", 0), "version of 1 to 2147483647, came 0"),
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
    model = model_with_functions()
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
        external_tensor(numpy_helper.from_array(np.ones(4, np.int8), "e"), "data.bin", offset=2, length=4),
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
