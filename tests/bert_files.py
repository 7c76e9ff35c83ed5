"""Random-weight BERT files with a question-answering head, in the forms of exporters: the tests' own generator.

``none`` is what torch.onnx.export (torch 1.12) writes; ``sparseml`` what SparseML's exporters make of a network that
was trained with quantization; ``dynamic`` ONNX Runtime's dynamic quantization as Optimum or ``quantize_dynamic`` write
it; ``qdq`` its static quantization, with QuantizeLinear and DequantizeLinear around each MatMul. The graphs of ``none``
and ``sparseml`` have the nodes, edges, attributes, shapes and dtypes that the exporters of SparseML 1.2, 1.4.4 and 1.9
gave for a tiny BERT. It shares no code with sparsert.synthetic, whose graphs are compared with these.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

LOWEST = float(np.finfo(np.float32).min)
Weights = dict[str, np.ndarray]
Ranges = dict[str, tuple[float, float]]
"""Point of observation -> least and greatest value there."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a file; those that are not given are BERT-base's."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    sizes = {"layers": 12, "hidden": 768, "heads": 12, "ffn": 3072, "vocab": 30522, "max-pos": 512, "seed": 0}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    for name in ("batch", "seq"):
        parser.add_argument(f"--{name}", default="dynamic", help="'dynamic' or a number")
    parser.add_argument("--sparsity", type=float, default=0.0)
    parser.add_argument("--pattern", choices=["unstructured", "block4"], default="unstructured")
    parser.add_argument("--quant", choices=["none", "sparseml", "dynamic", "qdq"], default="none")
    # sparseml: QLinearMatMul (SparseML to 1.5), MatMulInteger (from 1.6), or not quantized
    parser.add_argument("--attn", choices=["qlinear", "integer", "float"], default="qlinear")
    # sparseml: uint8 with zero point 128, or int8 with zero point 0
    parser.add_argument("--wdtype", choices=["uint8", "int8"], default="uint8")
    # dynamic: products of activations too (Optimum), or those with constants alone (quantize_dynamic)
    parser.add_argument("--dyn-attn", choices=["both", "const"], default="both")
    parser.add_argument("--float-emb", action="store_true", help="sparseml, dynamic: float embedding tables")
    parser.add_argument("--per-channel", action="store_true", help="dynamic, qdq: a weight scale for each channel")
    parser.add_argument("--opset", type=int, default=13, choices=[11, 13, 14])
    # finfo.min (transformers from 4.18), or -10000
    parser.add_argument("--mask-value", type=float, default=LOWEST)
    return parser.parse_args(arguments)


def build(options: argparse.Namespace) -> onnx.ModelProto:
    """The model of some options, always the same."""
    weights = make_weights(options)
    ranges = observe(options, weights) if options.quant in ("sparseml", "qdq") else {}
    return Bert(options, weights, options.quant, ranges).build()


