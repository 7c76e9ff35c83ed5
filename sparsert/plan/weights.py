"""Weights: choose a format for each Linear by its real pattern, and pack it once for all shapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsert.graph.fused import Linear
from sparsert.kernels.accumulate import BLOCK_ROWS
from sparsert.kernels.jit import TIER
from sparsert.kernels.matrix import float_rows, integer_rows
from sparsert.kernels.pack import (
    PackedWeight,
    pack_blocks,
    pack_dense,
    pack_float_dense,
    pack_float_sparse,
    pack_unstructured,
)

__all__ = ["PackedLinear", "pack_linear", "unsigned_zero_point"]

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


@dataclass(frozen=True)
class PackedLinear:
    """A packed matrix and the per-row constants of its epilogue, padded to whole blocks of rows.

    ``acc_bias`` is what is added to the raw accumulator sum(x8 * w8): the file's integer bias minus the input's zero
    point times the column sums. In the dynamic form it holds the column sums alone (the zero point comes at run time).
    """

    weight: PackedWeight
    acc_bias: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    density: float
    block_density: float

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + self.acc_bias.nbytes + self.scale.nbytes + self.bias.nbytes


def unsigned_zero_point(dtype: np.dtype, zero_point: np.ndarray | int) -> int:
    """Zero point of the uint8 form: int8 activations run as uint8, shifted by 128."""
    return int(zero_point) + (128 if np.dtype(dtype) == np.int8 else 0)


def _cheapest(costs: dict[str, float]) -> str:
    rates = _RATES[TIER.rates]
    return min(costs, key=lambda name: costs[name] / rates[name])


def _padded(values: np.ndarray | float, rows: int, dtype: type) -> np.ndarray:
    padded = np.zeros(-(-rows // BLOCK_ROWS) * BLOCK_ROWS, dtype)
    padded[:rows] = values
    return padded


def pack_linear(op: Linear) -> PackedLinear:
    """Pack one Linear in the format that the cost model finds cheapest."""
    rows = op.weight.shape[1]
    bias = _padded(0.0 if op.bias is None else op.bias, rows, np.float32)
    if op.weight.dtype == np.float32:
        weights = float_rows(op.weight)
        name = _cheapest({"float_sparse": weights.density, "float_dense": 1.0})
        none = np.zeros(0, np.float32)
        packed = _PACKERS[name](weights.weight)
        return PackedLinear(packed, none, none, bias, weights.density, weights.block_density)
    weights = integer_rows(op.weight, op.weight_zero_point if op.weight_zero_point is not None else 0)
    name = _cheapest({"unstructured": weights.density, "blocks": weights.block_density, "dense": 1.0})
    column_sums = weights.sums
    if op.input_quantization is None:
        acc_bias, scale = column_sums, op.weight_scale
    else:
        quantization = op.input_quantization
        acc_bias = -unsigned_zero_point(quantization.dtype, quantization.zero_point) * column_sums
        if op.acc_bias is not None:
            acc_bias = acc_bias + op.acc_bias
        scale = op.acc_scale if op.acc_scale is not None else quantization.scale * op.weight_scale
    wrapped = acc_bias.astype(np.uint64).astype(np.uint32).view(np.int32)  # int32 sums wrap, as ONNX's do
    return PackedLinear(
        _PACKERS[name](weights.weight),
        _padded(wrapped, rows, np.int32),
        _padded(np.asarray(scale, np.float32).reshape(-1) if np.ndim(scale) else scale, rows, np.float32),
        bias,
        weights.density,
        weights.block_density,
    )
