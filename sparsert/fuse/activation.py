"""GELU and SiLU in their spellings, and the plain activations."""

from __future__ import annotations

import math

from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.graph.known import attribute
from sparsert.graph.widen import HALVES
from sparsert.ops import Activation, Gelu

_CLOSE = 1e-4
"""Relative tolerance for sqrt(2) and its kin: files hold anything between 5 and 9 digits."""


def fuse_activations(editor: Editor) -> None:
    """Replace native and spelled-out GELU and SiLU, then Relu and Tanh."""
    for node in editor.nodes("Gelu"):
        if editor.is_float(node.inputs[0]):
            approximate = attribute(node, "approximate", "none")
            editor.emit(Gelu(approximate), [node.inputs[0]], node.outputs[0], [node])
    for node in editor.nodes("Erf", "Tanh"):
        if editor.alive(node):
            _fuse_gelu(editor, node)
    for node in editor.nodes("Sigmoid"):
        _fuse_quick_gelu(editor, node)
    for node in editor.nodes("Sigmoid", "Swish"):
        if editor.alive(node):
            _fuse_silu(editor, node)
    for node in editor.nodes("Relu", "Tanh"):
        if editor.alive(node) and editor.is_float(node.inputs[0]) and editor.facts.rank(node.inputs[0]) in (2, 3):
            editor.emit(Activation(node.op.lower()), [node.inputs[0]], node.outputs[0], [node])


def _fuse_quick_gelu(editor: Editor, node: Node) -> None:
    """Match ``x * sigmoid(1.702 x)``, the activation of CLIP."""
    inner, product = _scaled(editor, node.inputs[0], 1.702), editor.sole_reader(node.outputs[0])
    if inner is None or product is None or editor.is_fused(product) or product.op != "Mul":
        return
    x = inner[0]
    if sorted(product.inputs) == sorted((x, node.outputs[0])) and editor.is_float(x):
        editor.emit(Gelu("sigmoid"), [x], product.outputs[0], [inner[1], node, product])


def _fuse_silu(editor: Editor, node: Node) -> None:
    """Match ``x * sigmoid(x)``, and the native op with alpha 1."""
    x, product = node.inputs[0], node
    if node.op == "Sigmoid":
        reader = editor.sole_reader(node.outputs[0])
        if reader is None or editor.is_fused(reader) or reader.op != "Mul":
            return
        if sorted(reader.inputs) != sorted((x, node.outputs[0])):
            return
        product = reader
    elif attribute(node, "alpha", 1.0) != 1.0:
        return
    if editor.is_float(x) and editor.facts.rank(x) in (2, 3):
        editor.emit(Activation("silu"), [x], product.outputs[0], [node, product])


def _scaled(editor: Editor, value: str, factor: float) -> tuple[str, Node] | None:
    """Match ``x * factor`` or ``x / (1 / factor)``."""
    node = editor.producer(value, "Mul", "Div")
    operands = editor.split_constant(node) if node else None
    number = editor.scalar(operands[1]) if operands else None
    if node is None or operands is None or number is None or number == 0:
        return None
    if node.op == "Div":
        if operands[1] != node.inputs[1]:
            return None
        factor = 1 / factor
    return (operands[0], node) if _is(number, factor) else None


def _is(number: float, factor: float) -> bool:
    """Whether a number is meant to be ``factor``, with a few digits, or in half precision as the file once had it."""
    return math.isclose(number, factor, rel_tol=_CLOSE) or any(number == float(half.type(factor)) for half in HALVES)


def _erf_argument(editor: Editor, node: Node) -> tuple[str, list[Node]] | None:
    inner = _scaled(editor, node.inputs[0], math.sqrt(0.5))
    return (inner[0], [inner[1]]) if inner else None


def _tanh_argument(editor: Editor, node: Node) -> tuple[str, list[Node]] | None:
    """Match ``sqrt(2 / pi) * (x + 0.044715 x^3)``."""
    outer = _scaled(editor, node.inputs[0], math.sqrt(2 / math.pi))
    add = editor.producer(outer[0], "Add") if outer else None
    if outer is None or add is None or len(add.inputs) != 2:
        return None
    for x, other in (add.inputs, add.inputs[::-1]):
        cubic = _scaled(editor, other, 0.044715)
        power = editor.producer(cubic[0], "Pow") if cubic else None
        if cubic and power is not None and power.inputs[0] == x and editor.scalar(power.inputs[1]) == 3:
            return x, [power, cubic[1], add, outer[1]]
    return None


def _fuse_gelu(editor: Editor, node: Node) -> None:
    """From Erf or Tanh: add 1, then up to three products whose other factors are x and 0.5, in any order."""
    matched = _erf_argument(editor, node) if node.op == "Erf" else _tanh_argument(editor, node)
    if matched is None or not editor.is_float(matched[0]):
        return
    x, inner = matched
    add = editor.sole_reader(node.outputs[0])
    operands = editor.split_constant(add) if add is not None and add.op == "Add" and not editor.is_fused(add) else None
    if add is None or operands is None or editor.scalar(operands[1]) != 1:
        return
    inner = [*inner, node, add]
    value, want_x, want_half = add.outputs[0], True, True
    while want_x or want_half:
        product = editor.sole_reader(value)
        if product is None or product.op != "Mul" or editor.is_fused(product):
            return
        other = product.inputs[1] if product.inputs[0] == value else product.inputs[0]
        half = _scaled(editor, other, 0.5)
        if want_half and editor.scalar(other) == 0.5:
            want_half = False
        elif want_x and other == x:
            want_x = False
        elif want_x and want_half and half is not None and half[0] == x:
            want_x = want_half = False
            inner.append(half[1])
        else:
            return
        inner.append(product)
        value = product.outputs[0]
    editor.emit(Gelu("none" if node.op == "Erf" else "tanh"), [x], value, inner)