class Writer:
    """Collects nodes and initializers. Nodes are called OpType_<counter>, as torch up to 1.12 does it."""

    def __init__(self, opset: int, constant_nodes: bool) -> None:
        self.opset, self.constant_nodes = opset, constant_nodes
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._count = 0
        self._shared: dict[tuple, str] = {}

    def number(self) -> int:
        self._count += 1
        return self._count - 1

    def initializer(self, name: str, array: Any, dtype: type | None = None) -> str:
        if name not in self.initializers:
            self.initializers[name] = numpy_helper.from_array(np.asarray(array, dtype, order="C"), name)
        return name

    def constant(self, value: Any, dtype: type, hint: str) -> str:
        """A small constant: a node as torch writes it, or an initializer that all of its value share (SparseML)."""
        array = np.asarray(value, dtype)
        if self.constant_nodes:
            number = self.number()
            output = f"onnx::{hint}_{number}"
            tensor = numpy_helper.from_array(array)
            self.nodes.append(helper.make_node("Constant", [], [output], f"Constant_{number}", value=tensor))
            return output
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._shared:
            self._shared[key] = self.initializer(f"onnx::{hint}_{self.number()}", array)
        return self._shared[key]

    def op(self, op: str, inputs: Sequence[str], output: str = "", name: str = "", **attributes: Any) -> str:
        return self.ops(op, inputs, [output] if output else 1, name, **attributes)[0]

    def ops(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str] | int, name: str = "", **attributes: Any
    ) -> list[str]:
        """A node of several outputs, by names or by their number."""
        name = name or f"{op}_{self.number()}"
        if isinstance(outputs, int):
            outputs = [f"{name}_o"] if outputs == 1 else [f"{name}_o{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, outputs, name, **attributes))
        return list(outputs)

    def unsqueeze(self, x: str, axis: int) -> str:
        if self.opset >= 13:
            return self.op("Unsqueeze", [x, self.constant([axis], np.int64, "Unsqueeze")])
        return self.op("Unsqueeze", [x], axes=[axis])

    def squeeze(self, x: str, axis: int, output: str) -> str:
        if self.opset >= 13:
            return self.op("Squeeze", [x, self.constant([axis], np.int64, "Squeeze")], output)
        return self.op("Squeeze", [x], output, axes=[axis])

    def halves(self, x: str) -> list[str]:
        if self.opset >= 13:
            return self.ops("Split", [x, self.constant([1, 1], np.int64, "Split")], 2, axis=-1)
        return self.ops("Split", [x], 2, axis=-1, split=[1, 1])

    def reshape(self, x: str, tail: Sequence[int]) -> str:
        """``x.view(x.size(0), x.size(1), *tail)``, as torch traces it."""
        sizes = []
        for axis in (0, 1):
            shape = self.op("Shape", [x])
            size = self.op("Gather", [shape, self.constant(axis, np.int64, "Gather")], axis=0)
            sizes.append(self.unsqueeze(size, 0))
        sizes += [self.initializer(f"onnx::Concat_dim_{size}", [size], np.int64) for size in tail]
        return self.op("Reshape", [x, self.op("Concat", sizes, axis=0)])


def asymmetric_uint8(low: float, high: float) -> tuple[np.float32, int]:
    """Scale and zero point of torch's MinMaxObserver, quint8 per_tensor_affine."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = np.float32(max((high - low) / 255.0, 1e-8))
    return scale, int(np.clip(round(-low / float(scale)), 0, 255))


def symmetric_uint8(low: float, high: float) -> tuple[np.float32, int]:
    """Scale and zero point of torch's MinMaxObserver, quint8 per_tensor_symmetric."""
    return np.float32(max(abs(float(low)), abs(float(high)), 1e-6) / 127.5), 128


def symmetric_int8(weight: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Values and scale of torch's MinMaxObserver, qint8 per_tensor_symmetric."""
    scale = np.float32(max(float(np.abs(weight).max()), 1e-8) / 127.5)
    return np.clip(np.rint(weight / scale), -128, 127).astype(np.int8), scale


def keep_mask(rng: np.random.Generator, shape: tuple[int, int], sparsity: float, pattern: str) -> np.ndarray:
    """Which weights [out, in] stay: an exact number, or exactly many groups of four along ``in``."""
    rows, columns = shape
    width = 4 if pattern == "block4" else 1
    groups = -(-columns // width)
    keep = np.zeros(rows * groups, bool)
    keep[rng.permutation(keep.size)[: keep.size - round(keep.size * sparsity)]] = True
    return np.repeat(keep.reshape(rows, groups), width, axis=1)[:, :columns]


def make_weights(options: argparse.Namespace) -> Weights:
    """All parameters, with torch's names and layout; the six matrices of a layer are pruned, the rest is dense."""
    rng = np.random.default_rng(options.seed)
    hidden, ffn, sparsity = options.hidden, options.ffn, options.sparsity
    weights: Weights = {}

    def normal(shape: int | tuple[int, int], spread: float, mean: float = 0.0) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(spread) + np.float32(mean)

    def norm(name: str) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = normal(hidden, 0.05, 1.0), normal(hidden, 0.05)

    for table, rows in (("word", options.vocab), ("token_type", 2), ("position", options.max_pos)):
        weights[f"bert.embeddings.{table}_embeddings.weight"] = normal((rows, hidden), 0.04)
    norm("bert.embeddings.LayerNorm")
    # Queries and keys give scores of about 1; with more than 0.02 elsewhere all tokens would become one vector within
    # twelve layers, and the noise of int8 would drown the logits. What pruning leaves is larger.
    width = math.sqrt(768 / hidden) if hidden < 768 else 1.0
    growth = min(1.0 / math.sqrt(max(1 - sparsity, 1e-3)), 3.2)
    matrices = [
        ("attention.self.query", hidden, hidden, 0.04),
        ("attention.self.key", hidden, hidden, 0.04),
        ("attention.self.value", hidden, hidden, 0.02),
        ("attention.output.dense", hidden, hidden, 0.02),
        ("intermediate.dense", ffn, hidden, 0.03),
        ("output.dense", hidden, ffn, 0.02),
    ]
    for layer in range(options.layers):
        prefix = f"bert.encoder.layer.{layer}."
        for name, rows, columns, spread in matrices:
            spread *= width
            weight = normal((rows, columns), spread * growth)
            if sparsity > 0:
                keep = keep_mask(rng, (rows, columns), sparsity, options.pattern)
                # Far enough from zero that rounding to int8 leaves the pattern as it is
                least = np.float32(spread * growth * 0.08)
                weight = np.where(np.abs(weight) < least, np.where(weight < 0, -least, least), weight)
                weight = np.where(keep, weight, np.float32(0))
            weights[f"{prefix}{name}.weight"], weights[f"{prefix}{name}.bias"] = weight, normal(rows, 0.05)
        norm(f"{prefix}attention.output.LayerNorm")
        norm(f"{prefix}output.LayerNorm")
    weights["qa_outputs.weight"], weights["qa_outputs.bias"] = normal((2, hidden), 0.03 * width), normal(2, 0.05)
    return weights


class Bert:
    """Writes one model; ``observed`` then names the tensor of each point of observation."""

    def __init__(self, options: argparse.Namespace, weights: Weights, quant: str, ranges: Ranges) -> None:
        self.options, self.weights, self.quant, self.ranges = options, weights, quant, ranges
        # SparseML makes initializers of Constant nodes; torch and ONNX Runtime leave them.
        self.writer = Writer(options.opset, constant_nodes=quant != "sparseml")
        self.observed: dict[str, str] = {}
        self._quantized: dict[str, list[str]] = {}

    # What quantized forms share

    def zero_point(self, value: int) -> str:
        return self.writer.initializer(f"onnx::QuantizeLinear_zp_{value}", value, np.uint8)

    def int8_zero_point(self) -> str:
        return self.writer.initializer("onnx::QuantizeLinear_zp_i8_0", 0, np.int8)

    def quantize(self, x: str, owner: str, scale: np.float32, zero_point: int) -> list[str]:
        """SparseML's [values, scale, zero point]; consumers of a tensor share the node."""
        if x not in self._quantized:
            scale_name = self.writer.initializer(f"{owner}.activation_post_process.scale", scale, np.float32)
            names = [scale_name, self.zero_point(zero_point)]
            self._quantized[x] = [self.writer.op("QuantizeLinear", [x, *names]), *names]
        return self._quantized[x]

    def quantize_dynamically(self, x: str) -> list[str]:
        if x not in self._quantized:
            outputs = [f"{x}_quantized", f"{x}_scale", f"{x}_zero_point"]
            self._quantized[x] = self.writer.ops("DynamicQuantizeLinear", [x], outputs, f"{x}_QuantizeLinear")
        return self._quantized[x]

    def round_trip(self, x: str, point: str) -> str:
        """ONNX Runtime's QuantizeLinear and DequantizeLinear."""
        if x not in self._quantized:
            scale, zero_point = asymmetric_uint8(*self.ranges[point])
            names = [
                self.writer.initializer(f"{x}_scale", scale, np.float32),
                self.writer.initializer(f"{x}_zero_point", zero_point, np.uint8),
            ]
            stem = f"{x}_QuantizeLinear"
            y = self.writer.op("QuantizeLinear", [x, *names], f"{stem}_Output", stem)
            stem = f"{x}_DequantizeLinear"
            self._quantized[x] = [self.writer.op("DequantizeLinear", [y, *names], f"{stem}_Output", stem)]
        return self._quantized[x][0]

    def onnxruntime_weight(self, weight: np.ndarray, stem: str) -> list[str]:
        """[values [in, out], scale, zero point], int8 from -127 to 127, per tensor or output channel."""
        turned = np.ascontiguousarray(weight.T)
        if self.options.per_channel:
            scale = np.maximum(np.abs(turned).max(axis=0), 1e-8).astype(np.float32) / np.float32(127)
        else:
            scale = np.array(max(float(np.abs(turned).max()), 1e-8) / 127.0, np.float32)
        values = np.clip(np.rint(turned / scale), -127, 127)
        return [
            self.writer.initializer(f"{stem}_quantized", values, np.int8),
            self.writer.initializer(f"{stem}_scale", scale),
            self.writer.initializer(f"{stem}_zero_point", np.zeros(scale.shape), np.int8),
        ]

    # x W + b

    def linear(self, x: str, name: str, point: str, output: str = "") -> str:
        writer, weight = self.writer, self.weights[f"{name}.weight"]
        self.observed[point] = x
        if self.quant == "sparseml":
            return self.sparseml_linear(x, name, point, output)
        product = f"{point}/{name}/product"
        bias = writer.initializer(f"{name}.bias", self.weights[f"{name}.bias"])
        if self.quant == "dynamic":
            y = self.dynamic_product(x, weight)
        elif self.quant == "qdq":
            y = self.qdq_product(x, point, product, weight)
        else:
            number = writer.number()
            inputs = [x, writer.initializer(f"onnx::MatMul_w_{number}", weight.T)]
            y = self.observed[product] = writer.op("MatMul", inputs, name=f"MatMul_{number}")
        return writer.op("Add", [bias, y], output)

    def sparseml_linear(self, x: str, name: str, point: str, output: str) -> str:
        writer = self.writer
        # The quantizer of a tensor has the name of the first Linear that reads it.
        x_scale, x_zero = asymmetric_uint8(*self.ranges[point])
        values, _, zero = self.quantize(x, f"{name}.quant", x_scale, x_zero)
        weight, weight_scale = symmetric_int8(self.weights[f"{name}.weight"])
        if self.options.wdtype == "uint8":
            weight, weight_zero = (weight.astype(np.int16) + 128).astype(np.uint8), self.zero_point(128)
        else:
            weight_zero = self.int8_zero_point()
        scale = np.float32(x_scale * weight_scale)
        bias = np.rint(self.weights[f"{name}.bias"].astype(np.float64) / float(scale))
        matmul, add = f"MatMul_{writer.number()}", f"Add_{writer.number()}"
        weight_name = writer.initializer(f"{matmul}.weight_quantized", weight.T)
        bias_name = writer.initializer(f"{add}.bias_quantized", np.clip(bias, -(2**31), 2**31 - 1), np.int32)
        scale_name = writer.initializer(f"{add}.bias_quantized.scale", scale, np.float32)
        inputs = [values, weight_name, zero, weight_zero]
        y = writer.op("MatMulInteger", inputs, f"onnx::{add}_quant", f"{matmul}_quant")
        stem = f"{matmul}_bias_add_quant"
        y = writer.op("Add", [y, bias_name], f"{stem}_output", stem)
        y = writer.op("Cast", [y], f"{stem}_output_cast", f"{stem}_cast", to=TensorProto.FLOAT)
        return writer.op("Mul", [y, scale_name], output, f"{stem}_rescale_mul")

    def dynamic_product(self, x: str, y: str | np.ndarray) -> str:
        """A product with another activation, or with a weight."""
        writer = self.writer
        node = f"MatMul_{writer.number()}"
        a, a_scale, a_zero = self.quantize_dynamically(x)
        if isinstance(y, str):
            b, b_scale, b_zero = self.quantize_dynamically(y)
        else:
            b, b_scale, b_zero = self.onnxruntime_weight(y, f"onnx::{node}_w")
        stem = f"{node}_quant_scales_mul"
        scale = writer.op("Mul", [a_scale, b_scale], f"{stem}:0", stem)
        stem = f"{node}_output_quantized"
        out = writer.op("MatMulInteger", [a, b, a_zero, b_zero], stem, f"{node}_quant")
        out = writer.op("Cast", [out], f"{stem}_cast_output", f"{stem}_cast", to=TensorProto.FLOAT)
        return writer.op("Mul", [out, scale], f"{node}_o", f"{node}_quant_output_scale_mul")

    def qdq_product(self, x: str, point: str, product: str, y: str | np.ndarray, y_point: str = "") -> str:
        """A product with another activation, or with a weight."""
        node = f"MatMul_{self.writer.number()}"
        a = self.round_trip(x, point)
        if isinstance(y, str):
            b = self.round_trip(y, y_point)
        else:
            names = self.onnxruntime_weight(y, f"onnx::{node}_w")
            axis = {"axis": 1} if self.options.per_channel else {}
            stem = f"onnx::{node}_w_DequantizeLinear"
            b = self.writer.op("DequantizeLinear", names, f"{stem}_Output", stem, **axis)
        return self.round_trip(self.writer.op("MatMul", [a, b], f"{node}_o", node), product)

    # The product of two activations

    def product(self, x: str, y: str, points: tuple[str, str, str], owner: str) -> str:
        """``points`` observe both factors and the product."""
        self.observed.update(zip(points[:2], (x, y), strict=True))
        if self.quant == "sparseml" and self.options.attn != "float":
            return self.sparseml_product(x, y, points, owner)
        if self.quant == "dynamic" and self.options.dyn_attn == "both":
            return self.dynamic_product(x, y)
        if self.quant == "qdq":
            return self.qdq_product(x, points[0], points[2], y, points[1])
        self.observed[points[2]] = self.writer.op("MatMul", [x, y])
        return self.observed[points[2]]

    def sparseml_product(self, x: str, y: str, points: tuple[str, str, str], owner: str) -> str:
        writer = self.writer
        x_scale, x_zero = asymmetric_uint8(*self.ranges[points[0]])
        y_scale, y_zero = symmetric_uint8(*self.ranges[points[1]])
        a = self.quantize(x, f"{owner}.input_quant_stubs.0", x_scale, x_zero)
        b = self.quantize(y, f"{owner}.input_quant_stubs.1", y_scale, y_zero)
        scale, zero = asymmetric_uint8(*self.ranges[points[2]])
        stem = f"{owner}.output_quant_stubs.0.activation_post_process.scale"
        out = [writer.initializer(stem, scale, np.float32), self.zero_point(zero)]
        node = f"MatMul_{writer.number()}"
        if self.options.attn == "qlinear":
            values = writer.op("QLinearMatMul", [*a, *b, *out], name=f"{node}_quant")
        else:
            values = writer.op("MatMulInteger", [a[0], b[0], a[2], b[2]], f"{node}_quant", f"{node}_quant")
            stem = f"{node}_quant_cast"
            values = writer.op("Cast", [values], stem, stem, to=TensorProto.FLOAT)
            factor = writer.initializer(f"{node}.quant.output.scale", x_scale * y_scale, np.float32)
            values = writer.op("Mul", [values, factor], name=f"{stem}_rescale_mul")
            values = writer.op("QuantizeLinear", [values, *out])
        return writer.op("DequantizeLinear", [values, *out])

    # The rest of the graph

    def embedding(self, name: str, ids: str) -> str:
        writer, table = self.writer, self.weights[f"{name}.weight"]
        if self.options.float_emb or self.quant not in ("sparseml", "dynamic"):
            return writer.op("Gather", [writer.initializer(f"{name}.weight", table), ids])
        if self.quant == "sparseml":
            values, scale = symmetric_int8(table)
            if self.options.wdtype == "uint8":
                values, zero = (values.astype(np.int16) + 128).astype(np.uint8), self.zero_point(128)
            else:
                zero = self.int8_zero_point()
            rows = writer.op("Gather", [writer.initializer(f"{name}.weight_quant", values), ids])
            scale_name = writer.initializer(f"{name}.weight_fake_quant.scale", scale, np.float32)
            return writer.op("DequantizeLinear", [rows, scale_name, zero])
        scale, point = asymmetric_uint8(table.min(), table.max())
        values = np.clip(np.rint(table / scale) + point, 0, 255).astype(np.uint8)
        rows = writer.op("Gather", [writer.initializer(f"{name}.weight_quantized", values), ids])
        scale_name = writer.initializer(f"{name}.weight_scale", scale, np.float32)
        zero = writer.initializer(f"{name}.weight_zero_point", point, np.uint8)
        return writer.op("DequantizeLinear", [rows, scale_name, zero])

    def layer_norm(self, x: str, name: str) -> str:
        writer = self.writer
        mean = writer.op("ReduceMean", [x], axes=[-1])
        difference = writer.op("Sub", [x, mean])
        square = writer.op("Pow", [difference, writer.constant(2.0, np.float32, "Pow")])
        variance = writer.op("ReduceMean", [square], axes=[-1])
        variance = writer.op("Add", [variance, writer.constant(1e-12, np.float32, "Add")])
        y = writer.op("Div", [difference, writer.op("Sqrt", [variance])])
        y = writer.op("Mul", [y, writer.initializer(f"{name}.weight", self.weights[f"{name}.weight"])])
        return writer.op("Add", [y, writer.initializer(f"{name}.bias", self.weights[f"{name}.bias"])])

    def gelu(self, x: str) -> str:
        writer = self.writer
        y = writer.op("Div", [x, writer.constant(math.sqrt(2.0), np.float32, "Div")])
        y = writer.op("Erf", [y])
        y = writer.op("Add", [y, writer.constant(1.0, np.float32, "Add")])
        y = writer.op("Mul", [x, y])
        return writer.op("Mul", [y, writer.constant(0.5, np.float32, "Mul")])

    def mask(self) -> str:
        """``(1 - attention_mask) * mask_value``, shape [batch, 1, 1, tokens]."""
        writer = self.writer
        mask = writer.unsqueeze(writer.unsqueeze("attention_mask", 1), 2)
        mask = writer.op("Cast", [mask], to=TensorProto.FLOAT)
        mask = writer.op("Sub", [writer.constant(1.0, np.float32, "Sub"), mask])
        return writer.op("Mul", [mask, writer.constant(self.options.mask_value, np.float32, "Mul")])

    def position_ids(self) -> str:
        """``position_ids[:, :tokens]``."""
        writer = self.writer
        tokens = writer.op("Shape", ["input_ids"])
        tokens = writer.op("Gather", [tokens, writer.constant(1, np.int64, "Gather")], axis=0)
        if self.options.opset == 11:  # torch 1.9 keeps "+ past_key_values_length"
            tokens = writer.op("Add", [tokens, writer.constant(0, np.int64, "Add")])
        tokens = writer.unsqueeze(tokens, 0)
        positions = np.arange(self.options.max_pos, dtype=np.int64)[None]
        inputs = [
            writer.initializer("bert.embeddings.position_ids", positions),
            writer.initializer("onnx::Slice_start", [0], np.int64),
            tokens,
            writer.initializer("onnx::Slice_axes", [1], np.int64),
            writer.constant([1], np.int64, "Slice"),
        ]
        return writer.op("Slice", inputs)

    def embeddings(self) -> str:
        positions = self.position_ids()
        words = self.embedding("bert.embeddings.word_embeddings", "input_ids")
        types = self.embedding("bert.embeddings.token_type_embeddings", "token_type_ids")
        x = self.writer.op("Add", [words, types])
        x = self.writer.op("Add", [x, self.embedding("bert.embeddings.position_embeddings", positions)])
        return self.layer_norm(x, "bert.embeddings.LayerNorm")

    def attention(self, x: str, mask: str, layer: int) -> str:
        writer, options = self.writer, self.options
        size = options.hidden // options.heads
        name, point = f"bert.encoder.layer.{layer}.attention.self.", f"{layer}."
        q = self.linear(x, f"{name}query", f"{point}in")
        k = writer.reshape(self.linear(x, f"{name}key", f"{point}in"), [options.heads, size])
        v = writer.reshape(self.linear(x, f"{name}value", f"{point}in"), [options.heads, size])
        v = writer.op("Transpose", [v], perm=[0, 2, 1, 3])
        q = writer.op("Transpose", [writer.reshape(q, [options.heads, size])], perm=[0, 2, 1, 3])
        k = writer.op("Transpose", [k], perm=[0, 2, 3, 1])
        points = (f"{point}q", f"{point}k", f"{point}scores")
        scores = self.product(q, k, points, f"{name}attention_scores_matmul")
        scores = writer.op("Div", [scores, writer.constant(math.sqrt(size), np.float32, "Div")])
        scores = writer.op("Add", [scores, mask])
        shares = writer.op("Softmax", [scores], axis=-1 if options.opset >= 13 else 3)
        points = (f"{point}shares", f"{point}v", f"{point}context")
        context = self.product(shares, v, points, f"{name}context_layer_matmul")
        return writer.reshape(writer.op("Transpose", [context], perm=[0, 2, 1, 3]), [options.hidden])

    def residual(self, x: str) -> str:
        """ONNX Runtime's quantizer of QDQ files lets every consumer of a tensor read it after the round trip."""
        return self._quantized[x][0] if self.quant == "qdq" and x in self._quantized else x

    def layer(self, x: str, mask: str, layer: int) -> str:
        writer, name, point = self.writer, f"bert.encoder.layer.{layer}.", f"{layer}."
        y = self.linear(self.attention(x, mask, layer), f"{name}attention.output.dense", f"{point}attended")
        x = self.layer_norm(writer.op("Add", [y, self.residual(x)]), f"{name}attention.output.LayerNorm")
        y = self.gelu(self.linear(x, f"{name}intermediate.dense", f"{point}middle"))
        y = self.linear(y, f"{name}output.dense", f"{point}activated")
        return self.layer_norm(writer.op("Add", [y, self.residual(x)]), f"{name}output.LayerNorm")

    def build(self) -> onnx.ModelProto:
        options, writer = self.options, self.writer
        mask = self.mask()
        x = self.embeddings()
        for layer in range(options.layers):
            x = self.layer(x, mask, layer)
        start, end = writer.halves(self.linear(x, "qa_outputs", "head", "logits"))
        writer.squeeze(start, 2, "start_logits")
        writer.squeeze(end, 2, "end_logits")
        given = {"batch": options.batch, "sequence": options.seq}
        shape = [name if size == "dynamic" else int(size) for name, size in given.items()]
        kinds = {
            TensorProto.INT64: ("input_ids", "attention_mask", "token_type_ids"),
            TensorProto.FLOAT: ("start_logits", "end_logits"),
        }
        values = [[helper.make_tensor_value_info(name, kind, shape) for name in kinds[kind]] for kind in kinds]
        name = "torch_jit" if options.opset >= 13 else "torch-jit-export"
        graph = helper.make_graph(writer.nodes, name, *values, list(writer.initializers.values()))
        model = helper.make_model(
            graph,
            producer_name="pytorch",
            producer_version="1.12.1",
            opset_imports=[helper.make_opsetid("", options.opset)],
        )
        model.ir_version = 7 if options.opset >= 12 else 6
        return model


def observe(options: argparse.Namespace, weights: Weights) -> Ranges:
    """Least and greatest values in one run of the float model on random ids."""
    free = copy.copy(options)
    free.batch = free.seq = "dynamic"
    bert = Bert(free, weights, "none", {})
    model = bert.build()
    for name in sorted(set(bert.observed.values())):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"])
    tokens = min(64, options.max_pos)
    types = (np.arange(tokens) >= tokens // 2).astype(np.int64)
    feeds = {
        "input_ids": np.random.default_rng(options.seed + 1).integers(0, options.vocab, (2, tokens)),
        "attention_mask": np.ones((2, tokens), np.int64),
        "token_type_ids": np.repeat(types[None], 2, axis=0),
    }
    found = session.run(list(bert.observed.values()), feeds)
    return {point: (float(x.min()), float(x.max())) for point, x in zip(bert.observed, found, strict=True)}
