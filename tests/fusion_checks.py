"""What the tests of fusion and of plans share: files, feeds, the two references, and the comparison.

ONNX Runtime runs the file itself. Its U8S8 kernels saturate on processors without VNNI, so sessions ask for
``session.x64quantprecision``, which makes them exact. The naive twin runs the unfused graph node by node on
onnx.reference: there integer forms must agree almost to the bit, since fusion only reorders roundings of floats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bert_files
import naive
import numpy as np
import onnx
import pytest

from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.graph.ir import FUSED_DOMAIN, Graph

ort = pytest.importorskip("onnxruntime")

DATA = Path(__file__).parent / "graph" / "data"
VOCAB, LAYERS, HEADS = 60, 2, 2

FORMS = {
    "float": "--quant none",
    "float opset 11": "--quant none --opset 11 --mask-value -10000",
    "float fixed": "--quant none --opset 11 --batch 1 --seq 19",
    "sparseml 1.2": "--quant sparseml --opset 11 --batch 1 --seq 19",
    "sparseml 1.3": "--quant sparseml --opset 13 --seq 19",
    "sparseml 1.4": "--quant sparseml --sparsity 0.5",
    "sparseml 1.6": "--quant sparseml --opset 14 --attn integer",
    "sparseml int8 weights": "--quant sparseml --wdtype int8",
    "sparseml float embeddings": "--quant sparseml --float-emb",
    "sparseml float attention": "--quant sparseml --attn float",
    "dynamic": "--quant dynamic",
    "dynamic constant only": "--quant dynamic --dyn-attn const",
    "dynamic per channel": "--quant dynamic --dyn-attn const --per-channel --float-emb",
    "qdq": "--quant qdq",
    "qdq per channel": "--quant qdq --per-channel",
}
"""Arguments of the generator for every form that it writes."""

# An int8 file computes bytes: one float rounding more or less flips a byte now and then, so logits are correlated.
INT8_CORRELATION, FLOAT_CORRELATION = 0.995, 0.9995
# Logits are about 1; float32 forms differ in the order of sums over at most 64 channels and two layers.
FLOAT_ERROR = 2e-5

_TINY = f"--layers {LAYERS} --hidden 32 --heads {HEADS} --ffn 64 --vocab {VOCAB} --max-pos 40"


@pytest.fixture(scope="session")
def make_bert(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Write a file of the generator's form once per session; for a conftest to import."""
    folder, made = tmp_path_factory.mktemp("bert"), {}

    def write(arguments: str) -> Path:
        if arguments not in made:
            path = folder / f"{len(made)}.onnx"
            onnx.save(bert_files.build(bert_files.parse([*_TINY.split(), *arguments.split()])), path)
            made[arguments] = path
        return made[arguments]

    return write


def feeds_for(graph: Graph, batch: int = 2, tokens: int = 19, seed: int = 0) -> dict[str, np.ndarray]:
    """Random ids; the first item is padded to two thirds (with RoBERTa's id 1, which other families do not mind)."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for info in graph.inputs:
        shape = tuple(d if isinstance(d, int) else free for d, free in zip(info.shape, (batch, tokens), strict=True))
        padding = np.arange(shape[1]) >= max(1, shape[1] * 2 // 3)
        if "mask" in info.name:
            array = np.ones(shape, np.int64)
            array[0, padding] = 0
        elif "type" in info.name:
            array = np.broadcast_to((np.arange(shape[1]) > shape[1] // 2).astype(np.int64), shape).copy()
        else:
            array = rng.integers(5, VOCAB, shape)
            array[0, padding] = 1
        feeds[info.name] = array
    return feeds


def onnxruntime_outputs(
    path: Path | bytes, feeds: dict[str, np.ndarray], optimize: bool = True
) -> dict[str, np.ndarray]:
    """Outputs by name; with ``optimize`` False of the graph as it is, since some versions fuse what they must not."""

    def session(precise: bool) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if precise:
            options.add_session_config_entry("session.x64quantprecision", "1")
        return ort.InferenceSession(path if isinstance(path, bytes) else str(path), options, ["CPUExecutionProvider"])

    try:
        made = session(True)
    except Exception:  # ONNX Runtime cannot make a weight unsigned whose zero point serves several weights
        made = session(False)
    return dict(zip([out.name for out in made.get_outputs()], made.run(None, feeds), strict=True))


def counts(graph: Graph) -> Counter[str]:
    return Counter(node.op for node in graph.nodes if node.domain == FUSED_DOMAIN)


def left(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes if node.domain != FUSED_DOMAIN]


def fused_ops(graph: Graph, kind: type) -> list[Any]:
    return [node.fused for node in graph.nodes if isinstance(node.fused, kind)]


def close(got: dict[str, np.ndarray], want: dict[str, np.ndarray], correlation: float, error: float) -> None:
    assert list(got) == list(want)
    for name, reference in want.items():
        assert got[name].shape == reference.shape and got[name].dtype == reference.dtype
        assert np.corrcoef(got[name].ravel(), reference.ravel())[0, 1] >= correlation, name
        np.testing.assert_allclose(got[name], reference, rtol=0, atol=error, err_msg=name)


def check_transformer(
    path: Path,
    *,
    linears: int,
    int8: bool,
    biases: bool = False,
    allowed: Sequence[str] = (),
    shapes: Sequence[tuple[int, int]] = ((2, 19), (1, 7)),
) -> Graph:
    """Fuse a file with two layers, expect fused ops alone, and compare with both references."""
    graph = load_graph(path)
    fused = fuse_graph(graph)
    assert set(left(fused)) <= set(allowed)
    found = counts(fused)
    assert (found["Linear"], found["Attention"], found["LayerNorm"]) == (linears, LAYERS, 2 * LAYERS + 1)
    assert (found["Embeddings"], found["KeyMask"], found["Gelu"]) == (1, 1, LAYERS)
    # Beside the residual additions: biases that do not follow their product at once, but its quantized output.
    assert found["Add"] == 2 * LAYERS + (linears if biases else 0)
    for batch, tokens in shapes:
        feeds = feeds_for(graph, batch, tokens)
        got = naive.run_graph(fused, feeds)
        if int8:
            close(got, onnxruntime_outputs(path, feeds), INT8_CORRELATION, 0.5)
            close(got, naive.run_graph(graph, feeds), 0.9999, 0.05)
        else:
            close(got, onnxruntime_outputs(path, feeds), FLOAT_CORRELATION, FLOAT_ERROR)
    return fused


def edited(path: Path, edit: Callable[[onnx.ModelProto], None], out: Path) -> Path:
    model = onnx.load(path)
    edit(model)
    onnx.save(model, out)
    return out
