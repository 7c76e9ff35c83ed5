"""Fusion of graphs by hand: spellings of single patterns, what must not fuse, and graphs that are no transformers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import naive
import numpy as np
import onnx
import pytest
from fusion_checks import counts, edited, fused_ops, left, onnxruntime_outputs
from onnx import TensorProto, helper, numpy_helper

from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.graph.ir import Graph, Node
from sparsert.ops import Attention, KeyMask


def graph_of(
    tmp_path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: dict[str, int],
    constants: dict[str, np.ndarray],
    opset: int = 17,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "by hand",
        [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    path = tmp_path / "by_hand.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def compare(path: Path, feeds: dict[str, np.ndarray], error: float = 1e-5) -> Graph:
    graph = load_graph(path)
    fused = fuse_graph(graph)
    got, want = naive.run_graph(fused, feeds), onnxruntime_outputs(path, feeds)
    for name, reference in want.items():
        if reference is None:  # what ONNX Runtime up to 1.23 gives for an empty tensor
            assert got[name].size == 0
        else:
            np.testing.assert_allclose(got[name], reference, rtol=1e-5, atol=error)
    return fused


RNG = np.random.default_rng(7)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def same_numbers_in_any_order() -> None:
    RNG.bit_generator.state = START


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("dims", [["n", 8], [4, 8], [2, 3, 8]])
def test_perceptron(dims: list[Any], tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["b", "a"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "v"], ["y"]),
    ]
    constants = {"w": normal(8, 5), "b": normal(5), "v": normal(5, 3)}
    path = graph_of(tmp_path, nodes, {"x": (TensorProto.FLOAT, dims)}, {"y": TensorProto.FLOAT}, constants)
    fused = compare(path, {"x": normal(*[d if isinstance(d, int) else 6 for d in dims])})
    assert [node.op for node in fused.nodes] == ["Linear", "Activation", "Linear"] and left(fused) == []


def test_convolution_stays_and_its_head_fuses(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["a"], kernel_shape=[3, 3]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "w", "g"], ["y"], transB=1, alpha=0.5, beta=2.0),
    ]
    constants = {"k": normal(4, 3, 3, 3), "w": normal(2, 4), "g": normal(2)}
    path = graph_of(tmp_path, nodes, {"x": (TensorProto.FLOAT, ["n", 3, 8, 8])}, {"y": TensorProto.FLOAT}, constants)
    fused = compare(path, {"x": normal(2, 3, 8, 8)})
    assert left(fused) == ["Conv", "Relu", "GlobalAveragePool", "Flatten"] and counts(fused) == Counter(Linear=1)


def test_products_that_are_no_linear_stay(tmp_path: Path) -> None:
    """Rank 4, a constant on the left, and integer additions."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("MatMul", ["u", "a"], ["y"]),
        helper.make_node("Add", ["i", "i"], ["j"]),
    ]
    inputs = {"x": (TensorProto.FLOAT, ["n", 2, 3, 4]), "i": (TensorProto.INT64, ["n", 3])}
    outputs = {"y": TensorProto.FLOAT, "j": TensorProto.INT64}
    path = graph_of(tmp_path, nodes, inputs, outputs, {"w": normal(4, 4), "u": normal(3, 3)})
    fused = compare(path, {"x": normal(1, 2, 3, 4), "i": np.arange(3)[None]})
    assert sorted(left(fused)) == ["Add", "MatMul", "MatMul"]


def test_values_that_a_subgraph_reads_stay(tmp_path: Path) -> None:
    def branch(name: str, op: str) -> onnx.GraphProto:
        body = [helper.make_node(op, ["h", "h"], [name])]
        return helper.make_graph(body, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=branch("t", "Add"), else_branch=branch("e", "Mul")),
    ]
    inputs = {"x": (TensorProto.FLOAT, ["n", 4]), "flag": (TensorProto.BOOL, [])}
    path = graph_of(tmp_path, nodes, inputs, {"y": TensorProto.FLOAT}, {"w": normal(4, 3)})
    fused = compare(path, {"x": normal(2, 4), "flag": np.array(False)})
    assert [node.op for node in fused.nodes] == ["Linear", "If"]


