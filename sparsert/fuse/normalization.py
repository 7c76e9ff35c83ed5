"""Layer normalization: the native op and the chain of nine, or of eight without a shift."""

from __future__ import annotations

import numpy as np

from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.graph.known import attribute
from sparsert.graph.matching import mean_of, squared
from sparsert.ops import LayerNorm


def fuse_layer_norm(editor: Editor) -> None:
    """Replace normalizations over the last axis whose gamma and beta are constant."""
    for node in editor.nodes("LayerNormalization"):
        _fuse_native(editor, node)
    for node in editor.nodes("Sqrt"):
        if editor.alive(node):
            _fuse_chain(editor, node)


def _fuse_native(editor: Editor, node: Node) -> None:
    rank = editor.facts.rank(node.inputs[0])
    axis = attribute(node, "axis", -1)
    if axis != -1 and (rank is None or axis != rank - 1):
        return
    if any(name in editor.outputs or editor.readers(name) for name in node.outputs[1:] if name):
        return
    if not editor.is_float(node.inputs[0]):
        return
    gamma = editor.vector(node.inputs[1], None)
    if gamma is None:
        return
    beta = editor.vector(node.inputs[2], gamma.size) if len(node.inputs) > 2 and node.inputs[2] else gamma * 0
    if beta is not None:
        epsilon = float(attribute(node, "epsilon", 1e-5))
        editor.emit(LayerNorm(gamma, beta, epsilon), [node.inputs[0]], node.outputs[0], [node])


def _centred(editor: Editor, value: str) -> tuple[str, list[Node]] | None:
    """Match ``x - mean(x)``, also taken to float64, as torch does between halves; return x and the nodes."""
    cast = editor.producer(value, "Cast")
    if cast is not None and editor.facts.dtype(value) == np.float64:
        found = _centred(editor, cast.inputs[0])
        return None if found is None else (found[0], [*found[1], cast])
    node = editor.producer(value, "Sub")
    mean = mean_of(editor, node.inputs[1]) if node else None
    if node is None or mean is None or mean.inputs[0] != node.inputs[0]:
        return None
    return node.inputs[0], [mean, node]


def _fuse_chain(editor: Editor, sqrt: Node) -> None:
    add = editor.producer(sqrt.inputs[0], "Add")
    operands = editor.split_constant(add) if add else None
    epsilon = editor.scalar(operands[1]) if operands else None
    variance = mean_of(editor, operands[0]) if operands else None
    square = squared(editor, variance.inputs[0]) if variance else None
    centred = _centred(editor, square[0]) if square else None
    divide = editor.sole_reader(sqrt.outputs[0])
    if add is None or variance is None or square is None or centred is None or epsilon is None or divide is None:
        return
    if divide.op != "Div" or divide.inputs[1] != sqrt.outputs[0]:
        return
    numerator = _centred(editor, divide.inputs[0])
    if numerator is None or numerator[0] != centred[0] or not editor.is_float(centred[0]):
        return
    scale = editor.sole_reader(divide.outputs[0])
    back = [scale] if scale is not None and scale.op == "Cast" else []
    scale = editor.sole_reader(back[0].outputs[0]) if back else scale
    if scale is None or scale.op != "Mul" or editor.is_fused(scale):
        return
    gamma = _vector(editor, scale, editor.channels(centred[0]))
    if gamma is None or not editor.is_float(scale.outputs[0]):
        return
    inner, last, beta = [*centred[1], square[1], variance, add, sqrt, *numerator[1], divide, *back], scale, gamma * 0
    shift = editor.sole_reader(scale.outputs[0])
    if shift is not None and shift.op == "Add" and not editor.is_fused(shift):
        found = _vector(editor, shift, gamma.size)
        if found is not None:
            inner, last, beta = [*inner, scale], shift, found
    if _private(editor, inner, last):
        editor.emit(LayerNorm(gamma, beta, float(epsilon)), [centred[0]], last.outputs[0], [*inner, last])


def _vector(editor: Editor, node: Node, size: int | None) -> np.ndarray | None:
    """Return the constant operand of a node if it has one number a channel."""
    operands = editor.split_constant(node)
    return editor.vector(operands[1], size) if operands else None


def _private(editor: Editor, inner: list[Node], root: Node) -> bool:
    """Whether nobody but the pattern reads what the pattern computes on its way."""
    members = {id(node) for node in [*inner, root]}
    return all(
        name not in editor.outputs and all(id(reader) in members for reader in editor.readers(name))
        for node in inner
        for name in node.outputs
    )
