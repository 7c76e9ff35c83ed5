"""What is known about every value before the model runs: dtype, symbolic shape, and single elements as expressions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from sparsert.graph import symbolic
from sparsert.graph.element_rules import ELEMENTS, constant_element, split_element
from sparsert.graph.ir import Graph, Node
from sparsert.graph.known import Shape, Unknown, attribute
from sparsert.graph.schema import schema_of
from sparsert.graph.shape_rules import SHAPES, output_dtypes
from sparsert.graph.symbolic import Expr, apply, factors
from sparsert.graph.widen import HALVES

__all__ = ["Facts"]

_LARGEST_VECTOR = 64
"""Tensors with more elements than this are not looked into one element at a time."""

_ID_AXES = ("batch", "sequence")
_LARGEST_EXPRESSION = 20_000
"""Steps that may be spent on one element; a graph that doubles a value forty times would never end."""


class Facts:
    """Symbolic knowledge about the values of a graph, gathered in one pass in node order.

    Inputs of integer ids (rank 2) share the dimensions ``batch`` and ``sequence``. A dimension that the file fixes
    stays a symbol whose size is in :attr:`sizes`: a literal 1 (which broadcasts) is not confused with a batch of 1.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.dtypes: dict[str, np.dtype] = {}
        self.shapes: dict[str, Shape] = {}
        self.sizes: dict[str, int] = {}
        self.producers: dict[str, Node] = {}
        self.constants = graph.constants
        self._fresh = 0
        self._labels: dict[str, str] = {}
        self._budget = 0
        self._depth = 0
        self.leaves = {info.name for info in graph.inputs}
        """Values whose elements are written as themselves: inputs, and what a fused op computes of one."""
        self._given = ""
        for info in graph.inputs:
            self.dtypes[info.name] = np.dtype(info.dtype)
            self.shapes[info.name] = self._input_shape(info.name, info.shape, np.dtype(info.dtype))

    def _input_shape(self, name: str, dims: Sequence[Any], dtype: np.dtype) -> Shape:
        if len(dims) == 2 and dtype.kind in "iub" and self._fits_ids(dims):
            for label, dim in zip(_ID_AXES, dims, strict=True):
                if isinstance(dim, int):
                    self.sizes[label] = dim
                elif dim:
                    self._labels[label] = dim
            return tuple(("dim", label) for label in _ID_AXES)
        return tuple(dim if isinstance(dim, int) else ("dim", dim or f"{name}.{axis}") for axis, dim in enumerate(dims))

    def _fits_ids(self, dims: Sequence[Any]) -> bool:
        """Whether the dimensions contradict neither size nor name of those of the inputs before."""
        return all(
            self.sizes.get(label, dim) == dim
            if isinstance(dim, int)
            else not dim or self._labels.get(label, dim) == dim
            for label, dim in zip(_ID_AXES, dims, strict=True)
        )

    # -- comparisons

    def same(self, a: Expr, b: Expr) -> bool:
        """Whether two dimensions are equal, given the sizes that the file fixes."""
        return a == b or factors(a, self.sizes) == factors(b, self.sizes)

    def same_shape(self, a: str, b: str) -> bool:
        """Whether both values are known to have the same shape."""
        left, right = self.shape(a), self.shape(b)
        return (
            left is not None
            and right is not None
            and len(left) == len(right)
            and all(self.same(x, y) for x, y in zip(left, right, strict=True))
        )

    # -- values

    def shape(self, value: str) -> Shape | None:
        """Return the symbolic shape, or None if unknown."""
        if value in self.constants:
            return tuple(int(dim) for dim in self.constants[value].shape)
        return self.shapes.get(value)

    def dtype(self, value: str) -> np.dtype | None:
        """Return the dtype, or None if unknown."""
        if value in self.constants:
            dtype = self.constants[value].dtype
            return np.dtype(np.float32) if dtype in HALVES else dtype
        return self.dtypes.get(value)

    def rank(self, value: str) -> int | None:
        """Return the number of dimensions, or None if unknown."""
        shape = self.shape(value)
        return None if shape is None else len(shape)

    def vector(self, value: str) -> list[Expr]:
        """Return the elements of a short vector or scalar; raises :class:`Unknown`."""
        shape = self.shape(value)
        if shape is None or len(shape) > 1 or not all(isinstance(dim, int) for dim in shape):
            raise Unknown
        if not shape:
            return [self.element(value, ())]
        if shape[0] > _LARGEST_VECTOR:  # type: ignore[operator]
            raise Unknown
        return [self.element(value, (i,)) for i in range(shape[0])]  # type: ignore[arg-type]

    def number(self, value: str) -> Expr | None:
        """Return the value of a scalar or one-element tensor if it is a known number."""
        if value in self.constants:
            array = self.constants[value]
            return array.reshape(-1)[0].item() if array.size == 1 else None
        return None

    def element(self, value: str, index: Shape) -> Expr:
        """Return one element as an expression of its indices; raises :class:`Unknown`."""
        if self._depth == 0:
            self._budget = _LARGEST_EXPRESSION
        self._budget -= 1
        if self._budget < 0:
            raise Unknown
        self._depth += 1
        try:
            return self._element(value, index)
        except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise Unknown from error  # a malformed node, which fails when it runs
        finally:
            self._depth -= 1

    def _element(self, value: str, index: Shape) -> Expr:
        if value in self.constants:
            return constant_element(self.constants[value], value, index)
        if value in self.leaves or value == self._given:
            return ("input", value, *index)
        node = self.producers.get(value)
        if node is None or node.domain not in ("", "ai.onnx"):
            raise Unknown
        if node.op in symbolic.ELEMENTWISE:
            return apply(node.op, *(self.broadcast_element(name, index) for name in node.inputs))
        if node.op == "Split":
            return split_element(self, node, value, index)
        handler = ELEMENTS.get(node.op)
        if handler is None:
            raise Unknown
        return handler(self, node, index)

    def element_of(self, given: str, value: str, index: Shape) -> Expr:
        """Like :meth:`element`, with the elements of ``given`` as they are: ``("input", given, *indices)``."""
        self._given = given
        try:
            return self.element(value, index)
        finally:
            self._given = ""

    def broadcast_element(self, value: str, index: Shape) -> Expr:
        """Return the element that broadcasting puts at ``index``; raises :class:`Unknown`."""
        shape = self.shape(value)
        if shape is None or len(shape) > len(index):
            raise Unknown
        tail = index[len(index) - len(shape) :]
        return self.element(value, tuple(0 if dim == 1 else i for dim, i in zip(shape, tail, strict=True)))

    # -- the pass

    def visit(self, node: Node) -> None:
        """Learn dtype and shape of the node's outputs from those of its inputs."""
        for output in node.outputs:
            if output:
                self.producers[output] = node
        if node.domain not in ("", "ai.onnx"):
            return
        dtypes = output_dtypes(self, node)
        for output, dtype in zip(node.outputs, dtypes, strict=False):
            if output and dtype is not None:
                self.dtypes[output] = dtype
        try:
            handler = SHAPES.get(node.op)
            shapes = handler(self, node) if handler else self._shapes_by_onnx(node)
        except (Unknown, ArithmeticError, LookupError, TypeError, ValueError):
            return  # what is malformed fails when it runs
        for output, shape in zip(node.outputs, shapes, strict=False):
            if output and shape is not None:
                self.shapes[output] = shape

    def need(self, value: str) -> Shape:
        """Return the shape or raise :class:`Unknown`."""
        shape = self.shape(value)
        if shape is None:
            raise Unknown
        return shape

    def axes(self, node: Node) -> list[int] | None:
        """Return the node's axes, from the attribute or the constant input; None if absent."""
        axes = attribute(node, "axes")
        if axes is None and len(node.inputs) > 1 and node.inputs[1]:
            axes = [self._int(item) for item in self.vector(node.inputs[1])]
        return None if axes is None else [int(axis) for axis in axes]

    def _int(self, expr: Expr) -> int:
        if isinstance(expr, tuple):
            raise Unknown
        return int(expr)

    def broadcast(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape that ONNX broadcasting gives; unequal symbols raise :class:`Unknown`."""
        rank = max(len(shape) for shape in shapes)
        result: list[Expr] = [1] * rank
        for shape in shapes:
            for offset, dim in enumerate(shape, start=rank - len(shape)):
                if result[offset] == 1:
                    result[offset] = dim
                elif dim != 1 and not self.same(result[offset], dim):
                    raise Unknown
        return tuple(result)

    def _shapes_by_onnx(self, node: Node) -> list[Shape | None]:
        """Ask ONNX's own shape inference for one node, with dimensions passed through as symbols."""
        names: dict[str, Expr] = {}
        types: dict[str, onnx.TypeProto] = {}
        for value in node.inputs:
            if not value:
                continue
            shape, dtype = self.need(value), self.dtype(value)
            if dtype is None:
                raise Unknown
            labels = []
            for dim in shape:
                names[repr(dim)] = dim
                labels.append(dim if isinstance(dim, int) else repr(dim))
            element = onnx.helper.np_dtype_to_tensor_dtype(dtype)
            types[value] = onnx.helper.make_tensor_type_proto(element, labels)
        try:
            schema = schema_of(node, self.graph.opsets)
            known = {k: v for k, v in node.attributes.items() if v is not None}
            proto = onnx.helper.make_node(node.op, node.inputs, node.outputs, **known)
            inferred = onnx.shape_inference.infer_node_outputs(schema, proto, types)
        except Exception as error:  # the checker raises plain RuntimeErrors of several modules; no shape is no harm
            raise Unknown from error
        result: list[Shape | None] = []
        for output in node.outputs:
            tensor = inferred[output].tensor_type if output in inferred else None
            if tensor is None or not tensor.HasField("shape"):
                result.append(None)
                continue
            if tensor.elem_type:
                self.dtypes[output] = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            result.append(tuple(self._inferred_dim(dim, names) for dim in tensor.shape.dim))
        return result

    def _inferred_dim(self, dim: Any, names: dict[str, Expr]) -> Expr:
        if dim.HasField("dim_value"):
            return int(dim.dim_value)
        if dim.dim_param in names:
            return names[dim.dim_param]
        return self.fresh_dim()

    def fresh_dim(self) -> Expr:
        """Return a dimension that equals no other."""
        self._fresh += 1
        return ("dim", f"?{self._fresh}")
