"""Files of ``Dim.DYNAMIC``, whose mask has a batch of its own, and other inputs whose dimensions have other names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from fusion_checks import DATA, LAYERS, check_transformer, edited, feeds_for, onnxruntime_outputs
from onnx import TensorProto, helper, numpy_helper

from sparsert import Engine
from sparsert.errors import InputShapeError
from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.ops import Attention, KeyMask


def renamed(path: Path, out: Path, axis: int) -> Path:
    def edit(model: onnx.ModelProto) -> None:
        for info in model.graph.input:
            dim = info.type.tensor_type.shape.dim[axis]
            dim.dim_param = "s86" if info.name == "attention_mask" else "s4"

    return edited(path, edit, out)


@pytest.mark.parametrize("name", ["bert-qa-sdpa-dynamo18", "bert-tok-eager-script14"])
def test_a_mask_with_a_batch_of_its_own_fuses(name: str, tmp_path: Path) -> None:
    path = renamed(DATA / f"{name}.onnx", tmp_path / "dynamic.onnx", axis=0)
    check_transformer(path, linears=6 * LAYERS + 1, int8=False)
    engine = Engine(path, batch_size=None)
    feeds = feeds_for(load_graph(path))
    for got, want in zip(engine.run(list(feeds.values())), onnxruntime_outputs(path, feeds).values(), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


def test_a_mask_of_another_batch_is_refused(tmp_path: Path) -> None:
    path = renamed(DATA / "bert-qa-sdpa-dynamo18.onnx", tmp_path / "dynamic.onnx", axis=0)
    engine = Engine(path, batch_size=None)
    feeds = feeds_for(load_graph(path), batch=3)
    feeds["attention_mask"] = feeds["attention_mask"][:2].copy()
    with pytest.raises(InputShapeError, match=r"attention_mask .*\n index: 0 Got: 2 Expected: 3 \(dimension 's4', as"):
        engine.run([feeds[name] for name in engine.input_names])


def test_a_mask_of_another_length_is_another_mask(tmp_path: Path) -> None:
    """As in an encoder and a decoder: nobody says that they are equal, so nothing may rely on it."""
    path = renamed(DATA / "bert-qa-sdpa-dynamo18.onnx", tmp_path / "lengths.onnx", axis=1)
    fused = fuse_graph(load_graph(path))
    assert not any(isinstance(node.fused, KeyMask) for node in fused.nodes)
    assert [info.shape for info in fused.inputs] == [info.shape for info in load_graph(path).inputs]


def test_an_output_with_the_masks_batch_is_bound_too(tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        for info in model.graph.output:
            info.type.tensor_type.shape.dim[0].dim_param = "s86"

    inputs = renamed(DATA / "bert-qa-sdpa-dynamo18.onnx", tmp_path / "inputs.onnx", axis=0)
    path = edited(inputs, edit, tmp_path / "outputs.onnx")
    engine = Engine(path, batch_size=None, input_shapes=[3, 12])
    assert [shape[0] for shape in engine.output_shapes] == [3] * len(engine.output_names)


def test_training_mode_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Although such a file is fused twice, with and without a batch for the mask alone."""

    def edit(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "on"))
        model.graph.node.append(helper.make_node("Dropout", [model.graph.output[0].name, "", "on"], ["z"], "drop"))
        model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))

    inputs = renamed(DATA / "bert-qa-sdpa-dynamo18.onnx", tmp_path / "inputs.onnx", axis=0)
    fused = fuse_graph(load_graph(edited(inputs, edit, tmp_path / "training.onnx")))
    assert any(isinstance(node.fused, Attention) for node in fused.nodes)
    assert sum("training mode" in record.getMessage() for record in caplog.records) == 1
