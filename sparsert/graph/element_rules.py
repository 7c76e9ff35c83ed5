"""The element rules: one element of an op's output, written with elements of its inputs; one function per ONNX op."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparsert.graph import symbolic
from sparsert.graph.ir import Node
from sparsert.graph.known import Known, Shape, Unknown, attribute
from sparsert.graph.shape_rules import shape_range, slices, squeezed_axes
from sparsert.graph.symbolic import Expr, apply, factors, is_number, multiply, product_of, quotient


def constant_element(array: np.ndarray, name: str, index: Shape) -> Expr:
    """Read a constant at expressions: a number, also where it is uniform or counts along one axis, else its place."""
    if len(index) != array.ndim or array.size == 0:
        raise Unknown
    picked = array[tuple(i if isinstance(i, int) else slice(None) for i in index)]
    free = [i for i in index if isinstance(i, tuple)]
    if not free:
        return symbolic.plain(picked)
    first = picked.reshape(-1)[0]
    if picked.dtype.kind not in "biuf":
        raise Unknown
    if (picked == first).all():
        return symbolic.plain(first)
    if picked.dtype.kind in "iu":
        for axis, variable in enumerate(free):
            size = picked.shape[axis]
            ramp = np.arange(size).reshape([-1 if k == axis else 1 for k in range(picked.ndim)])
            if (picked == ramp + first).all():
                return apply("Add", variable, int(first))
    return ("table", name, *index)


def _element_of_cast(facts: Known, node: Node, index: Shape) -> Expr:
    kind = {"b": "ToBool", "i": "ToInt", "u": "ToInt", "f": "ToFloat"}.get(facts.dtypes[node.outputs[0]].kind)
    if kind is None:
        raise Unknown
    inner = facts.element(node.inputs[0], index)
    source = facts.dtype(node.inputs[0])
    if source is not None and source.kind == facts.dtypes[node.outputs[0]].kind and not is_number(inner):
        return inner
    return apply(kind, inner)


def _element_of_gather(facts: Known, node: Node, index: Shape) -> Expr:
    data, rank = facts.need(node.inputs[0]), len(facts.need(node.inputs[1]))
    axis = attribute(node, "axis", 0) % len(data)
    chosen = _from_end(facts.element(node.inputs[1], index[axis : axis + rank]), data[axis])
    return facts.element(node.inputs[0], (*index[:axis], chosen, *index[axis + rank :]))


def _from_end(chosen: Expr, dim: Expr) -> Expr:
    return apply("Add", chosen, dim) if is_number(chosen) and chosen < 0 else chosen  # type: ignore[operator]


def _element_of_gathernd(facts: Known, node: Node, index: Shape) -> Expr:
    data, indices = facts.need(node.inputs[0]), facts.need(node.inputs[1])
    if attribute(node, "batch_dims", 0) or not isinstance(indices[-1], int):
        raise Unknown
    outer = len(indices) - 1
    chosen = [facts.element(node.inputs[1], (*index[:outer], k)) for k in range(indices[-1])]
    chosen = [_from_end(item, dim) for item, dim in zip(chosen, data, strict=False)]
    return facts.element(node.inputs[0], (*chosen, *index[outer:]))


def _element_of_gather_elements(facts: Known, node: Node, index: Shape) -> Expr:
    axis = attribute(node, "axis", 0) % len(index)
    try:
        chosen = facts.element(node.inputs[1], index)
    except Unknown:
        # Whatever is chosen, a uniform table gives the same: the zeros that stand for absent token types.
        chosen = ("index", "any", facts.fresh_dim())
    return facts.element(node.inputs[0], (*index[:axis], chosen, *index[axis + 1 :]))


def _element_of_unsqueeze(facts: Known, node: Node, index: Shape) -> Expr:
    axes = facts.axes(node)
    if axes is None:
        raise Unknown
    gone = [axis % len(index) for axis in axes]
    return facts.element(node.inputs[0], tuple(i for axis, i in enumerate(index) if axis not in gone))


def _element_of_squeeze(facts: Known, node: Node, index: Shape) -> Expr:
    rest = list(index)
    for axis in sorted(squeezed_axes(facts, node)):
        rest.insert(axis, 0)
    return facts.element(node.inputs[0], tuple(rest))


def _element_of_transpose(facts: Known, node: Node, index: Shape) -> Expr:
    perm = attribute(node, "perm", list(range(len(index)))[::-1])
    source: list[Expr] = [0] * len(index)
    for out_axis, axis in enumerate(perm):
        source[axis] = index[out_axis]
    return facts.element(node.inputs[0], tuple(source))


def _element_of_reshape(facts: Known, node: Node, index: Shape) -> Expr:
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


def _unflatten(facts: Known, flat: Expr, shape: Shape) -> Shape:
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
            if dim != 1 and multiple is None and not term[1] and not stride[1]:
                multiple, term = (term[0] // stride[0], ()), (term[0] % stride[0], ())
                left.append(term)
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


def _element_of_concat(facts: Known, node: Node, index: Shape) -> Expr:
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


def _element_of_slice(facts: Known, node: Node, index: Shape) -> Expr:
    source, dims = list(index), facts.need(node.inputs[0])
    for axis, (start, _, step) in slices(facts, node).items():
        if isinstance(start, tuple) or step < 1:
            raise Unknown
        dim = dims[axis]
        first = slice(start, None, step).indices(dim)[0] if isinstance(dim, int) else _from_end(start, dim)
        source[axis] = apply("Add", apply("Mul", index[axis], step), first)
    return facts.element(node.inputs[0], tuple(source))


def split_element(facts: Known, node: Node, output: str, index: Shape) -> Expr:
    """One element of an output of a Split."""
    axis = attribute(node, "axis", 0) % len(index)
    first: Expr = 0
    for name in node.outputs[: node.outputs.index(output)]:
        first = apply("Add", first, facts.need(name)[axis])
    place = apply("Add", index[axis], first)
    return facts.element(node.inputs[0], (*index[:axis], place, *index[axis + 1 :]))


def _element_of_matmul(facts: Known, node: Node, index: Shape) -> Expr:
    """Of an outer product: sums have too many terms to be of use."""
    left, right = (facts.need(name) for name in node.inputs)
    if len(left) < 2 or len(right) < 2 or left[-1] != 1:
        raise Unknown
    *lead, row, column = index
    a = facts.broadcast_element(node.inputs[0], (*lead, row, 0))
    return apply("Mul", a, facts.broadcast_element(node.inputs[1], (*lead, 0, column)))


def _element_of_einsum(facts: Known, node: Node, index: Shape) -> Expr:
    """Of an outer product, in which every label of the terms is one of the result."""
    terms, _, result = attribute(node, "equation").replace(" ", "").partition("->")
    places = dict(zip(result, index, strict=True))
    product: Expr = 1
    for name, labels in zip(node.inputs, terms.split(","), strict=True):
        product = apply("Mul", product, facts.element(name, tuple(places[label] for label in labels)))
    return product


def _element_of_range(facts: Known, node: Node, index: Shape) -> Expr:
    start, _, delta = (facts.vector(name)[0] for name in node.inputs)
    dtype = facts.dtype(node.outputs[0])
    place = apply("ToFloat", index[0]) if dtype is not None and dtype.kind == "f" else index[0]
    return apply("Add", apply("Mul", place, delta), start)


def _element_of_clip(facts: Known, node: Node, index: Shape) -> Expr:
    value = facts.element(node.inputs[0], index)
    for position, name, operator in ((1, "min", "Max"), (2, "max", "Min")):
        bound = attribute(node, name)
        if len(node.inputs) > position and node.inputs[position]:
            bound = facts.element(node.inputs[position], ())
        if bound is not None:
            value = apply(operator, value, bound)
    return value


def _element_of_quantize(facts: Known, node: Node, index: Shape) -> Expr:
    limits = np.iinfo(facts.dtypes[node.outputs[0]])
    inner = facts.element(node.inputs[0], index)
    return apply("Stored", inner, *_scale_and_zero(facts, node), int(limits.min), int(limits.max))


def _element_of_dequantize(facts: Known, node: Node, index: Shape) -> Expr:
    return apply("Real", facts.element(node.inputs[0], index), *_scale_and_zero(facts, node))


def _scale_and_zero(facts: Known, node: Node) -> tuple[Expr, Expr]:
    """The parameters of a quantization per tensor."""
    found: list[Expr] = []
    for name in node.inputs[1:3]:
        shape = facts.need(name) if name else ()
        if any(dim != 1 for dim in shape):
            raise Unknown
        found.append(facts.element(name, (0,) * len(shape)) if name else 0)
    return found[0], found[1] if len(found) > 1 else 0


def _element_of_fill(facts: Known, node: Node, index: Shape) -> Expr:
    value = attribute(node, "value")
    return symbolic.plain(np.float32(0) if value is None else np.asarray(value).reshape(-1)[0])


def _element_of_shape(facts: Known, node: Node, index: Shape) -> Expr:
    if not isinstance(index[0], int):
        raise Unknown
    return shape_range(facts, node)[index[0]]


ELEMENTS: dict[str, Callable[[Known, Node, Shape], Expr]] = {
    "Identity": lambda facts, node, index: facts.element(node.inputs[0], index),
    "Expand": lambda facts, node, index: facts.broadcast_element(node.inputs[0], index),
    "Cast": _element_of_cast,
    "Clip": _element_of_clip,
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
    "MatMul": _element_of_matmul,
    "Einsum": _element_of_einsum,
    "Range": _element_of_range,
    "ConstantOfShape": _element_of_fill,
    "Shape": _element_of_shape,
    "QuantizeLinear": _element_of_quantize,
    "DequantizeLinear": _element_of_dequantize,
}
"""Op to the rule that writes one element of its output with elements of its inputs."""
