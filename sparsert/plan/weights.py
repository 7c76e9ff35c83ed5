"""Weights: choose a format for each Linear by its real pattern, and pack it once for all shapes."""

from __future__ import annotations

import numpy as np

from sparsert.kernels.formats import FORMATS, Format
from sparsert.kernels.formats.matrix import Rows, float_rows, integer_rows
from sparsert.ops import Linear
from sparsert.ops.steps import PackedLinear, padded

__all__ = ["pack_linear"]


def _cheapest(rows: Rows, floating: bool) -> Format:
    """The cheapest format that can hold a matrix; whether one can takes a look at every weight, so it is asked last."""
    fitting = [format for format in FORMATS.values() if format.floating == floating]
    return next(format for format in sorted(fitting, key=lambda format: format.cost(rows)) if format.accepts(rows))


def pack_linear(op: Linear, wanted: str | None = None) -> PackedLinear:
    """Pack one Linear in the format that is wanted, by default in the one that the cost model finds cheapest."""
    out_features = op.weight.shape[1]
    bias = padded(0.0 if op.bias is None else op.bias, out_features)
    if not op.takes_bytes:
        rows = float_rows(op.weight)
        acc_bias, scale = np.zeros(0, np.int32), np.zeros(0, np.float32)
    else:
        rows = integer_rows(op.weight, op.weight_zero_point if op.weight_zero_point is not None else 0)
        sums, factor = rows.sums, op.weight_scale
        if op.input_quantization is not None:
            sums = -op.input_quantization.unsigned_zero_point * sums
            if op.acc_bias is not None:
                sums = sums + op.acc_bias
            factor = op.acc_scale if op.acc_scale is not None else op.input_quantization.scale * op.weight_scale
        # int32 sums wrap, as ONNX's do
        acc_bias = padded(sums.astype(np.uint64).astype(np.uint32).view(np.int32), out_features, np.int32)
        scale = padded(np.asarray(factor, np.float32).reshape(-1), out_features)
    format = FORMATS[wanted] if wanted else _cheapest(rows, not op.takes_bytes)
    return PackedLinear(
        acc_bias,
        scale,
        bias,
        weight=format.pack(rows.weight),
        kept=format.kept(rows),
        density=rows.density(),
        block_density=rows.density(4),
    )
