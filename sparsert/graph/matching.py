"""Parts that the patterns of several ops have in common."""

from __future__ import annotations

from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.graph.known import Unknown, attribute


def mean_of(editor: Editor, value: str) -> Node | None:
    """Return the ReduceMean over the last axis that writes the value, which keeps that axis."""
    node = editor.producer(value, "ReduceMean")
    if node is None or attribute(node, "keepdims", 1) != 1:
        return None
    try:
        axes = editor.facts.axes(node)
    except Unknown:
        return None
    rank = editor.facts.rank(node.inputs[0])
    return node if axes == [-1] or (rank is not None and axes == [rank - 1]) else None


def squared(editor: Editor, value: str) -> tuple[str, Node] | None:
    """Match ``x ** 2`` or ``x * x``; return x and the node."""
    node = editor.producer(value, "Pow", "Mul")
    if node is None:
        return None
    if node.op == "Pow":
        return (node.inputs[0], node) if editor.scalar(node.inputs[1]) == 2 else None
    return (node.inputs[0], node) if node.inputs[0] == node.inputs[1] else None
