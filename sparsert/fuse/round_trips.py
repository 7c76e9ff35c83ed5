"""Round trips through bytes that change nothing: quantizers put a pair on every edge, those that only move it too."""

from __future__ import annotations

import numpy as np

from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.ops import Quantization

_MOVES = frozenset("Transpose Reshape Flatten Unsqueeze Squeeze Expand Slice Split Gather Concat".split())
"""Ops that move or repeat elements; the first input holds them, and of a Concat all."""

_PRODUCTS = frozenset(["MatMul", "Gemm"])
"""Ops whose patterns ask for a Dequantize right before them."""


def settle_round_trips(editor: Editor) -> None:
    """Remove pairs of a Quantize and a Dequantize that change nothing.

    A value that was dequantized stays on its grid wherever it is moved, so a second pair of equal parameters gives back
    what it gets; it stays only where a product reads it. Then a pair before pairs that are alike is not needed. A guard
    against NaN behind a Dequantize has nothing to do.
    """
    products = {name for node in editor.nodes(*_PRODUCTS) for name in node.outputs}
    for node in editor.nodes("IsNaN"):
        if editor.alive(node):
            _drop_guard(editor, node)
    for back in editor.nodes("Dequantize", fused=True):
        pair = editor.fused_producer(back.inputs[0], "Quantize")
        if pair is None or not _same(back, pair.fused.quantization) or not _on_grid(editor, pair.inputs[0], back):
            continue
        if back.outputs[0] in editor.outputs or not _read_by_product(editor, back.outputs[0]):
            _step_over(editor, back, pair)
    for back in editor.nodes("Dequantize", fused=True):
        pair = editor.fused_producer(back.inputs[0], "Quantize")
        if pair is None or not _same(back, pair.fused.quantization):
            continue
        if pair.inputs[0] in products:  # whose pattern has a place for it
            continue
        if _moved(editor, back.outputs[0]) and _only_quantized(editor, back.outputs[0], back.fused.quantization):
            _step_over(editor, back, pair)


def _step_over(editor: Editor, back: Node, pair: Node) -> None:
    if editor.alias(back, pair.inputs[0]):
        editor.sweep(pair.outputs)


def _same(node: Node, quantization: Quantization) -> bool:
    return bool(node.fused.quantization.same_as(quantization))


def _moving(editor: Editor, value: str) -> list[str]:
    """The values whose elements make up ``value``, if a node moves them there."""
    node = editor.producer(value, *_MOVES)
    if node is None:
        return []
    names = node.inputs if node.op == "Concat" else node.inputs[:1]
    return [] if any(editor.is_constant(name) for name in names) else names


def _on_grid(editor: Editor, value: str, pair: Node) -> bool:
    """Whether all elements of a value come from Dequantize nodes with the parameters of ``pair``."""
    back = editor.fused_producer(value, "Dequantize")
    if back is not None:
        return back is not pair and _same(pair, back.fused.quantization)
    names = _moving(editor, value)
    return bool(names) and all(_on_grid(editor, name, pair) for name in names)


def _read_by_product(editor: Editor, value: str) -> bool:
    return any(reader.op in _PRODUCTS and not editor.is_fused(reader) for reader in editor.readers(value))


def _moved(editor: Editor, value: str) -> bool:
    """Whether somebody moves the value; a Quantize right behind a pair is none of this pass."""
    return any(reader.op in _MOVES and not editor.is_fused(reader) for reader in editor.readers(value))


def _only_quantized(editor: Editor, value: str, quantization: Quantization) -> bool:
    """Whether all that becomes of a value, wherever it is moved, is a round trip with these parameters."""
    readers = editor.readers(value)
    if value in editor.outputs or not readers:
        return False
    for reader in readers:
        if editor.is_fused(reader):
            if reader.op != "Quantize" or not _same(reader, quantization):
                return False
            if not all(last.op == "Dequantize" for last in editor.readers(reader.outputs[0])):
                return False
        elif reader.op not in _MOVES or reader.op == "Concat" or value in reader.inputs[1:]:
            return False
        elif not all(_only_quantized(editor, name, quantization) for name in reader.outputs if name):
            return False
    return True


def _drop_guard(editor: Editor, test: Node) -> None:
    """Remove ``Where(IsNaN(x), number, x)`` around a value that was dequantized."""
    (value,), where = test.inputs, editor.sole_reader(test.outputs[0])
    back = editor.fused_producer(value, "Dequantize")
    if where is None or where.op != "Where" or back is None or not np.isfinite(back.fused.quantization.scale).all():
        return
    if where.inputs[0] == test.outputs[0] and where.inputs[2] == value and editor.scalar(where.inputs[1]) is not None:
        if editor.facts.same_shape(where.outputs[0], value):
            editor.alias(where, value)
            editor.sweep(test.outputs)
