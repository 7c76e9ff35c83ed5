"""What is known about every value before the model runs: dtype, symbolic shape, and single elements as expressions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from sparsert.graph import symbolic
from sparsert.graph.ir import Graph, Node
from sparsert.graph.symbolic import Expr, apply, factors, is_number, multiply, product_of, quotient

Shape = tuple[Expr, ...]

_LARGEST_VECTOR = 64
"""Tensors with more elements than this are not looked into one element at a time."""


_TO_END = 2**63 - 1
"""How exporters write a slice to the end."""


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


class Facts:
    """Symbolic knowledge about the values of a graph, gathered in one pass in node order.

    Inputs of integer ids (rank 2) share the dimensions ``batch`` and ``sequence``. A dimension that the file fixes stays
    a symbol whose size is in :attr:`sizes`: so a literal 1 (which broadcasts) is never confused with a batch of 1.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.dtypes: dict[str, np.dtype] = {}
        self.shapes: dict[str, Shape] = {}
        self.sizes: dict[str, int] = {}
        self.producers: dict[str, Node] = {}
        self.constants = graph.constants
        self._fresh = 0
        self._inputs = {info.name for info in graph.inputs}
        for info in graph.inputs:
            self.dtypes[info.name] = np.dtype(info.dtype)
            self.shapes[info.name] = self._input_shape(info.name, info.shape, np.dtype(info.dtype))

    def _input_shape(self, name: str, dims: Sequence[Any], dtype: np.dtype) -> Shape:
        if len(dims) == 2 and dtype.kind in "iub":
            for axis, label in enumerate(("batch", "sequence")):
                if isinstance(dims[axis], int) and self.sizes.setdefault(label, dims[axis]) != dims[axis]:
                    break
            else:
                return ("dim", "batch"), ("dim", "sequence")
        return tuple(dim if isinstance(dim, int) else ("dim", dim or f"{name}.{axis}") for axis, dim in enumerate(dims))

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
            return self.constants[value].dtype
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
        if value in self.constants:
            return _constant_element(self.constants[value], index)
        if value in self._inputs:
            return ("input", value, *index)
        node = self.producers.get(value)
        if node is None or node.domain not in ("", "ai.onnx"):
            raise Unknown
        if node.op in symbolic.ELEMENTWISE:
            return apply(node.op, *(self._broadcast_element(name, index) for name in node.inputs))
        handler = _ELEMENTS.get(node.op)
        if handler is None:
            raise Unknown
        try:
            return handler(self, node, index)
        except (IndexError, KeyError, TypeError, ValueError) as error:  # a malformed node, which fails when it runs
            raise Unknown from error

    def _broadcast_element(self, value: str, index: Shape) -> Expr:
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
        dtypes = _output_dtypes(self, node)
        for output, dtype in zip(node.outputs, dtypes, strict=False):
            if output and dtype is not None:
                self.dtypes[output] = dtype
        try:
            handler = _SHAPES.get(node.op)
            shapes = handler(self, node) if handler else self._shapes_by_onnx(node)
        except (Unknown, IndexError, TypeError, ValueError):
            return
        for output, shape in zip(node.outputs, shapes, strict=False):
            if output and shape is not None:
                self.shapes[output] = shape

    def need(self, value: str) -> Shape:
        """Return the shape or raise :class:`Unknown`."""
        shape = self.shape(value)
        if shape is None:
            raise Unknown
        return shape

    def axes(self, node: Node, position: int = 1) -> list[int] | None:
        """Return the node's axes, from the attribute or the constant input; None if absent."""
        axes = attribute(node, "axes")
        if axes is None and len(node.inputs) > position and node.inputs[position]:
            axes = [self._int(item) for item in self.vector(node.inputs[position])]
        return None if axes is None else [int(axis) for axis in axes]

    def slices(self, node: Node) -> dict[int, tuple[Expr, Expr, int]]:
        """Return start, end and step of every axis that a Slice cuts; raises :class:`Unknown`."""
        return _slices(self, node)

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
            schema = onnx.defs.get_schema(node.op, self.graph.opsets.get("", 1), "")
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


