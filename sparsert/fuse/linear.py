"""Matrix products with a constant matrix: float, int8 with static and int8 with dynamic quantization."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sparsert.fuse.weight_only import match_weight_only
from sparsert.graph.editor import Editor, QuantizedConstant
from sparsert.graph.ir import Node
from sparsert.graph.known import attribute
from sparsert.graph.widen import HALVES, widened
from sparsert.ops import Linear, Quantization, Quantize


def fuse_linear(editor: Editor) -> None:
    """Replace every product with a constant (K, N) matrix, its rescaling and its bias."""
    for node in editor.nodes("MatMul", "Gemm", "MatMulInteger", "QLinearMatMul"):
        if editor.alive(node):
            {
                "MatMul": _fuse_matmul,
                "Gemm": _fuse_gemm,
                "MatMulInteger": _fuse_integer,
                "QLinearMatMul": _fuse_qlinear,
            }[node.op](editor, node)


def _tokens(editor: Editor, value: str) -> bool:
    return editor.facts.rank(value) in (2, 3)


def _with_bias(editor: Editor, value: str, out_features: int) -> tuple[str, np.ndarray | None, list[Node]]:
    """Follow a value into the Add of its bias; return the sum's name, the bias, and the Add."""
    add = editor.sole_reader(value)
    if add is None or add.op != "Add" or editor.is_fused(add):
        return value, None, []
    operands = editor.split_constant(add)
    bias = editor.vector(operands[1], out_features) if operands else None
    if bias is None or bias.dtype != np.float32 or not editor.facts.same_shape(value, add.outputs[0]):
        return value, None, []
    return add.outputs[0], bias, [add]


def _static(editor: Editor, x: str, weight: QuantizedConstant | None) -> tuple[str, Linear, list[Node]] | None:
    """Match a product of a dequantized activation and a dequantized (K, N) weight."""
    back = editor.fused_producer(x, "Dequantize")
    if back is None or weight is None or weight.stored.ndim != 2 or weight.axis == 0:
        return None
    inputs, weights = back.fused.quantization, weight.quantization
    linear = Linear(
        weight=weight.stored,
        weight_zero_point=weights.zero_point,
        weight_scale=weights.scale,
        input_quantization=inputs,
        acc_scale=(inputs.scale * weights.scale).astype(np.float32),
    )
    return back.inputs[0], linear, [back]


def _float_matrix(editor: Editor, value: str) -> np.ndarray | None:
    """Return a constant matrix of floats as stored, or None: a malformed file may have another type beside floats."""
    matrix = editor.constants[value] if value in editor.constants else editor.constant(value)
    return matrix if matrix is not None and (matrix.dtype == np.float32 or matrix.dtype in HALVES) else None


def _in_bytes(editor: Editor, x: str, stored: QuantizedConstant | None) -> tuple[list[str], Linear, list[Node]] | None:
    """Inputs and Linear of a product with a matrix in bytes, and the nodes that it absorbs."""
    static = _static(editor, x, stored)
    if static is not None:
        return [static[0]], *static[1:]
    weight_only = match_weight_only(editor, x, stored)
    return None if weight_only is None else (*weight_only, [])


def _fuse_matmul(editor: Editor, node: Node) -> None:
    x, w = node.inputs
    if not editor.is_constant(w) or editor.is_constant(x) or editor.facts.rank(w) != 2:
        return
    if not _tokens(editor, x) or not editor.is_float(x):
        return
    product = _in_bytes(editor, x, editor.quantized.get(w))
    if product is None:
        weight = _float_matrix(editor, w)
        if weight is None:
            return
        product = [x], Linear(weight), []
    inputs, linear, absorbed = product
    out, bias, adds = _with_bias(editor, node.outputs[0], linear.weight.shape[1])
    editor.emit(replace(linear, bias=bias), inputs, out, [*absorbed, node, *adds])


