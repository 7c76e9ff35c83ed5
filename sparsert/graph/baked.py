"""Dimensions of inputs that a file fixes, and whose number its nodes compute with: no other size can be given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsert.graph.editor import Editor
from sparsert.graph.ir import Graph, Node
from sparsert.graph.known import Shape, Unknown, attribute
from sparsert.graph.shape_rules import BROADCASTING
from sparsert.graph.shapes import Facts
from sparsert.graph.symbolic import Expr, apply, evaluate, is_number, leaves_of

__all__ = ["Baked", "baked_dimensions"]

Axis = tuple[int, int]
"""(input, axis)"""


@dataclass(frozen=True)
class Baked:
    """A number that a node computes with, and what it must equal whatever the inputs' sizes are."""

    node: str
    op: str
    number: int
    expr: Expr
    dims: dict[Expr, Axis]
    """The dimensions in ``expr``."""

    def contradicts(self, shapes: Sequence[Sequence[Any]]) -> bool:
        """Whether inputs of these shapes give another number."""
        sizes = {dim: shapes[index][axis] for dim, (index, axis) in self.dims.items()}
        if not all(isinstance(size, int) for size in sizes.values()):
            return False
        return _value(self.expr, sizes) not in (self.number, None)


def _value(expr: Expr, sizes: Mapping[Expr, int]) -> Expr | None:
    """What an expression is for dimensions of these sizes; None if it divides by zero, say: no number forbids these."""
    try:
        return evaluate(expr, sizes)
    except (ArithmeticError, ValueError):
        return None


def baked_dimensions(graph: Graph, opened: Mapping[Axis, int]) -> list[Baked]:
    """Find nodes that combine dimensions of the inputs with the numbers that the file fixes for them.

    Such a node adds values of a constant for every position, say, or reshapes to a constant shape.

    Parameters
    ----------
    graph : Graph
        ONNX nodes; the dimensions in question are symbols in it already.
    opened : mapping
        The dimensions and their numbers in the file.
    """
    if not opened:
        return []
    editor = Editor(graph)
    editor.sweep()
    facts = editor.facts
    axes: dict[Expr, Axis] = {}
    for index, axis in sorted(opened):
        axes.setdefault(facts.need(graph.inputs[index].name)[axis], (index, axis))
    numbers = {dim: opened[place] for dim, place in axes.items()}
    baked: dict[Expr, Baked] = {}
    for node in editor.nodes():
        facts.visit(node)
        try:
            pairs = list(_compared(facts, node)) if not node.domain else []
        except (Unknown, LookupError, ValueError):
            continue  # what is malformed is refused later
        for expr, number in pairs:
            dims: dict[Expr, Axis] = {dim: axes[dim] for dim in leaves_of(expr) if dim in axes}
            if dims and expr not in baked and _value(expr, numbers) == number:
                baked[expr] = Baked(node.name, node.op, number, expr, dims)
    return list(baked.values())


def _compared(facts: Facts, node: Node) -> Iterator[tuple[Expr, int]]:
    """Every expression that must equal a number, so that the node can run."""
    if node.op in BROADCASTING:
        yield from _broadcast([facts.need(name) for name in node.inputs])
    elif node.op == "MatMul":
        left, right = (facts.need(name) for name in node.inputs)
        if len(left) >= 2 and len(right) >= 2:
            yield from _broadcast([left[:-2], right[:-2]])
            yield from _broadcast([(left[-1],), (right[-2],)])
    elif node.op == "Reshape":
        source, target = facts.need(node.inputs[0]), facts.vector(node.inputs[1])
        if not attribute(node, "allowzero", 0):
            target = [source[axis] if size == 0 else size for axis, size in enumerate(target)]
        if all(isinstance(size, int) and size > 0 for size in target):
            total: Expr = 1
            for dim in source:
                total = apply("Mul", total, dim)
            yield total, math.prod(size for size in target if isinstance(size, int))
    elif node.op == "Expand":
        yield from _broadcast([facts.need(node.inputs[0]), tuple(facts.vector(node.inputs[1]))])


def _broadcast(shapes: Iterable[Shape]) -> Iterator[tuple[Expr, int]]:
    shapes = list(shapes)
    for axis in range(1, 1 + max(map(len, shapes))):
        dims = [shape[-axis] for shape in shapes if len(shape) >= axis]
        for number in dims:
            if isinstance(number, int) and number != 1:
                yield from ((dim, number) for dim in dims if not is_number(dim))