@pytest.mark.parametrize("copy", [("Identity", {}), ("Cast", {"to": TensorProto.FLOAT}), ("Dropout", {})])
@pytest.mark.parametrize("is_output", [False, True])
def test_copies_that_only_a_branch_reads(copy: tuple[str, dict[str, Any]], is_output: bool, tmp_path: Path) -> None:
    """A branch of an If names the value that it takes, so the copy of that name must stay."""

    def branch(op: str, name: str) -> onnx.GraphProto:
        result = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, [name], ["result"])], op, [], [result])

    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node(copy[0], ["a"], ["b"], **copy[1]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("Neg", "a"), else_branch=branch("Identity", "b")),
    ]
    inputs = {"x": (TensorProto.FLOAT, ["n", 4]), "c": (TensorProto.BOOL, [])}
    outputs = {"y": TensorProto.FLOAT, **({"b": TensorProto.FLOAT} if is_output else {})}
    path = graph_of(tmp_path, nodes, inputs, outputs, {})
    for condition in (True, False):
        compare(path, {"x": normal(3, 4), "c": np.array(condition)})


@pytest.mark.parametrize("wanted", [True, False])
def test_an_if_whose_condition_is_known(wanted: bool, tmp_path: Path) -> None:
    """torch scripts leave one that asks whether a length differs from itself; what is passed on takes its place."""

    def branch(*nodes: onnx.NodeProto, constants: Sequence[onnx.TensorProto] = ()) -> onnx.GraphProto:
        result = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
        return helper.make_graph(list(nodes), "branch", [], [result], initializer=list(constants))

    passed = branch(helper.make_node("Identity", ["a"], ["inner"]), helper.make_node("Identity", ["inner"], ["result"]))
    computed = branch(helper.make_node("Neg", ["a"], ["result"]))
    own = branch(constants=[numpy_helper.from_array(np.float32([3]), "result")])
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Shape", ["a"], ["shape2"]),
        helper.make_node("Gather", ["shape", "one"], ["tokens"]),
        helper.make_node("Gather", ["shape2", "one"], ["tokens2"]),
        helper.make_node("Equal", ["tokens", "tokens2"], ["same"]),
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("If", ["same"], ["b"], then_branch=passed, else_branch=computed),
        helper.make_node("If", ["same"], ["c"], then_branch=computed, else_branch=passed),
        helper.make_node("If", ["same"], ["d"], then_branch=own, else_branch=passed),
        helper.make_node("Sum", ["b", "c", "d"], ["y"]),
    ]
    if not wanted:  # not known before the model runs
        nodes[3] = helper.make_node("Identity", ["length"], ["tokens2"])
    inputs = {"x": (TensorProto.FLOAT, ["n", "m"]), "length": (TensorProto.INT64, [])}
    path = graph_of(tmp_path, nodes, inputs, {"y": TensorProto.FLOAT}, {"one": np.array(1)})
    for length in (4, 5):
        fused = compare(path, {"x": normal(3, 4), "length": np.array(length)})
    assert left(fused).count("If") == (2 if wanted else 3)


@pytest.mark.parametrize("training", ["constant", "computed", "never"])
@pytest.mark.parametrize("mask", ["unread", "read", "output"])
def test_dropout_drops_nothing(training: str, mask: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the mode, as in ONNX Runtime; the mask is True everywhere."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Not", ["off"], ["computed"]),
        helper.make_node("Dropout", ["a", "ratio", training], ["b", "mask"], "drop"),
        helper.make_node("Dropout", ["b", "ratio", training], ["c"]),
        helper.make_node("Neg", ["c"], ["y"]),
        helper.make_node("Cast", ["mask"], ["z"], to=TensorProto.FLOAT),
    ]
    outputs = {"y": TensorProto.FLOAT, "z": TensorProto.FLOAT, "mask": TensorProto.BOOL}
    outputs = {name: outputs[name] for name in {"unread": "y", "read": "y z", "output": "y mask"}[mask].split()}
    constants = {"ratio": np.float32(0.5), "constant": np.array(True), "never": np.array(False)}
    inputs = {"x": (TensorProto.FLOAT, ["n", 4]), "off": (TensorProto.BOOL, [])}
    path = graph_of(tmp_path, nodes, inputs, outputs, constants)
    x = normal(3, 4)
    got = naive.run_graph(fuse_graph(load_graph(path)), {"x": x, "off": np.array(False)})
    np.testing.assert_array_equal(got["y"], -np.maximum(x, 0))
    assert all((got[name] == 1).all() for name in got if name != "y")
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ["node 'drop' and 1 more" in text for text in warnings] == ([] if training == "never" else [True])


def test_layer_norm_over_another_axis_stays(tmp_path: Path) -> None:
    nodes = [helper.make_node("LayerNormalization", ["x", "g", "b"], ["y"], axis=1)]
    constants = {"g": normal(3, 4), "b": normal(3, 4)}
    path = graph_of(tmp_path, nodes, {"x": (TensorProto.FLOAT, ["n", 3, 4])}, {"y": TensorProto.FLOAT}, constants)
    assert left(compare(path, {"x": normal(2, 3, 4)})) == ["LayerNormalization"]


