"""Products with a weight matrix: float32, or bytes whose quantization is static or dynamic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsert.errors import InputShapeError
from sparsert.graph.ir import Node
from sparsert.graph.quantization import Quantization
from sparsert.graph.widen import HALVES, widened
from sparsert.ops.base import Builder, FusedOp
from sparsert.ops.steps import PackedLinear, Stage, Step

__all__ = ["Linear", "centred", "product_type", "row_blocks"]

# Elements of one block of rows: 8 MiB of float64, which stays in a last-level cache with the result beside it.
_BLOCK = 1 << 20

# A product of two centred bytes is at most 255 * 255, so sums of this many are integers below 2**24, exact in float32.
_EXACT_IN_FLOAT32 = (1 << 24) // (255 * 255)


def row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices over ``rows`` rows of ``width`` elements, each of about ``_BLOCK`` elements."""
    step = max(1, _BLOCK // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def product_type(terms: int) -> type[np.floating[Any]]:
    """The float type in which a sum of so many products of centred bytes is exact: 2**53 holds any number of them."""
    return np.float32 if terms <= _EXACT_IN_FLOAT32 else np.float64


def centred(x: np.ndarray, zero_point: np.ndarray | None, kind: type[np.floating[Any]]) -> np.ndarray:
    """``x - zero_point`` exactly, in a type that BLAS multiplies."""
    return x.astype(kind) if zero_point is None else np.subtract(x, zero_point, dtype=kind, casting="same_kind")


@dataclass(frozen=True)
class Linear(FusedOp):
    """y = x W + b, exactly as the file computes it.

    inputs
        float       : [x float32]
        int8 static : [x uint8/int8], with ``input_quantization``
        int8 dynamic: [x uint8, x_scale, x_zero_point] from a DynamicQuantize, ``input_quantization`` None
    outputs: [float32 (..., N)]

    float: ``y = x @ weight + bias``.
    int8 : ``acc = (x - zp_x) @ (weight - weight_zero_point) + acc_bias`` in exact int32, then
    ``y = float32(acc) * acc_scale + bias``; in the dynamic form ``acc_scale`` is ``x_scale * weight_scale``.
    """

    weight: np.ndarray
    """(K, N), float32, float16, bfloat16, int8 or uint8, as stored in the file (zero point not removed)."""
    weight_zero_point: np.ndarray | None = None
    """() or (N,) integer array for int8 forms."""
    weight_scale: np.ndarray | None = None
    """() or (N,) float32; None in the static form when the file states only the product ``acc_scale``."""
    input_quantization: Quantization | None = None
    acc_bias: np.ndarray | None = None
    """(N,) int32, added to the accumulator before scaling (SparseML form)."""
    acc_scale: np.ndarray | None = None
    """() or (N,) float32: the file's rescale constant (or float32(x_scale * weight_scale)); None if dynamic."""
    bias: np.ndarray | None = None
    """(N,) float32, added after scaling."""
    stored_as: str = ""
    """The type that the file has the weight in, where it is another."""
    keeps_lead = True
    layer_kind = "Linear"

    @property
    def takes_bytes(self) -> bool:
        return self.weight.dtype.itemsize == 1

    @property
    def in_channels(self) -> int:
        return int(self.weight.shape[0])

    def out_channels(self, sizes: Sequence[int | None]) -> int:
        return int(self.weight.shape[1])

    def fits(self, sizes: Sequence[int | None]) -> bool:
        if self.input_quantization is not None and not self.input_quantization.scalar:
            return False
        if self.weight.ndim != 2 or self.weight.dtype not in {*HALVES, *map(np.dtype, ("f4", "i1", "u1"))}:
            return False
        return super().fits(sizes)

    def compute(
        self, x: np.ndarray, x_scale: np.ndarray | None = None, x_zero_point: np.ndarray | None = None
    ) -> np.ndarray:
        in_features, out_features = self.weight.shape
        if x.ndim == 0 or x.shape[-1] != in_features:
            raise InputShapeError(
                f"Linear: expected an input of shape (..., {in_features}), got {x.shape}: the engine's inputs, or the "
                "matrix in the file, are of another size than the model's other nodes expect."
            )
        y = np.empty((*x.shape[:-1], out_features), np.float32)
        rows_in, rows_out = x.reshape(-1, in_features), y.reshape(-1, out_features)
        if not self.takes_bytes:
            np.matmul(rows_in, widened(self.weight), out=rows_out)
        else:
            scale: Any = self.acc_scale
            if self.input_quantization is not None:
                x_zero_point = self.input_quantization.zero_point
            else:
                scale = np.multiply(x_scale, self.weight_scale, dtype=np.float32)  # type: ignore[arg-type]
            kind = product_type(in_features)
            weight = centred(self.weight, self.weight_zero_point, kind)
            for block in row_blocks(len(rows_in), max(in_features, out_features)):
                accumulator = (centred(rows_in[block], x_zero_point, kind) @ weight).astype(np.int64)
                if self.acc_bias is not None:
                    accumulator += self.acc_bias
                # int32 is the type of the accumulator in ONNX: a sum beyond it wraps.
                np.multiply(accumulator.astype(np.int32).astype(np.float32), scale, out=rows_out[block])
        if self.bias is not None:
            y += self.bias
        return y

    def byte_form(self, builder: Builder, node: Node) -> str:
        return builder.packed(node).weight.form

    def lower(self, builder: Builder, node: Node) -> None:
        packed = builder.packed(node)
        weight = packed.weight
        x = builder.buffer(node.inputs[0], weight.form)
        step = Step("linear", [x], rows=weight.out_features, linear=packed)
        if not self.takes_bytes:
            if self.bias is not None:
                step.stages.append(Stage("bias", vector=packed.bias))
        elif self.input_quantization is None:
            tokens = builder.buffer(node.inputs[1])
            step.stages.append(Stage("dequantize_dynamic", epilogue=packed, parameters=tokens))
        else:
            step.stages.append(Stage("dequantize", epilogue=packed))
        builder.produce(step, node.outputs[0])

    def details(self, packed: PackedLinear | None, tier: str) -> dict[str, Any]:
        assert packed is not None
        element = "u8s8" if self.takes_bytes else "f32"
        return {
            "kernel": f"{packed.weight.format} {element} {tier}",
            "weight_format": packed.weight.format.removeprefix("float_"),
            "shape": tuple(self.weight.shape),
            "sparsity": 1 - packed.density,
            "block_sparsity": 1 - packed.block_density,
            "bytes": packed.nbytes,
            "macs_per_token": round(packed.density * self.weight.size),
            "note": self._note(),
        }

    def _note(self) -> str:
        if self.takes_bytes:
            return "dynamic quantization" if self.input_quantization is None else ""
        stored = self.stored_as or ("" if self.weight.dtype == np.float32 else self.weight.dtype.name)
        return f"stored as {stored}, runs as float32" if stored else ""
