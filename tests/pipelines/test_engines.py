"""How pipelines feed an engine and read it: one that takes one shape only, one that takes any lengths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsert.errors import EngineError, InputShapeError
from sparsert.graph.outputs import First
from sparsert.pipelines.engines import Padding, Place, SequenceEngine, load_engines
from sparsert.pipelines.options import PipelineOptions
from sparsert.pipelines.ort_engine import OrtEngine
from sparsert.zoo import resolve

DATA = Path(__file__).parents[1] / "graph" / "data"


OUTPUTS = {"start logits": Place(2, True), "end logits": Place(1, True)}


class FixedEngine:
    """Takes int32 arrays of shape (4, 8); start logits are the ids, end logits their negatives."""

    input_names = ("attention_mask", "input_ids")
    input_types = (np.dtype(np.int32), np.dtype(np.int32))

    def __init__(self, width: int = 8) -> None:
        self.calls = 0
        self.width = width

    def __call__(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        self.calls += 1
        for array in inputs:
            assert (array.shape, array.dtype, array.flags.c_contiguous) == ((4, 8), np.int32, True)
        logits = inputs[1].astype(np.float32)[:, : self.width]
        return [np.zeros(4, np.float32), -logits, logits]


@pytest.mark.parametrize("rows", [1, 4, 5, 8, 11])
def test_fixed_batches_are_filled_up_and_cut_back(rows: int) -> None:
    ids = np.arange(rows * 8, dtype=np.int64).reshape(rows, 8)
    engine = FixedEngine()
    start, end = (
        SequenceEngine(engine, OUTPUTS, rows=4)
        .run_rows({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids})
        .values()
    )
    np.testing.assert_array_equal(start, ids)
    np.testing.assert_array_equal(end, -ids)
    assert engine.calls == -(-rows // 4)


def test_logits_of_another_shape_are_refused() -> None:
    ids = np.zeros((4, 8), dtype=np.int64)
    with pytest.raises(EngineError, match=r"start logits have shape \(4, 7\), expected one for each token, \(4, 8\)"):
        SequenceEngine(FixedEngine(width=7), OUTPUTS).run_rows({"input_ids": ids, "attention_mask": ids})


class RaggedEngine(FixedEngine):
    """Takes sequences end to end; in rows it would fail."""

    supports_ragged = True

    def run_ragged(self, inputs: list[np.ndarray], lengths: np.ndarray, val_inp: bool) -> list[np.ndarray]:
        for array in inputs:
            assert (array.shape, array.dtype) == ((lengths.sum(),), np.int32)
        logits = inputs[1].astype(np.float32)[: self.width]
        return [np.zeros(len(lengths), np.float32), -logits, logits]


PADDING = Padding(0, False, {"input_ids": 0, "attention_mask": 0})


def test_an_engine_that_can_gets_no_padding() -> None:
    arrays = {"input_ids": np.arange(8), "attention_mask": np.ones(8, np.int64)}
    start, end = SequenceEngine(RaggedEngine(), OUTPUTS).run_packed(arrays, np.array([3, 5]), PADDING).values()
    np.testing.assert_array_equal(start, np.arange(8))
    np.testing.assert_array_equal(end, -np.arange(8))
    with pytest.raises(EngineError, match=r"start logits have shape \(7,\), expected one for each token, \(8,\)"):
        SequenceEngine(RaggedEngine(width=7), OUTPUTS).run_packed(arrays, np.array([3, 5]), PADDING)


def test_padding_on_the_left_stays() -> None:
    """It moves the positions of the tokens behind it, so without it the model would answer something else."""
    arrays = {"input_ids": np.arange(20), "attention_mask": np.ones(20, np.int64)}
    left = Padding(8, True, PADDING.values)
    engine = RaggedEngine()
    outputs = {"start": Place(2, True), "first": Place(2, True, first=True), "pooled": Place(0)}
    start, first, pooled = (
        SequenceEngine(engine, outputs, rows=4).run_packed(arrays, np.array([8, 3, 2, 7]), left).values()
    )
    np.testing.assert_array_equal(first, [0, 8, 11, 13])
    assert pooled.shape == (4,)
    np.testing.assert_array_equal(start, np.arange(20))
    assert engine.calls == 1


def test_onnxruntime_takes_lengths_too() -> None:
    engine = OrtEngine(DATA / "bert-qa-sdpa-script17.onnx", 1)
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, 20)
    rows = {name: rng.integers(0, 2, lengths.sum()) for name in engine.input_names}
    rows["attention_mask"][:] = 1
    rows["input_ids"] = rng.integers(5, 60, lengths.sum())
    got = engine.run_ragged([None if "mask" in name else rows[name] for name in engine.input_names], lengths)
    ends = np.cumsum(lengths)
    for end, length in zip(ends, lengths, strict=True):
        alone = engine([rows[name][None, end - length : end] for name in engine.input_names])
        for array, want in zip(got, alone, strict=True):
            # float32 sums of at most 64 numbers in another order, on logits of about 1
            np.testing.assert_allclose(array[end - length : end], want[0], atol=2e-5)
    with pytest.raises(InputShapeError, match="at least 1"):
        engine.run_ragged([rows[name] for name in engine.input_names], [int(lengths.sum()), 0])


CLASSES = DATA / "bert-cls-sdpa-dynamo20.onnx"
TOKENS = DATA / "bert-tok-eager-script14.onnx"
FIXED = DATA / "bert-qa-eager-script14fixed.onnx"


def packed(lengths: np.ndarray) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(0).integers(5, 60, lengths.sum())
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


@pytest.mark.parametrize("columns", [0, 12])
@pytest.mark.parametrize(
    ("engine_type", "path", "output"),
    [("sparsert", TOKENS, "logits"), ("onnxruntime", TOKENS, "logits"), ("sparsert", FIXED, "start_logits")],
)
def test_the_first_token_is_that_of_the_sequence(engine_type: str, path: Path, output: str, columns: int) -> None:
    lengths = np.array([4, 12, 1, 7])
    model = resolve(path, "pipeline")
    outputs = {"first": First(output), "all": output}
    engine = load_engines(model, PipelineOptions(engine_type=engine_type), [12], lambda shapes: outputs)[12]
    padding = Padding(columns if engine.any_length else 12, False, {**PADDING.values, "token_type_ids": 0})
    found = engine.run_packed(packed(lengths), lengths, padding)
    assert len(found["all"]) == lengths.sum()
    np.testing.assert_array_equal(found["first"], found["all"][np.cumsum(lengths) - lengths])


@pytest.mark.parametrize("engine_type", ["sparsert", "onnxruntime"])
def test_shapes_of_outputs_are_there_to_choose_from(engine_type: str) -> None:
    seen = {}

    def choose(shapes: Mapping[str, Any]) -> dict[str, str]:
        seen.update(shapes)
        return {"classes": "logits", "the same": "logits"}

    model = resolve(CLASSES, "pipeline")
    engine = load_engines(model, PipelineOptions(engine_type=engine_type), [19], choose)[19]
    assert seen == {"logits": ("batch", 2)}
    lengths = np.array([5, 2, 2])
    found = engine.run_packed(packed(lengths), lengths, PADDING)
    assert found["classes"].shape == (3, 2)
    np.testing.assert_array_equal(found["classes"], found["the same"])
