"""The registry of accumulators, by the name of their format and the number of their variant."""

from __future__ import annotations

from sparsert.kernels import accumulate
from sparsert.kernels.registry import Registry

__all__ = ["ACCUMULATORS"]

ACCUMULATORS = Registry("accumulator", 7)

for _first, _name, _kernels in (
    (0, "unstructured", accumulate.accumulate_unstructured),
    (8, "blocks", accumulate.accumulate_blocks),
    (16, "dense", [accumulate.accumulate_dense]),
    (24, "float_sparse", [accumulate.accumulate_float_sparse]),
    (32, "float_dense", [accumulate.accumulate_float_dense]),
):
    for _variant, _kernel in enumerate(_kernels):
        if _kernel is not accumulate.unsupported:
            ACCUMULATORS.add(f"{_name} {_variant}", _first + _variant, _kernel.emit)