def test_huge_constants_are_not_folded(tmp_path: Path) -> None:
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["z"]), helper.make_node("Gather", ["z", "i"], ["y"])]
    path = graph_of(
        tmp_path,
        nodes,
        {"i": (TensorProto.INT64, ["n"])},
        {"y": TensorProto.FLOAT},
        {"s": np.array([1 << 20, 1 << 20])},
    )
    assert left(fuse_graph(load_graph(path))) == ["ConstantOfShape", "Gather"]


def attention_graph(
    tmp_path: Path, mask: list[onnx.NodeProto], constants: dict[str, np.ndarray], guard: bool = False
) -> Path:
    """One attention over inputs q, k, v (B, S, 8), with the mask's nodes writing ``masked`` from ``scores``."""
    shape = {"split": np.array([0, 0, 2, 4]), "merge": np.array([0, 0, 8]), "scale": np.float32(0.5)}
    nodes = []
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes.append(helper.make_node("Reshape", [name, "split"], [f"{name}4"]))
        nodes.append(helper.make_node("Transpose", [f"{name}4"], [f"{name}h"], perm=perm))
    nodes.append(helper.make_node("MatMul", ["qh", "kh"], ["raw"]))
    nodes.append(helper.make_node("Mul", ["scale", "raw"], ["scores"]))
    nodes += mask
    nodes.append(helper.make_node("Softmax", ["masked"], ["p0"], axis=-1))
    if guard:
        nodes.append(helper.make_node("IsNaN", ["p0"], ["bad"]))
        nodes.append(helper.make_node("Where", ["bad", "nought", "p0"], ["p"]))
    else:
        nodes.append(helper.make_node("Identity", ["p0"], ["p"]))
    nodes.append(helper.make_node("MatMul", ["p", "vh"], ["ch"]))
    nodes.append(helper.make_node("Transpose", ["ch"], ["c4"], perm=[0, 2, 1, 3]))
    nodes.append(helper.make_node("Reshape", ["c4", "merge"], ["y"]))
    inputs = {name: (TensorProto.FLOAT, ["batch", "sequence", 8]) for name in "qkv"}
    inputs["mask"] = (TensorProto.INT64, ["batch", "sequence"])
    constants = {**shape, "nought": np.float32(0), "one": np.array([1]), "onetwo": np.array([1, 2]), **constants}
    return graph_of(tmp_path, nodes, inputs, {"y": TensorProto.FLOAT}, constants)


def attention_feeds() -> dict[str, np.ndarray]:
    mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    return {"q": normal(2, 5, 8), "k": normal(2, 5, 8), "v": normal(2, 5, 8), "mask": mask}


