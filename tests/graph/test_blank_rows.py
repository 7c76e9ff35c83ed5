"""Sequences whose every key is masked, as batches padded with blank rows have: torch's guard gives them zeros."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from fusion_checks import DATA, edited, onnxruntime_outputs
from onnx import helper, numpy_helper
from test_fuse import quantized_by_onnxruntime

from sparsert import Engine
from sparsert.graph import load_graph

GUARDED = ("bert-qa-sdpa-script17", "distilbert-cls-sdpa-script14")
UNGUARDED = ("bert-qa-sdpa-dynamo18", "bert-tok-eager-script14", "distilbert-cls-eager-dynamo18")

# Float logits are about 1; a byte of an int8 file may flip, which moves a logit by some hundredths.
FLOAT_ERROR, INT8_ERROR = 2e-5, 0.06


def feeds_with_blank_rows(path: Path, lengths: Sequence[int], tokens: int) -> dict[str, np.ndarray]:
    """One row for each length, 0 for a blank one."""
    rng = np.random.default_rng(0)
    mask = (np.arange(tokens) < np.array(lengths)[:, None]).astype(np.int64)
    return {
        info.name: mask
        if "mask" in info.name
        else np.zeros_like(mask)
        if "type" in info.name
        else rng.integers(5, 60, mask.shape)
        for info in load_graph(path).inputs
    }


def check(path: Path, lengths: Sequence[int], tokens: int, error: float) -> None:
    feeds = feeds_with_blank_rows(path, lengths, tokens)
    wanted = onnxruntime_outputs(path, feeds)
    for got, want in zip(Engine(path, batch_size=None).run(list(feeds.values())), wanted.values(), strict=True):
        assert np.isfinite(want).all()
        np.testing.assert_allclose(got, want, rtol=0, atol=error)


@pytest.mark.parametrize("name", [*GUARDED, *UNGUARDED])
@pytest.mark.parametrize(("lengths", "tokens"), [([0], 4), ([9, 0, 3], 9), ([0, 33, 0], 35)])
def test_float(name: str, lengths: list[int], tokens: int) -> None:
    check(DATA / f"{name}.onnx", lengths, tokens, FLOAT_ERROR)


@pytest.mark.parametrize("kind", ["static", "dynamic", "dynamic both"])
@pytest.mark.parametrize("name", GUARDED)
def test_int8(name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "quantized.onnx"
    quantized_by_onnxruntime(DATA / f"{name}.onnx", path, kind)
    check(path, [9, 0, 3], 9, INT8_ERROR)


@pytest.mark.parametrize("name", GUARDED)
def test_ragged(name: str) -> None:
    """A blank sequence among others, end to end."""
    path, lengths = DATA / f"{name}.onnx", [5, 7, 40, 3]
    engine = Engine(path, batch_size=None)
    assert engine.supports_ragged
    rng = np.random.default_rng(1)
    masks = [np.ones(length, np.int64) for length in lengths]
    masks[1][:] = 0
    ids = [rng.integers(5, 60, length) for length in lengths]
    inputs = [np.concatenate(ids), np.concatenate(masks), np.zeros(sum(lengths), np.int64)]
    results = engine.run_ragged(inputs[: len(engine.input_names)], lengths)
    begins = np.cumsum([0, *lengths])
    for index in range(len(lengths)):
        row = [part[None, begins[index] : begins[index + 1]] for part in inputs[: len(engine.input_names)]]
        wanted = onnxruntime_outputs(path, dict(zip(engine.input_names, row, strict=True)))
        for got, want in zip(results, wanted.values(), strict=True):
            per_token = got.shape[0] == sum(lengths)
            part = got[begins[index] : begins[index + 1]] if per_token else got[index]
            np.testing.assert_allclose(part, want[0], rtol=0, atol=FLOAT_ERROR)


def quantize_guarded_product(model: onnx.ModelProto) -> None:
    """Rewrite every product of activations of a float file to bytes with quantized scores, as SparseML does."""
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    nodes = list(model.graph.node)
    producers = {name: node for node in nodes for name in node.output}
    parameters = {"zero": np.uint8(128), "low": np.uint8(0), "fine": np.float32(1 / 255), "coarse": np.float32(0.1)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in parameters.items())
    made = []
    for node in nodes:
        if node.op_type != "MatMul" or set(node.input) & constants:
            made.append(node)
            continue
        probabilities = producers[node.input[0]].op_type in ("Where", "Softmax")
        pairs = [("fine", "low") if probabilities else ("coarse", "zero"), ("coarse", "zero")]
        sides = [*zip(node.input, pairs, strict=True)]
        for side, (value, pair) in enumerate(sides):
            made.append(helper.make_node("QuantizeLinear", [value, *pair], [f"{node.name}.{side}"]))
        operands = [item for side in range(2) for item in (f"{node.name}.{side}", *pairs[side])]
        made.append(helper.make_node("QLinearMatMul", [*operands, "coarse", "zero"], [f"{node.name}.bytes"]))
        made.append(helper.make_node("DequantizeLinear", [f"{node.name}.bytes", "coarse", "zero"], [node.output[0]]))
    del model.graph.node[:]
    model.graph.node.extend(made)


@pytest.mark.parametrize("name", GUARDED)
def test_int8_attention(name: str, tmp_path: Path) -> None:
    path = edited(DATA / f"{name}.onnx", quantize_guarded_product, tmp_path / "bytes.onnx")
    kernels = [step.kernel for step in Engine(path, batch_size=None).report().steps if step.op == "Attention"]
    assert len(kernels) == 2 and all(kernel.startswith("attention int8") for kernel in kernels)
    check(path, [9, 0, 3], 9, 0.1)
