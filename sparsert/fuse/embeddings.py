"""Sums of embedding tables: words, token types, positions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.graph.known import Unknown, attribute
from sparsert.graph.symbolic import Expr
from sparsert.ops import Embeddings, Quantization, Table


@dataclass
class Term:
    """One summand: its table, the value with the row numbers (None unless ``table.index == "input"``), its nodes."""

    table: Table
    rows: str | None
    nodes: list[Node]


def fuse_embeddings(editor: Editor) -> None:
    """Replace the largest sums of table rows first, then single lookups."""
    candidates = [*editor.nodes("Add")[::-1], *editor.nodes("Gather")]
    candidates += editor.nodes("Dequantize", fused=True)[::-1]
    for node in sorted(candidates, key=lambda node: node.op != "Add"):
        if not editor.alive(node) or not editor.is_float(node.outputs[0]) or editor.facts.rank(node.outputs[0]) != 3:
            continue
        terms = _terms(editor, node.outputs[0], node.op == "Add")
        if terms is None or not any(term.rows for term in terms):
            continue
        if len({term.table.weight.shape[1] for term in terms}) == 1:
            rows = [term.rows for term in terms if term.rows]
            nodes = [item for term in terms for item in term.nodes]
            editor.emit(Embeddings(tuple(term.table for term in terms)), rows, node.outputs[0], [*nodes, node])


def _terms(editor: Editor, value: str, root: bool) -> list[Term] | None:
    """Return the summands of a value in the file's order, or None if one of them is no table."""
    if editor.is_constant(value):
        return _constant_term(editor, value)
    pair = _round_trip(editor, value)
    add = editor.producer(pair[0].inputs[0] if pair else value, "Add")
    if add is None:
        term = _lookup(editor, value)
        return None if term is None else [term]
    if not root and any(editor.sole_reader(name) is None for name in (value, *(node.inputs[0] for node in pair))):
        return None
    left, right = _terms(editor, add.inputs[0], False), _terms(editor, add.inputs[1], False)
    if left is None or right is None:
        return None
    # Rows are added from left to right, and a + (b + c) is (b + c) + a to the last bit.
    if len(left) == 1 and len(right) > 1:
        left, right = right, left
    left[0].nodes.extend([add, *pair])
    terms = left + right
    if pair:
        if len(right) > 1:
            return None
        terms[-1].table = replace(terms[-1].table, rounding=pair[0].fused.quantization)
    return terms


def _round_trip(editor: Editor, value: str) -> list[Node]:
    """The Quantize and the Dequantize that write a value, or none."""
    back = editor.fused_producer(value, "Dequantize")
    pair = editor.fused_producer(back.inputs[0], "Quantize") if back is not None else None
    return [pair, back] if pair is not None and back is not None else []


def _constant_term(editor: Editor, value: str) -> list[Term] | None:
    """Read what an exporter with fixed shapes folded: one row per position, or one row for all."""
    array = editor.constant(value)
    if array is None or array.dtype != np.float32 or not array.size or not 1 <= array.ndim <= 3:
        return None
    if array.ndim == 3 and array.shape[0] != 1:
        return None
    rows = array.reshape(-1, array.shape[-1])
    if len(rows) > 1 and not (rows == rows[0]).all():
        return [Term(Table(rows, None, "position"), None, [])]
    return [Term(Table(rows[:1], None, "constant"), None, [])]


def _lookup(editor: Editor, value: str) -> Term | None:
    """Match a Gather of rows, perhaps quantized and dequantized behind it; that is done to the table instead."""
    steps: list[Node] = []
    while True:
        node = editor.fused_producer(value, "Dequantize") or editor.fused_producer(value, "Quantize")
        if node is None:
            break
        steps.append(node)
        value = node.inputs[0]
    gather = editor.producer(value, "Gather")
    if gather is None or attribute(gather, "axis", 0) != 0 or editor.facts.rank(gather.inputs[0]) != 2:
        return None
    if not editor.is_constant(gather.inputs[0]) or editor.is_constant(value):
        return None
    weight, quantization = _table(editor, gather.inputs[0])
    for step in reversed(steps):
        if step.op == "Quantize":
            real = weight if quantization is None else quantization.dequantize(weight)
            weight, quantization = step.fused.quantization.quantize(real), None
        else:
            quantization = step.fused.quantization
    if quantization is None and weight.dtype != np.float32:
        return None
    index, offset, rows = _index(editor, gather.inputs[1])
    if index is None:
        return None
    return Term(Table(weight, quantization, index, offset), rows, [gather, *reversed(steps)])


def _table(editor: Editor, name: str) -> tuple[np.ndarray, Quantization | None]:
    stored = editor.quantized.get(name)
    if stored is not None and stored.axis is None:
        return stored.stored, stored.quantization
    return editor.constant(name), None  # type: ignore[return-value]


def _index(editor: Editor, value: str) -> tuple[str | None, int, str | None]:
    """Classify the row numbers: (kind, offset, value to read them from)."""
    shape = editor.facts.shape(value)
    if shape is None or not 1 <= len(shape) <= 2:
        return None, 0, None
    variables = tuple(("index", label, dim) for label, dim in zip(("batch", "token"), (1, *shape)[-2:], strict=True))
    try:
        expr: Expr | None = editor.facts.element(
            value, tuple(0 if dim == 1 else i for dim, i in zip(shape, variables[-len(shape) :], strict=True))
        )
    except (Unknown, RecursionError):
        expr = None
    if isinstance(expr, int):
        return ("constant", expr, None) if expr >= 0 else (None, 0, None)
    token = variables[-1]
    if expr == token:
        return "position", 0, None
    if isinstance(expr, tuple) and expr[0] == "Add" and expr[2] == token and isinstance(expr[1], int) and expr[1] >= 0:
        return "position", expr[1], None
    if len(shape) != 2 or shape[0] == 1:
        return None, 0, None
    if isinstance(expr, tuple) and expr[0] == "input" and expr[2:] == variables:
        value = expr[1]
    if editor.facts.dtype(value) not in (np.dtype(np.int32), np.dtype(np.int64)):
        return None, 0, None
    return "input", 0, value
