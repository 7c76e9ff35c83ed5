"""What a shape or element rule may ask about the values before its node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import onnx

from sparsert.graph.ir import Node
from sparsert.graph.symbolic import Expr

Shape = tuple[Expr, ...]


class Unknown(Exception):
    """Nothing can be said about this element; internal to this module and its callers in the fuser."""


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """Return an attribute with bytes decoded to str and tensors converted to arrays."""
    value = node.attributes.get(name, default)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return value


class Known(Protocol):
    """The side of :class:`~sparsert.graph.shapes.Facts` that rules see; what is not known raises Unknown."""

    dtypes: dict[str, np.dtype]
    sizes: dict[str, int]

    def same(self, a: Expr, b: Expr) -> bool:
        """Whether two dimensions are equal."""

    def dtype(self, value: str) -> np.dtype | None:
        """The dtype of a value, or None."""

    def rank(self, value: str) -> int | None:
        """The number of dimensions, or None."""

    def need(self, value: str) -> Shape:
        """The shape of a value."""

    def vector(self, value: str) -> list[Expr]:
        """The elements of a short vector or scalar."""

    def element(self, value: str, index: Shape) -> Expr:
        """One element as an expression of its indices."""

    def broadcast_element(self, value: str, index: Shape) -> Expr:
        """The element that broadcasting puts at ``index``."""

    def axes(self, node: Node) -> list[int] | None:
        """The node's axes, from the attribute or the constant input; None if absent."""

    def broadcast(self, shapes: Sequence[Shape]) -> Shape:
        """The shape that ONNX broadcasting gives."""

    def fresh_dim(self) -> Expr:
        """A dimension that equals no other."""
