"""Quantization of activations, per tensor: static, and dynamic from the values themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsert.graph.ir import Node
from sparsert.graph.quantization import Quantization
from sparsert.kernels.table import TOKEN
from sparsert.ops.base import Builder, FusedOp, Operand
from sparsert.ops.lookup import Lookup
from sparsert.ops.steps import PackedLinear, Stage, Step, quantization_parameters

__all__ = ["Dequantize", "DynamicQuantize", "Quantize", "range_to_uint8"]

_EXTREMA_ROWS = 2
"""Of a float tile: room for two floats for each piece of a tile, of which there are at most as many as tokens."""

_STORED = quantization_parameters(Quantization(np.float32(1), np.uint8(0), np.dtype(np.uint8)))
"""For sinks of what is quantized already, and still float."""


@dataclass(frozen=True)
class Quantize(FusedOp):
    """inputs: [x float32] -> outputs: [uint8/int8 of the same shape]. ONNX QuantizeLinear, per tensor."""

    quantization: Quantization
    keeps_lead = True
    quantizes = True

    def fits(self, sizes: Sequence[int | None]) -> bool:
        return self.quantization.in_kernels and sizes[0] is not None

    def compute(self, x: np.ndarray) -> np.ndarray:
        """ONNX QuantizeLinear (https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html)."""
        return self.quantization.quantize(x)

    def operands(self, builder: Builder, node: Node, value: str) -> list[Operand]:
        """None of its own: the producer of its input writes the bytes that its readers want."""
        builder.absorb(node)
        record, (result,) = quantization_parameters(self.quantization), node.outputs
        return [Operand(result, reader.fused.byte_form(builder, reader), record) for reader in builder.readers(result)]

    def stage(self, builder: Builder, node: Node, value: str) -> tuple[Stage, str] | None:
        """Quantizing and going back at once, if that is all that becomes of the bytes."""
        (result,) = node.outputs
        readers = builder.readers(result)
        if builder.needed(result) or len(readers) != 1:
            return None
        (last,) = readers
        if isinstance(last.fused, Lookup) and self.quantization.same_as(last.fused.quantization):
            builder.absorb(last)
            return last.fused.quantized_stage(), last.outputs[0]
        if not isinstance(last.fused, Dequantize) or not self.quantization.same_as(last.fused.quantization):
            return None
        builder.absorb(last)
        return Stage("fake_quantize", parameters=quantization_parameters(self.quantization)), last.outputs[0]

    def lower(self, builder: Builder, node: Node) -> None:
        """Nothing is left to do, see :meth:`operands`."""


@dataclass(frozen=True)
class Dequantize(FusedOp):
    """inputs: [x uint8/int8] -> outputs: [float32]. ONNX DequantizeLinear, per tensor."""

    quantization: Quantization
    keeps_lead = True

    @property
    def takes_bytes(self) -> bool:
        return True

    def fits(self, sizes: Sequence[int | None]) -> bool:
        return self.quantization.in_kernels and sizes[0] is not None

    def compute(self, x: np.ndarray) -> np.ndarray:
        """ONNX DequantizeLinear: ``(x - zero_point) * scale``."""
        return self.quantization.dequantize(x)

    def lower(self, builder: Builder, node: Node) -> None:
        x = builder.buffer(node.inputs[0], "rows")
        record = quantization_parameters(self.quantization)
        builder.produce(Step("rows", [x], source="dequantize", rows=x.rows, parameters=record), node.outputs[0])


def range_to_uint8(low: np.float32, high: np.float32) -> Quantization:
    """Scale and zero point of ONNX DynamicQuantizeLinear for a range ``low <= 0 <= high``."""
    scale = np.float32((high - low) / np.float32(255))
    if scale == 0:
        scale = np.float32(1)
    zero_point = np.rint(np.clip(-low / scale, 0, 255))
    return Quantization(np.array(scale, np.float32), np.array(zero_point).astype(np.uint8), np.dtype(np.uint8))


@dataclass(frozen=True)
class DynamicQuantize(FusedOp):
    """inputs: [x float32] -> outputs: [uint8 values, float32 scale (), uint8 zero point ()].

    ONNX DynamicQuantizeLinear: minimum and maximum are taken over the whole tensor, so every item of a batch
    depends on the others. Where sequences lie end to end, each has a range of its own, as if it were the batch.
    """

    quantizes = True

    @property
    def couples(self) -> bool:
        return True

    def compute(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ONNX DynamicQuantizeLinear (https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html)."""
        zero = np.float32(0)
        found = range_to_uint8(x.min(initial=zero), x.max(initial=zero))
        return found.quantize(x), found.scale, found.zero_point

    def lower(self, builder: Builder, node: Node) -> None:
        """Extrema of every piece, then the parameters of every token, then the bytes."""
        x, (values, scale, _) = builder.buffer(node.inputs[0]), node.outputs
        extrema = builder.new_buffer(f"{values}@extrema", "floats", _EXTREMA_ROWS)
        tokens = builder.new_buffer(scale, "floats", len(TOKEN))
        builder.add(Step("extrema", [x], [extrema], rows=x.rows))
        builder.add(Step("dynamic", [extrema], [tokens]))
        forms = dict.fromkeys(reader.fused.byte_form(builder, reader) for reader in builder.readers(values))
        stages = [
            Stage(form, parameters=_STORED, destination=builder.new_buffer(values, form, x.rows)) for form in forms
        ]
        builder.add(Step("rows", [x], stages=stages, source="quantize", rows=x.rows, parameters=tokens))

    def details(self, packed: PackedLinear | None, tier: str) -> dict[str, Any]:
        note = "a range for each sequence in run_ragged, one for the whole batch in run"
        return {**super().details(packed, tier), "note": note}
