"""Which fused nodes the native run loop takes, and what happens to the others."""

from __future__ import annotations

import numpy as np

from sparsert import ops
from sparsert.graph.ir import FUSED_DOMAIN, Graph, Node, TensorInfo
from sparsert.plan import compile_graph


def _quantized_linear(in_features: int) -> tuple[Graph, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    weight = rng.integers(-128, 128, (in_features, 8)).astype(np.int8)
    quantization = ops.Quantization(np.float32(1.0), np.array(128, np.uint8), np.dtype(np.uint8))
    linear = ops.Linear(
        weight,
        weight_zero_point=np.array(0, np.int8),
        input_quantization=quantization,
        acc_scale=np.float32(1.0),
    )
    nodes = [
        Node("Quantize", ["x"], ["q"], name="quantize", domain=FUSED_DOMAIN, fused=ops.Quantize(quantization)),
        Node("Linear", ["q"], ["y"], name="linear", domain=FUSED_DOMAIN, fused=linear),
    ]
    single = np.dtype(np.float32)
    inputs = [TensorInfo("x", single, ("batch", in_features))]
    graph = Graph("wide", inputs, [TensorInfo("y", single, ("batch", 8))], nodes, {}, {"": 17})
    x = rng.integers(-100, 100, (3, in_features)).astype(np.float32)
    return graph, weight, x


def test_linears_of_any_width_run_in_kernels_and_stay_exact() -> None:
    # 1020 features and less are one slice; uint16 offsets in bytes would end at 1023 (AVX-512) or 2047
    for in_features in (1020, 1021, 5000, 20000):
        graph, weight, x = _quantized_linear(in_features)
        program = compile_graph(graph)
        assert not any(step.fallback for step in program.reports)
        expected = x.astype(np.int64) @ weight.astype(np.int64)
        np.testing.assert_array_equal(program.run({"x": x}, 1)["y"], expected.astype(np.float32))
