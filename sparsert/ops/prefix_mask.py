"""Masks of keys that are stated as lengths: what ONNX Runtime's optimizer makes of an attention mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.graph.known import Unknown
from sparsert.graph.symbolic import Expr, evaluate, leaves_of
from sparsert.ops.base import FusedOp

__all__ = ["PrefixMask"]


@dataclass(frozen=True)
class PrefixMask(FusedOp):
    """inputs: [attention_mask, an integer or bool value (B, S)] -> outputs: [bool (B, S)].

    ``y[b, k] = k < sum over j of x[b, j]``; with ``ones`` only elements that are 1 count. A mask of padding at the end
    stays what it is.
    """

    ones: bool
    on_rows = True

    def out_channels(self, sizes: Sequence[int | None]) -> None:
        return None

    def fits(self, sizes: Sequence[int | None]) -> bool:
        return False

    def compute(self, mask: np.ndarray) -> np.ndarray:
        lengths = (mask == 1 if self.ones else mask).sum(axis=-1, keepdims=True, dtype=np.int64)
        return np.asarray(np.arange(mask.shape[-1]) < lengths)

    @classmethod
    def recognise(cls, editor: Editor) -> None:
        """``Less(position of the key, ReduceSum(mask) over the sequence)``."""
        for node in editor.nodes("Less"):
            found = _source(editor, node)
            if found is not None:
                source, ones = found
                editor.emit(cls(ones), [source], node.outputs[0], [node])
                editor.facts.leaves.add(node.outputs[0])


def _source(editor: Editor, node: Node) -> tuple[str, bool] | None:
    """The mask whose sum along each row bounds the positions, and whether only ones count."""
    facts = editor.facts
    shape, right = facts.shape(node.outputs[0]), node.inputs[1]
    if shape is None or len(shape) != 2 or node.outputs[0] in editor.outputs:
        return None
    batch, key = (("index", label, dim) for label, dim in zip(("batch", "key"), shape, strict=True))
    lengths = editor.producer(right, "Cast", "Unsqueeze", "ReduceSum")
    while lengths is not None and lengths.op != "ReduceSum":
        lengths = editor.producer(lengths.inputs[0], "Cast", "Unsqueeze", "ReduceSum")
    if lengths is None or facts.rank(lengths.inputs[0]) != 2 or facts.shape(right) != (shape[0], 1):
        return None
    try:
        if facts.axes(lengths) not in ([1], [-1]) or facts.broadcast_element(node.inputs[0], (batch, key)) != key:
            return None
        element = facts.element(lengths.inputs[0], (batch, key))
    except (Unknown, RecursionError):
        return None
    return _counted(editor, element, (batch, key))


def _counted(editor: Editor, element: Expr, index: tuple[Expr, Expr]) -> tuple[str, bool] | None:
    """The mask that a sum adds up, if that is all that its terms depend on."""
    leaves = set(leaves_of(element))
    if len(leaves) != 1:
        return None
    (leaf,) = leaves
    if not isinstance(leaf, tuple) or leaf[0] != "input" or leaf[2:] != index:
        return None
    dtype = editor.facts.dtype(leaf[1])
    if dtype is None or dtype.kind not in "iub" or editor.facts.rank(leaf[1]) != 2:
        return None
    values = tuple(evaluate(element, {leaf: number}) for number in (0, 1, 2))
    return (leaf[1], values[2] == 0) if values in ((0, 1, 2), (0, 1, 0)) else None
