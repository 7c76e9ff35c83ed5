"""Graphs cut down to some of their outputs, and to values between their nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_models
from onnx import TensorProto, helper

from sparsert.errors import InputError, InputTypeError, ModelFormatError, ModelNotFoundError
from sparsert.graph import load_graph, load_interface
from sparsert.graph.outputs import First, check_wanted, choose_outputs

DATA = Path(__file__).parent / "data"
TOKENS = ("batch", "sequence")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """hidden = table[input_ids]; pooled = the mean over tokens of its Relu; first = hidden[:, 0]."""
    return small_models.save(
        tmp_path / "model.onnx",
        [
            helper.make_node("Gather", ["table", "input_ids"], ["hidden"], "lookup", axis=0),
            helper.make_node("Relu", ["hidden"], ["positive"], "relu"),
            helper.make_node("ReduceMean", ["positive"], ["pooled"], "mean", axes=[1], keepdims=0),
            helper.make_node("Shape", ["hidden"], ["size"], "size"),
        ],
        [("input_ids", TensorProto.INT64, TOKENS), ("unused", TensorProto.INT64, TOKENS)],
        [
            ("hidden", TensorProto.FLOAT, (*TOKENS, 4)),
            ("pooled", TensorProto.FLOAT, ("batch", 4)),
            ("size", TensorProto.INT64, (3,)),
        ],
        {"table": np.arange(40, dtype=np.float32).reshape(10, 4)},
    )


def test_nodes_that_nobody_needs_are_gone_and_inputs_stay(model: Path) -> None:
    graph = load_graph(model)
    cut = choose_outputs(graph, ["size", "hidden"])
    assert [info.name for info in cut.outputs] == ["size", "hidden"]
    assert [info.name for info in cut.inputs] == ["input_ids", "unused"]
    assert {node.name for node in cut.nodes} == {"lookup", "size"}
    assert (graph.source_node_count, cut.source_node_count) == (4, 2)
    assert [info.name for info in graph.outputs] == ["hidden", "pooled", "size"] and len(graph.nodes) == 4


def test_values_between_nodes_are_described_as_far_as_they_are_known(model: Path) -> None:
    (info,) = choose_outputs(load_graph(model), ["positive"]).outputs
    assert (info.name, info.dtype, info.shape) == ("positive", np.float32, (*TOKENS, 4))


def test_the_first_token_is_gathered(model: Path) -> None:
    cut = choose_outputs(load_graph(model), [First("positive"), "hidden", First("hidden")])
    assert [info.shape for info in cut.outputs] == [("batch", 4), (*TOKENS, 4), ("batch", 4)]
    gathers = [node for node in cut.nodes if node.op == "Gather" and node.name != "lookup"]
    assert [node.inputs[0] for node in gathers] == ["positive", "hidden"]
    assert all(cut.constants[node.inputs[1]] == 0 and node.attributes == {"axis": 1} for node in gathers)
    with pytest.raises(InputError, match=r"'size' has shape \(3,\), expected \(batch, tokens, ...\)"):
        choose_outputs(load_graph(model), [First("size")])


def test_shapes_that_the_file_leaves_open_follow_from_the_graph(model: Path) -> None:
    proto = onnx.load(str(model))
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(proto, str(model))
    assert load_interface(model)[1][0].shape == ()
    cut = choose_outputs(load_graph(model), ["hidden", First("hidden")])
    assert [info.shape for info in cut.outputs] == [(*TOKENS, 4), ("batch", 4)]


@pytest.mark.parametrize("name", ["table", "input_ids", "", "Hidden"])
def test_what_is_no_computed_value_is_refused(model: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"model.onnx: outputs: there is no '{name}'; .*'hidden', 'pooled', 'size'"):
        choose_outputs(load_graph(model), [name])


@pytest.mark.parametrize(
    ("outputs", "error", "message"),
    [
        ([], InputError, "at least one"),
        (["hidden", "hidden"], InputError, "different names"),
        ("hidden", InputTypeError, "must be a list of names"),
        (First("hidden"), InputTypeError, "must be a list of names"),
        (["hidden", 1], InputTypeError, "given 1"),
        (3, InputTypeError, "given 3"),
    ],
)
def test_lists_that_make_no_sense_are_refused(outputs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_wanted(outputs)


def test_the_interface_of_a_file_is_that_of_its_graph(model: Path) -> None:
    for path in (model, *sorted(DATA.glob("*.onnx"))):
        graph = load_graph(path)
        assert load_interface(path) == (graph.inputs, graph.outputs)


def test_the_interface_reads_no_weights(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "external.onnx"
    onnx.save(onnx.load(model), path, save_as_external_data=True, location="weights", size_threshold=0)
    (tmp_path / "weights").unlink()
    inputs, outputs = load_interface(path)
    assert [info.name for info in inputs] == ["input_ids", "unused"] and outputs[1].shape == ("batch", 4)
    with pytest.raises(ModelNotFoundError):
        load_graph(path)


def test_the_interface_of_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        load_interface(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelFormatError):
        load_interface(tmp_path / "text.onnx")
    with pytest.raises(InputTypeError):
        load_interface(3)  # type: ignore[arg-type]
