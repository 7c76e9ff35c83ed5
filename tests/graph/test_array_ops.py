"""Operators on arrays against the cases of onnx's own backend tests, and against ONNX Runtime where these are thin."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.backend.test.case.node as node_cases
import pytest
from onnx import helper, numpy_helper

from sparsert.arrays.registry import OPERATORS
from sparsert.arrays.runner import make_array_runner
from sparsert.errors import EngineError, InputRangeError
from sparsert.graph.ir import Node

RNG = np.random.default_rng(0)


class Case(NamedTuple):
    """One node of onnx's backend tests."""

    name: str
    node: Node
    opset: int
    inputs: list[np.ndarray | None]
    outputs: list[np.ndarray]


def _array(value: Any) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _standard(array: np.ndarray) -> bool:
    return array.dtype.kind in "biuf" and array.dtype.isbuiltin == 1


def backend_cases() -> list[Case]:
    """Cases of the ops that have an operator here, in the newest version that it has.

    The modules of onnx make their cases when they are imported; what gathers them here builds no models, and the
    modules of ops that have no operator are left out, which takes 2 s instead of 70.
    """
    found: list[Case] = []

    def gather(node: onnx.NodeProto, inputs: list[Any], outputs: list[Any], name: str, **more: Any) -> None:
        versions, _ = OPERATORS.get(node.op_type, ((), None))
        imports = {entry.domain: entry.version for entry in more.get("opset_imports", [])}
        opset = imports.get("", onnx.defs.get_schema(node.op_type).since_version)
        if not versions or imports.keys() - {""}:
            return
        if onnx.defs.get_schema(node.op_type, opset).since_version not in versions:
            opset = max(versions)
        given, arrays = list(map(_array, inputs)), iter(map(_array, inputs))
        results = list(map(_array, outputs))
        if all(map(_standard, [*given, *results])):
            attributes = {attribute.name: _attribute(attribute) for attribute in node.attribute}
            form = Node(node.op_type, list(node.input), list(node.output), attributes, name)
            found.append(Case(name, form, opset, [next(arrays) if n else None for n in node.input], results))

    names = {op.lower() for op in OPERATORS} | {"rangeop"}
    original, node_cases.expect = node_cases.expect, gather
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for module in pkgutil.iter_modules(node_cases.__path__, f"{node_cases.__name__}."):
                if module.name.rsplit(".", 1)[1].replace("_", "") in names:
                    importlib.import_module(module.name)
    finally:
        node_cases.expect = original
    return found


CASES = backend_cases()


def run(node: Node, opset: int, arrays: list[np.ndarray | None], own: bool | None = True) -> list[np.ndarray]:
    runner, by_operator = make_array_runner(node, {"": opset})
    assert own is None or by_operator == own
    before = [None if array is None else array.copy() for array in arrays]
    with np.errstate(all="ignore"):
        results = runner(arrays)
    for array, copy in zip(arrays, before, strict=True):
        if copy is not None:
            np.testing.assert_array_equal(array, copy, "an operator wrote into its input")
    return results


def check(results: list[np.ndarray], wanted: list[np.ndarray], tolerance: float = 2e-6) -> None:
    """Integers exactly; floats to a few units in the last place, as sums are ordered differently."""
    assert len(results) == len(wanted)
    for result, expected in zip(results, wanted, strict=True):
        assert result.dtype == expected.dtype and result.shape == expected.shape
        if result.dtype.kind == "f":
            bound = 2e-3 if result.dtype == np.float16 else tolerance
            np.testing.assert_allclose(result, expected, rtol=bound, atol=bound)
        else:
            np.testing.assert_array_equal(result, expected)


def test_onnx_backend_cases() -> None:
    """All at once: a test each would cost more than what it runs."""
    left, failures = 0, []
    for case in CASES:
        runner, own = make_array_runner(case.node, {"": case.opset})
        if not own:
            left += 1
            continue
        try:
            # the published results are of float64 in places
            check(run(case.node, case.opset, case.inputs), case.outputs, 1e-5)
        except (AssertionError, EngineError) as error:
            failures.append(f"{case.name}: {error}")
    assert not failures, "\n".join(failures)
    assert len(CASES) - left > 600
    assert {case.node.op for case in CASES} >= OPERATORS.keys() - {"LpNormalization"}


