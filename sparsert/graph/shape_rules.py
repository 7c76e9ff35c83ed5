"""The shape and dtype rules: one function per ONNX op that changes a shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx

from sparsert.graph import symbolic
from sparsert.graph.ir import Node
from sparsert.graph.known import Known, Shape, Unknown, attribute
from sparsert.graph.symbolic import Expr, apply, factors, is_number, multiply, product_of, quotient

_TO_END = 2**63 - 1
"""How exporters write a slice to the end."""


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


def output_dtypes(facts: Known, node: Node) -> list[np.dtype | None]:
    """Return the dtype of every output, None where unknown."""
    if node.op in _FIXED_DTYPES:
        return list(_FIXED_DTYPES[node.op])
    if node.op == "Cast":
        return [onnx.helper.tensor_dtype_to_np_dtype(attribute(node, "to"))]
    if node.op == "ConstantOfShape":
        value = attribute(node, "value")
        return [_FLOAT if value is None else np.asarray(value).dtype]
    if node.op == "QuantizeLinear":
        return [facts.dtype(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else _UINT8]
    if node.op == "Dropout":
        return [facts.dtype(node.inputs[0]), _BOOL]
    source = {"Where": 1, "DequantizeLinear": 1, "QLinearMatMul": 7, "QLinearConv": 7}.get(node.op, 0)
    dtype = facts.dtype(node.inputs[source]) if len(node.inputs) > source else None
    return [dtype] * len(node.outputs)


# -- shapes


def _same_as_input(facts: Known, node: Node) -> list[Shape]:
    return [facts.need(node.inputs[0])]


def _broadcast(facts: Known, node: Node) -> list[Shape]:
    return [facts.broadcast([facts.need(name) for name in node.inputs])]


def _matmul(a: Shape, b: Shape, facts: Known) -> list[Shape]:
    if len(a) < 2 or len(b) < 2:
        raise Unknown
    return [(*facts.broadcast([a[:-2], b[:-2]] if a[:-2] or b[:-2] else [()]), a[-2], b[-1])]


def _shape_of_matmul(facts: Known, node: Node) -> list[Shape]:
    right = node.inputs[3] if node.op == "QLinearMatMul" else node.inputs[1]
    return _matmul(facts.need(node.inputs[0]), facts.need(right), facts)


def _shape_of_gemm(facts: Known, node: Node) -> list[Shape]:
    a, b = facts.need(node.inputs[0]), facts.need(node.inputs[1])
    return [(a[1 if attribute(node, "transA", 0) else 0], b[0 if attribute(node, "transB", 0) else 1])]


def _shape_of_conv(facts: Known, node: Node) -> list[Shape]:
    """A free dimension that is not strided over stays one."""
    x, w = facts.need(node.inputs[0]), facts.need(node.inputs[1])
    rank = len(x) - 2
    strides, dilations = attribute(node, "strides", [1] * rank), attribute(node, "dilations", [1] * rank)
    pads, padding = attribute(node, "pads", [0] * (2 * rank)), attribute(node, "auto_pad", "NOTSET")
    result: list[Expr] = []
    for axis, (dim, kernel) in enumerate(zip(x[2:], w[2:], strict=True)):
        less = dilations[axis] * (kernel - 1)  # type: ignore[operator]
        less = 0 if padding.startswith("SAME") else less - (pads[axis] + pads[axis + rank])
        places = apply("Sub", dim, less)
        stride = strides[axis]
        result.append(places if stride == 1 else -(-places // stride) if isinstance(places, int) else facts.fresh_dim())
    return [(x[0], w[0], *result)]


def _shape_of_shape(facts: Known, node: Node) -> list[Shape]:
    return [(len(shape_range(facts, node)),)]


def shape_range(facts: Known, node: Node) -> Shape:
    """Return the dimensions that a Shape gives."""
    dims = facts.need(node.inputs[0])
    return dims[attribute(node, "start", 0) : attribute(node, "end", len(dims))]


def _shape_of_gather(facts: Known, node: Node) -> list[Shape]:
    data, indices = facts.need(node.inputs[0]), facts.need(node.inputs[1])
    axis = attribute(node, "axis", 0) % len(data)
    return [(*data[:axis], *indices, *data[axis + 1 :])]


def _shape_of_gathernd(facts: Known, node: Node) -> list[Shape]:
    data, indices = facts.need(node.inputs[0]), facts.need(node.inputs[1])
    if attribute(node, "batch_dims", 0) or not isinstance(indices[-1], int):
        raise Unknown
    return [(*indices[:-1], *data[indices[-1] :])]


def _shape_of_flatten(facts: Known, node: Node) -> list[Shape]:
    dims, axis = facts.need(node.inputs[0]), attribute(node, "axis", 1)
    axis += len(dims) if axis < 0 else 0
    parts = []
    for part in (dims[:axis], dims[axis:]):
        total: symbolic.Factors = (1, ())
        for dim in part:
            total = multiply(total, factors(dim, {}))
        parts.append(product_of(total))
    return [tuple(parts)]


def _shape_of_unsqueeze(facts: Known, node: Node) -> list[Shape]:
    dims, axes = list(facts.need(node.inputs[0])), facts.axes(node)
    if axes is None:
        raise Unknown
    rank = len(dims) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        dims.insert(axis, 1)
    return [tuple(dims)]


def squeezed_axes(facts: Known, node: Node) -> list[int]:
    """Return the axes that a Squeeze removes."""
    dims, axes = facts.need(node.inputs[0]), facts.axes(node)
    if axes is None:
        if any(isinstance(dim, tuple) for dim in dims):
            raise Unknown
        return [axis for axis, dim in enumerate(dims) if dim == 1]
    return [axis % len(dims) for axis in axes]


def _shape_of_squeeze(facts: Known, node: Node) -> list[Shape]:
    gone = squeezed_axes(facts, node)
    return [tuple(dim for axis, dim in enumerate(facts.need(node.inputs[0])) if axis not in gone)]


def _shape_of_transpose(facts: Known, node: Node) -> list[Shape]:
    dims = facts.need(node.inputs[0])
    return [tuple(dims[axis] for axis in attribute(node, "perm", list(range(len(dims)))[::-1]))]


def _shape_of_reshape(facts: Known, node: Node) -> list[Shape]:
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


def _shape_of_expand(facts: Known, node: Node) -> list[Shape]:
    return [facts.broadcast([facts.need(node.inputs[0]), tuple(facts.vector(node.inputs[1]))])]


def _shape_of_tile(facts: Known, node: Node) -> list[Shape]:
    dims, repeats = facts.need(node.inputs[0]), facts.vector(node.inputs[1])
    return [tuple(apply("Mul", dim, times) for dim, times in zip(dims, repeats, strict=True))]


def _shape_of_concat(facts: Known, node: Node) -> list[Shape]:
    shapes = [facts.need(name) for name in node.inputs]
    axis = attribute(node, "axis") % len(shapes[0])
    total: Expr = 0
    for shape in shapes:
        total = apply("Add", total, shape[axis])
    return [(*shapes[0][:axis], total, *shapes[0][axis + 1 :])]


def slices(facts: Known, node: Node) -> dict[int, tuple[Expr, Expr, int]]:
    """Return start, end and step of every sliced axis, from attributes (opset < 10) or inputs."""
    rank = len(facts.need(node.inputs[0]))
    if len(node.inputs) == 1:
        starts, ends = attribute(node, "starts"), attribute(node, "ends")
        axes, steps = attribute(node, "axes"), None
    else:
        values = [facts.vector(name) if name else None for name in [*node.inputs[1:], "", ""][:4]]
        starts, ends, axes, steps = values
    count = len(starts)
    cut = [axis for axis in (range(count) if axes is None else axes) if isinstance(axis, int)]
    strides = [step for step in ([1] * count if steps is None else steps) if isinstance(step, int)]
    if not len(cut) == len(strides) == len(ends) == count:
        raise Unknown
    return {a % rank: (s, e, t) for a, s, e, t in zip(cut, starts, ends, strides, strict=True)}


def _shape_of_slice(facts: Known, node: Node) -> list[Shape]:
    dims = list(facts.need(node.inputs[0]))
    for axis, (start, end, step) in slices(facts, node).items():
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


def _shape_of_range(facts: Known, node: Node) -> list[Shape]:
    start, limit, delta = (
        facts.element(name, ()) if facts.rank(name) == 0 else facts.vector(name)[0] for name in node.inputs
    )
    if is_number(start) and is_number(limit) and is_number(delta):
        return [(max(0, math.ceil((limit - start) / delta)),)]  # type: ignore[operator]
    if delta != 1:
        raise Unknown
    if isinstance(limit, tuple) and limit[0] == "ToFloat":
        limit = limit[1]  # a count, which float32 holds up to 2**24
    return [(apply("Sub", limit, start),)]


def _shape_of_split(facts: Known, node: Node) -> list[Shape]:
    dims, axis = facts.need(node.inputs[0]), attribute(node, "axis", 0)
    axis %= len(dims)
    sizes = attribute(node, "split")
    if sizes is None and len(node.inputs) > 1 and node.inputs[1]:
        sizes = facts.vector(node.inputs[1])
    if sizes is None:
        if not isinstance(dims[axis], int):
            raise Unknown
        chunk = -(-dims[axis] // len(node.outputs))
        sizes = [min(chunk, dims[axis] - i * chunk) for i in range(len(node.outputs))]
    return [(*dims[:axis], size, *dims[axis + 1 :]) for size in sizes]


def _shape_of_reduce(facts: Known, node: Node) -> list[Shape]:
    dims, axes = facts.need(node.inputs[0]), facts.axes(node)
    gone = range(len(dims)) if axes is None else [axis % len(dims) for axis in axes]
    if attribute(node, "keepdims", 1):
        return [tuple(1 if axis in gone else dim for axis, dim in enumerate(dims))]
    return [tuple(dim for axis, dim in enumerate(dims) if axis not in gone)]


def _shape_of_dynamic_quantize(facts: Known, node: Node) -> list[Shape]:
    return [facts.need(node.inputs[0]), (), ()]


_UNARY = (
    "Identity Dropout Cast Relu Tanh Erf Sqrt Cos Sin Softmax LogSoftmax Sigmoid Neg Exp Log Abs Not IsNaN Gelu Floor "
    "Reciprocal LayerNormalization QuantizeLinear DequantizeLinear CumSum Clip Elu LeakyRelu"
)
BROADCASTING = frozenset(
    "Add Sub Mul Div Pow Mod And Or Xor Equal Less LessOrEqual Greater GreaterOrEqual Where Min Max Sum".split()
)
"""Ops of any number of inputs that broadcast to each other."""
_REDUCING = "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd"

SHAPES: dict[str, Callable[[Known, Node], Sequence[Shape | None]]] = {
    **dict.fromkeys(_UNARY.split(), _same_as_input),
    **dict.fromkeys(BROADCASTING, _broadcast),
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
    "Conv": _shape_of_conv,
    "Tile": _shape_of_tile,
    "Concat": _shape_of_concat,
    "Slice": _shape_of_slice,
    "Range": _shape_of_range,
    "Split": _shape_of_split,
    "DynamicQuantizeLinear": _shape_of_dynamic_quantize,
    "ConstantOfShape": lambda facts, node: [tuple(facts.vector(node.inputs[0]))],
}
"""Op to the rule that gives the shape of every output; an op without one is left to ONNX's shape inference."""
