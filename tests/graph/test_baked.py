"""Files of fixed shapes, opened for other sizes: they run right, or are refused where constants forbid the size."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_models
from fusion_checks import DATA
from onnx import TensorProto, helper

from sparsert import Engine
from sparsert.errors import InputShapeError
from sparsert.graph.baked import Baked

FIXED = ("bert-qa-eager-dynamo18fixed", "bert-qa-eager-script14fixed")


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([1, 20], "dimension 1 is 12 in the file and cannot be 20"),
        ([1, 5], "dimension 1 is 12 in the file and cannot be 5"),
        ([1, 1], "dimension 1 is 12 in the file and cannot be 1,"),
        ([2, 12], "dimension 0 is 1 in the file and cannot be 2"),
    ],
)
def test_positions_and_reshapes_of_an_export(name: str, shape: list[int], words: str) -> None:
    with pytest.raises(InputShapeError, match=f"Input 'input_ids': {words}") as caught:
        Engine(DATA / f"{name}.onnx", batch_size=None, input_shapes=shape)
    assert "since node '" in str(caught.value)
    assert Engine(DATA / f"{name}.onnx", batch_size=None, input_shapes=[1, 12]).input_shapes[0] == (1, 12)


def fixed(path: Path, nodes: Sequence[onnx.NodeProto], constants: dict[str, np.ndarray]) -> Path:
    return small_models.save(
        path,
        nodes,
        [("x", TensorProto.FLOAT, (1, 6, 4))],
        [("y", TensorProto.FLOAT, None)],  # type: ignore[list-item]
        constants,
    )


OPENED = {
    "vector": ([helper.make_node("Add", ["x", "c"], ["y"])], {"c": np.ones(4, np.float32)}),
    "one row": ([helper.make_node("Add", ["x", "c"], ["y"])], {"c": np.ones((1, 1, 4), np.float32)}),
    "weight": ([helper.make_node("MatMul", ["x", "c"], ["y"])], {"c": np.ones((4, 6), np.float32)}),
    "reshape": ([helper.make_node("Reshape", ["x", "c"], ["y"])], {"c": np.array([0, -1, 2])}),
    "unread": (
        [helper.make_node("Add", ["x", "c"], ["z"]), helper.make_node("Neg", ["x"], ["y"])],
        {"c": np.ones((6, 4), np.float32)},
    ),
}


@pytest.mark.parametrize("form", OPENED)
def test_constants_that_fit_any_size(form: str, tmp_path: Path) -> None:
    nodes, constants = OPENED[form]
    engine = Engine(fixed(tmp_path / "open.onnx", nodes, constants), batch_size=None, input_shapes=[3, 5, 4])
    assert engine.run([np.ones((3, 5, 4), np.float32)])[0].size in (3 * 5 * 4, 3 * 5 * 6)


BAKED = {
    "rows": ([helper.make_node("Add", ["x", "c"], ["y"])], {"c": np.ones((6, 4), np.float32)}),
    "reshape": ([helper.make_node("Reshape", ["x", "c"], ["y"])], {"c": np.array([1, 6, 2, 2])}),
    "expand": ([helper.make_node("Expand", ["x", "c"], ["y"])], {"c": np.array([2, 1, 6, 4])}),
    "weight": ([helper.make_node("MatMul", ["c", "x"], ["y"])], {"c": np.ones((3, 6), np.float32)}),
}


@pytest.mark.parametrize("form", BAKED)
def test_constants_that_fit_one_size(form: str, tmp_path: Path) -> None:
    nodes, constants = BAKED[form]
    path = fixed(tmp_path / "baked.onnx", nodes, constants)
    with pytest.raises(InputShapeError, match="dimension 1 is 6 in the file and cannot be 5"):
        Engine(path, batch_size=None, input_shapes=[1, 5, 4])
    assert Engine(path, batch_size=None).run([np.ones((1, 6, 4), np.float32)])[0].size


def test_arithmetic_without_an_answer(tmp_path: Path) -> None:
    """Divided by tokens - 6, which the file's own size makes zero."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "axis"], ["tokens"]),
        helper.make_node("Sub", ["tokens", "six"], ["rest"]),
        helper.make_node("Div", ["three", "rest"], ["size"]),
        helper.make_node("Expand", ["c", "size"], ["y"]),
    ]
    constants = {"axis": np.array([1]), "six": np.array([6]), "three": np.array([3]), "c": np.ones(3, np.float32)}
    path = fixed(tmp_path / "zero.onnx", nodes, constants)
    engine = Engine(path, batch_size=None, input_shapes=[1, 7, 4])
    assert engine.run([np.ones((1, 7, 4), np.float32)])[0].shape == (3,)


def test_a_size_without_an_answer_contradicts_nothing() -> None:
    tokens = ("dim", "tokens")
    item = Baked("node", "Reshape", 3, ("Div", 12, ("Sub", tokens, 2)), {tokens: (0, 1)})
    assert [item.contradicts([[1, size]]) for size in (2, 6, 7)] == [False, False, True]


def test_a_model_that_another_engine_has_opened(tmp_path: Path) -> None:
    """The compiled model is shared, and what it forbids with it."""
    nodes, constants = BAKED["rows"]
    path = fixed(tmp_path / "shared.onnx", nodes, constants)
    gc.collect()
    first = Engine(path, batch_size=None, input_shapes=[2, 6, 4])
    assert Engine(path, batch_size=3)._model is first._model
    with pytest.raises(InputShapeError, match="dimension 1 is 6"):
        Engine(path, batch_size=None, input_shapes=[2, 5, 4])