def in_onnxruntime(node: Node, opset: int, arrays: list[np.ndarray | None]) -> list[np.ndarray]:
    ort = pytest.importorskip("onnxruntime")
    attributes = {
        name: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for name, value in node.attributes.items()
    }
    given = {name: array for name, array in zip(node.inputs, arrays, strict=True) if array is not None}
    # its last inputs may not be absent ones
    names = [name if array is not None else "" for name, array in zip(node.inputs, arrays, strict=True)]
    while not names[-1]:
        names.pop()
    graph = helper.make_graph(
        [helper.make_node(node.op, names, node.outputs, **attributes)],
        "one",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in given.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in node.outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, given)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def integers(low: int, high: int, *shape: int, dtype: Any = np.int64) -> np.ndarray:
    return RNG.integers(low, high, shape).astype(dtype)


ODD = np.array([0, -0.0, 1, -1, 0.5, 2.5, -2.5, 1e-40, 88.8, -104, np.nan, np.inf, -np.inf], np.float32)
INDICES = np.array([1, -1, 0])
Form = tuple[str, list[Any], dict[str, Any], int]

FORMS: list[Form] = [
    # one number each, with all that is odd of floats, in sizes that leave a rest of a vector
    *((op, [ODD], {}, 13) for op in ("Exp", "Erf", "Tanh", "Sigmoid", "Abs", "Neg", "Ceil", "Floor", "Sqrt", "Log")),
    *((op, [floats(3, 11)], {}, 13) for op in ("Exp", "Erf", "Tanh", "Sigmoid", "Relu", "Softplus", "Sign")),
    *((op, [ODD], {}, 22) for op in ("IsNaN", "IsInf", "Relu", "Round", "HardSwish", "Softsign")),
    ("Gelu", [ODD], {}, 20),
    ("Gelu", [floats(2, 19)], {"approximate": "tanh"}, 20),
    ("Exp", [np.float32(1)], {}, 13),
    ("Exp", [floats(0, 3)], {}, 13),
    ("Exp", [floats(4, 6).T], {}, 13),
    ("Exp", [floats(5).astype(np.float64)], {}, 13),
    # two numbers
    ("Div", [np.array([7, -7, 7, -7, 6], np.int64), np.array([2, 2, -2, -2, 3], np.int64)], {}, 14),
    ("Div", [integers(-99, 99, 64, dtype=np.int32), integers(1, 9, 64, dtype=np.int32)], {}, 13),
    ("Div", [integers(0, 200, 9, dtype=np.uint8), np.uint8(7)], {}, 14),
    ("Mod", [integers(-9, 9, 20), integers(1, 5, 20) * RNG.choice([-1, 1], 20)], {}, 13),
    ("Mod", [floats(8), floats(8)], {"fmod": 1}, 13),
    ("Pow", [floats(4), np.array(2, np.int64)], {}, 13),
    ("Pow", [floats(4), np.float32(3)], {}, 13),
    ("Pow", [np.abs(floats(4)), np.float32(-0.5)], {}, 15),
    ("Pow", [integers(1, 9, 5), np.array([0.5, 2, 3, 1, 2], np.float32)], {}, 13),
    ("Pow", [integers(-4, 4, 5, dtype=np.int32), np.array([2])], {}, 15),
    ("Add", [floats(3, 1, 4), floats(2, 1)], {}, 14),
    ("Max", [ODD, ODD[::-1].copy(), np.float32(0.25)], {}, 13),
    ("Min", [integers(-5, 5, 4, dtype=np.int32), integers(-5, 5, 2, 4, dtype=np.int32)], {}, 12),
    ("Mean", [floats(3), floats(2, 3), floats(1)], {}, 13),
    ("Clip", [ODD, np.float32(-1), np.float32(1)], {}, 13),
    ("Clip", [floats(9), None, np.float32(0)], {}, 11),
    ("Clip", [floats(9)], {"min": -0.5, "max": 0.25}, 6),
    ("Clip", [integers(-9, 9, 9, dtype=np.int32), np.int32(-2), np.int32(3)], {}, 12),
    ("Where", [floats(3, 1) > 0, floats(4), np.float32(np.nan)], {}, 16),
    ("BitShift", [integers(0, 99, 5, dtype=np.uint32), np.uint32([1, 2, 3, 0, 5])], {"direction": "RIGHT"}, 11),
    ("Equal", [integers(0, 3, 4, 1), integers(0, 3, 3)], {}, 13),
    # casts: what an integer cannot hold is as in C
    ("Cast", [np.array([1.9, -1.9, 3e9, -3e9, np.nan, np.inf, -0.5], np.float32)], {"to": 6}, 13),
    ("Cast", [np.array([1.9, -1.9, 3e18, 1e19, np.nan], np.float32)], {"to": 7}, 13),
    ("Cast", [ODD], {"to": 9}, 13),
    ("Cast", [np.array([70000, 1e-8, 2049], np.float32)], {"to": 10}, 13),
    ("Cast", [integers(-(2**40), 2**40, 9)], {"to": 6}, 13),
    # softmax before and after opset 13
    ("Softmax", [floats(2, 3, 4)], {"axis": 1}, 11),
    ("Softmax", [floats(2, 3, 4)], {"axis": 1}, 13),
    ("Softmax", [floats(2, 3, 4)], {}, 11),
    ("LogSoftmax", [10 * floats(2, 3, 4)], {"axis": -1}, 13),
    ("LogSoftmax", [floats(2, 3, 4)], {"axis": -2}, 11),
    *(("Softmax", [9 * floats(3, size)], {}, 13) for size in (1, 7, 8, 9, 15, 33, 200)),
    ("Softmax", [np.where(floats(4, 37) > 0, np.float32(-np.inf), floats(4, 37))], {}, 13),
    ("Softmax", [np.full((2, 5), -3.4e38, np.float32)], {}, 13),
    ("Softmax", [floats(3, 4).astype(np.float64)], {}, 13),
    ("Softmax", [floats(0, 4)], {}, 13),
    # shapes
    ("Reshape", [floats(2, 3, 4), np.array([0, -1])], {}, 13),
    ("Reshape", [floats(0, 3), np.array([3, 0])], {"allowzero": 1}, 14),
    ("Flatten", [floats(2, 3, 4)], {"axis": 0}, 13),
    ("Flatten", [floats(2, 3, 4)], {"axis": -1}, 13),
    ("Squeeze", [floats(1, 3, 1)], {}, 13),
    ("Squeeze", [floats(1, 3, 1), np.array([-1])], {}, 13),
    ("Squeeze", [floats(1, 3, 1)], {"axes": [0]}, 11),
    ("Unsqueeze", [floats(3), np.array([0, -1])], {}, 13),
    ("Unsqueeze", [floats(3)], {"axes": [0, 2]}, 11),
    ("Expand", [floats(3, 1), np.array([2, 1, 4])], {}, 13),
    ("Tile", [floats(2, 3), np.array([2, 2])], {}, 13),
    ("Slice", [floats(6, 5), np.array([-1]), np.array([-(2**62)]), np.array([0]), np.array([-2])], {}, 13),
    ("Slice", [floats(6, 5), np.array([1, 0]), np.array([99, -1])], {}, 13),
    ("Slice", [floats(6, 5)], {"starts": [1], "ends": [-1], "axes": [1]}, 9),
    ("Shape", [floats(2, 3, 4)], {"start": 1, "end": -1}, 15),
    ("Range", [np.int64(3), np.int64(-4), np.int64(-2)], {}, 11),
    ("Range", [np.float32(0), np.float32(1), np.float32(0.3)], {}, 11),
    ("Pad", [floats(2, 3), np.array([1, -1, 0, 2]), np.float32(7)], {}, 13),
    ("Pad", [floats(4, 3), np.array([1, 2]), None, np.array([0])], {"mode": "reflect"}, 18),
    ("Trilu", [floats(2, 4, 4), np.array(-1)], {"upper": 0}, 14),
    ("Split", [floats(7, 2)], {"num_outputs": 3}, 18),
    # places
    ("Gather", [floats(4, 3, 2), INDICES], {"axis": -2}, 13),
    ("Gather", [floats(4, 3), np.array(-1)], {"axis": 0}, 13),
    ("GatherND", [floats(2, 4, 3), integers(-4, 4, 2, 5, 1)], {"batch_dims": 1}, 13),
    ("GatherND", [floats(2, 4, 3), np.array([[0, -1], [1, 2]])], {}, 13),
    ("ScatterElements", [floats(4, 3), np.array([[0, 1, -1]]), floats(1, 3)], {"axis": 0}, 16),
    ("ScatterElements", [floats(3), np.array([1, 1, 0]), floats(3)], {"reduction": "add"}, 16),
    ("ScatterND", [floats(4, 3), np.array([[1], [-1]]), floats(2, 3)], {}, 16),
    ("OneHot", [np.array([1, -1, 7]), np.array(4), np.array([0.5, 2], np.float32)], {"axis": 0}, 11),
    ("NonZero", [integers(0, 2, 3, 4)], {}, 13),
    ("TopK", [integers(0, 3, 2, 9, dtype=np.int32), np.array([4])], {"largest": 0}, 11),
    ("TopK", [integers(0, 3, 9, 2).astype(np.float32), np.array([5])], {"axis": 0}, 11),
    ("ArgMax", [integers(0, 3, 3, 8, dtype=np.int32)], {"axis": 1, "select_last_index": 1}, 13),
    ("ArgMin", [floats(3, 8)], {"axis": -2, "keepdims": 0}, 13),
    # many to one
    *((op, [floats(2, 3, 4)], {"axes": [-1]}, 13) for op in ("ReduceMean", "ReduceMax", "ReduceL2", "ReduceLogSumExp")),
    *((op, [floats(2, 3, 4), np.array([0, 2])], {"keepdims": 0}, 18) for op in ("ReduceMean", "ReduceMin", "ReduceL1")),
    ("ReduceMean", [integers(-9, 9, 3, 4, dtype=np.int32)], {"axes": [1]}, 13),
    ("ReduceSum", [integers(-9, 9, 3, 4, dtype=np.int32), np.array([1])], {}, 13),
    ("ReduceSum", [floats(3, 4), np.array([], np.int64)], {"noop_with_empty_axes": 1}, 13),
    ("ReduceSum", [floats(3, 4)], {}, 13),
    ("ReduceProd", [floats(3, 4)], {"axes": [0]}, 13),
    # products
    *(("MatMul", [floats(*a), floats(*b)], {}, 13) for a, b in [((3, 4), (4, 5)), ((4,), (4, 5)), ((2, 3, 4), (4,))]),
    ("MatMul", [floats(2, 3, 80, 70), floats(3, 70, 90)], {}, 13),
    ("MatMul", [floats(5, 90, 33).swapaxes(1, 2), floats(5, 130, 90).swapaxes(1, 2)], {}, 13),
    ("MatMul", [floats(7, 3, 200), floats(200, 301)], {}, 13),
    ("MatMul", [floats(0, 3, 4), floats(4, 5)], {}, 13),
    ("MatMul", [integers(-5, 5, 2, 3), integers(-5, 5, 3, 2)], {}, 13),
    ("Gemm", [floats(4, 3), floats(5, 4), floats(5)], {"alpha": 0.5, "beta": 2.0, "transA": 1, "transB": 1}, 13),
    *(
        ("Einsum", [floats(2, 3, 4, 5), floats(2, 3, 6, 5)], {"equation": equation}, 12)
        for equation in ("bhid,bhjd->bhij", "bhid, bhjd -> bijh", "abcd,abed", "abcd,abed->e")
    ),
    ("Einsum", [floats(2, 3, 4), floats(5, 4)], {"equation": "btd,ld->btl"}, 12),
    ("Einsum", [floats(2, 3), floats(4)], {"equation": "ab,c->cab"}, 12),
    ("Einsum", [floats(3, 3)], {"equation": "ii->i"}, 12),
    ("Einsum", [floats(2, 3, 4), floats(2, 4, 5)], {"equation": "...ij,...jk->...ik"}, 12),
    (
        "MatMulInteger",
        [integers(0, 128, 2, 3, 600, dtype=np.uint8), integers(-128, 128, 600, 5, dtype=np.int8)],
        {},
        10,
    ),
    (
        "MatMulInteger",
        [integers(0, 256, 3, 8, dtype=np.uint8), integers(0, 256, 8, 5, dtype=np.uint8), np.uint8(9), np.uint8(3)],
        {},
        10,
    ),
    ("DynamicQuantizeLinear", [np.zeros((2, 3), np.float32)], {}, 11),
    ("DynamicQuantizeLinear", [5 + floats(2, 3)], {}, 11),
    ("DynamicQuantizeLinear", [floats(40, 3)], {}, 11),
    ("QuantizeLinear", [100 * floats(4, 5), np.float32(0.5), np.int8(3)], {}, 13),
    ("QuantizeLinear", [np.float32([0.25, 0.75, 1.25, -1]), np.float32(0.5)], {}, 13),
    (
        "QuantizeLinear",
        [floats(4, 5), np.abs(floats(4)) + np.float32(0.1), integers(0, 9, 4, dtype=np.uint8)],
        {"axis": 0},
        13,
    ),
    ("DequantizeLinear", [integers(-99, 99, 4, 5, dtype=np.int32), np.float32(0.5)], {}, 13),
    # neighbours
    ("LayerNormalization", [floats(2, 3, 8), floats(8), floats(8)], {"epsilon": 1e-3}, 17),
    ("LayerNormalization", [floats(2, 3, 8), floats(3, 8)], {"axis": 1}, 17),
    ("BatchNormalization", [floats(2, 3, 4), floats(3), floats(3), floats(3), np.abs(floats(3))], {}, 15),
    ("InstanceNormalization", [floats(2, 3, 4), floats(3), floats(3)], {}, 6),
    ("LpNormalization", [floats(2, 3, 4)], {"axis": 1, "p": 2}, 1),
    ("Conv", [floats(2, 4, 9), floats(6, 2, 3), floats(6)], {"group": 2, "pads": [2, 1], "dilations": [2]}, 11),
    ("Conv", [floats(2, 3, 8, 7), floats(5, 3, 2, 3)], {"strides": [2, 1], "auto_pad": "SAME_LOWER"}, 11),
    ("Conv", [floats(1, 4, 6, 6), floats(4, 1, 3, 3)], {"group": 4, "pads": [1, 1, 1, 1]}, 11),
    (
        "MaxPool",
        [floats(1, 2, 7, 7)],
        {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 0, 1, 1]},
        12,
    ),
    ("AveragePool", [floats(1, 2, 7, 7)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 11),
    ("CumSum", [floats(3, 4), np.array(-1)], {"exclusive": 1, "reverse": 1}, 14),
]
"""Forms of which onnx has no case, or one that leaves open what ONNX Runtime does."""


