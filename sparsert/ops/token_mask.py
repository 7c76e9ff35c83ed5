"""Tokens that a mask turns to zeros: DeBERTa's embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.graph.known import Unknown
from sparsert.ops.base import Builder, FusedOp
from sparsert.ops.steps import Stage

__all__ = ["MaskTokens", "TokenMask"]


@dataclass(frozen=True)
class TokenMask(FusedOp):
    """inputs: [attention_mask, an integer or bool value (B, S)] -> outputs: [float32 (B, S, 1)]."""

    keeps_lead = True
    on_arrays = True

    def out_channels(self, sizes: Sequence[int | None]) -> int:
        return 1

    def fits(self, sizes: Sequence[int | None]) -> bool:
        return False

    def compute(self, mask: np.ndarray) -> np.ndarray:
        return mask[..., None].astype(np.float32)


@dataclass(frozen=True)
class MaskTokens(FusedOp):
    """inputs: [x, a TokenMask's result] -> outputs: [x * mask]."""

    leading = None
    keeps_lead = True

    @classmethod
    def recognise(cls, editor: Editor) -> None:
        """A product of float (B, S, H) with an input of integers (B, S) as float (B, S, 1)."""
        for node in editor.nodes("Mul"):
            for x, factor in (node.inputs, node.inputs[::-1]):
                source = _masked_by(editor, x, factor)
                if source is not None:
                    editor.emit(cls(), [x, _token_mask(editor, source)], node.outputs[0], [node])
                    break

    def fits(self, sizes: Sequence[int | None]) -> bool:
        return sizes[0] is not None and sizes[1] == 1

    def compute(self, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.multiply(x, mask)

    def stage(self, builder: Builder, node: Node, value: str) -> tuple[Stage, str] | None:
        if value != node.inputs[0]:
            return None
        return Stage("scale_tokens", parameters=builder.buffer(node.inputs[1])), node.outputs[0]


def _masked_by(editor: Editor, x: str, factor: str) -> str | None:
    """The input of integers (B, S) that a factor (B, S, 1) of x holds as floats."""
    facts = editor.facts
    shape, dims = facts.shape(x), facts.shape(factor)
    if shape is None or dims is None or len(shape) != 3 or len(dims) != 3 or dims[2] != 1:
        return None
    if editor.is_constant(x) or not editor.is_float(x) or not editor.is_float(factor):
        return None
    token = tuple(("index", label, dim) for label, dim in zip(("batch", "token"), dims, strict=False))
    try:
        expr = facts.element(factor, (*token, 0))
    except (Unknown, RecursionError):
        return None
    if not isinstance(expr, tuple) or expr[0] != "ToFloat" or expr[1][0] != "input" or expr[1][2:] != token:
        return None
    source = expr[1][1]
    known = facts.shape(source)
    alike = known is not None and all(facts.same(a, b) for a, b in zip(known, shape, strict=False))
    return source if alike else None


def _token_mask(editor: Editor, source: str) -> str:
    """The value of the TokenMask of an input; there is one for all that read it."""
    for node in editor.nodes("TokenMask", fused=True):
        if node.inputs == [source]:
            return node.outputs[0]
    output = editor.fresh(f"{source}.token_mask")
    editor.facts.shapes[output] = (*editor.facts.need(source), 1)
    editor.facts.dtypes[output] = np.dtype(np.float32)
    editor.emit(TokenMask(), [source], output, [])
    return output
