"""What is said about values before the model runs, held against the values themselves on a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import naive
import numpy as np
import onnx
import pytest
from fusion_checks import DATA, FORMS, feeds_for
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from sparsert.fuse.axes import Axes
from sparsert.graph import load_graph
from sparsert.graph.editor import Editor
from sparsert.graph.fold import fold
from sparsert.graph.grids import compute
from sparsert.graph.ir import Graph, Node, TensorInfo
from sparsert.graph.known import Unknown
from sparsert.graph.shapes import Facts
from sparsert.graph.symbolic import apply, evaluate, leaves_of

BATCH, TOKENS = 2, 11
# onnx.reference refuses the GatherElements of these files (a table wider than its indices).
FILES = [path for path in sorted(DATA.glob("*.onnx")) if not ("roberta" in path.stem and "script" in path.stem)]


def check_facts(path: Path) -> None:
    graph = load_graph(path)
    feeds = feeds_for(graph, BATCH, TOKENS)
    batch, tokens = next(iter(feeds.values())).shape
    actual = naive.run_graph(graph, feeds, keep=True)
    editor = Editor(graph)
    fold(editor)
    sizes = {("dim", "batch"): batch, ("dim", "sequence"): tokens}
    shapes = elements = 0
    for name, shape in editor.facts.shapes.items():
        if name not in actual:
            continue
        array = actual[name]
        assert len(shape) == array.ndim and editor.facts.dtype(name) == array.dtype, name
        for dim, size in zip(shape, array.shape, strict=True):
            value = evaluate(dim, sizes)
            if not isinstance(value, tuple):
                assert value == size, (name, shape, array.shape)
                shapes += 1
        if array.dtype.kind in "ib" and array.size:
            elements += check_elements(editor.facts, name, array, sizes, feeds)
    for name, array in editor.constants.items():
        if name in actual and name not in graph.constants:
            np.testing.assert_array_equal(array, actual[name], err_msg=name)
    assert shapes > 100 and elements > 20


def check_elements(
    facts: Facts, name: str, array: np.ndarray, sizes: dict[tuple[str, str], int], feeds: dict[str, np.ndarray]
) -> int:
    checked = 0
    for flat in np.random.default_rng(0).integers(0, array.size, 5):
        index = tuple(int(i) for i in np.unravel_index(flat, array.shape))
        try:
            expr = facts.element(name, index)
        except Unknown:
            continue
        leaves = {leaf: feeds[leaf[1]][leaf[2:]] for leaf in leaves_of(expr) if leaf[0] == "input"}
        value = evaluate(expr, {**leaves, **sizes})
        if not isinstance(value, tuple):
            assert value == array[index], (name, index, expr)
            checked += 1
    return checked


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_facts_of_exported_files(path: Path) -> None:
    check_facts(path)


@pytest.mark.parametrize("form", ["float", "float fixed", "sparseml 1.2", "sparseml 1.6", "dynamic", "qdq"])
def test_facts_of_generated_files(form: str, make_bert: Callable[[str], Path]) -> None:
    check_facts(make_bert(FORMS[form]))


NUMBERS = st.integers(-5, 5)
OPERATORS = ("Add", "Sub", "Mul", "Min", "Max", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")
INDEX = ("index", "i", ("dim", "n"))
LEAVES = {INDEX: 3, ("dim", "n"): 7, ("input", "x", 0): 2}


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> tuple[object, ...] | int:
    if depth == 0 or draw(st.booleans()):
        return draw(st.one_of(NUMBERS, st.sampled_from(list(LEAVES))))
    return (draw(st.sampled_from(OPERATORS)), draw(trees(depth - 1)), draw(trees(depth - 1)))


@given(trees())
def test_simplification_does_not_change_the_value(tree: tuple[object, ...] | int) -> None:
    def build(node: object) -> object:
        if isinstance(node, tuple) and node[0] in OPERATORS:
            return apply(node[0], *map(build, node[1:]))
        return node

    def direct(node: object) -> int:
        if isinstance(node, tuple) and node[0] in OPERATORS:
            return int(apply(node[0], *map(direct, node[1:])))
        return LEAVES.get(node, node)  # type: ignore[arg-type, return-value]

    assert int(evaluate(build(tree), LEAVES)) == direct(tree)  # type: ignore[arg-type]


@st.composite
def moves(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[str, tuple[int, ...]]]]:
    """A (B, S, H) tensor and a few Transposes and Reshapes."""
    shape = (draw(st.sampled_from([2, 3])), draw(st.sampled_from([5, 7])), draw(st.sampled_from([4, 8])))
    steps: list[tuple[str, tuple[int, ...]]] = []
    current: tuple[int, ...] = shape
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()):
            perm = tuple(draw(st.permutations(range(len(current)))))
            steps.append(("Transpose", perm))
            current = tuple(current[axis] for axis in perm)
        else:
            target = list(current)
            place = draw(st.integers(0, len(target) - 1))
            if draw(st.booleans()) and target[place] % 2 == 0:
                target[place : place + 1] = [2, target[place] // 2]
            elif place:
                target[place - 1 : place + 1] = [target[place - 1] * target[place]]
            steps.append(("Reshape", tuple(target)))
            current = tuple(target)
    return shape, steps


@given(moves())
def test_axes_tell_where_elements_are(case: tuple[tuple[int, ...], list[tuple[str, tuple[int, ...]]]]) -> None:
    """An array of its own element numbers goes through the moves; they must predict every number."""
    shape, steps = case
    facts = Facts(Graph("", [], [], [], {}, {"": 17}))
    array = np.arange(math.prod(shape)).reshape(shape)
    moved: Axes | None = Axes.of(shape, {})
    for number, (op, argument) in enumerate(steps):
        array = array.transpose(argument) if op == "Transpose" else array.reshape(argument)
        facts.shapes[f"v{number}"] = tuple(array.shape)
        attributes = {"perm": list(argument)} if op == "Transpose" else {}
        assert moved is not None
        moved = moved.after(Node(op, ["x"], [f"v{number}"], attributes), facts)
        if moved is None:
            return  # a regrouping that cuts across factors; nothing is claimed about it
    assert moved is not None
    # Number the elements again from the axes: major to minor atoms of an axis carry its strides.
    strides: dict[tuple[int, tuple[int, ...]], int] = {}
    atoms = sorted((atom for axis in moved.axes for atom in axis), key=lambda atom: (atom.axis, atom.path))
    stride = 1
    for atom in reversed(atoms):
        strides[atom.axis, atom.path] = stride
        stride *= atom.size[0]
    predicted = np.zeros((), np.int64)
    for axis in moved.axes:
        numbers = np.zeros(1, np.int64)
        for atom in axis:
            steps_along = np.arange(atom.size[0]) * strides[atom.axis, atom.path]
            numbers = (numbers[:, None] + steps_along).reshape(-1)
        predicted = predicted[..., None] + numbers
    np.testing.assert_array_equal(predicted, array)


X = ("index", "x", 1000)
SHARE = ("Div", ("ToFloat", ("Abs", X)), 3.0)
OVER_ONE_LEAF = [
    ("Add", ("Mul", X, 3), ("Neg", X)),
    ("Where", ("And", ("Less", X, 3), ("Greater", X, -3)), 2, ("Abs", X)),
    ("ToInt", ("Mul", ("Add", ("Ceil", ("Mul", ("Log", SHARE), 2.5)), 4.0), ("ToFloat", ("Sign", X)))),
    ("Min", ("Max", ("Sub", X, 2), 0), 5),
    ("Or", ("Not", ("LessOrEqual", X, 1)), ("Equal", X, ("ToInt", ("Floor", SHARE)))),
    ("ToBool", ("GreaterOrEqual", X, 2)),
    ("Add", ("Div", X, 3), ("Pow", X, 2)),
]


@pytest.mark.parametrize("expr", OVER_ONE_LEAF)
def test_all_values_of_a_leaf_at_once(expr: tuple[object, ...]) -> None:
    values = np.array([-40, -7, -5, -3, -2, -1, 1, 2, 3, 4, 6, 20])
    got = compute(expr, {X: values}, {})
    assert got.tolist() == [evaluate(expr, {X: int(value)}) for value in values]


@pytest.mark.parametrize("expr", [("Add", X, ("dim", "batch")), ("Mul", X, ("input", "mask", 0, X))])
def test_leaves_that_have_no_values(expr: tuple[object, ...]) -> None:
    with pytest.raises(LookupError):
        compute(expr, {X: np.arange(3)}, {})


def test_elements_that_are_clipped_and_shapes_that_are_tiled() -> None:
    nodes = [
        Node("Range", ["zero", "size", "one"], ["counted"], {}),
        Node("Clip", ["counted", "one", "three"], ["clipped"], {}),
        Node("Clip", ["counted", "", "three"], ["bounded"], {}),
        Node("Tile", ["clipped", "times"], ["tiled"], {}),
    ]
    numbers = {"zero": 0, "one": 1, "three": 3, "size": 5}
    constants = {name: np.array(number) for name, number in numbers.items()} | {"times": np.array([4])}
    facts = Facts(Graph("clips", [], [], nodes, constants, {"": 18}))
    for node in nodes:
        facts.visit(node)
    assert [facts.element("clipped", (k,)) for k in range(5)] == [1, 1, 2, 3, 3]
    assert [facts.element("bounded", (k,)) for k in range(5)] == [0, 1, 2, 3, 3]
    assert facts.shape("tiled") == (20,)


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ({"pads": [1, 1]}, ("n", 4, "m")),
        ({"pads": [2, 2], "dilations": [2]}, ("n", 4, "m")),
        ({"auto_pad": "SAME_UPPER"}, ("n", 4, "m")),
        ({"pads": [1, 1]}, (2, 4, 9)),
        ({"strides": [2], "pads": [1, 0]}, (2, 4, 9)),
        ({"strides": [3], "auto_pad": "SAME_LOWER"}, (2, 4, 10)),
        ({"strides": [3]}, (2, 4, 10)),
        ({}, (2, 4, 3)),
    ],
)
def test_shapes_of_convolutions(attributes: dict[str, object], shape: tuple[int | str, ...]) -> None:
    """Of three taps: a free dimension stays, and numbers are those of ONNX's inference."""
    node = Node("Conv", ["x", "w"], ["y"], dict(attributes))
    info = TensorInfo("x", np.dtype(np.float32), shape)
    facts = Facts(Graph("conv", [info], [], [node], {"w": np.zeros((5, 4, 3), np.float32)}, {"": 18}))
    facts.visit(node)
    if isinstance(shape[2], str):
        assert facts.shape("y") == (("dim", "n"), 5, ("dim", "m"))
        return
    proto = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in (("x", shape), ("w", (5, 4, 3)))
    ]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    inferred = onnx.shape_inference.infer_shapes(
        helper.make_model(helper.make_graph([proto], "conv", values, [result]))
    )
    assert facts.shape("y") == tuple(dim.dim_value for dim in inferred.graph.output[0].type.tensor_type.shape.dim)