def _constant_element(array: np.ndarray, index: Shape) -> Expr:
    """Read a constant at expressions: by number, or because it is uniform or counts along one axis."""
    if len(index) != array.ndim or array.size == 0:
        raise Unknown
    picked = array[tuple(i if isinstance(i, int) else slice(None) for i in index)]
    free = [i for i in index if isinstance(i, tuple)]
    if not free:
        return symbolic._plain(picked)
    first = picked.reshape(-1)[0]
    if picked.dtype.kind not in "biuf":
        raise Unknown
    if (picked == first).all():
        return symbolic._plain(first)
    if picked.dtype.kind in "iu":
        for axis, variable in enumerate(free):
            size = picked.shape[axis]
            ramp = np.arange(size).reshape([-1 if k == axis else 1 for k in range(picked.ndim)])
            if (picked == ramp + first).all():
                return apply("Add", variable, int(first))
    raise Unknown


# -- dtypes

_FLOAT, _INT64, _INT32, _BOOL, _UINT8 = (np.dtype(t) for t in (np.float32, np.int64, np.int32, np.bool_, np.uint8))
_FIXED_DTYPES: dict[str, list[np.dtype]] = {
    "Shape": [_INT64],
    "Size": [_INT64],
    "NonZero": [_INT64],
    "ArgMax": [_INT64],
    "ArgMin": [_INT64],
    "MatMulInteger": [_INT32],
    "ConvInteger": [_INT32],
    "DynamicQuantizeLinear": [_UINT8, _FLOAT, _UINT8],
    **{op: [_BOOL] for op in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "And", "Or", "Xor", "Not")},
    "IsNaN": [_BOOL],
    "IsInf": [_BOOL],
}


