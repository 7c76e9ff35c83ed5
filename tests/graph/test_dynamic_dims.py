"""Files of ``Dim.DYNAMIC``, whose mask has a batch of its own, and other inputs whose dimensions have other names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from fusion_checks import DATA, LAYERS, check_transformer, edited, feeds_for, onnxruntime_outputs

from sparsert import Engine
from sparsert.errors import InputShapeError
from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.ops import Attention


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
    assert not any(isinstance(node.fused, Attention) for node in fused.nodes)
    assert [info.shape for info in fused.inputs] == [info.shape for info in load_graph(path).inputs]
