"""Heads and joints: selection of a token or a feature, products, and the residual addition."""

from __future__ import annotations

import numpy as np

from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.graph.known import Unknown, attribute
from sparsert.graph.shape_rules import slices
from sparsert.ops import Add, Multiply, Scale, SelectFeature, SelectToken


def fuse_heads(editor: Editor) -> None:
    """Replace what picks one token or one feature out of (B, S, H)."""
    for node in editor.nodes("Gather", "Squeeze", "Reshape"):
        if not editor.alive(node) or not editor.is_float(node.outputs[0]) or editor.facts.rank(node.outputs[0]) != 2:
            continue
        picked = _gathered(editor, node) if node.op == "Gather" else _squeezed(editor, node)
        if picked is None:
            continue
        source, axis, index, nodes = picked
        if editor.facts.rank(source) != 3 or editor.is_constant(source) or axis not in (1, 2):
            continue
        fused = SelectToken(index) if axis == 1 else SelectFeature(index)
        editor.emit(fused, [source], node.outputs[0], nodes)


def _gathered(editor: Editor, node: Node) -> tuple[str, int, int, list[Node]] | None:
    """Match a Gather with a scalar index."""
    index = editor.scalar(node.inputs[1])
    if index is None or editor.facts.rank(node.inputs[1]) != 0:
        return None
    return node.inputs[0], attribute(node, "axis", 0) % 3, int(index), [node]


def _squeezed(editor: Editor, node: Node) -> tuple[str, int, int, list[Node]] | None:
    """Match one slice of a Split, Slice or Gather whose dimension of 1 is then removed."""
    before, after = editor.facts.shape(node.inputs[0]), editor.facts.shape(node.outputs[0])
    source = editor.producer(node.inputs[0], "Split", "Slice", "Gather")
    if before is None or after is None or source is None or len(before) != 3 or len(after) != 2:
        return None
    axes = [axis for axis in (1, 2) if before[axis] == 1 and (*before[:axis], *before[axis + 1 :]) == after]
    if len(axes) != 1:
        return None
    try:
        start = _start(editor, source, node.inputs[0], axes[0])
    except Unknown:
        return None
    return None if start is None else (source.inputs[0], axes[0], start, [source, node])


def _start(editor: Editor, source: Node, value: str, axis: int) -> int | None:
    """Return where along the axis the one element lies that ``value`` holds."""
    if source.op == "Gather":
        index = editor.scalar(source.inputs[1])
        return int(index) if index is not None and attribute(source, "axis", 0) % 3 == axis else None
    if source.op == "Slice":
        cuts = slices(editor.facts, source)
        start, _, step = cuts.get(axis, (None, None, 0))
        return start if list(cuts) == [axis] and step == 1 and isinstance(start, int) else None
    if attribute(source, "axis", 0) % 3 != axis:
        return None
    first = 0
    for output in source.outputs:
        if output == value:
            return first
        size = editor.facts.need(output)[axis]
        if not isinstance(size, int):
            return None
        first += size
    return None


def fuse_scales(editor: Editor) -> None:
    """Replace products of an activation and a constant vector, one number per feature, that no other pattern took."""
    for node in editor.nodes("Mul"):
        operands = editor.split_constant(node)
        if operands is None or not editor.is_float(operands[0]) or editor.facts.rank(operands[0]) not in (2, 3):
            continue
        size = editor.channels(operands[0])
        factors = editor.vector(operands[1], size) if size is not None else None
        if factors is None or factors.dtype != np.float32 or not editor.facts.same_shape(operands[0], node.outputs[0]):
            continue
        editor.emit(Scale(np.ascontiguousarray(factors)), [operands[0]], node.outputs[0], [node])


def fuse_additions(editor: Editor) -> None:
    """Replace additions of two activations of one shape, or of one activation and a constant vector per feature."""
    for node in editor.nodes("Add"):
        if (
            len(node.inputs) != 2
            or not editor.is_float(node.outputs[0])
            or editor.facts.rank(node.outputs[0]) not in (2, 3)
        ):
            continue
        operands = editor.split_constant(node)
        if operands is None:
            if not any(editor.is_constant(name) for name in node.inputs) and editor.facts.same_shape(*node.inputs):
                editor.emit(Add(), list(node.inputs), node.outputs[0], [node])
            continue
        value, constant = operands
        size = editor.channels(value)
        vector = editor.vector(constant, size) if size is not None else None
        if vector is None or vector.dtype != np.float32 or not editor.facts.same_shape(value, node.outputs[0]):
            continue
        name = editor.fresh(f"{constant}.vector")
        editor.constants[name] = np.ascontiguousarray(vector)
        editor.emit(Add(), [value, name], node.outputs[0], [node])


def fuse_products(editor: Editor) -> None:
    """Replace products of two activations of one shape."""
    for node in editor.nodes("Mul"):
        if not editor.is_float(node.outputs[0]) or editor.facts.rank(node.outputs[0]) not in (2, 3):
            continue
        if not any(editor.is_constant(name) for name in node.inputs) and editor.facts.same_shape(*node.inputs):
            editor.emit(Multiply(), list(node.inputs), node.outputs[0], [node])
