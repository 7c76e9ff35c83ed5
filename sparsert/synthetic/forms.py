"""How each exporter spells a Linear, a product of activations and an embedding."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from sparsert.synthetic.calibrate import Ranges
from sparsert.synthetic.writer import Writer

__all__ = ["FORMS", "DynamicForm", "FloatForm", "QdqForm", "SparseMLForm"]

INT32_LIMITS = (-(2**31), 2**31 - 1)


def _a_symmetric_uint8(low: float, high: float) -> tuple[np.float32, int]:
    """Scale and zero point of a uint8 range that includes zero (torch's MinMaxObserver, per_tensor_affine)."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32(max((high - low) / 255.0, 1e-8))
    return scale, int(np.clip(round(-low / float(scale)), 0, 255))


def _symmetric_uint8(low: float, high: float) -> tuple[np.float32, int]:
    """Scale of a uint8 range around zero point 128 (torch's MinMaxObserver, quint8 per_tensor_symmetric)."""
    return np.float32(max(abs(low), abs(high), 1e-6) / 127.5), 128


def _sparseml_int8(weight: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Weight as uint8 with zero point 128, and its scale: int8 symmetric -128..127, then moved by 128."""
    scale = np.float32(max(float(np.abs(weight).max()), 1e-8) / 127.5)
    stored = np.clip(np.rint(weight / scale), -128, 127)
    return (stored + 128).astype(np.uint8), scale


def _ort_int8(weight: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Weight as int8 symmetric -127..127, and its scale, per tensor."""
    scale = np.float32(max(float(np.abs(weight).max()), 1e-8) / 127.0)
    return np.clip(np.rint(weight / scale), -127, 127).astype(np.int8), scale


class FloatForm:
    """Float: MatMul and ``Add(bias, y)``; the other forms replace what they quantize."""

    def __init__(self, writer: Writer, weights: dict[str, np.ndarray], ranges: Ranges) -> None:
        self.writer, self.weights, self.ranges = writer, weights, ranges
        self.quantized: dict[str, list[str]] = {}
        """Value -> what its quantizing node gives; consumers of a value share one node."""

    def embedding(self, name: str, ids: str) -> str:
        """Rows of a table."""
        return self.writer.op(
            "Gather", [self.writer.initializer(f"{name}.weight", self.weights[f"{name}.weight"]), ids]
        )

    def linear(self, x: str, name: str, point: str, output: str = "") -> str:
        """``x W + b``; ``point`` is where ``x`` was observed."""
        bias = self.writer.initializer(f"{name}.bias", self.weights[f"{name}.bias"])
        return self.writer.op("Add", [bias, self.weight_product(x, name, point)], output)

    def weight_product(self, x: str, name: str, point: str) -> str:
        """``x W``, the part of a Linear before the bias."""
        node = f"MatMul_{self.writer.number()}"
        weight = self.writer.initializer(f"onnx::{node}_weight", self.weights[f"{name}.weight"].T)
        return self.writer.op("MatMul", [x, weight], name=node)

    def product(self, a: str, b: str, points: tuple[str, str, str], owner: str) -> str:
        """``a b`` of two activations; ``points`` are where a, b and the product were observed."""
        return self.writer.op("MatMul", [a, b])

    def residual(self, x: str) -> str:
        """The value that the residual connection reads."""
        return x

    def scalar(self, name: str, value: object, dtype: type) -> str:
        """A named scalar initializer."""
        return self.writer.initializer(name, value, dtype)


class SparseMLForm(FloatForm):
    """SparseML 1.3-1.5 ("pruned90_quant-none"): static uint8, MatMulInteger with an int32 bias, QLinearMatMul."""

    def zero_point(self, value: int) -> str:
        """Zero points of one value are one initializer, as the exporter's deduplication leaves them."""
        return self.scalar(f"onnx::QuantizeLinear_zero_point_{value}", value, np.uint8)

    def quantize(self, x: str, owner: str, scale: np.float32, zero_point: int) -> list[str]:
        """QuantizeLinear: [values, scale, zero point]."""
        if x not in self.quantized:
            names = [
                self.scalar(f"{owner}.activation_post_process.scale", scale, np.float32),
                self.zero_point(zero_point),
            ]
            self.quantized[x] = [self.writer.op("QuantizeLinear", [x, *names]), *names]
        return self.quantized[x]

    def embedding(self, name: str, ids: str) -> str:
        stored, scale = _sparseml_int8(self.weights[f"{name}.weight"])
        rows = self.writer.op("Gather", [self.writer.initializer(f"{name}.weight_quant", stored), ids])
        scale_name = self.scalar(f"{name}.weight_fake_quant.scale", scale, np.float32)
        return self.writer.op("DequantizeLinear", [rows, scale_name, self.zero_point(128)])

    def linear(self, x: str, name: str, point: str, output: str = "") -> str:
        writer = self.writer
        x_scale, x_zero = _a_symmetric_uint8(*self.ranges[point])
        values, _, zero = self.quantize(x, f"{name}.quant", x_scale, x_zero)
        stored, scale = _sparseml_int8(self.weights[f"{name}.weight"])
        product_scale = np.float32(x_scale * scale)
        bias = np.rint(self.weights[f"{name}.bias"].astype(np.float64) / float(product_scale))
        matmul, add = f"MatMul_{writer.number()}", f"Add_{writer.number()}"
        weight_name = writer.initializer(f"{matmul}.weight_quantized", stored.T)
        bias_name = writer.initializer(f"{add}.bias_quantized", np.clip(bias, *INT32_LIMITS), np.int32)
        scale_name = self.scalar(f"{add}.bias_quantized.scale", product_scale, np.float32)
        y = writer.op(
            "MatMulInteger", [values, weight_name, zero, self.zero_point(128)], f"onnx::{add}_quant", f"{matmul}_quant"
        )
        stem = f"{matmul}_bias_add_quant"
        y = writer.op("Add", [y, bias_name], f"{stem}_output", stem)
        y = writer.op("Cast", [y], f"{stem}_output_cast", f"{stem}_cast", to=TensorProto.FLOAT)
        return writer.op("Mul", [y, scale_name], output, f"{stem}_rescale_mul")

    def product(self, a: str, b: str, points: tuple[str, str, str], owner: str) -> str:
        a_names = self.quantize(a, f"{owner}.input_quant_stubs.0", *_a_symmetric_uint8(*self.ranges[points[0]]))
        b_names = self.quantize(b, f"{owner}.input_quant_stubs.1", *_symmetric_uint8(*self.ranges[points[1]]))
        scale, zero = _a_symmetric_uint8(*self.ranges[points[2]])
        scale_name = self.scalar(f"{owner}.output_quant_stubs.0.activation_post_process.scale", scale, np.float32)
        out_names = [scale_name, self.zero_point(zero)]
        node = f"MatMul_{self.writer.number()}_quant"
        product = self.writer.op("QLinearMatMul", [*a_names, *b_names, *out_names], name=node)
        return self.writer.op("DequantizeLinear", [product, *out_names])


class DynamicForm(FloatForm):
    """ONNX Runtime dynamic int8 as Optimum writes it: ranges at run time, products of activations quantized too."""

    def quantize(self, x: str) -> list[str]:
        """DynamicQuantizeLinear: [values, scale, zero point]."""
        if x not in self.quantized:
            outputs = [f"{x}_quantized", f"{x}_scale", f"{x}_zero_point"]
            self.quantized[x] = self.writer.op_many("DynamicQuantizeLinear", [x], outputs, f"{x}_QuantizeLinear")
        return self.quantized[x]

    def embedding(self, name: str, ids: str) -> str:
        table = self.weights[f"{name}.weight"]
        scale, zero = _a_symmetric_uint8(float(table.min()), float(table.max()))
        stored = np.clip(np.rint(table / scale) + zero, 0, 255).astype(np.uint8)
        rows = self.writer.op("Gather", [self.writer.initializer(f"{name}.weight_quantized", stored), ids])
        scale_name = self.scalar(f"{name}.weight_scale", scale, np.float32)
        zero_name = self.scalar(f"{name}.weight_zero_point", zero, np.uint8)
        return self.writer.op("DequantizeLinear", [rows, scale_name, zero_name])

    def weight_product(self, x: str, name: str, point: str) -> str:
        node = f"MatMul_{self.writer.number()}"
        quantized = self.quantize(x)
        stored, scale = _ort_int8(self.weights[f"{name}.weight"])
        weight = [
            self.writer.initializer(f"onnx::{node}_weight_quantized", stored.T),
            self.scalar(f"onnx::{node}_weight_scale", scale, np.float32),
            self.scalar(f"onnx::{node}_weight_zero_point", 0, np.int8),
        ]
        return self.integer_product(quantized, weight, node)

    def product(self, a: str, b: str, points: tuple[str, str, str], owner: str) -> str:
        node = f"MatMul_{self.writer.number()}"
        return self.integer_product(self.quantize(a), self.quantize(b), node)

    def integer_product(self, a: list[str], b: list[str], node: str) -> str:
        """MatMulInteger of two [values, scale, zero point], scaled back to float."""
        writer = self.writer
        scale = writer.op("Mul", [a[1], b[1]], f"{node}_quant_scales_mul:0", f"{node}_quant_scales_mul")
        y = writer.op("MatMulInteger", [a[0], b[0], a[2], b[2]], f"{node}_output_quantized", f"{node}_quant")
        cast = f"{node}_output_quantized_cast"
        y = writer.op("Cast", [y], f"{cast}_output", cast, to=TensorProto.FLOAT)
        return writer.op("Mul", [y, scale], f"{node}_output", f"{node}_quant_output_scale_mul")


class QdqForm(FloatForm):
    """ONNX Runtime static int8, QDQ format, MatMul only: QuantizeLinear and DequantizeLinear around every MatMul."""

    def pair(self, x: str, point: str) -> str:
        """QuantizeLinear then DequantizeLinear; every consumer of ``x`` reads the latter."""
        if x not in self.quantized:
            scale, zero = _a_symmetric_uint8(*self.ranges[point])
            names = [
                self.scalar(f"{x}_scale", scale, np.float32),
                self.scalar(f"{x}_zero_point", zero, np.uint8),
            ]
            q, dq = f"{x}_QuantizeLinear", f"{x}_DequantizeLinear"
            values = self.writer.op("QuantizeLinear", [x, *names], f"{q}_Output", q)
            self.quantized[x] = [self.writer.op("DequantizeLinear", [values, *names], f"{dq}_Output", dq)]
        return self.quantized[x][0]

    def weight_product(self, x: str, name: str, point: str) -> str:
        node = f"MatMul_{self.writer.number()}"
        x = self.pair(x, point)
        stored, scale = _ort_int8(self.weights[f"{name}.weight"])
        stem = f"onnx::{node}_weight"
        names = [
            self.writer.initializer(f"{stem}_quantized", stored.T),
            self.scalar(f"{stem}_scale", scale, np.float32),
            self.scalar(f"{stem}_zero_point", 0, np.int8),
        ]
        dq = f"{stem}_DequantizeLinear"
        weight = self.writer.op("DequantizeLinear", names, f"{dq}_Output", dq)
        return self.pair(self.writer.op("MatMul", [x, weight], name=node), f"{point}/{name}")

    def product(self, a: str, b: str, points: tuple[str, str, str], owner: str) -> str:
        node = f"MatMul_{self.writer.number()}"
        inputs = [self.pair(a, points[0]), self.pair(b, points[1])]
        return self.pair(self.writer.op("MatMul", inputs, name=node), points[2])

    def residual(self, x: str) -> str:
        return self.quantized.get(x, [x])[0]


FORMS: dict[str, type[FloatForm]] = {
    "none": FloatForm,
    "quant": SparseMLForm,
    "qdq": QdqForm,
    "dynamic": DynamicForm,
}
"""Form by the quantization of a recipe."""
