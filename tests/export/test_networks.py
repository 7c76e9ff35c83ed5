"""Every architecture with every head: the exported file computes what torch computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from fusion_checks import onnxruntime_outputs
from recorded_networks import MODEL_TYPES, TASKS, recorded

from sparsert import Engine
from sparsert.export import export_folder

# Float32 sums in another order; logits are about 1 and at most 10.
CLOSE = 1e-4

ALL = [(model_type, head) for model_type in MODEL_TYPES for head in TASKS]
WITH_POOLER = [model_type for model_type in MODEL_TYPES if "pooler_output" in recorded(model_type, "base").outputs[0]]
COUNTING = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Families whose positions are computed of the tokens, by nodes that stay ONNX."""


def close(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert list(got) == list(want)
    for name, reference in want.items():
        assert got[name].shape == reference.shape and got[name].dtype == np.float32
        np.testing.assert_allclose(got[name], reference, rtol=0, atol=CLOSE, err_msg=name)


def check(path: Path, inputs: list[dict[str, np.ndarray]], outputs: list[dict[str, np.ndarray]]) -> Engine:
    """ONNX Runtime and the engine, padded and ragged, compute the outputs."""
    onnx.checker.check_model(onnx.load(path), full_check=True)
    engine = Engine(path, batch_size=None)
    for feeds, want in zip(inputs, outputs, strict=True):
        assert engine.input_names == list(feeds)
        close(onnxruntime_outputs(path, feeds), want)
        close(engine.mapped_run(list(feeds.values())), want)
        right = feeds["attention_mask"][:, 0] == 1  # ragged rows are those whose padding comes last
        lengths = feeds["attention_mask"][right].sum(axis=1)
        inside = np.arange(feeds["input_ids"].shape[1]) < lengths[:, None]
        flat = engine.run_ragged([array[right][inside] for array in feeds.values()], lengths)
        for name, got in zip(engine.output_names, flat, strict=True):
            reference = want[name][right]
            per_token = reference.shape[:2] == inside.shape
            np.testing.assert_allclose(got, reference[inside] if per_token else reference, rtol=0, atol=CLOSE)
    return engine


@pytest.mark.parametrize(("model_type", "head"), ALL)
def test_computes_what_torch_computed(model_type: str, head: str, tmp_path: Path) -> None:
    case = recorded(model_type, head)
    path = export_folder(case.save(tmp_path))
    assert path == tmp_path / "model.onnx"
    outputs = [{name: array for name, array in case.items() if name != "pooler_output"} for case in case.outputs]
    engine = check(path, case.inputs, outputs)
    assert engine.supports_ragged
    if model_type not in COUNTING:
        assert engine.fraction_of_supported_ops == 1.0


@pytest.mark.parametrize("model_type", WITH_POOLER)
def test_the_pooler_is_there_for_those_who_ask(model_type: str, tmp_path: Path) -> None:
    case = recorded(model_type, "base")
    check(export_folder(case.save(tmp_path), task="pooling"), case.inputs, case.outputs)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("head", ["words", "answers"])
def test_an_encoder_without_its_head(model_type: str, head: str, tmp_path: Path) -> None:
    """The folder of a masked language model is one for embeddings; any other is if asked."""
    folder = recorded(model_type, head).save(tmp_path)
    base = recorded(model_type, "base")
    outputs = [{"last_hidden_state": case["last_hidden_state"]} for case in base.outputs]
    check(export_folder(folder, task=None if head == "words" else "embedding-extraction"), base.inputs, outputs)
