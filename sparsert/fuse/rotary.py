"""Rotary embeddings: pairs of channels turned by angles that follow from a token's position, in any spelling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sparsert.graph.editor import Editor
from sparsert.graph.grids import compute
from sparsert.graph.ir import Node
from sparsert.graph.known import Shape, Unknown
from sparsert.graph.symbolic import Expr, leaves_of
from sparsert.ops.rotary import TOKEN, Column, ComputedTable, PositionRows, Rotary

__all__ = ["Rotation", "emit_rotation", "match_rotation"]

_NODES = 64
"""Nodes before a value among which one may be rotated: a rotation has about ten, and its factors as many."""


@dataclass(frozen=True)
class Rotation:
    """What is done to every head of a value of rank 4, whose last axis is the channels of a head."""

    x: str
    """The value that is rotated."""
    token_axis: int
    factors: tuple[Expr, ...]
    """Functions of :data:`sparsert.ops.rotary.TOKEN`."""
    partners: tuple[int, ...]
    cosines: tuple[int, ...]
    sines: tuple[int, ...]
    nodes: tuple[Node, ...]


def match_rotation(editor: Editor, value: str) -> Rotation | None:
    """Find the value of which every element of ``value`` is its own and one other channel, times functions of position.

    The channels of a head are written down one by one, so halves, interleaved pairs, a part of the channels and any
    order of products and sums are all the same.
    """
    shape = editor.facts.shape(value)
    if shape is None or len(shape) != 4 or not isinstance(shape[-1], int) or not editor.is_float(value):
        return None
    index = tuple(("index", axis, dim) for axis, dim in enumerate(shape[:-1]))
    nodes: list[Node] = []
    for x in _candidates(editor, value, nodes):
        try:
            terms = [
                _terms(editor.facts.element_of(x, value, (*index, channel)), x, index) for channel in range(shape[-1])
            ]
            return _rotation(editor, x, terms, tuple(nodes))
        except (Unknown, LookupError):
            continue
    return None


def _candidates(editor: Editor, value: str, nodes: list[Node]) -> Iterator[str]:
    """Values of the same shape before ``value``, the next ones first; ``nodes`` collects what lies between."""
    queue = [value]
    while queue and len(nodes) < _NODES:
        node = editor.producer(queue.pop(0))
        if node is None or node in nodes:
            continue
        nodes.append(node)
        for name in node.inputs:
            if name and not editor.is_constant(name) and editor.is_float(name):
                queue.append(name)
                if editor.facts.same_shape(name, value):
                    yield name


def _terms(expr: Expr, x: str, index: Shape) -> dict[int, Expr]:
    """An element as a sum over channels of ``x``: the factor of each channel. Raises Unknown for anything else."""
    if not isinstance(expr, tuple):
        raise Unknown
    if expr[:2] == ("input", x):
        if expr[2:-1] != index or not isinstance(expr[-1], int):
            raise Unknown
        return {expr[-1]: 1}
    if expr[0] == "Neg":
        return {channel: _negative(factor) for channel, factor in _terms(expr[1], x, index).items()}
    if expr[0] == "Mul":
        left, right = (_reads(item, x) for item in expr[1:])
        if left == right:
            raise Unknown
        terms, other = (expr[1], expr[2]) if left else (expr[2], expr[1])
        return {channel: _product(factor, other) for channel, factor in _terms(terms, x, index).items()}
    if expr[0] not in ("Add", "Sub"):
        raise Unknown
    first, second = (_terms(item, x, index) for item in expr[1:])
    if first.keys() & second.keys():
        raise Unknown
    return first | {channel: _negative(f) if expr[0] == "Sub" else f for channel, f in second.items()}


def _reads(expr: Expr, x: str) -> bool:
    return any(leaf[:2] == ("input", x) for leaf in leaves_of(expr))


def _negative(factor: Expr) -> Expr:
    if not isinstance(factor, tuple):
        return -factor
    return factor[1] if factor[0] == "Neg" else ("Neg", factor)


def _product(factor: Expr, other: Expr) -> Expr:
    if factor == 1:
        return other
    if factor == -1:
        return _negative(other)
    if isinstance(factor, tuple) and factor[0] == "Neg":
        return _negative(_product(factor[1], other))
    return ("Mul", factor, other)


def _rotation(editor: Editor, x: str, terms: list[dict[int, Expr]], nodes: tuple[Node, ...]) -> Rotation:
    """Put the terms of all channels together. Raises Unknown if they are no rotation."""
    rows: dict[Expr, int] = {}
    partners, cosines, sines = [], [], []
    for channel, factors in enumerate(terms):
        others = [other for other in factors if other != channel]
        if channel not in factors or len(others) > 1 or (not others and factors[channel] != 1):
            raise Unknown
        partner = others[0] - channel if others else 0
        partners.append(partner)
        if not partner:
            cosines.append(0)
            sines.append(0)
            continue
        # the first of a pair loses what the second one gains
        sine = _negative(factors[others[0]]) if partner > 0 else factors[others[0]]
        cosines.append(rows.setdefault(factors[channel], len(rows)))
        sines.append(rows.setdefault(sine, len(rows)))
    leaves = {leaf for factor in rows for leaf in leaves_of(factor) if leaf[0] != "table"}
    if len(leaves) != 1:
        raise Unknown
    leaf = leaves.pop()
    if leaf[0] != "index" or leaf[1] not in (1, 2):
        raise Unknown
    functions = tuple(_of_token(editor, factor, leaf) for factor in rows)
    for function in functions:
        compute(function, {TOKEN: np.arange(1)}, {})
    return Rotation(x, leaf[1], functions, tuple(partners), tuple(cosines), tuple(sines), nodes)


def _of_token(editor: Editor, expr: Expr, leaf: Expr) -> Expr:
    """Write an expression as one of :data:`TOKEN`, with the columns of constants that it reads."""
    if expr == leaf:
        return TOKEN
    if not isinstance(expr, tuple):
        return expr
    if expr[0] == "table":
        free = [item for item in expr[2:] if isinstance(item, tuple)]
        if len(free) != 1:
            raise Unknown
        column = editor.constants[expr[1]][tuple(slice(None) if item is free[0] else item for item in expr[2:])]
        return ("Element", Column(column.tobytes(), column.dtype), _of_token(editor, free[0], leaf))
    return tuple(_of_token(editor, item, leaf) for item in expr)


def emit_rotation(editor: Editor, base: str, rotation: Rotation, heads: int) -> str | None:
    """Rotate a (B, S, H) value before its heads are split; None if no input tells which positions there are."""
    shape = editor.facts.need(base)
    table = _emit_table(editor, shape[:2], rotation.factors)
    if table is None:
        return None
    op = Rotary(heads, *(np.array(numbers) for numbers in (rotation.partners, rotation.cosines, rotation.sines)))
    rotated = editor.fresh(f"{base}.rotated")
    editor.facts.shapes[rotated], editor.facts.dtypes[rotated] = shape, np.dtype(np.float32)
    editor.emit(op, [base, table], rotated, rotation.nodes)
    return rotated


def _emit_table(editor: Editor, lead: Shape, factors: tuple[Expr, ...]) -> str | None:
    """The value that holds the factors of every token; one for all layers that have the same."""
    op = PositionRows(ComputedTable.of(factors))
    for node in editor.nodes("PositionRows", fused=True):
        if node.fused == op and editor.facts.need(node.outputs[0])[:2] == lead:
            return node.outputs[0]
    for info in editor.graph.inputs:
        shape = editor.facts.shape(info.name)
        if shape is None or len(shape) != 2 or np.dtype(info.dtype).kind != "i":
            continue
        if all(editor.facts.same(a, b) for a, b in zip(shape, lead, strict=True)):
            table = editor.fresh("rotations")
            editor.facts.shapes[table] = (*lead, len(factors))
            editor.facts.dtypes[table] = np.dtype(np.float32)
            editor.emit(op, [info.name], table, [])
            return table
    return None
