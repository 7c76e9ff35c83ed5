"""Files of ONNX Runtime's quantizer with its default ops: a pair of bytes on every edge, and all of it fused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
import small_models
from fusion_checks import (
    DATA,
    INT8_CORRELATION,
    LAYERS,
    counts,
    feeds_for,
    fused_ops,
    left,
    onnxruntime_outputs,
)
from onnx import helper
from small_models import FLOAT

from sparsert import Engine
from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.graph.ir import Graph
from sparsert.ops import Attention, Embeddings, KeyMask, Lookup

tools = pytest.importorskip("onnxruntime.quantization")

FILES = {
    "bert-qa-sdpa-dynamo18": {},
    "bert-cls-sdpa-dynamo20": {"per_channel": True},
    "bert-tok-eager-script14": {"activation_type": tools.QuantType.QUInt8},
    "bert-qa-eager-script14fixed": {"extra_options": {"QDQKeepRemovableActivations": True}},
    "distilbert-cls-eager-dynamo18": {"extra_options": {"DedicatedQDQPair": True}},
    "distilbert-tok-sdpa-dynamo20": {"calibrate_method": tools.CalibrationMethod.Percentile},
    "roberta-qa-sdpa-dynamo18": {"extra_options": {"ActivationSymmetric": True}},
}
"""Exporters' files, each quantized with other options."""


class Calibration:
    """Two batches; without padding a quantizer thinks that the mask is always zero."""

    def __init__(self, path: Path, padding: bool) -> None:
        feeds = [feeds_for(load_graph(path), seed=seed) for seed in (1, 2)]
        for name in () if padding else [name for name in feeds[0] if "mask" in name]:
            for feed in feeds:
                feed[name] = np.ones_like(feed[name])
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Quantize an exporter's file, once a module."""
    folder, made = tmp_path_factory.mktemp("qdq"), {}

    def make(name: str, padding: bool = True, **options: Any) -> Path:
        key = (name, padding, *sorted(map(repr, options.items())))
        if key not in made:
            made[key] = folder / f"{len(made)}.onnx"
            source, form = DATA / f"{name}.onnx", tools.QuantFormat.QDQ
            logging.disable(logging.WARNING)  # the quantizer writes to the root logger
            with np.errstate(all="ignore"):
                tools.quantize_static(source, made[key], Calibration(source, padding), quant_format=form, **options)
            logging.disable(logging.NOTSET)
        return made[key]

    return make


def agree(got: dict[str, np.ndarray], want: dict[str, np.ndarray], error: float) -> None:
    """The largest difference, in relation to the largest number."""
    for name, reference in want.items():
        assert np.abs(got[name] - reference).max() <= error * np.abs(reference).max(), name


def whole(path: Path, masks: int = 1) -> Graph:
    """The fused graph of two layers, of which nothing is left."""
    fused = fuse_graph(load_graph(path))
    found = counts(fused)
    assert left(fused) == []
    assert (found["Attention"], found["Embeddings"], found["KeyMask"]) == (LAYERS, 1, masks)
    assert found["Lookup"] + found["Gelu"] == LAYERS
    assert found["LayerNorm"] + found["Standardize"] == 2 * LAYERS + 1
    return fused


@pytest.mark.parametrize("name", FILES)
def test_exported_file(name: str, quantized: Callable[..., Path]) -> None:
    """By the twins to the bit of ONNX Runtime without its approximations; by kernels as near as flipped bytes allow."""
    path = quantized(name, **FILES[name])
    fused = whole(path)
    engine, scale = Engine(path, batch_size=None), []
    for batch, tokens in ((2, 19), (1, 7)):
        feeds = feeds_for(load_graph(path), batch, tokens)
        twins, want = naive.run_graph(fused, feeds), onnxruntime_outputs(path, feeds, optimize=False)
        # float sums in another order, which may flip a byte
        agree(twins, want, 0.03)
        result = dict(zip(want, engine.run([feeds[key] for key in engine.input_names]), strict=True))
        scale += [(result[key].ravel(), want[key].ravel()) for key in want]
    got, reference = (np.concatenate(parts) for parts in zip(*scale, strict=True))
    assert np.corrcoef(got, reference)[0, 1] >= INT8_CORRELATION


def test_everything_runs_in_one_segment(quantized: Callable[..., Path]) -> None:
    path = quantized("bert-tok-eager-script14", **FILES["bert-tok-eager-script14"])
    report = Engine(path, batch_size=None).report()
    assert report.fraction_of_supported_ops == 1.0
    assert [step.op for step in report.steps if step.kernel == "numpy"] == ["KeyMask"]


def test_each_sequence_of_a_ragged_batch_is_as_alone(quantized: Callable[..., Path]) -> None:
    path = quantized("bert-tok-eager-script14", **FILES["bert-tok-eager-script14"])
    engine, lengths = Engine(path, batch_size=None), [5, 40, 1, 17]
    assert engine.supports_ragged
    rng = np.random.default_rng(3)
    inputs = [rng.integers(5, 60, sum(lengths)), np.ones(sum(lengths), np.int64), np.zeros(sum(lengths), np.int64)]
    (together,) = engine.run_ragged(inputs, lengths)
    for begin, length in zip(np.cumsum([0, *lengths]), lengths, strict=False):
        part = slice(begin, begin + length)
        (alone,) = engine.run([np.ascontiguousarray(item[None, part]) for item in inputs])
        np.testing.assert_array_equal(together[part].view(np.uint32), alone[0].view(np.uint32))