UNSQUEEZED = [helper.make_node("Unsqueeze", ["mask", "onetwo"], ["mask4"])]
MASKS: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], tuple[str, float]]] = {
    "one minus mask": (
        [
            *UNSQUEEZED,
            helper.make_node("Cast", ["mask4"], ["mf"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["unit", "mf"], ["inverse"]),
            helper.make_node("Mul", ["low", "inverse"], ["bias"]),
            helper.make_node("Add", ["bias", "scores"], ["masked"]),
        ],
        {"unit": np.float32(1), "low": np.float32(-1e4)},
        ("linear", -1e4),
    ),
    "filled before": (
        [
            *UNSQUEEZED,
            helper.make_node("Cast", ["mask4"], ["mf"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["unit", "mf"], ["inverse"]),
            helper.make_node("Cast", ["inverse"], ["hidden"], to=TensorProto.BOOL),
            helper.make_node("Where", ["hidden", "low", "inverse"], ["bias"]),
            helper.make_node("Add", ["scores", "bias"], ["masked"]),
        ],
        {"unit": np.float32(1), "low": np.float32(np.finfo(np.float32).min)},
        ("where", float(np.finfo(np.float32).min)),
    ),
    "filled scores": (
        [
            helper.make_node("Equal", ["mask", "zero"], ["hidden"]),
            helper.make_node("Unsqueeze", ["hidden", "onetwo"], ["hidden4"]),
            helper.make_node("Shape", ["scores"], ["full"]),
            helper.make_node("Expand", ["hidden4", "full"], ["everywhere"]),
            helper.make_node("Where", ["everywhere", "low", "scores"], ["masked"]),
        ],
        {"zero": np.array(0), "low": np.float32(-np.inf)},
        ("where", -np.inf),
    ),
    "kept scores": (
        [
            *UNSQUEEZED,
            helper.make_node("Cast", ["mask4"], ["kept"], to=TensorProto.BOOL),
            helper.make_node("Where", ["kept", "scores", "low"], ["masked"]),
        ],
        {"low": np.float32(np.finfo(np.float32).min)},
        ("where", float(np.finfo(np.float32).min)),
    ),
}


@pytest.mark.parametrize("guard", [False, True])
@pytest.mark.parametrize("spelling", MASKS)
def test_mask_spellings(spelling: str, guard: bool, tmp_path: Path) -> None:
    nodes, constants, (kind, value) = MASKS[spelling]
    fused = compare(attention_graph(tmp_path, nodes, constants, guard), attention_feeds())
    assert counts(fused) == Counter(Attention=1, KeyMask=1) and left(fused) == []
    mask = fused_ops(fused, KeyMask)[0]
    assert (mask.formula, mask.value) == (kind, pytest.approx(value))


def test_empty_constant_is_no_table(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["t", "i"], ["r"]), helper.make_node("Add", ["r", "c"], ["y"])]
    constants = {"t": normal(5, 1), "c": np.ones(0, np.float32)}
    inputs = {"i": (TensorProto.INT64, ["b", "s"])}
    path = graph_of(tmp_path, nodes, inputs, {"y": TensorProto.FLOAT}, constants)
    compare(path, {"i": np.ones((2, 3), np.int64)})


def test_no_mask(tmp_path: Path) -> None:
    path = attention_graph(tmp_path, [helper.make_node("Identity", ["scores"], ["masked"])], {})
    fused = compare(path, attention_feeds())
    assert counts(fused) == Counter(Attention=1) and left(fused) == [] and len(fused.nodes[0].inputs) == 3


BEYOND_THE_KEY = {
    "causal": [
        helper.make_node("Shape", ["mask"], ["dims"], start=1, end=2),
        helper.make_node("Squeeze", ["dims"], ["tokens"]),
        helper.make_node("Range", ["start", "tokens", "step"], ["position"]),
        helper.make_node("Unsqueeze", ["position", "one"], ["query"]),
        helper.make_node("LessOrEqual", ["position", "query"], ["seen"]),
        helper.make_node("Where", ["seen", "scores", "low"], ["masked"]),
    ],
    "window": [
        helper.make_node("Shape", ["mask"], ["dims"], start=1, end=2),
        helper.make_node("Squeeze", ["dims"], ["tokens"]),
        helper.make_node("Range", ["start", "tokens", "step"], ["position"]),
        helper.make_node("Unsqueeze", ["position", "one"], ["query"]),
        helper.make_node("Sub", ["position", "query"], ["distance"]),
        helper.make_node("Abs", ["distance"], ["far"]),
        # Wider than any sequence here: every probe with a short sequence would call it a mask of the key alone.
        helper.make_node("LessOrEqual", ["far", "window"], ["near"]),
        helper.make_node("Where", ["near", "scores", "low"], ["masked"]),
    ],
    "by query": [
        helper.make_node("Cast", ["mask"], ["seen"], to=TensorProto.BOOL),
        helper.make_node("Unsqueeze", ["seen", "axes"], ["rows"]),
        helper.make_node("Where", ["rows", "scores", "low"], ["masked"]),
    ],
    "by both": [
        helper.make_node("Cast", ["mask"], ["seen"], to=TensorProto.BOOL),
        helper.make_node("Unsqueeze", ["seen", "axes"], ["rows"]),
        helper.make_node("Unsqueeze", ["seen", "onetwo"], ["columns"]),
        helper.make_node("And", ["rows", "columns"], ["pairs"]),
        helper.make_node("Where", ["pairs", "scores", "low"], ["masked"]),
    ],
}


@pytest.mark.parametrize("spelling", BEYOND_THE_KEY)
def test_a_mask_that_depends_on_the_query_is_none_of_keys(spelling: str, tmp_path: Path) -> None:
    constants = {
        "start": np.array(0),
        "step": np.array(1),
        "window": np.array(64),
        "axes": np.array([1, 3]),
        "low": np.float32(-1e30),
    }
    fused = compare(attention_graph(tmp_path, BEYOND_THE_KEY[spelling], constants), attention_feeds())
    of_positions = spelling in ("causal", "window")
    assert counts(fused) == Counter(Attention=1) if of_positions else Counter(Attention=1, ScoreMask=1)
    assert (fused_ops(fused, Attention)[0].positions is not None) == of_positions


def test_wrong_layouts_are_not_fused(tmp_path: Path) -> None:
    """Heads that are not split from (B, S, H) as torch does would give other numbers."""
    path = attention_graph(tmp_path, [helper.make_node("Identity", ["scores"], ["masked"])], {})

    def edit(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name == "split":
                tensor.CopyFrom(numpy_helper.from_array(np.array([0, 0, 4, 2]), "split"))
        for node in model.graph.node:
            if node.op_type == "Transpose" and node.input[0] != "c4":
                node.attribute[0].ints[:] = {"k4": [0, 3, 2, 1], "ch": [0, 2, 1, 3]}.get(node.input[0], [0, 3, 1, 2])

    fused = compare(edited(path, edit, tmp_path / "layout.onnx"), attention_feeds())
    assert counts(fused)["Attention"] == 0


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("order", range(3))
def test_gelu_spellings(approximate: str, order: int, tmp_path: Path) -> None:
    if approximate == "none":
        nodes = [helper.make_node("Mul", ["x", "root"], ["e0"]), helper.make_node("Erf", ["e0"], ["e"])]
    else:
        nodes = [
            helper.make_node("Pow", ["x", "three"], ["cube"]),
            helper.make_node("Mul", ["small", "cube"], ["part"]),
            helper.make_node("Add", ["x", "part"], ["inner"]),
            helper.make_node("Mul", ["inner", "root"], ["scaled"]),
            helper.make_node("Tanh", ["scaled"], ["e"]),
        ]
    nodes.append(helper.make_node("Add", ["one", "e"], ["f"]))
    nodes += [
        [helper.make_node("Mul", ["x", "f"], ["g"]), helper.make_node("Mul", ["g", "half"], ["y"])],
        [helper.make_node("Mul", ["half", "f"], ["g"]), helper.make_node("Mul", ["x", "g"], ["y"])],
        [helper.make_node("Mul", ["x", "half"], ["g"]), helper.make_node("Mul", ["g", "f"], ["y"])],
    ][order]
    root = np.sqrt(0.5) if approximate == "none" else np.sqrt(2 / np.pi)
    constants = {"root": root, "one": 1, "half": 0.5, "three": 3, "small": 0.044715}
    path = graph_of(
        tmp_path,
        nodes,
        {"x": (TensorProto.FLOAT, ["n", 8])},
        {"y": TensorProto.FLOAT},
        {name: np.float32(value) for name, value in constants.items()},
    )
    fused = compare(path, {"x": normal(3, 8)})
    assert [(node.op, node.fused.approximate) for node in fused.nodes] == [("Gelu", approximate)]


def test_zoo_of_heads(tmp_path: Path) -> None:
    """One feature by Split, by Slice and by Gather; one token by Gather and by Slice."""
    nodes = [
        helper.make_node("Split", ["x"], ["s0", "s1"], axis=2),
        helper.make_node("Squeeze", ["s1", "two"], ["a"]),
        helper.make_node("Slice", ["x", "zero", "one", "two"], ["c0"]),
        helper.make_node("Squeeze", ["c0", "minus"], ["b"]),
        helper.make_node("Gather", ["x", "last"], ["c"], axis=-1),
        helper.make_node("Gather", ["x", "first"], ["d"], axis=1),
        helper.make_node("Slice", ["x", "zero", "one", "one"], ["e0"]),
        helper.make_node("Squeeze", ["e0", "one"], ["e"]),
    ]
    constants = {"zero": [0], "one": [1], "two": [2], "minus": [-1], "last": -1, "first": 0}
    path = graph_of(
        tmp_path,
        nodes,
        {"x": (TensorProto.FLOAT, ["b", "s", 2])},
        dict.fromkeys("abcde", TensorProto.FLOAT),
        {name: np.array(value) for name, value in constants.items()},
    )
    fused = compare(path, {"x": normal(2, 5, 2)})
    assert counts(fused) == Counter(SelectFeature=3, SelectToken=2) and left(fused) == []


def test_names_of_nodes_may_be_missing(tmp_path: Path) -> None:
    path = graph_of(
        tmp_path,
        [helper.make_node("Relu", ["x"], ["y"])],
        {"x": (TensorProto.FLOAT, ["n", 4])},
        {"y": TensorProto.FLOAT},
        {},
    )
    graph = load_graph(path)
    graph.nodes = [Node(node.op, node.inputs, node.outputs, node.attributes) for node in graph.nodes]
    assert [node.op for node in fuse_graph(graph).nodes] == ["Activation"]