@pytest.mark.parametrize(("op", "arrays", "attributes", "opset"), FORMS, ids=[f"{f[0]}-{f[3]}" for f in FORMS])
def test_against_onnxruntime(op: str, arrays: list[Any], attributes: dict[str, Any], opset: int) -> None:
    given = [None if array is None else np.asarray(array) for array in arrays]
    outputs = {"DynamicQuantizeLinear": 3, "TopK": 2, "Split": 3}.get(op, 1)
    node = Node(op, [f"i{n}" for n in range(len(given))], [f"o{n}" for n in range(outputs)], attributes, "node")
    node.inputs = [name if array is not None else "" for name, array in zip(node.inputs, given, strict=True)]
    check(run(node, opset, given), in_onnxruntime(node, opset, given), 1e-5 if op in ("MatMul", "Einsum") else 2e-6)


def test_what_an_operator_leaves_goes_to_the_reference_operator() -> None:
    text = np.array(["a", "b"], object)
    node = Node("Cast", ["x"], ["y"], {"to": 1}, "n")
    np.testing.assert_array_equal(run(node, 13, [np.array(["1.5", "2"], object)])[0], np.float32([1.5, 2]))
    node = Node("Cast", ["x"], ["y"], {"to": 8}, "n")
    assert run(node, 13, [np.float32([1, 2])], own=False)[0].dtype.kind in "OU"
    assert run(Node("Equal", ["x", "y"], ["z"], {}, "n"), 19, [text, text])[0].tolist() == [True, True]