def test_parts_of_the_file(quantized: Callable[..., Path]) -> None:
    """Where the bytes between the ops of a layer went."""
    fused = whole(quantized("bert-qa-sdpa-dynamo18"))
    attention = fused_ops(fused, Attention)[0]
    assert attention.scores_quantization is not None and attention.masked_quantization is not None
    assert attention.softmax_quantization is not None and attention.probs_quantization is not None
    # before and behind a scaling the grids are the same
    assert attention.scaled_quantization is None
    assert [table.rounding is not None for table in fused_ops(fused, Embeddings)[0].tables] == [False, True, False]
    assert fused_ops(fused, KeyMask)[0].value < -3e38


def test_a_mask_that_calibration_never_saw_masks_nothing(quantized: Callable[..., Path]) -> None:
    path = quantized("bert-tok-eager-script14", padding=False, **FILES["bert-tok-eager-script14"])
    fused = whole(path, masks=0)
    feeds = feeds_for(load_graph(path))
    agree(naive.run_graph(fused, feeds), onnxruntime_outputs(path, feeds, optimize=False), 0.03)


def test_an_infinite_scale_is_told_and_gives_what_onnxruntime_gives(
    quantized: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """A mask of minus infinity: its scale is infinite, and all that attention sees is NaN."""
    path = quantized("bert-qa-sdpa-script17")
    caplog.clear()
    fused = fuse_graph(load_graph(path))
    assert "is not finite" in caplog.text and "attn_implementation='eager'" in caplog.text
    feeds = feeds_for(load_graph(path))
    want = onnxruntime_outputs(path, feeds, optimize=False)
    agree(naive.run_graph(fused, feeds), want, 0.03)
    engine = Engine(path, batch_size=None)
    agree(dict(zip(want, engine.run([feeds[key] for key in engine.input_names]), strict=True)), want, 0.05)


# -- what only looks like it

_SHAPE = ("batch", "tokens", 4)


def _round_trip(value: str, number: str = "") -> list[Any]:
    return [
        helper.make_node("QuantizeLinear", [value, f"scale{number}", "zero"], [f"{value}_bytes"]),
        helper.make_node("DequantizeLinear", [f"{value}_bytes", f"scale{number}", "zero"], [f"{value}_real"]),
    ]


def _fused(tmp_path: Path, nodes: list[Any], outputs: tuple[str, ...] = ("y",)) -> tuple[Graph, Path]:
    constants = {"scale": np.float32(0.02), "scale1": np.float32(0.03), "zero": np.uint8(120), "half": np.float32(0.5)}
    results = [(name, FLOAT, (None, None, None)) for name in outputs]
    path = small_models.save(tmp_path / "model.onnx", nodes, [("x", FLOAT, _SHAPE)], results, constants)
    return fuse_graph(load_graph(path)), path


def _same(fused: Graph, path: Path) -> None:
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)}
    for name, want in onnxruntime_outputs(path, feeds, optimize=False).items():
        np.testing.assert_allclose(naive.run_graph(fused, feeds)[name], want, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("second", ["", "1"])
def test_a_round_trip_behind_a_move_goes_if_its_grid_is_the_same(second: str, tmp_path: Path) -> None:
    nodes = [
        *_round_trip("x"),
        helper.make_node("Transpose", ["x_real"], ["t"], perm=[0, 2, 1]),
        *_round_trip("t", second),
        helper.make_node("Neg", ["t_real"], ["y"]),
    ]
    fused, path = _fused(tmp_path, nodes)
    assert counts(fused)["Quantize"] == (2 if second else 1)
    _same(fused, path)


@pytest.mark.parametrize("read", [False, True])
def test_a_chain_becomes_a_table_unless_its_middle_is_read(read: bool, tmp_path: Path) -> None:
    nodes = [
        *_round_trip("x"),
        helper.make_node("Sigmoid", ["x_real"], ["s"]),
        *_round_trip("s"),
        helper.make_node("Mul", ["s_real", "x_real"], ["p"]),
        *_round_trip("p"),
        helper.make_node("Neg" if read else "Identity", ["p_real"], ["y"]),
        helper.make_node("Neg", ["s"], ["z"]),
    ]
    fused, path = _fused(tmp_path, nodes if read else nodes[:-1], ("y", "z") if read else ("y",))
    assert counts(fused)["Lookup"] == (0 if read else 1)
    if not read:
        assert len(fused_ops(fused, Lookup)[0].table) == 256
        assert left(fused) == []
    _same(fused, path)


def test_scalings_make_no_table(tmp_path: Path) -> None:
    nodes = [*_round_trip("x"), helper.make_node("Mul", ["x_real", "half"], ["h"]), *_round_trip("h", "1")]
    fused, path = _fused(tmp_path, [*nodes, helper.make_node("Neg", ["h_real"], ["y"])])
    assert counts(fused)["Lookup"] == 0 and "Mul" in left(fused)
    _same(fused, path)


def test_a_guard_against_nan_stays_where_nan_may_be(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Sqrt", ["x"], ["r"]),
        helper.make_node("IsNaN", ["r"], ["bad"]),
        helper.make_node("Where", ["bad", "half", "r"], ["y"]),
    ]
    fused, path = _fused(tmp_path, nodes)
    assert left(fused) == ["Sqrt", "IsNaN", "Where"]
    _same(fused, path)
