"""What is added to scores: proves which part is a mask of keys, and which a number of positions, however spelled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.graph.known import Shape, Unknown
from sparsert.graph.symbolic import Expr, apply, evaluate, is_number, leaves_of
from sparsert.ops import HIDDEN, KeyMask, PositionBias, ScoreMask

__all__ = ["Added", "add_terms", "emit_key_mask", "emit_score_mask", "position_bias"]

_LABELS = ("batch", "head", "query", "key")
_ARRAY_OPS = ("Add", "Where", "Mul", "Div")


@dataclass
class Added:
    """What is added to scores.

    Attributes
    ----------
    mask : (str, KeyMask, str) or None
        The input of the mask, what becomes of it, and a value that spelled it.
    positions : Expr or None
        A function of head, query and key.
    array : (str, ScoreMask or None) or None
        A value that may depend on anything, or that becomes such a value.
    """

    mask: tuple[str, KeyMask, str] | None = None
    positions: Expr | None = None
    array: tuple[str, ScoreMask | None] | None = None


def add_terms(editor: Editor, node: Node, shape: Shape, added: Added) -> str | None:
    """Match ``scores + value`` or ``Where(condition, scores, number)``; enter what is added and return the scores.

    ``shape`` is that of the scores, (B, A, S, S). None if the node is anything else.
    """
    if node.op == "Add":
        for scores, value in (node.inputs, node.inputs[::-1]):
            if editor.facts.rank(scores) == 4 and editor.is_float(value):
                expr = _element(editor, value, shape)
                if expr is not None and _enter(editor, expr, value, shape, added):
                    return scores
        for scores, value in (node.inputs, node.inputs[::-1]):
            if added.array is None and editor.is_float(value) and _from_product(editor, scores):
                added.array = value, None
                return scores
        return None
    condition, yes, no = node.inputs
    for scores, filler in ((yes, no), (no, yes)):
        number, kept = editor.scalar(filler), scores == yes
        # Replacing a score by the filler equals adding the filler as long as no score can outweigh it.
        if number is None or number > HIDDEN:
            continue
        expr = _element(editor, condition, shape)
        if expr is not None:
            numbers: tuple[Expr, Expr] = (0.0, float(number))
            expr = apply("Where", expr, *(numbers if kept else numbers[::-1]))
            if _enter(editor, expr, condition, shape, added):
                return scores
        if added.array is None:
            added.array = condition, ScoreMask(float(number), kept)
            return scores
    return None


def _enter(editor: Editor, expr: Expr, spelled: str, shape: Shape, added: Added) -> bool:
    """Enter a term, if there is no other mask."""
    found = _separate(editor, expr, shape)
    if found is None:
        return False
    mask, positions = found
    if mask is not None:
        if added.mask is not None and added.mask[:2] != mask:
            return False
        added.mask = (*mask, spelled)
    if positions is not None:
        added.positions = positions if added.positions is None else apply("Add", added.positions, positions)
    return True


def _indices(shape: Shape) -> tuple[Expr, ...]:
    return tuple(("index", label, dim) for label, dim in zip(_LABELS, shape, strict=True))


def _element(editor: Editor, value: str, scores: Shape) -> Expr | None:
    """The element of a value that broadcasting adds to a score, as an expression; None if unknown."""
    shape = editor.facts.shape(value)
    if shape is None or len(shape) > 4:
        return None
    index = _indices(scores)[4 - len(shape) :]
    try:
        return editor.facts.element(value, tuple(0 if dim == 1 else i for dim, i in zip(shape, index, strict=True)))
    except (Unknown, IndexError, TypeError, RecursionError):
        return None


def _separate(editor: Editor, expr: Expr, scores: Shape) -> tuple[tuple[str, KeyMask] | None, Expr | None] | None:
    """Split an expression into a mask, which depends on one input at (b, key), and a function of positions."""
    index = _indices(scores)
    leaves = set(leaves_of(expr))
    inputs = {leaf for leaf in leaves if leaf[0] == "input"}
    if any(leaf not in index[1:] and leaf[0] != "table" for leaf in leaves - inputs) or len(inputs) > 1:
        return None
    if not inputs:
        return None, None if is_number(expr) and expr == 0 else expr
    leaf = inputs.pop()
    if not _is_key_mask(editor, leaf, index, scores):
        return None
    dtype = editor.facts.dtype(leaf[1])
    kind = float if dtype is not None and dtype.kind == "f" else int
    with np.errstate(all="ignore"):
        at_zero, at_one, at_two = (evaluate(expr, {leaf: kind(number)}) for number in (0, 1, 2))
    positions = None if is_number(at_one) and at_one == 0 else at_one
    value = _difference(at_zero, at_one)
    if value == 0 and at_two == at_one:  # a quantizer that never saw padding makes a mask of zeros
        return None, positions
    if value is None or not value < 0 or (positions is not None and is_number(positions)):
        return None
    if at_two not in (at_zero, at_one):
        return ((leaf[1], KeyMask("linear", value)), positions) if _difference(at_two, at_one) == -value else None
    return (leaf[1], KeyMask("where", value)), positions


def _difference(masked: Expr, seen: Expr) -> float | None:
    """The number that is added, or that replaces the other and outweighs it."""
    if is_number(masked):
        number = float(masked)  # type: ignore[arg-type]
        return number if seen == 0 or number <= HIDDEN else None
    if isinstance(masked, tuple) and masked[0] == "Add" and isinstance(masked[1], float) and masked[2] == seen:
        return masked[1] if math.isfinite(masked[1]) else None
    return None


def _is_key_mask(editor: Editor, leaf: tuple, index: tuple[Expr, ...], scores: Shape) -> bool:
    """Whether an element of an input is that of the sequence at the key."""
    if editor.facts.rank(leaf[1]) != 2 or leaf[3] != index[3]:
        return False
    if leaf[2] != index[0] and not (leaf[2] == 0 and editor.facts.same(scores[0], 1)):
        return False
    wanted = (scores[0], scores[3])
    return all(editor.facts.same(a, b) for a, b in zip(editor.facts.need(leaf[1]), wanted, strict=True))


def _from_product(editor: Editor, value: str, depth: int = 8) -> bool:
    """Whether a value is the product of two activations, perhaps scaled and with something added."""
    node = editor.producer(value)
    if node is None or depth == 0:
        return False
    if node.op in ("MatMul", "MatMulInteger"):
        return not any(editor.is_constant(name) for name in node.inputs[:2])
    return node.op in _ARRAY_OPS and any(_from_product(editor, name, depth - 1) for name in node.inputs)


def emit_key_mask(editor: Editor, source: str, mask: KeyMask, spelled: str) -> str:
    """Return the name of the fused mask's value; one node serves every layer that reads the same mask."""
    for node in editor.nodes("KeyMask", fused=True):
        if node.inputs == [source] and node.fused == mask:
            return node.outputs[0]
    return _emit(editor, mask, source, f"{source}.key_mask", editor.producers.get(spelled))


def emit_score_mask(editor: Editor, condition: str, mask: ScoreMask) -> str:
    """Return the name of the value that is added to scores where a condition has replaced them."""
    for node in editor.nodes("ScoreMask", fused=True):
        if node.inputs == [condition] and node.fused == mask:
            return node.outputs[0]
    return _emit(editor, mask, condition, f"{condition}.score_mask", editor.producers.get(condition))


def _emit(editor: Editor, mask: KeyMask | ScoreMask, source: str, name: str, producer: Node | None) -> str:
    output = editor.fresh(name)
    shape = editor.facts.shape(source)
    if shape is not None:
        editor.facts.shapes[output] = shape
    editor.facts.dtypes[output] = np.dtype(np.float32)
    editor.emit(mask, [source], output, [producer] if producer is not None else [])
    return output


def position_bias(editor: Editor, expr: Expr, shape: Shape, heads: int) -> PositionBias:
    """The function of positions with the constants that it reads."""
    names = {leaf[1] for leaf in leaves_of(expr) if leaf[0] == "table"}
    tables = {name: np.array(editor.constants[name]) for name in names}
    return PositionBias(expr, _indices(shape)[1:], tables, heads)  # type: ignore[arg-type]
