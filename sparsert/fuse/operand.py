"""Operands of attention: from a product back to the (B, S, H) value that Q, K or V are split from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from sparsert.fuse.axes import SELECTIONS, Axes
from sparsert.fuse.packed import columns_of
from sparsert.fuse.rotary import Rotation, emit_rotation, match_rotation
from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.graph.known import Shape, attribute
from sparsert.ops import Quantization

__all__ = ["MOVES", "Operand", "agrees", "constant_factor", "operand"]

MOVES = ("Transpose", "Reshape", "Unsqueeze", "Squeeze")
_BATCH, _TOKENS, _HIDDEN, _JOINED = 0, 1, 2, 8


@dataclass
class Operand:
    """One of Q, K, V: the (B, S, H) float value that the heads are split from and what happens until the product."""

    base: str
    axes: Axes
    quantization: Quantization | None
    dynamic: bool
    scale: float
    rotation: Rotation | None
    nodes: list[Node]

    def shape(self, editor: Editor) -> Shape:
        """Shape of what the heads are made of: all of ``base``, or some of its columns."""
        *lead, channels = editor.facts.need(self.base)
        return (*lead, len(self.axes.columns(_HIDDEN, channels)))  # type: ignore[arg-type]

    def emit(self, editor: Editor, heads: int) -> str | None:
        """The (B, S, H) value that attention reads; None if columns or positions cannot be had."""
        channels = editor.facts.need(self.base)[-1]
        value = columns_of(editor, self.base, self.axes.columns(_HIDDEN, channels))  # type: ignore[arg-type]
        if value is None or self.rotation is None:
            return value
        return emit_rotation(editor, value, self.rotation, heads)


@dataclass
class _Walk:
    """What has been passed on the way back."""

    quantization: Quantization | None = None
    dynamic: bool = False
    scale: float = 1.0
    before: float = 1.0
    """Of the scale, what comes before the quantization."""
    rotation: Rotation | None = None
    moves: list[tuple[Node | None, str]] = field(default_factory=list)
    """Nodes that move elements, with their outputs; None stands for the rotation."""
    nodes: list[Node] = field(default_factory=list)


def operand(
    editor: Editor, value: str, stated: Quantization | None, in_bytes: bool, exact: bool, transposed: bool
) -> Operand | None:
    """Walk back from an operand of a product to the (B, S, H) value that its heads are split from.

    Parameters
    ----------
    editor : Editor
    value : str
        What the product reads: (B, A, S, D), or (B, A, D, S) if ``transposed``.
    stated : Quantization, optional
        What the product says of its bytes.
    in_bytes : bool
        Whether the product reads bytes.
    exact : bool
        Whether ``stated`` has the scale too.
    transposed : bool
    """
    walk = _Walk()
    while True:
        if not in_bytes and editor.facts.rank(value) == 3 and editor.is_float(value):
            axes = _forward(editor, value, walk, transposed)
            if axes is not None:
                found = walk.quantization
                if found is not None and walk.before != 1.0:
                    found = replace(found, scale=np.float32(found.scale / walk.before))
                return Operand(value, axes, found, walk.dynamic, walk.scale, walk.rotation, walk.nodes[::-1])
        node = editor.producers.get(value)
        if node is None:
            return None
        if editor.is_fused(node):
            if (
                node.op == "Dequantize"
                and not in_bytes
                and (walk.quantization is None or walk.quantization.same_as(node.fused.quantization))
            ):
                walk.quantization, in_bytes = node.fused.quantization, True
            elif node.op == "Quantize" and in_bytes and agrees(stated, node.fused.quantization, exact):
                if walk.quantization is not None and not walk.quantization.same_as(node.fused.quantization):
                    return None
                walk.quantization, in_bytes = node.fused.quantization, False
            elif node.op == "DynamicQuantize" and in_bytes and value == node.outputs[0]:
                walk.dynamic, in_bytes = True, False
            else:
                return None
            walk.nodes.append(node)
            value = node.inputs[0]
            continue
        before = _before(editor, node, value, walk, in_bytes)
        if before is None:
            return None
        value = before


def _before(editor: Editor, node: Node, value: str, walk: _Walk, in_bytes: bool) -> str | None:
    """Step over a move, a product with a number or a rotation; None if it is anything else."""
    if node.op in MOVES or node.op in SELECTIONS:
        walk.moves.append((node, value))
        walk.nodes.append(node)
        return node.inputs[0]
    joined = _joined(editor, node, value, walk) if node.op == "Concat" else None
    if joined is not None or in_bytes:
        return joined
    factor = constant_factor(editor, node)
    if factor is not None:
        walk.nodes.append(node)
        if walk.quantization is None:
            walk.scale *= factor[1]
        else:
            walk.before *= factor[1]
        return factor[0]
    rotation = match_rotation(editor, value) if walk.rotation is None else None
    if rotation is None:
        return None
    walk.rotation = rotation
    walk.moves.append((None, value))
    walk.nodes += rotation.nodes
    return rotation.x


def _joined(editor: Editor, node: Node, value: str, walk: _Walk) -> str | None:
    """Step over a Concat along an axis of its own, if one of the values that it joins is selected behind it."""
    shape = editor.facts.shape(value)
    axis = attribute(node, "axis") % len(shape) if shape else 0
    if shape is None or shape[axis] != len(node.inputs):
        return None
    axes, _ = _moved(editor, value, walk)
    chosen = [] if axes is None else axes.columns(axis, len(node.inputs)).tolist()
    if len(chosen) != 1:
        return None
    walk.moves.append((node, value))
    walk.nodes.append(node)
    return node.inputs[chosen[0]]


def _moved(editor: Editor, value: str, walk: _Walk) -> tuple[Axes | None, Axes | None]:
    """The axes of a value behind all moves, and where they have been when it was rotated."""
    shape = editor.facts.shape(value)
    axes = None if shape is None else Axes.of(shape, editor.facts.sizes)
    rotated: Axes | None = None
    for node, output in walk.moves[::-1]:
        if axes is None:
            break
        if node is None:
            rotated = axes
        elif node.op == "Concat":
            axes = axes.joined(attribute(node, "axis") % len(axes.axes), _JOINED, len(node.inputs))
        else:
            axes = axes.after(node, editor.facts, output)
    return axes, rotated


def _forward(editor: Editor, value: str, walk: _Walk, transposed: bool) -> Axes | None:
    """The axes behind all moves if they are those of split heads, and a rotation has been within heads."""
    axes, rotated = _moved(editor, value, walk)
    if axes is None or not _split(axes, transposed):
        return None
    if walk.rotation is not None:
        tokens = [atom for atom in axes.axes[3 if transposed else 2] if atom.size != (1, ())]
        place, channels = walk.rotation.token_axis, axes.axes[2 if transposed else 3]
        if rotated is None or rotated.axes[3] != channels or list(rotated.axes[place]) != tokens:
            return None
    return axes


def _split(axes: Axes, transposed: bool) -> bool:
    """Whether the axes are (B, A, S, D), or (B, A, D, S) if transposed, split from (B, S, H)."""
    wanted = [_BATCH, _HIDDEN, _HIDDEN, _TOKENS] if transposed else [_BATCH, _HIDDEN, _TOKENS, _HIDDEN]
    return axes.matches([[axis] for axis in wanted]) and axes.in_order(_HIDDEN, (1, 2 if transposed else 3))


def agrees(stated: Quantization | None, found: Quantization, exact: bool) -> bool:
    """Whether the Quantize that made an operand agrees with what the product says of it; ``exact``: its scale too."""
    if stated is None:
        return True
    if stated.dtype != found.dtype or stated.zero_point != found.zero_point:
        return False
    return not exact or bool(stated.scale == found.scale)


def constant_factor(editor: Editor, node: Node) -> tuple[str, float] | None:
    """Match a product with, or a division by, one number."""
    operands = editor.split_constant(node) if node.op in ("Mul", "Div") else None
    number = editor.scalar(operands[1]) if operands else None
    if operands is None or number is None or not number or not math.isfinite(number):
        return None
    if node.op == "Div":
        return (operands[0], 1 / number) if operands[1] == node.inputs[1] else None
    return operands[0], number
