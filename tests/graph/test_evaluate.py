"""Single nodes against ONNX Runtime and NumPy, and refusal of what nothing can run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsert.errors import EngineError, InputRangeError, ModelFormatError, UnsupportedOpError
from sparsert.graph.evaluate import make_runner
from sparsert.graph.ir import Node
from sparsert.graph.reads import implicit_inputs

RNG = np.random.default_rng(0)
FLOATS = RNG.standard_normal((2, 3, 8)).astype(np.float32)
BYTES = RNG.integers(0, 256, (2, 3, 8)).astype(np.uint8)


def run_in_onnxruntime(node: Node, arrays: list[np.ndarray], results: list[np.ndarray], opset: int) -> list[np.ndarray]:
    ort = pytest.importorskip("onnxruntime")
    attributes = {
        name: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for name, value in node.attributes.items()
    }
    # ONNX Runtime crashes on a trailing empty input, which the cases use for an absent optional one.
    names = [name for name in node.inputs if name]
    graph = helper.make_graph(
        [helper.make_node(node.op, names, node.outputs, **attributes)],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in zip(names, arrays, strict=True)
        ],
        # Types are taken from the results, and a wrong one is refused.
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(result.dtype), None)
            for name, result in zip(node.outputs, results, strict=True)
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(names, arrays, strict=True)))


CASES: list[tuple[str, list[np.ndarray | None], dict[str, Any], int]] = [
    ("Softmax", [FLOATS], {"axis": -1}, 13),
    ("LayerNormalization", [FLOATS, np.ones(8, np.float32), None], {"epsilon": 1e-5}, 17),
    ("Erf", [FLOATS], {}, 13),
    # more entries along the axis than np.choose takes, and fewer rows of indices than of data
    ("GatherElements", [RNG.random((3, 70)).astype(np.float32), RNG.integers(-70, 70, (2, 11))], {"axis": 1}, 13),
    ("GatherElements", [RNG.random((70, 3)).astype(np.float32), RNG.integers(-70, 70, (11, 2))], {}, 13),
    ("ReduceMean", [FLOATS], {"axes": [1], "keepdims": 0}, 13),
    ("Squeeze", [FLOATS[:, :1], np.array([1])], {}, 13),
    ("Squeeze", [FLOATS[:, :1]], {"axes": [1]}, 11),
    ("Slice", [FLOATS, np.array([1]), np.array([9]), np.array([2]), np.array([3])], {}, 13),
    ("Split", [FLOATS, np.array([3, 5])], {"axis": 2}, 13),
    ("QuantizeLinear", [FLOATS, np.float32(0.02), np.uint8(128)], {}, 10),
    ("QuantizeLinear", [FLOATS, RNG.random(8).astype(np.float32), np.zeros(8, np.int8)], {"axis": 2}, 13),
    ("DequantizeLinear", [BYTES, np.float32(0.02), np.uint8(128)], {}, 10),
    ("DequantizeLinear", [BYTES, RNG.random(3).astype(np.float32), np.arange(3, dtype=np.uint8)], {"axis": 1}, 13),
    ("DynamicQuantizeLinear", [FLOATS], {}, 11),
    ("MatMulInteger", [BYTES, BYTES[0].T.copy(), np.uint8(3), np.uint8(7)], {}, 10),
    ("Scatter", [FLOATS[0], np.array([[1, 2]]), FLOATS[1, :1, :2]], {"axis": 0}, 10),
    ("ConstantOfShape", [np.array([2, 2])], {"value": np.array([7], np.int64)}, 9),
    ("Where", [BYTES > 9, FLOATS, -FLOATS], {}, 9),
    ("TopK", [FLOATS, np.array([3])], {"axis": -1}, 11),
]


@pytest.mark.parametrize(("op", "arrays", "attributes", "opset"), CASES, ids=[f"{c[0]}-{c[3]}" for c in CASES])
def test_against_onnxruntime(op: str, arrays: list[np.ndarray | None], attributes: dict[str, Any], opset: int) -> None:
    arrays = [None if array is None else np.asarray(array) for array in arrays]
    inputs = [f"i{index}" if array is not None else "" for index, array in enumerate(arrays)]
    outputs = [f"o{index}" for index in range({"Split": 2, "DynamicQuantizeLinear": 3, "TopK": 2}.get(op, 1))]
    node = Node(op, inputs, outputs, attributes, "node")
    results = make_runner(node, {"": opset})(arrays)
    expected = run_in_onnxruntime(node, [array for array in arrays if array is not None], results, opset)
    assert len(results) == len(expected) == len(outputs)
    for result, wanted in zip(results, expected, strict=True):
        assert result.dtype == wanted.dtype and result.shape == wanted.shape
        # Integers exactly; floats to a few units in the last place, as sums are ordered differently.
        np.testing.assert_allclose(result, wanted, rtol=2e-6 if result.dtype.kind == "f" else 0, atol=2e-6)


def test_absent_outputs() -> None:
    node = Node("LayerNormalization", ["x", "g"], ["y", "", "deviation"], {}, "norm")
    normal, deviation = make_runner(node, {"": 17})([FLOATS, np.ones(8, np.float32)])
    assert normal.shape == FLOATS.shape and deviation.shape == (2, 3, 1)


def branch(op: str) -> Any:
    node = helper.make_node(op, ["x", "w"], ["branch_out"])
    return helper.make_graph(
        [node], "branch", [], [helper.make_tensor_value_info("branch_out", TensorProto.FLOAT, None)]
    )


def test_if_reads_values_around_it() -> None:
    node = Node("If", ["c"], ["y"], {"then_branch": branch("Add"), "else_branch": branch("Mul")}, "choice")
    assert implicit_inputs(node) == ["x", "w"]
    run = make_runner(node, {"": 17})
    x, w = FLOATS, FLOATS * 2
    np.testing.assert_array_equal(run([np.array(True), x, w])[0], x + w)
    np.testing.assert_array_equal(run([np.array(False), x, w])[0], x * w)


def test_nested_subgraphs_are_searched_for_outer_values() -> None:
    inner = helper.make_node("If", ["c2"], ["z"], then_branch=branch("Add"), else_branch=branch("Sub"))
    outer = helper.make_graph([inner], "outer", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)])
    node = Node("If", ["c"], ["y"], {"then_branch": outer, "else_branch": branch("Mul")}, "choice")
    assert implicit_inputs(node) == ["c2", "x", "w"]
    run = make_runner(node, {"": 17})
    result = run([np.array(True), np.array(False), FLOATS, FLOATS * 3])[0]
    np.testing.assert_array_equal(result, FLOATS - FLOATS * 3)


@pytest.mark.parametrize(
    ("op", "domain", "opsets", "words"),
    [
        ("Nope", "", {"": 17}, "op 'Nope' of domain 'ai.onnx', opset 17"),
        ("Mish", "", {"": 17}, "op 'Mish' of domain 'ai.onnx', opset 17 (the op is not in this opset)"),
        ("Gelu", "com.microsoft", {"": 17, "com.microsoft": 1}, "op 'Gelu' of domain 'com.microsoft', opset 1"),
        ("Gelu", "elsewhere", {"": 17}, "opset unstated"),
        ("Scatter", "", {"": 11}, "the op was removed from the standard"),
    ],
)
def test_unsupported(op: str, domain: str, opsets: dict[str, int], words: str) -> None:
    with pytest.raises(UnsupportedOpError) as caught:
        make_runner(Node(op, ["x"], ["y"], {}, "the_node", domain), opsets)
    assert "node 'the_node'" in str(caught.value) and words in str(caught.value)


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (Node("Softmax", ["x"], ["y"], {"bogus": 1}, "n"), "has no attribute 'bogus'"),
        (Node("Concat", ["x"], ["y"], {}, "n"), "requires the attribute 'axis'"),
        (Node("Add", ["x"], ["y"], {}, "n"), "takes 2 to 2 inputs, and the node has 1"),
        (Node("Relu", ["x"], ["y", "z"], {}, "n"), "takes 1 to 1 outputs, and the node has 2"),
        (Node("Transpose", ["x"], ["y"], {"perm": [0, 2, 1, 255]}, "n"), "takes a permutation of axes"),
        (Node("Cast", ["x"], ["y"], {}, "n"), "requires the attribute 'to'"),
        (Node("Cast", ["x"], ["y"], {"to": 2**31}, "n"), "takes a known data type as attribute 'to', came 2147483648"),
        (Node("Flatten", ["x"], ["y"], {"axis": [1]}, "n"), r"takes INT as attribute 'axis', came \[1\]"),
        (Node("Softmax", [""], ["y"], {}, "n"), "requires the input 'input', which the node leaves out"),
        (Node("Softmax", ["x"], ["y"], {"axis": "last"}, "n"), "takes INT as attribute 'axis', came 'last'"),
    ],
)
def test_malformed_nodes(node: Node, words: str) -> None:
    with pytest.raises(ModelFormatError, match=words):
        make_runner(node, {"": 17})


@pytest.mark.parametrize("axis", [-1, -2, 0, 1])
def test_gather_elements_along_any_axis(axis: int) -> None:
    """onnx's reference operator is wrong for a negative axis; indices may cover a part of the other axes."""
    node = Node("GatherElements", ["x", "i"], ["y"], {"axis": axis}, "n")
    arrays = [RNG.standard_normal((4, 8)).astype(np.float32), RNG.integers(-4, 4, (2, 3))]
    results = make_runner(node, {"": 17})(arrays)
    for got, want in zip(results, run_in_onnxruntime(node, arrays, results, 17), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("attributes", [{}, {"reverse": 1}, {"exclusive": 1}, {"reverse": 1, "exclusive": 1}])
@pytest.mark.parametrize("axis", [np.array(1), np.array([1]), np.array(-1, np.int32)])
def test_cumulative_sums(axis: np.ndarray, attributes: dict[str, int]) -> None:
    """The axis may be a vector of one."""
    node = Node("CumSum", ["x", "axis"], ["y"], attributes, "n")
    for x in (FLOATS, RNG.integers(-9, 9, (2, 5))):
        results = make_runner(node, {"": 17})([x, axis])
        for got, want in zip(results, run_in_onnxruntime(node, [x, axis], results, 17), strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_allclose(got, want, rtol=1e-6)


def test_failures_name_the_node() -> None:
    with pytest.raises(EngineError, match=r"node 'sum': op 'Add' failed on inputs of shapes x \(2, 3, 8\), y \(5,\)"):
        make_runner(Node("Add", ["x", "y"], ["z"], {}, "sum"), {"": 17})([FLOATS, np.ones(5, np.float32)])
    with pytest.raises(InputRangeError, match="node 'pick'"):
        make_runner(Node("Gather", ["x", "i"], ["z"], {}, "pick"), {"": 17})([FLOATS, np.array([99])])


def test_an_axis_of_the_model_is_not_the_callers_fault() -> None:
    with pytest.raises(EngineError, match="node 'normal'") as caught:
        make_runner(Node("Softmax", ["x"], ["y"], {"axis": 7}, "normal"), {"": 17})([FLOATS])
    assert not isinstance(caught.value, InputRangeError)


def test_a_lack_of_memory_is_told_as_such() -> None:
    with pytest.raises(MemoryError):
        make_runner(Node("ConstantOfShape", ["x"], ["y"], {}, "huge"), {"": 17})([np.array([2**30, 2**30])])
