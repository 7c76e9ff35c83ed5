"""Tokens multiplied with their mask: spellings, what only looks like one, ragged batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import naive
import numpy as np
import onnx
import pytest
from fusion_checks import counts, left, onnxruntime_outputs
from onnx import numpy_helper
from program_checks import run

from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.plan import compile_graph

CHANNELS, VOCAB = 8, 20
RNG = np.random.default_rng(0)
TABLE, GAMMA, WEIGHT = (
    RNG.standard_normal(shape).astype(np.float32) for shape in ((VOCAB, CHANNELS), (CHANNELS,), (CHANNELS, CHANNELS))
)
MASKED = "wide = Unsqueeze(mask, last)\nreal = Cast<to=1>(wide)\nmasked = Mul(normal, real)"


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(nodes: str = MASKED, mask: str = "int64[batch,sequence] mask") -> Path:
        text = f"""<ir_version: 9, opset_import: ["": 18]>
            masked (int64[batch,sequence] ids, {mask}) => (float[batch,sequence,{CHANNELS}] y)
            <int64[1] last = {{2}}, int64[1] middle = {{1}}, int64[1] start = {{0}}, int64[1] end = {{1000}}> {{
                rows = Gather(table, ids)
                normal = LayerNormalization(rows, gamma, gamma)
                {nodes}
                product = MatMul(masked, weight)
                y = Add(product, masked)
            }}"""
        model = onnx.parser.parse_model(text)
        arrays = {"table": TABLE, "gamma": GAMMA, "weight": WEIGHT}
        model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
        path = tmp_path / "model.onnx"
        onnx.save(model, str(path))
        return path

    return write


def feeds_of(batch: int, tokens: int) -> dict[str, np.ndarray]:
    mask = (np.arange(tokens) < np.linspace(tokens // 2, tokens, batch)[:, None]).astype(np.int64)
    return {"ids": np.random.default_rng(1).integers(0, VOCAB, (batch, tokens)), "mask": mask}


@pytest.mark.parametrize(
    ("nodes", "dtype"),
    [
        (MASKED, "int64"),
        (MASKED, "bool"),
        ("real = Cast<to=1>(mask)\nwide = Unsqueeze(real, last)\nmasked = Mul(wide, normal)", "int64"),
        (MASKED + "\nagain = Identity(masked)\nunused = Shape(real)", "int32"),
    ],
)
def test_spellings(nodes: str, dtype: str, save: Callable[..., Path]) -> None:
    path = save(nodes, f"{dtype}[batch,sequence] mask")
    fused = fuse_graph(load_graph(path))
    assert counts(fused)["MaskTokens"] == counts(fused)["TokenMask"] == 1 and left(fused) == []
    program = compile_graph(fused)
    assert len(program.parts) == 2 and not any(report.fallback for report in program.reports)
    for batch, tokens in ((2, 7), (3, 40)):
        feeds = feeds_of(batch, tokens)
        feeds["mask"] = feeds["mask"].astype(dtype)
        want = onnxruntime_outputs(path, feeds)["y"]
        for got in (naive.run_graph(fused, feeds)["y"], run(program, feeds)["y"]):
            # a normalization and a sum of eight products
            np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


LOOK_ALIKES = {
    "twice a mask": MASKED.replace("(wide)", "(both)").replace("\n", "\nboth = Add(wide, wide)\n", 1),
    "a channel": "part = Slice(normal, middle, last, last)\nmasked = Mul(normal, part)",
    "a mask of another token": """
        later = Slice(mask, middle, end, middle)
        first = Slice(mask, start, middle, middle)
        turned = Concat<axis=1>(later, first)
        wide = Unsqueeze(turned, last)
        real = Cast<to=1>(wide)
        masked = Mul(normal, real)""",
}


@pytest.mark.parametrize("nodes", LOOK_ALIKES.values(), ids=LOOK_ALIKES)
def test_look_alikes_stay_right(nodes: str, save: Callable[..., Path]) -> None:
    path = save(nodes)
    fused = fuse_graph(load_graph(path))
    assert "MaskTokens" not in counts(fused)
    feeds = feeds_of(2, 7)
    np.testing.assert_allclose(
        run(compile_graph(fused), feeds)["y"], onnxruntime_outputs(path, feeds)["y"], rtol=1e-5, atol=1e-5
    )


def test_ragged(save: Callable[..., Path]) -> None:
    program = compile_graph(fuse_graph(load_graph(save())))
    assert program.output_spaces == {"y": "token"}
    lengths = np.array([3, 1, 40, 70])
    ids, mask = RNG.integers(0, VOCAB, lengths.sum()), RNG.integers(0, 2, lengths.sum())
    got = run(program, {"ids": ids, "mask": mask}, lengths=lengths)["y"]
    for first, stop in zip(np.cumsum(lengths) - lengths, np.cumsum(lengths), strict=True):
        alone = run(program, {"ids": ids[None, first:stop], "mask": mask[None, first:stop]})["y"]
        np.testing.assert_array_equal(got[first:stop], alone[0])
