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


def test_layers_that_share_a_matrix_share_its_packed_form() -> None:
    rng = np.random.default_rng(1)
    weight, other = (rng.standard_normal((128, 128)).astype(np.float32) for _ in range(2))
    bias = rng.standard_normal(128).astype(np.float32)
    matrices = [(weight, bias), (weight, bias.copy()), (weight, None), (other, bias)]
    nodes = [
        Node("Linear", [f"h{i}"], [f"h{i + 1}"], name=f"linear{i}", domain=FUSED_DOMAIN, fused=ops.Linear(w, bias=b))
        for i, (w, b) in enumerate(matrices)
    ]
    single = np.dtype(np.float32)
    inputs, outputs = [TensorInfo("h0", single, ("batch", 128))], [TensorInfo("h4", single, ("batch", 128))]
    program = compile_graph(Graph("shared", inputs, outputs, nodes, {}, {"": 17}))
    (part,) = program.parts
    packed = [part.segment.packed[f"h{i + 1}"] for i in range(4)]  # type: ignore[union-attr]
    assert packed[0] is packed[1] and len({id(item) for item in packed}) == 3
    assert part.segment.nbytes == sum(packed[i].nbytes for i in (0, 2, 3))  # type: ignore[union-attr]
    x = rng.standard_normal((5, 128)).astype(np.float32)
    expected = x.astype(np.float64)
    for w, b in matrices:
        expected = expected @ w + (0 if b is None else b)
    # sums of 128 products, four times over
    np.testing.assert_allclose(program.run({"h0": x}, 1)["h4"], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
