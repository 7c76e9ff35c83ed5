"""Fusion: every form of file becomes fused ops alone, and computes what ONNX Runtime computes on the file."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import naive
import numpy as np
import pytest
from fusion_checks import (
    DATA,
    FLOAT_ERROR,
    FORMS,
    HEADS,
    INT8_CORRELATION,
    LAYERS,
    check_transformer,
    close,
    counts,
    feeds_for,
    fused_ops,
    left,
    onnxruntime_outputs,
)

import sparsert
from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.ops import Attention, Embeddings, KeyMask, Linear


@pytest.mark.parametrize("form", FORMS)
def test_generated_form(form: str, make_bert: Callable[[str], Path]) -> None:
    int8, biases = not form.startswith("float"), form.startswith("qdq")
    fused = check_transformer(make_bert(FORMS[form]), linears=6 * LAYERS + 1, int8=int8, biases=biases)
    assert counts(fused)["SelectFeature"] == 2
    attention = fused_ops(fused, Attention)[0]
    assert attention.heads == HEADS and attention.scale == pytest.approx(0.25)
    quantized = "sparseml" in form and "float attention" not in form or form.startswith("qdq")
    parts = (
        attention.q_quantization,
        attention.scores_quantization,
        attention.context_quantization,
        attention.pv_scale,
    )
    assert all((part is not None) == quantized for part in parts)
    assert attention.dynamic == (form == "dynamic")
    for linear in fused_ops(fused, Linear):
        assert (linear.weight.dtype == np.float32) == form.startswith("float")
        assert (linear.input_quantization is None) == form.startswith(("float", "dynamic"))
        assert (linear.acc_bias is not None) == form.startswith("sparseml") or form.startswith("float")
    if form == "qdq per channel":
        assert fused_ops(fused, Linear)[0].weight_scale.shape == (32,)


@pytest.mark.parametrize("form", ["float", "sparseml 1.4", "sparseml 1.6"])
def test_integer_part_is_the_one_of_the_file(form: str, make_bert: Callable[[str], Path]) -> None:
    """SparseML forms agree to the last bit with ONNX Runtime where the same bytes come in."""
    path = make_bert(FORMS[form])
    graph = load_graph(path)
    feeds = feeds_for(graph)
    error = FLOAT_ERROR if form == "float" else 1e-5
    close(naive.run_graph(fuse_graph(graph), feeds), naive.run_graph(graph, feeds), 0.999999, error)


@pytest.mark.parametrize("arguments", ["--quant none --opset 11", "--quant sparseml --opset 11"])
def test_fixed_file_serves_any_shape(arguments: str, make_bert: Callable[[str], Path]) -> None:
    fixed = fuse_graph(load_graph(make_bert(f"{arguments} --batch 1 --seq 19")))
    free = make_bert(arguments)
    feeds = feeds_for(load_graph(free), 3, 11)
    close(naive.run_graph(fixed, feeds), onnxruntime_outputs(free, feeds), INT8_CORRELATION, 1e-4)


@pytest.mark.parametrize("path", sorted(DATA.glob("*.onnx")), ids=lambda path: path.stem)
def test_exported_form(path: Path) -> None:
    """Files of torch's own exporters; tests/graph/make_exports.py made them."""
    family, head, _, exporter = path.stem.split("-")
    linears = 6 * LAYERS + (2 if head == "cls" else 1)
    fused = check_transformer(path, linears=linears, int8=False)
    assert counts(fused)["SelectFeature"] == (2 if head == "qa" else 0)
    # of the last layer's attention, and of what goes around it
    assert counts(fused)["SelectToken"] == (2 if head == "cls" else 0)
    assert counts(fused)["Activation"] == (1 if head == "cls" else 0)
    assert fused_ops(fused, KeyMask)[0].formula == "where"
    assert fused_ops(fused, Attention)[0].scale == pytest.approx(8**-0.5, rel=1e-6)
    kinds = {"bert": ["input", "input", "position"], "distilbert": ["input", "position"]}
    indices = sorted(table.index for table in fused_ops(fused, Embeddings)[0].tables)
    assert indices == kinds.get(family, ["constant", "input", "input"])


def test_exported_files_are_there_and_small() -> None:
    files = list(DATA.glob("*.onnx"))
    assert len(files) >= 10 and all(file.stat().st_size < 60_000 for file in files)


class _Calibration:
    def __init__(self, path: Path) -> None:
        self._feeds = iter([feeds_for(load_graph(path), seed=seed) for seed in (1, 2)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def quantized_by_onnxruntime(path: Path, out: Path, kind: str) -> None:
    tools = pytest.importorskip("onnxruntime.quantization")
    unsigned = "unsigned" in kind
    weight_type = tools.QuantType.QUInt8 if unsigned else tools.QuantType.QInt8
    common = {"per_channel": "channel" in kind, "weight_type": weight_type}
    if kind.startswith("dynamic"):
        options = {"MatMulConstBOnly": "both" not in kind}
        tools.quantize_dynamic(path, out, extra_options=options, **common)
    else:
        ops = ["MatMul", "Gemm", *(["Gather"] if "gather" in kind else [])]
        tools.quantize_static(
            path, out, _Calibration(path), quant_format=tools.QuantFormat.QDQ, op_types_to_quantize=ops, **common
        )


@pytest.mark.parametrize(
    "kind",
    [
        "dynamic",
        "dynamic both",
        "dynamic per channel",
        "dynamic unsigned",
        "static",
        "static per channel",
        "static gather",
    ],
)
@pytest.mark.parametrize("source", ["make_bert", "distilbert-cls-sdpa-script14"])
def test_onnxruntime_quantization(
    kind: str, source: str, request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Files of ONNX Runtime's own quantizers, made from a float file."""
    if source == "make_bert":
        path, linears = request.getfixturevalue("make_bert")("--quant none"), 6 * LAYERS + 1
    else:
        path, linears = DATA / f"{source}.onnx", 6 * LAYERS + 2
    out = tmp_path / "quantized.onnx"
    caplog.set_level(logging.ERROR)  # the quantizers write warnings to the root logger
    quantized_by_onnxruntime(path, out, kind)
    graph = load_graph(out)
    fused = fuse_graph(graph)
    assert left(fused) == []
    found = counts(fused)
    assert (found["Linear"], found["Attention"], found["LayerNorm"]) == (linears, LAYERS, 2 * LAYERS + 1)
    assert all(linear.weight.dtype != np.float32 for linear in fused_ops(fused, Linear))
    feeds = feeds_for(graph)
    got = naive.run_graph(fused, feeds)
    # An 8 x 2 classification is too few numbers for a correlation; the distance says the same.
    close(got, onnxruntime_outputs(out, feeds), INT8_CORRELATION if source == "make_bert" else -1, 0.05)


def test_default_model() -> None:
    """The shipped model, SparseML 1.4 form: all of it fuses, and its logits are ONNX Runtime's to the rounding."""
    path = Path(sparsert.__file__).parent / "models" / "minilm-l6-squad-pruned60_quant" / "model.onnx"
    graph = load_graph(path)
    fused = fuse_graph(graph)
    assert left(fused) == []
    found = counts(fused)
    assert (found["Linear"], found["Attention"], found["LayerNorm"], found["Quantize"]) == (37, 6, 13, 25)
    feeds = feeds_for(graph, 2, 33)
    close(naive.run_graph(fused, feeds), onnxruntime_outputs(path, feeds), 0.9999, 0.2)