def _fuse_gemm(editor: Editor, node: Node) -> None:
    x, w = node.inputs[:2]
    if not editor.is_constant(w) or editor.is_constant(x) or editor.facts.rank(w) != 2 or attribute(node, "transA", 0):
        return
    if not editor.is_float(x):
        return
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    transposed = bool(attribute(node, "transB", 0))
    stored = editor.quantized.get(w)
    if stored is not None and transposed:
        stored = stored.transposed([1, 0])
    product = _in_bytes(editor, x, stored) if alpha == 1 else None
    if product is None:
        weight = _float_matrix(editor, w)
        if weight is None:
            return
        weight = weight.T if transposed else weight
        product = [x], Linear(weight if alpha == 1 else widened(weight) * np.float32(alpha)), []
    inputs, linear, absorbed = product
    size = linear.weight.shape[1]
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = editor.constant(node.inputs[2])
        if bias is None or bias.size not in (1, size) or (bias.ndim and bias.size != bias.shape[-1]):
            return
        bias = np.broadcast_to(bias.reshape(-1), (size,))
        linear, out = replace(linear, bias=bias if beta == 1 else bias * np.float32(beta)), node.outputs[0]
        adds: list[Node] = []
    else:
        out, bias, adds = _with_bias(editor, node.outputs[0], size)
        linear = replace(linear, bias=bias)
    editor.emit(linear, inputs, out, [*absorbed, node, *adds])


@dataclass
class Rescaled:
    """What follows a MatMulInteger: bias in int32, conversion to float, one scale or the product of two."""

    output: str
    acc_bias: np.ndarray | None
    scale: np.ndarray | None
    scale_factors: tuple[str, str] | None
    nodes: list[Node]


def rescaled(editor: Editor, product: Node) -> Rescaled | None:
    """Follow a MatMulInteger through ``[Add] -> Cast -> Mul``; None if someone else reads on the way."""
    value, nodes = product.outputs[0], [product]
    node = editor.sole_reader(value)
    acc_bias = None
    if node is not None and node.op == "Add" and not editor.is_fused(node):
        operands = editor.split_constant(node)
        acc_bias = editor.vector(operands[1], None) if operands else None
        if acc_bias is None or acc_bias.dtype != np.int32:
            return None
        nodes.append(node)
        node = editor.sole_reader(node.outputs[0])
    if node is None or node.op != "Cast" or not editor.is_float(node.outputs[0]):
        return None
    nodes.append(node)
    mul = editor.sole_reader(node.outputs[0])
    if mul is None or mul.op != "Mul" or mul.inputs[0] == mul.inputs[1]:
        return None
    other = mul.inputs[1] if mul.inputs[0] == node.outputs[0] else mul.inputs[0]
    scale, scale_factors = editor.constant(other), None
    if scale is None:
        scales = editor.producer(other, "Mul")
        if scales is None or len(scales.inputs) != 2:
            return None
        scale_factors = (scales.inputs[0], scales.inputs[1])
        nodes.append(scales)
    elif scale.dtype != np.float32 or (scale.size != 1 and scale.size != scale.shape[-1]):
        return None
    else:
        scale = scale.reshape(()) if scale.size == 1 else scale.reshape(-1)
    return Rescaled(mul.outputs[0], acc_bias, scale, scale_factors, [*nodes, mul])


def _zero_point(editor: Editor, node: Node, position: int, like: np.dtype) -> np.ndarray | None:
    """Read a constant zero point of a MatMulInteger as shape () or (N,); absent means zero."""
    if len(node.inputs) <= position or not node.inputs[position]:
        return np.zeros((), like)
    zero_point = editor.constants.get(node.inputs[position])
    if zero_point is None:
        return None
    return zero_point.reshape(()) if zero_point.size == 1 else zero_point.reshape(-1)


