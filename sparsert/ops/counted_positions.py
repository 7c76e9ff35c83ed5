"""Positions that count the tokens which are no padding: RoBERTa, XLM-R, CamemBERT and MPNet make them of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.graph.known import Unknown, attribute
from sparsert.graph.symbolic import Expr, evaluate, leaves_of
from sparsert.ops.base import FusedOp

__all__ = ["CountedPositions"]

_NUMBERS = (1, 2, 3, 77, 511)
"""Counts at which a formula is compared; it is made of sums and products, none of which bends only elsewhere."""
_ELEMENTWISE = frozenset({"Add", "Cast", "Mul", "Sub"})


@dataclass(frozen=True)
class CountedPositions(FusedOp):
    """inputs: [ids, an integer value (B, S)] -> outputs: [int64 (B, S)].

    ``y[b, s] = padding`` where ``ids[b, s] == pad``, else ``first`` plus the number of ids in ``ids[b, :s]`` that are
    not ``pad``.
    """

    pad: int
    padding: int
    first: int
    on_rows = True

    def out_channels(self, sizes: Sequence[int | None]) -> None:
        return None

    def fits(self, sizes: Sequence[int | None]) -> bool:
        return False

    def compute(self, ids: np.ndarray) -> np.ndarray:
        kept = ids != self.pad
        counts = np.cumsum(kept, axis=-1, dtype=np.int64)
        counts += self.first - 1
        return np.where(kept, counts, np.int64(self.padding))

    @classmethod
    def recognise(cls, editor: Editor) -> None:
        """A CumSum of what tells padding, and what is made of its sum and of that."""
        for node in editor.nodes("CumSum"):
            if editor.alive(node):
                _recognise(editor, node)


def _recognise(editor: Editor, cumulated: Node) -> None:
    facts, (count,) = editor.facts, cumulated.outputs
    shape = facts.shape(count)
    if shape is None or len(shape) != 2 or editor.scalar(cumulated.inputs[1]) not in (1, -1):
        return
    if attribute(cumulated, "reverse", 0) or attribute(cumulated, "exclusive", 0):
        return
    index = (("index", "batch", shape[0]), ("index", "token", shape[1]))
    try:
        kept = facts.element(cumulated.inputs[0], index)
        last, nodes = _last(editor, cumulated)
        facts.leaves.add(count)
        position = facts.element(last.outputs[0], index)
    except (Unknown, RecursionError):
        return
    finally:
        facts.leaves.discard(count)
    found = _formula(kept, position, ("input", count, *index))
    if found is None or facts.dtype(last.outputs[0]) != np.int64:
        return
    ids, op = found
    if ids[2:] == index and editor.facts.rank(ids[1]) == 2:
        editor.emit(op, [ids[1]], last.outputs[0], [*nodes, last])


def _last(editor: Editor, node: Node) -> tuple[Node, list[Node]]:
    """Follow element-wise nodes down as long as one node reads their result; the last, and those before it."""
    nodes: list[Node] = []
    while True:
        reader = editor.sole_reader(node.outputs[0])
        if reader is None or editor.is_fused(reader) or reader.domain or reader.op not in _ELEMENTWISE:
            return node, nodes
        nodes.append(node)
        node = reader


def _formula(kept: Expr, position: Expr, count: Expr) -> tuple[tuple, CountedPositions] | None:
    """The ids and the op, if ``kept`` is 0 for one id and 1 for others, and ``position`` follows from both."""
    leaves = set(leaves_of(kept))
    if len(leaves) != 1 or not _equality(kept):
        return None
    (ids,) = leaves
    pads = {item for item in _numbers(kept) if isinstance(item, int) and evaluate(kept, {ids: item}) == 0}
    if ids[0] != "input" or len(pads) != 1 or not set(leaves_of(position)) <= {ids, count}:
        return None
    (pad,) = pads
    others = (pad + 1, pad - 1, pad + 1000)
    if any(evaluate(kept, {ids: other}) != 1 for other in others):
        return None
    padding = {evaluate(position, {ids: pad, count: number}) for number in (0, *_NUMBERS)}
    first = {
        evaluate(position, {ids: other, count: number}) - number + 1  # type: ignore[operator]
        for other in others
        for number in _NUMBERS
    }
    if len(padding) != 1 or len(first) != 1:
        return None
    (behind,), (start,) = padding, first
    return ids, CountedPositions(pad, int(behind), int(start))  # type: ignore[arg-type]


def _numbers(expr: Expr) -> list[Expr]:
    """All constants of an expression."""
    if not isinstance(expr, tuple):
        return [expr]
    return [] if expr[0] in ("dim", "index", "input") else [n for item in expr[1:] for n in _numbers(item)]


def _equality(expr: Expr) -> bool:
    """Whether an expression is one comparison for equality, perhaps negated and converted."""
    while isinstance(expr, tuple) and expr[0] in ("Not", "ToInt", "ToBool", "ToFloat"):
        expr = expr[1]
    return isinstance(expr, tuple) and expr[0] == "Equal" and any(not isinstance(item, tuple) for item in expr[1:])
