"""Patches: an image becomes tokens, one a patch; what a vision transformer begins with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsert.errors import InputShapeError
from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.graph.known import attribute
from sparsert.ops.base import FusedOp
from sparsert.ops.linear import Linear

__all__ = ["Patches"]


@dataclass(frozen=True)
class Patches(FusedOp):
    """inputs: [x float32 (B, C, h p, w r)] -> outputs: [(B, h w, C p r)], one row a patch, in the order of a kernel.

    ``height`` p and ``width`` r are those of a patch; what is left over at the bottom and on the right is dropped. A
    convolution whose stride is its kernel is this and a :class:`~sparsert.ops.linear.Linear`.
    """

    channels: int
    height: int
    width: int
    on_arrays = True

    @classmethod
    def recognise(cls, editor: Editor) -> None:
        """A Conv of patches whose pixels become the tokens of (B, S, H)."""
        for node in editor.nodes("Conv"):
            _recognise(editor, node)

    def out_channels(self, sizes: Sequence[int | None]) -> int:
        return self.channels * self.height * self.width

    def fits(self, sizes: Sequence[int | None]) -> bool:
        return False

    def compute(self, x: np.ndarray) -> np.ndarray:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise InputShapeError(f"An image has shape {x.shape}, expected (batch, {self.channels}, height, width)")
        batch, channels, height, width = x.shape
        rows, columns = height // self.height, width // self.width
        whole = x[:, :, : rows * self.height, : columns * self.width]
        parts = whole.reshape(batch, channels, rows, self.height, columns, self.width).transpose(0, 2, 4, 1, 3, 5)
        return np.ascontiguousarray(parts).reshape(batch, rows * columns, channels * self.height * self.width)


def _recognise(editor: Editor, node: Node) -> None:
    weight = editor.constants.get(node.inputs[1])
    bias = editor.constants.get(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if weight is None or weight.ndim != 4 or not editor.is_float(node.inputs[0]) or not _are_patches(node, weight):
        return
    if bias is None and len(node.inputs) > 2 and node.inputs[2]:
        return
    reshape = editor.sole_reader(node.outputs[0])
    transpose = editor.sole_reader(reshape.outputs[0]) if reshape is not None else None
    if reshape is None or reshape.op not in ("Reshape", "Flatten") or transpose is None or transpose.op != "Transpose":
        return
    features, *patch = weight.shape
    image, rows, result = (editor.facts.shape(n) for n in (node.inputs[0], reshape.outputs[0], transpose.outputs[0]))
    if image is None or rows is None or result is None or len(image) != 4 or len(rows) != 3 or image[1] != patch[0]:
        return
    if not editor.facts.same(rows[0], image[0]) or rows[1] != features or attribute(transpose, "perm") != [0, 2, 1]:
        return
    output = transpose.outputs[0]
    value = editor.fresh(f"{output}.patches")
    size = int(np.prod(patch))
    editor.facts.shapes[value] = (*result[:2], size)
    editor.facts.dtypes[value] = np.dtype(np.float32)
    absorbed = [node, reshape, transpose]
    editor.emit(Patches(*patch), [node.inputs[0]], value, absorbed)
    editor.emit(Linear(weight.reshape(features, size).T, bias=bias), [value], output, absorbed)


def _are_patches(node: Node, weight: np.ndarray) -> bool:
    """Whether the kernel of a Conv meets every pixel once, or never."""
    kernel = list(weight.shape[2:])
    plain = attribute(node, "group", 1) == 1 and attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
    unpadded = not any(attribute(node, "pads", [0])) and set(attribute(node, "dilations", [1])) == {1}
    return plain and unpadded and list(attribute(node, "strides", [1, 1])) == kernel