def _output_dtypes(facts: Facts, node: Node) -> list[np.dtype | None]:
    if node.op in _FIXED_DTYPES:
        return list(_FIXED_DTYPES[node.op])
    if node.op == "Cast":
        return [onnx.helper.tensor_dtype_to_np_dtype(attribute(node, "to"))]
    if node.op == "ConstantOfShape":
        value = attribute(node, "value")
        return [_FLOAT if value is None else np.asarray(value).dtype]
    if node.op == "QuantizeLinear":
        return [facts.dtype(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else _UINT8]
    source = {"Where": 1, "DequantizeLinear": 1, "QLinearMatMul": 7, "QLinearConv": 7}.get(node.op, 0)
    dtype = facts.dtype(node.inputs[source]) if len(node.inputs) > source else None
    return [dtype] * len(node.outputs)


# -- shapes


def _same_as_input(facts: Facts, node: Node) -> list[Shape]:
    return [facts.need(node.inputs[0])]


def _broadcast(facts: Facts, node: Node) -> list[Shape]:
    return [facts.broadcast([facts.need(name) for name in node.inputs])]


def _matmul(a: Shape, b: Shape, facts: Facts) -> list[Shape]:
    if len(a) < 2 or len(b) < 2:
        raise Unknown
    return [(*facts.broadcast([a[:-2], b[:-2]] if a[:-2] or b[:-2] else [()]), a[-2], b[-1])]


def _shape_of_matmul(facts: Facts, node: Node) -> list[Shape]:
    right = node.inputs[3] if node.op == "QLinearMatMul" else node.inputs[1]
    return _matmul(facts.need(node.inputs[0]), facts.need(right), facts)


def _shape_of_gemm(facts: Facts, node: Node) -> list[Shape]:
    a, b = facts.need(node.inputs[0]), facts.need(node.inputs[1])
    return [(a[1 if attribute(node, "transA", 0) else 0], b[0 if attribute(node, "transB", 0) else 1])]


def _shape_of_shape(facts: Facts, node: Node) -> list[Shape]:
    return [(len(_shape_range(facts, node)),)]


def _shape_range(facts: Facts, node: Node) -> Shape:
    dims = facts.need(node.inputs[0])
    return dims[attribute(node, "start", 0) : attribute(node, "end", len(dims))]


def _shape_of_gather(facts: Facts, node: Node) -> list[Shape]:
    data, indices = facts.need(node.inputs[0]), facts.need(node.inputs[1])
    axis = attribute(node, "axis", 0) % len(data)
    return [(*data[:axis], *indices, *data[axis + 1 :])]


def _shape_of_gathernd(facts: Facts, node: Node) -> list[Shape]:
    data, indices = facts.need(node.inputs[0]), facts.need(node.inputs[1])
    if attribute(node, "batch_dims", 0) or not isinstance(indices[-1], int):
        raise Unknown
    return [(*indices[:-1], *data[indices[-1] :])]


def _shape_of_flatten(facts: Facts, node: Node) -> list[Shape]:
    dims, axis = facts.need(node.inputs[0]), attribute(node, "axis", 1)
    axis += len(dims) if axis < 0 else 0
    parts = []
    for part in (dims[:axis], dims[axis:]):
        total: symbolic.Factors = (1, ())
        for dim in part:
            total = multiply(total, factors(dim, {}))
        parts.append(product_of(total))
    return [tuple(parts)]


def _shape_of_unsqueeze(facts: Facts, node: Node) -> list[Shape]:
    dims, axes = list(facts.need(node.inputs[0])), facts.axes(node)
    if axes is None:
        raise Unknown
    rank = len(dims) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        dims.insert(axis, 1)
    return [tuple(dims)]


def _squeezed_axes(facts: Facts, node: Node) -> list[int]:
    dims, axes = facts.need(node.inputs[0]), facts.axes(node)
    if axes is None:
        if any(isinstance(dim, tuple) for dim in dims):
            raise Unknown
        return [axis for axis, dim in enumerate(dims) if dim == 1]
    return [axis % len(dims) for axis in axes]


def _shape_of_squeeze(facts: Facts, node: Node) -> list[Shape]:
    gone = _squeezed_axes(facts, node)
    return [tuple(dim for axis, dim in enumerate(facts.need(node.inputs[0])) if axis not in gone)]


def _shape_of_transpose(facts: Facts, node: Node) -> list[Shape]:
    dims = facts.need(node.inputs[0])
    return [tuple(dims[axis] for axis in attribute(node, "perm", list(range(len(dims)))[::-1]))]


def _shape_of_reshape(facts: Facts, node: Node) -> list[Shape]:
    dims, target = facts.need(node.inputs[0]), facts.vector(node.inputs[1])
    if not attribute(node, "allowzero", 0):
        target = [dims[axis] if size == 0 else size for axis, size in enumerate(target)]
    total: symbolic.Factors = (1, ())
    for dim in dims:
        total = multiply(total, factors(dim, {}))
    if -1 in target:
        for sizes in ({}, facts.sizes):
            rest: symbolic.Factors | None = (1, ())
            for dim in dims:
                rest = multiply(rest, factors(dim, sizes))  # type: ignore[arg-type]
            for size in target:
                if rest is not None and size != -1:
                    rest = quotient(rest, factors(size, sizes))
            if rest is not None:
                target[target.index(-1)] = product_of(rest)
                break
        else:
            raise Unknown
    # A number that stands for a fixed dimension at the same place keeps the symbol: [1, 384, 4, 16] -> [B, S, 4, 16].
    for axis, (size, dim) in enumerate(zip(target, dims, strict=False)):
        if not facts.same(size, dim):
            break
        target[axis] = dim
    return [tuple(target)]


def _shape_of_expand(facts: Facts, node: Node) -> list[Shape]:
    return [facts.broadcast([facts.need(node.inputs[0]), tuple(facts.vector(node.inputs[1]))])]


def _shape_of_concat(facts: Facts, node: Node) -> list[Shape]:
    shapes = [facts.need(name) for name in node.inputs]
    axis = attribute(node, "axis") % len(shapes[0])
    total: Expr = 0
    for shape in shapes:
        total = apply("Add", total, shape[axis])
    return [(*shapes[0][:axis], total, *shapes[0][axis + 1 :])]


def _slices(facts: Facts, node: Node) -> dict[int, tuple[Expr, Expr, int]]:
    """Return start, end and step of every sliced axis, from attributes (opset < 10) or inputs."""
    rank = len(facts.need(node.inputs[0]))
    if len(node.inputs) == 1:
        starts, ends = attribute(node, "starts"), attribute(node, "ends")
        axes, steps = attribute(node, "axes"), None
    else:
        values = [facts.vector(name) if name else None for name in [*node.inputs[1:], "", ""][:4]]
        starts, ends, axes, steps = values
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    return {int(a) % rank: (s, e, int(t)) for a, s, e, t in zip(axes, starts, ends, steps, strict=True)}


def _shape_of_slice(facts: Facts, node: Node) -> list[Shape]:
    dims = list(facts.need(node.inputs[0]))
    for axis, (start, end, step) in _slices(facts, node).items():
        dim = dims[axis]
        if isinstance(dim, int) and isinstance(start, int) and isinstance(end, int):
            dims[axis] = len(range(*slice(start, end, step).indices(dim)))
        elif start == 0 and step == 1 and (end == dim or isinstance(end, int) and end >= 2**31 - 1):
            continue
        elif (
            step == 1 and isinstance(start, int) and (apply("Sub", end, start) == 1 or (start == -1 and end == _TO_END))
        ):
            dims[axis] = 1  # dimensions are at least 1, and a slice beyond them is an error where it is used
        elif start == 0 and step == 1 and isinstance(end, tuple) and isinstance(dim, int):
            dims[axis] = end  # a table of positions cut to the sequence; a shorter table is an error of its own
        else:
            dims[axis] = facts.fresh_dim()
    return [tuple(dims)]


def _shape_of_range(facts: Facts, node: Node) -> list[Shape]:
    start, limit, delta = (
        facts.element(name, ()) if facts.rank(name) == 0 else facts.vector(name)[0] for name in node.inputs
    )
    if is_number(start) and is_number(limit) and is_number(delta):
        return [(max(0, math.ceil((limit - start) / delta)),)]  # type: ignore[operator]
    if delta != 1:
        raise Unknown
    return [(apply("Sub", limit, start),)]


def _shape_of_split(facts: Facts, node: Node) -> list[Shape]:
    dims, axis = facts.need(node.inputs[0]), attribute(node, "axis", 0)
    axis %= len(dims)
    sizes = attribute(node, "split")
    if sizes is None and len(node.inputs) > 1 and node.inputs[1]:
        sizes = facts.vector(node.inputs[1])
    if sizes is None:
        if not isinstance(dims[axis], int):
            raise Unknown
        chunk = -(-dims[axis] // len(node.outputs))  # type: ignore[operator]
        sizes = [min(chunk, dims[axis] - i * chunk) for i in range(len(node.outputs))]  # type: ignore[operator]
    return [(*dims[:axis], size, *dims[axis + 1 :]) for size in sizes]


def _shape_of_reduce(facts: Facts, node: Node) -> list[Shape]:
    dims, axes = facts.need(node.inputs[0]), facts.axes(node)
    gone = range(len(dims)) if axes is None else [axis % len(dims) for axis in axes]
    if attribute(node, "keepdims", 1):
        return [tuple(1 if axis in gone else dim for axis, dim in enumerate(dims))]
    return [tuple(dim for axis, dim in enumerate(dims) if axis not in gone)]


def _shape_of_dynamic_quantize(facts: Facts, node: Node) -> list[Shape]:
    return [facts.need(node.inputs[0]), (), ()]


_UNARY = (
    "Identity Dropout Cast Relu Tanh Erf Sqrt Softmax LogSoftmax Sigmoid Neg Exp Log Abs Not IsNaN Gelu Floor Reciprocal "
    "LayerNormalization QuantizeLinear DequantizeLinear CumSum Clip Elu LeakyRelu"
)
_BROADCASTING = (
    "Add Sub Mul Div Pow Mod And Or Xor Equal Less LessOrEqual Greater GreaterOrEqual Where Min Max Sum"  # variadic too
)
_REDUCING = "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd"

_SHAPES: dict[str, Callable[[Facts, Node], Sequence[Shape | None]]] = {
    **dict.fromkeys(_UNARY.split(), _same_as_input),
    **dict.fromkeys(_BROADCASTING.split(), _broadcast),
    **dict.fromkeys(_REDUCING.split(), _shape_of_reduce),
    "MatMul": _shape_of_matmul,
    "MatMulInteger": _shape_of_matmul,
    "QLinearMatMul": _shape_of_matmul,
    "Gemm": _shape_of_gemm,
    "Shape": _shape_of_shape,
    "Gather": _shape_of_gather,
    "GatherND": _shape_of_gathernd,
    "GatherElements": lambda facts, node: [facts.need(node.inputs[1])],
    "Flatten": _shape_of_flatten,
    "Unsqueeze": _shape_of_unsqueeze,
    "Squeeze": _shape_of_squeeze,
    "Transpose": _shape_of_transpose,
    "Reshape": _shape_of_reshape,
    "Expand": _shape_of_expand,
    "Concat": _shape_of_concat,
    "Slice": _shape_of_slice,
    "Range": _shape_of_range,
    "Split": _shape_of_split,
    "DynamicQuantizeLinear": _shape_of_dynamic_quantize,
    "ConstantOfShape": lambda facts, node: [tuple(facts.vector(node.inputs[0]))],
}


# -- elements


def _element_of_cast(facts: Facts, node: Node, index: Shape) -> Expr:
    kind = {"b": "ToBool", "i": "ToInt", "u": "ToInt", "f": "ToFloat"}.get(facts.dtypes[node.outputs[0]].kind)
    if kind is None:
        raise Unknown
    inner = facts.element(node.inputs[0], index)
    source = facts.dtype(node.inputs[0])
    if source is not None and source.kind == facts.dtypes[node.outputs[0]].kind and not is_number(inner):
        return inner
    return apply(kind, inner)


def _element_of_gather(facts: Facts, node: Node, index: Shape) -> Expr:
    data, rank = facts.need(node.inputs[0]), len(facts.need(node.inputs[1]))
    axis = attribute(node, "axis", 0) % len(data)
    chosen = _from_end(facts.element(node.inputs[1], index[axis : axis + rank]), data[axis])
    return facts.element(node.inputs[0], (*index[:axis], chosen, *index[axis + rank :]))


def _from_end(chosen: Expr, dim: Expr) -> Expr:
    return apply("Add", chosen, dim) if is_number(chosen) and chosen < 0 else chosen  # type: ignore[operator]


def _element_of_gathernd(facts: Facts, node: Node, index: Shape) -> Expr:
    data, indices = facts.need(node.inputs[0]), facts.need(node.inputs[1])
    if attribute(node, "batch_dims", 0) or not isinstance(indices[-1], int):
        raise Unknown
    outer = len(indices) - 1
    chosen = [facts.element(node.inputs[1], (*index[:outer], k)) for k in range(indices[-1])]
    chosen = [_from_end(item, dim) for item, dim in zip(chosen, data, strict=False)]
    return facts.element(node.inputs[0], (*chosen, *index[outer:]))


def _element_of_gather_elements(facts: Facts, node: Node, index: Shape) -> Expr:
    axis = attribute(node, "axis", 0) % len(index)
    try:
        chosen = facts.element(node.inputs[1], index)
    except Unknown:
        # Whatever is chosen, a uniform table gives the same: the zeros that stand for absent token types.
        chosen = ("index", "any", facts.fresh_dim())
    return facts.element(node.inputs[0], (*index[:axis], chosen, *index[axis + 1 :]))


def _element_of_unsqueeze(facts: Facts, node: Node, index: Shape) -> Expr:
    axes = facts.axes(node)
    if axes is None:
        raise Unknown
    gone = [axis % len(index) for axis in axes]
    return facts.element(node.inputs[0], tuple(i for axis, i in enumerate(index) if axis not in gone))


def _element_of_squeeze(facts: Facts, node: Node, index: Shape) -> Expr:
    rest = list(index)
    for axis in sorted(_squeezed_axes(facts, node)):
        rest.insert(axis, 0)
    return facts.element(node.inputs[0], tuple(rest))


def _element_of_transpose(facts: Facts, node: Node, index: Shape) -> Expr:
    perm = attribute(node, "perm", list(range(len(index)))[::-1])
    source: list[Expr] = [0] * len(index)
    for out_axis, axis in enumerate(perm):
        source[axis] = index[out_axis]
    return facts.element(node.inputs[0], tuple(source))


def _element_of_reshape(facts: Facts, node: Node, index: Shape) -> Expr:
    """Through the number of the element in row-major order."""
    before, after = facts.need(node.inputs[0]), facts.need(node.outputs[0])
    flat: Expr = 0
    for dim, i in zip(after, index, strict=True):
        flat = apply("Add", apply("Mul", flat, dim), i)
    return facts.element(node.inputs[0], _unflatten(facts, flat, before))


def _terms(expr: Expr) -> list[Expr]:
    """Split a sum, and products of sums, into terms without sums."""
    if isinstance(expr, tuple) and expr[0] == "Add":
        return _terms(expr[1]) + _terms(expr[2])
    if isinstance(expr, tuple) and expr[0] == "Mul":
        left, right = _terms(expr[1]), _terms(expr[2])
        if len(left) + len(right) > 2:
            return [apply("Mul", a, b) for a in left for b in right]
    return [expr]


def _unflatten(facts: Facts, flat: Expr, shape: Shape) -> Shape:
    """Turn a row-major element number into indices, each of them provably within its dimension."""
    rest = [factors(term, facts.sizes) for term in _terms(flat)]
    index: list[Expr] = []
    for axis, dim in enumerate(shape):
        stride: symbolic.Factors = (1, ())
        for inner in shape[axis + 1 :]:
            stride = multiply(stride, factors(inner, facts.sizes))
        whole: Expr = 0
        left = []
        for term in rest:
            multiple = quotient(term, stride)
            if dim == 1 or multiple is None:
                left.append(term)
            else:
                whole = apply("Add", whole, product_of(multiple))
        index.append(whole)
        rest = left
        # The first index needs no proof: the number of an existing element lies within the whole.
        inside = isinstance(whole, tuple) and whole[0] == "index" and facts.same(whole[2], dim)
        inside = inside or (isinstance(whole, int) and isinstance(dim, int) and 0 <= whole < dim) or whole == 0
        if not inside and any(outer != 1 for outer in shape[:axis]):
            raise Unknown
    if any(term[0] for term in rest):
        raise Unknown
    return tuple(index)


def _element_of_concat(facts: Facts, node: Node, index: Shape) -> Expr:
    axis = attribute(node, "axis") % len(index)
    position = index[axis]
    if not isinstance(position, int):
        raise Unknown
    for name in node.inputs:
        size = facts.need(name)[axis]
        if not isinstance(size, int):
            raise Unknown
        if position < size:
            return facts.element(name, (*index[:axis], position, *index[axis + 1 :]))
        position -= size
    raise Unknown


def _element_of_slice(facts: Facts, node: Node, index: Shape) -> Expr:
    source, dims = list(index), facts.need(node.inputs[0])
    for axis, (start, _, step) in _slices(facts, node).items():
        if isinstance(start, tuple) or step < 1:
            raise Unknown
        dim = dims[axis]
        first = slice(start, None, step).indices(dim)[0] if isinstance(dim, int) else _from_end(start, dim)  # type: ignore[misc]
        source[axis] = apply("Add", apply("Mul", index[axis], step), first)
    return facts.element(node.inputs[0], tuple(source))


def _element_of_range(facts: Facts, node: Node, index: Shape) -> Expr:
    start, _, delta = (facts.vector(name)[0] for name in node.inputs)
    return apply("Add", apply("Mul", index[0], delta), start)


def _element_of_fill(facts: Facts, node: Node, index: Shape) -> Expr:
    value = attribute(node, "value")
    return symbolic._plain(np.float32(0) if value is None else np.asarray(value).reshape(-1)[0])


def _element_of_shape(facts: Facts, node: Node, index: Shape) -> Expr:
    if not isinstance(index[0], int):
        raise Unknown
    return _shape_range(facts, node)[index[0]]


_ELEMENTS: dict[str, Callable[[Facts, Node, Shape], Expr]] = {
    "Identity": lambda facts, node, index: facts.element(node.inputs[0], index),
    "Expand": lambda facts, node, index: facts._broadcast_element(node.inputs[0], index),
    "Cast": _element_of_cast,
    "Gather": _element_of_gather,
    "GatherND": _element_of_gathernd,
    "Unsqueeze": _element_of_unsqueeze,
    "Squeeze": _element_of_squeeze,
    "Transpose": _element_of_transpose,
    "GatherElements": _element_of_gather_elements,
    "Reshape": _element_of_reshape,
    "Flatten": _element_of_reshape,
    "Concat": _element_of_concat,
    "Slice": _element_of_slice,
    "Range": _element_of_range,
    "ConstantOfShape": _element_of_fill,
    "Shape": _element_of_shape,
}
