"""QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear of activations, per tensor."""

from __future__ import annotations

import logging

import numpy as np

from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.ops import Dequantize, DynamicQuantize, Quantization, Quantize

logger = logging.getLogger(__name__)


def fuse_quantization(editor: Editor) -> None:
    """Give every per-tensor quantization of an activation its fused op; merge equal ones, drop round trips of bytes."""
    infinite: list[str] = []
    for node in editor.nodes("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"):
        if not editor.alive(node) or node.domain not in ("", "ai.onnx"):
            continue
        if node.op == "DynamicQuantizeLinear":
            if editor.is_float(node.inputs[0]):
                editor.emit(DynamicQuantize(), [node.inputs[0]], list(node.outputs), [node])
            continue
        quantization = _parameters(editor, node)
        if quantization is None:
            continue
        if not np.isfinite(quantization.scale).all():
            infinite.append(node.name)
        fused = Quantize(quantization) if node.op == "QuantizeLinear" else Dequantize(quantization)
        editor.emit(fused, [node.inputs[0]], node.outputs[0], [node])
    if infinite:
        logger.warning(
            "%s: the scale of quantization '%s' and %d more is not finite, so what they compute is NaN or infinite, "
            "whoever runs the file. A quantizer that meets a mask of minus infinity writes such scales: export with "
            "attn_implementation='eager', or quantize with op_types_to_quantize=['MatMul'].",
            editor.graph.path or editor.graph.name,
            infinite[0],
            len(infinite) - 1,
        )
    for node in editor.nodes("Quantize", fused=True):
        back = editor.fused_producer(node.inputs[0], "Dequantize")
        if back is not None and back.fused.quantization.same_as(node.fused.quantization):
            editor.alias(node, back.inputs[0])
    _merge_equal(editor)


def _parameters(editor: Editor, node: Node) -> Quantization | None:
    zero_point = node.inputs[2] if len(node.inputs) > 2 else ""
    quantization = editor.quantization(node.inputs[1], zero_point)
    if quantization is None:
        return None
    stored = node.outputs[0] if node.op == "QuantizeLinear" else node.inputs[0]
    real = node.inputs[0] if node.op == "QuantizeLinear" else node.outputs[0]
    if not editor.is_float(real):
        return None
    dtype = editor.facts.dtype(stored)
    if dtype != quantization.dtype:
        if zero_point or dtype is None or dtype.kind not in "iu" or dtype.itemsize != 1:
            return None
        quantization = Quantization(quantization.scale, quantization.zero_point.astype(dtype), dtype)
    return quantization


def _merge_equal(editor: Editor) -> None:
    """Q, K and V often quantize one tensor with equal parameters, each on its own: one node is enough."""
    seen: dict[tuple[str, str], list[Node]] = {}
    for node in editor.nodes("Quantize", "Dequantize", "DynamicQuantize", fused=True):
        twins = seen.setdefault((node.op, node.inputs[0]), [])
        for twin in twins:
            if node.op == "DynamicQuantize":
                continue
            if twin.fused.quantization.same_as(node.fused.quantization) and editor.alias(node, twin.outputs[0]):
                twin.sources.extend(name for name in node.sources if name not in twin.sources)
                break
        else:
            twins.append(node)