def test_absent_outputs() -> None:
    x = floats(2, 3, 8)
    node = Node("LayerNormalization", ["x", "g"], ["y", "", "deviation"], {}, "norm")
    normal, deviation = run(node, 17, [x, np.ones(8, np.float32)])
    assert normal.shape == x.shape and deviation.shape == (2, 3, 1)


def test_failures_name_the_node() -> None:
    with pytest.raises(EngineError, match=r"node 'sum': op 'Add' failed on inputs of shapes x \(3,\), y \(5,\)"):
        run(Node("Add", ["x", "y"], ["z"], {}, "sum"), 13, [floats(3), floats(5)])
    with pytest.raises(InputRangeError, match="node 'pick'"):
        run(Node("Gather", ["x", "i"], ["z"], {}, "pick"), 13, [floats(3), np.array([99])])
    for op, shape in (("MatMul", (7, 80)), ("Reshape", (3,))):
        other = np.array([4]) if op == "Reshape" else floats(90, 3, 100)
        with pytest.raises(EngineError, match="node 'n'"):
            run(Node(op, ["x", "y"], ["z"], {}, "n"), 13, [floats(*shape), other])


@pytest.mark.parametrize("shape", [(3, 33, 65, 17), (2, 129, 64, 130), (5, 2, 300, 95), (1, 700, 40, 40)])
def test_stacks_of_products(shape: tuple[int, ...]) -> None:
    """Those that the compiled loop multiplies, with rests of rows and columns, at any strides."""
    count, rows, terms, columns = shape
    a, b = floats(count, 2, rows, terms), floats(count, 1, terms, columns)
    wanted = np.matmul(a.astype(np.float64), b.astype(np.float64))
    node = Node("MatMul", ["a", "b"], ["c"], {}, "n")
    flipped = np.ascontiguousarray(b.swapaxes(-1, -2)).swapaxes(-1, -2)
    spread = np.ascontiguousarray(a.transpose(2, 0, 3, 1)).transpose(1, 3, 0, 2)
    for left, right in ((a, b), (a, flipped), (spread, b)):
        np.testing.assert_allclose(run(node, 13, [left, right])[0], wanted, rtol=1e-5, atol=1e-4)