def input_quantization(editor: Editor, value: str, zero_point: np.ndarray) -> Quantization | None:
    """Describe a byte tensor whose zero point a MatMulInteger states; the scale is that of its producer, else 1."""
    dtype = editor.facts.dtype(value)
    if dtype is None or zero_point.size != 1:
        return None
    source = editor.producers.get(value)
    while source is not None and source.op in ("Reshape", "Transpose", "Gather", "Squeeze", "Unsqueeze"):
        source = editor.producers.get(source.inputs[0])
    if source is not None and source.op == "Quantize" and editor.is_fused(source):
        found: Quantization = source.fused.quantization
        if found.dtype == dtype and found.zero_point == zero_point:
            return found
    return Quantization(np.ones((), np.float32), zero_point.reshape(()).astype(dtype), dtype)


def _fuse_integer(editor: Editor, node: Node) -> None:
    x, w = node.inputs[:2]
    weight = editor.constants.get(w)
    if weight is None or weight.ndim != 2 or not _tokens(editor, x) or editor.is_constant(x):
        return
    zeros = _zero_point(editor, node, 3, weight.dtype)
    tail = rescaled(editor, node)
    if tail is None or zeros is None or zeros.size not in (1, weight.shape[1]):
        return
    size = weight.shape[1]
    if tail.acc_bias is not None and tail.acc_bias.size != size:
        return
    linear = Linear(weight=weight, weight_zero_point=zeros, acc_bias=tail.acc_bias)
    dynamic = editor.fused_producer(x, "DynamicQuantize")
    if tail.scale is not None:
        zero_point = _zero_point(editor, node, 2, weight.dtype)
        quantization = input_quantization(editor, x, zero_point) if zero_point is not None else None
        if quantization is None or tail.scale.size not in (1, size):
            return
        linear = replace(linear, input_quantization=quantization, acc_scale=tail.scale)
        inputs = [x]
    elif dynamic is not None and tail.scale_factors is not None and dynamic.outputs[0] == x:
        a, b = tail.scale_factors
        x_scale, w_scale = (b, a) if editor.is_constant(a) else (a, b)
        scales = editor.constant(w_scale)
        if (
            x_scale != dynamic.outputs[1]
            or scales is None
            or len(node.inputs) < 3
            or node.inputs[2] != dynamic.outputs[2]
        ):
            return
        if scales.size not in (1, size) or scales.size != (scales.shape[-1] if scales.ndim else 1):
            return
        linear = replace(linear, weight_scale=scales.reshape(()) if scales.size == 1 else scales.reshape(-1))
        inputs = [x, dynamic.outputs[1], dynamic.outputs[2]]
    else:
        return
    out, bias, adds = _with_bias(editor, tail.output, size)
    editor.emit(replace(linear, bias=bias), inputs, out, [*tail.nodes, *adds])


def _fuse_qlinear(editor: Editor, node: Node) -> None:
    """QLinearMatMul with a constant matrix: a Linear, then its output quantized."""
    x, sx, zx, w, sw, zw, sy, zy = node.inputs
    weight = editor.constants.get(w)
    if weight is None or weight.ndim != 2 or not _tokens(editor, x) or editor.is_constant(x):
        return
    inputs = editor.quantization(sx, zx)
    weights = editor.quantization(sw, zw, weight.shape[1])
    outputs = editor.quantization(sy, zy)
    if inputs is None or weights is None or outputs is None:
        return
    linear = Linear(
        weight=weight,
        weight_zero_point=weights.zero_point,
        weight_scale=weights.scale,
        input_quantization=inputs,
        acc_scale=(inputs.scale * weights.scale).astype(np.float32),
    )
    out = node.outputs[0]
    real = editor.fresh(f"{out}.real")
    editor.facts.shapes[real] = editor.facts.need(out)
    editor.facts.dtypes[real] = np.dtype(np.float32)
    editor.emit(linear, [x], real, [node])
    editor.emit(Quantize(outputs), [real], out, [node])
