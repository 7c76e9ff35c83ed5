"""Tables of all that an op on single values can give for bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsert.graph.ir import Node
from sparsert.graph.quantization import Quantization
from sparsert.kernels.records import PARAMETERS, TABLE_PARAMETERS
from sparsert.ops.base import Builder, FusedOp
from sparsert.ops.steps import Stage, Step, quantization_parameters

__all__ = ["Lookup"]


@dataclass(frozen=True)
class Lookup(FusedOp):
    """inputs: [x uint8/int8] -> outputs: [float32 f(x)]; ``table`` is f for the 256 bytes from the least up.

    ``quantization`` is that of x.
    """

    quantization: Quantization
    table: np.ndarray
    keeps_lead = True

    @property
    def takes_bytes(self) -> bool:
        return True

    def fits(self, sizes: Sequence[int | None]) -> bool:
        return self.quantization.in_kernels and sizes[0] is not None

    def compute(self, x: np.ndarray) -> np.ndarray:
        return self.table[x.astype(np.int16) - np.iinfo(self.quantization.dtype).min]

    def quantized_stage(self) -> Stage:
        """The stage that takes x as it was before it was quantized."""
        record = np.zeros(1, TABLE_PARAMETERS)
        for name in PARAMETERS.names or ():
            record[name] = quantization_parameters(self.quantization)[name]
        record["table"] = self.table
        return Stage("lookup", parameters=record)

    def lower(self, builder: Builder, node: Node) -> None:
        x = builder.buffer(node.inputs[0], "rows")
        record = quantization_parameters(self.quantization)
        stages = [self.quantized_stage()]
        step = Step("rows", [x], stages=stages, source="dequantize", rows=x.rows, parameters=record)
        builder.produce(step, node.outputs[0])
