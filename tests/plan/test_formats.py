"""Formats of int8 weights in a program: each is chosen for what it is for, and gives the bits of the naive twin."""

from __future__ import annotations

import naive
import numpy as np
import pytest
from program_checks import run

from sparsert import ops
from sparsert.graph.ir import FUSED_DOMAIN, Graph, Node, TensorInfo
from sparsert.kernels.formats import FORMATS, Format
from sparsert.plan import compile_graph
from sparsert.synthetic.weights import Stream, keep_mask

INTEGER = [record for record in FORMATS.values() if not record.floating]

SIZES = (76, 90, 33)
"""Features in, between the two Linears, and out."""


def pruned(record: Format, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Weights (K, N) of the pattern that a format is for, all kept if it is for all."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(1, 127, shape[::-1]) * rng.choice([-1, 1], shape[::-1])
    if record.adjacent:
        weight *= keep_mask(Stream(seed), *weight.shape, 0.8, record.adjacent)
    return weight.T.astype(np.int8)


def two_linears(record: Format) -> Graph:
    """Quantize, Linear, Quantize, Linear with scales that are powers of two: float32 is exact."""
    nodes, values = [], ["x", "a", "b", "c", "d"]
    for number, scale in enumerate((0.25, 64.0)):
        source, quantized, result = values[2 * number : 2 * number + 3]
        quantization = ops.Quantization(np.float32(scale), np.array(100, np.uint8), np.dtype(np.uint8))
        linear = ops.Linear(
            pruned(record, SIZES[number : number + 2], number),
            weight_zero_point=np.array(0, np.int8),
            input_quantization=quantization,
            acc_scale=np.float32(0.25),
            bias=np.arange(SIZES[number + 1], dtype=np.float32),
        )
        nodes += [
            Node("Quantize", [source], [quantized], domain=FUSED_DOMAIN, fused=ops.Quantize(quantization)),
            Node("Linear", [quantized], [result], domain=FUSED_DOMAIN, fused=linear),
        ]
    single = np.dtype(np.float32)
    inputs = [TensorInfo("x", single, ("batch", "tokens", SIZES[0]))]
    outputs = [TensorInfo("d", single, ("batch", "tokens", SIZES[2]))]
    return Graph("two linears", inputs, outputs, nodes, {}, {"": 17})


@pytest.mark.parametrize("record", INTEGER, ids=lambda record: record.name)
def test_each_format_is_chosen_for_its_pattern_and_is_exact(record: Format) -> None:
    graph = two_linears(record)
    program = compile_graph(graph)
    assert [step.weight_format for step in program.reports if step.op == "Linear"] == [record.name] * 2
    x = np.random.default_rng(5).normal(0, 16, (3, 41, SIZES[0])).astype(np.float32)
    got, want = run(program, {"x": x})["d"], naive.run_graph(graph, {"x": x})["d"]
    assert np.abs(want).max() < 2**24, "float32 must hold the sums"
    assert len(np.unique(want)) > 1000
    np.testing.assert_array_equal(got, want)
