"""Weights: choose a format for each Linear by its real pattern, and pack it once for all shapes."""

from __future__ import annotations

import numpy as np

from sparsert.kernels.jit import TIER
from sparsert.kernels.matrix import float_rows, integer_rows
from sparsert.kernels.pack import (
    pack_blocks,
    pack_dense,
    pack_float_dense,
    pack_float_sparse,
    pack_unstructured,
)
from sparsert.ops import Linear
from sparsert.ops.steps import PackedLinear, padded

__all__ = ["pack_linear"]

_RATES = {
    "avx512_vnni": {"unstructured": 178.0, "blocks": 255.0, "dense": 450.0, "float_sparse": 70.0, "float_dense": 100.0},
    "avx2": {"unstructured": 48.0, "blocks": 62.0, "dense": 75.0, "float_sparse": 14.0, "float_dense": 30.0},
    "generic": {"unstructured": 13.0, "blocks": 17.0, "dense": 23.0, "float_sparse": 14.0, "float_dense": 30.0},
}
"""GMAC/s of one core on the weights that a format keeps: avx2 and generic measured on Zen 3 (2.25 GHz, 768 x 768, 10 %
dense; ``dense`` at 100 %), avx512_vnni on Zen 5. Only the ratios of a tier matter."""

_PACKERS = {
    "unstructured": pack_unstructured,
    "blocks": pack_blocks,
    "dense": pack_dense,
    "float_sparse": pack_float_sparse,
    "float_dense": pack_float_dense,
}


def _cheapest(costs: dict[str, float]) -> str:
    rates = _RATES[TIER.rates]
    return min(costs, key=lambda name: costs[name] / rates[name])


def pack_linear(op: Linear, wanted: str | None = None) -> PackedLinear:
    """Pack one Linear in the format that is wanted, by default in the one that the cost model finds cheapest."""
    rows = op.weight.shape[1]
    bias = padded(0.0 if op.bias is None else op.bias, rows)
    if not op.takes_bytes:
        weights = float_rows(op.weight)
        name = wanted or _cheapest({"float_sparse": weights.density, "float_dense": 1.0})
        acc_bias, scale = np.zeros(0, np.int32), np.zeros(0, np.float32)
    else:
        weights = integer_rows(op.weight, op.weight_zero_point if op.weight_zero_point is not None else 0)
        name = wanted or _cheapest({"unstructured": weights.density, "blocks": weights.block_density, "dense": 1.0})
        sums, factor = weights.sums, op.weight_scale
        if op.input_quantization is not None:
            sums = -op.input_quantization.unsigned_zero_point * sums
            if op.acc_bias is not None:
                sums = sums + op.acc_bias
            factor = op.acc_scale if op.acc_scale is not None else op.input_quantization.scale * op.weight_scale
        # int32 sums wrap, as ONNX's do
        acc_bias = padded(sums.astype(np.uint64).astype(np.uint32).view(np.int32), rows, np.int32)
        scale = padded(np.asarray(factor, np.float32).reshape(-1), rows)
    return PackedLinear(
        acc_bias,
        scale,
        bias,
        weight=_PACKERS[name](weights.weight),
        density=weights.density,
        block_density=weights.block_density,
    )
