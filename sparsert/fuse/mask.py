"""Attention masks: prove that a mask depends on the key alone, whatever nodes spell it."""

from __future__ import annotations

import math

import numpy as np

from sparsert.graph.editor import Editor
from sparsert.graph.known import Shape, Unknown
from sparsert.graph.symbolic import Expr, evaluate, is_number, leaves_of
from sparsert.ops import KeyMask


def match_key_mask(editor: Editor, value: str, scores: Shape) -> tuple[str, KeyMask] | None:
    """Recognise a float value that is added to scores (B, A, S, S) and depends on one input at (b, key) only.

    Returns
    -------
    (input name, KeyMask), or None if the value is anything else.
    """
    found = _function_of_key(editor, value, scores)
    if found is None or not editor.is_float(value):
        return None
    name, results = found
    at_zero, at_one, at_two = results
    if at_one != 0 or not isinstance(at_zero, float) or not at_zero < 0:
        return None
    if at_two == -at_zero and math.isfinite(at_zero):
        return name, KeyMask("linear", at_zero)
    return (name, KeyMask("where", at_zero)) if at_two in (0, at_zero) else None


def match_key_condition(editor: Editor, value: str, scores: Shape) -> tuple[str, bool] | None:
    """Recognise a bool value that depends on one input at (b, key) only; return the input and its value for mask 1."""
    found = _function_of_key(editor, value, scores)
    if found is None:
        return None
    name, (at_zero, at_one, at_two) = found
    if not isinstance(at_one, bool) or at_zero == at_one or at_two != at_one:
        return None
    return name, at_one


def _function_of_key(editor: Editor, value: str, scores: Shape) -> tuple[str, tuple[Expr, Expr, Expr]] | None:
    """Return the input and what the value is for input elements 0, 1 and 2."""
    shape = editor.facts.shape(value)
    if shape is None or len(shape) > 4 or editor.is_constant(value):
        return None
    labels = ("batch", "head", "query", "key")
    index = tuple(("index", label, dim) for label, dim in zip(labels, scores, strict=True))
    try:
        expr = editor.facts.element(
            value, tuple(_at(dim, i) for dim, i in zip(shape, index[4 - len(shape) :], strict=True))
        )
    except (Unknown, IndexError, TypeError, RecursionError):
        return None
    leaves = set(leaves_of(expr))
    if len(leaves) != 1:
        return None
    leaf = leaves.pop()
    if leaf[0] != "input" or editor.facts.rank(leaf[1]) != 2 or leaf[3] != index[3]:
        return None
    if leaf[2] != index[0] and not (leaf[2] == 0 and editor.facts.same(scores[0], 1)):
        return None
    if not all(
        editor.facts.same(a, b) for a, b in zip(editor.facts.need(leaf[1]), (scores[0], scores[3]), strict=True)
    ):
        return None
    dtype = editor.facts.dtype(leaf[1])
    kind = float if dtype is not None and dtype.kind == "f" else int
    with np.errstate(all="ignore"):
        results = tuple(evaluate(expr, {leaf: kind(number)}) for number in (0, 1, 2))
    return (leaf[1], results) if all(is_number(item) for item in results) else None  # type: ignore[return-value]


def _at(dim: Expr, index: Expr) -> Expr:
    return 0 if dim == 1 else index


def emit_key_mask(editor: Editor, source: str, mask: KeyMask, spelled: str) -> str:
    """Return the name of the fused mask's value; one node serves every layer that reads the same mask."""
    for node in editor.nodes("KeyMask", fused=True):
        if node.inputs == [source] and node.fused == mask:
            return node.outputs[0]
    output = editor.fresh(f"{source}.key_mask")
    editor.facts.shapes[output] = editor.facts.need(source)
    editor.facts.dtypes[output] = np.dtype(np.float32)
    producer = editor.producers.get(spelled)
    editor.emit(mask, [source], output, [producer] if producer is not None else [])
    return output
