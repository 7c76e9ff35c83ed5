"""Multi-head attention: from the split of the heads to their merge, float or quantized, around one Softmax."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from sparsert.fuse.axes import Axes
from sparsert.fuse.linear import rescaled
from sparsert.fuse.mask import Added, add_terms, emit_key_mask, emit_score_mask, position_bias
from sparsert.fuse.operand import MOVES, Operand, agrees, constant_factor, operand
from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.graph.known import attribute
from sparsert.graph.symbolic import Expr
from sparsert.ops import Attention, Dequantize, PositionBias, Quantization, Quantize

_DRIFT = 0.01
"""Of a step, by which two grids of 255 steps may drift apart and still round alike: they meet at their zero."""


def fuse_attention(editor: Editor) -> None:
    """Replace every attention whose heads, mask and quantization can be proved."""
    known: dict[tuple[Expr, int], PositionBias] = {}  # layers share what they add to scores
    for node in editor.nodes("Softmax"):
        if editor.alive(node):
            _fuse(editor, node, known)


@dataclass
class _Product:
    """A product of two activations, traced back to what a MatMul of any kind reads."""

    node: Node
    left: str
    right: str
    mode: str  # "float", "static" or "dynamic"
    output: str
    """Name of the first value that holds the product as float, or as bytes for a QLinearMatMul."""
    left_quantization: Quantization | None = None
    right_quantization: Quantization | None = None
    scale: np.ndarray | None = None
    result: Quantization | None = None
    nodes: list[Node] = field(default_factory=list)

    def agrees(self, stated: Quantization | None, found: Quantization) -> bool:
        """Whether the Quantize that made an operand agrees with what the product says of it."""
        return agrees(stated, found, self.node.op == "QLinearMatMul")

    def operand(self, editor: Editor, right: bool, transposed: bool) -> Operand | None:
        """The (B, S, H) value that an operand is made of."""
        value, stated = (self.right, self.right_quantization) if right else (self.left, self.left_quantization)
        in_bytes, exact = self.node.op != "MatMul", self.node.op == "QLinearMatMul"
        return operand(editor, value, stated, in_bytes, exact, transposed)


def _product(editor: Editor, node: Node) -> _Product | None:
    """Describe a MatMul, a MatMulInteger with its rescaling, or a QLinearMatMul of two activations."""
    if any(editor.is_constant(name) for name in (node.inputs[0], node.inputs[3 if node.op == "QLinearMatMul" else 1])):
        return None
    if node.op == "MatMul":
        a, b = node.inputs
        left, right = (editor.fused_producer(name, "Dequantize") for name in (a, b))
        if left is not None and right is not None:
            scale = (left.fused.quantization.scale * right.fused.quantization.scale).astype(np.float32)
            return _Product(node, a, b, "static", node.outputs[0], None, None, scale, nodes=[node])
        return _Product(node, a, b, "float", node.outputs[0], nodes=[node])
    if node.op == "QLinearMatMul":
        a, sa, za, b, sb, zb, sy, zy = node.inputs
        left_q, right_q, result = (editor.quantization(s, z) for s, z in ((sa, za), (sb, zb), (sy, zy)))
        if left_q is None or right_q is None or result is None:
            return None
        scale = (left_q.scale * right_q.scale).astype(np.float32)
        return _Product(node, a, b, "static", node.outputs[0], left_q, right_q, scale, result, [node])
    if node.op != "MatMulInteger" or len(node.inputs) != 4:
        return None
    tail = rescaled(editor, node)
    if tail is None or tail.acc_bias is not None:
        return None
    a, b, za, zb = node.inputs
    if tail.scale is not None:
        one = editor.constants.get(za), editor.constants.get(zb)
        if tail.scale.size != 1 or any(zero is None or zero.size != 1 for zero in one):
            return None
        left_q, right_q = (Quantization(np.ones((), np.float32), z.reshape(()), z.dtype) for z in one)  # type: ignore[union-attr]
        return _Product(node, a, b, "static", tail.output, left_q, right_q, tail.scale, nodes=tail.nodes)
    left, right = (editor.producers.get(name) for name in (za, zb))
    for side, zero in ((left, za), (right, zb)):
        if side is None or side.op != "DynamicQuantize" or side.outputs[2] != zero:
            return None
    if sorted(tail.scale_factors or ()) != sorted((left.outputs[1], right.outputs[1])):  # type: ignore[union-attr]
        return None
    return _Product(node, a, b, "dynamic", tail.output, nodes=tail.nodes)


@dataclass
class _Scores:
    """What lies between the product of Q and K and the Softmax."""

    product: _Product
    scale: float
    quantization: Quantization | None
    scaled: Quantization | None
    added: Added
    masked: Quantization | None
    nodes: list[Node]


def _scores(editor: Editor, softmax: Node) -> _Scores | None:
    """Walk back from the Softmax over mask, scaling and quantization to the product."""
    value, before, scale = softmax.inputs[0], 1.0, 1.0
    quantization: Quantization | None = None
    scaled: Quantization | None = None
    masked: Quantization | None = None
    added = Added()
    nodes: list[Node] = []
    shape = editor.facts.shape(value)
    if shape is None or len(shape) != 4:
        return None
    while True:
        if editor.sole_reader(value) is None:
            return None
        node = editor.producers.get(value)
        if node is None:
            return None
        if node.op in ("MatMul", "MatMulInteger", "QLinearMatMul"):
            product = _product(editor, node)
            break
        nodes.append(node)
        if editor.is_fused(node):
            if node.op == "Dequantize" and (quantization is None or (scaled is None and scale == 1.0)):
                if quantization is not None:  # scores are quantized both before and after they are scaled
                    scaled, scale, before = quantization, before, 1.0
                quantization, value = node.fused.quantization, node.inputs[0]
                inner = editor.producer(value, "QLinearMatMul") or editor.fused_producer(value, "Quantize")
                if inner is None or editor.sole_reader(value) is None:
                    return None
                if inner.op == "Quantize":
                    if not inner.fused.quantization.same_as(quantization):
                        return None
                    nodes.append(inner)
                    value = inner.inputs[0]
                continue
            return None
        if node.op in ("Add", "Where") and masked is None and scaled is None and scale == before == 1.0:
            found = add_terms(editor, node, shape, added)
            if found is None:
                return None
            value, quantization, masked = found, None, quantization
            continue
        inner = _integer_product(editor, node)
        if inner is not None:
            nodes.pop()
            product = _product(editor, inner)
            if product is None or product.output != value:
                return None
            break
        factor = constant_factor(editor, node)
        if factor is None:
            return None
        value = factor[0]
        if quantization is None:
            scale *= factor[1]
        else:
            before *= factor[1]
    if product is None:
        return None
    if product.result is not None and not (quantization and product.result.same_as(quantization)):
        return None
    if quantization is not None and before != 1.0:
        # Scores were scaled before they were quantized: the same bytes come from a scale that is smaller by the factor.
        quantization = replace(quantization, scale=np.float32(quantization.scale / before))
        scale *= before
    if quantization is not None and scaled is not None and _same_grid(quantization, scale, scaled):
        scaled = None
    rounded = scaled is not None or masked is not None
    if rounded and (added.positions is not None or added.array is not None):
        return None
    return _Scores(product, scale, quantization, scaled, added, masked, nodes)


def _same_grid(first: Quantization, factor: float, second: Quantization) -> bool:
    """Whether a quantization finds the bytes of the one before it, whose values were multiplied by a factor."""
    drift = 255 * abs(float(first.scale) * factor / float(second.scale) - 1)
    return (
        first.scalar
        and second.scalar
        and first.dtype == second.dtype
        and bool(first.zero_point == second.zero_point and drift < _DRIFT)
    )


def _integer_product(editor: Editor, node: Node) -> Node | None:
    """Return the MatMulInteger whose rescaling ends in this Mul."""
    if node.op != "Mul":
        return None
    for name in node.inputs:
        cast = editor.producer(name, "Cast")
        if cast is not None and (found := editor.producer(cast.inputs[0], "MatMulInteger")) is not None:
            return found
    return None


@dataclass
class _Context:
    """What lies between the Softmax and the merged heads."""

    product: _Product
    softmax: Quantization | None
    probs: Quantization | None
    probs_dynamic: bool
    result: Quantization | None
    output: str
    in_bytes: bool
    nodes: list[Node]


def _drop_nan_guard(editor: Editor, value: str, nodes: list[Node]) -> str:
    """Step over ``Where(IsNaN(p), 0, p)``, which torch adds for rows that are masked with -inf throughout."""
    readers = editor.readers(value)
    if len(readers) == 2 and value not in editor.outputs:
        guard = next((node for node in readers if node.op == "IsNaN"), None)
        where = next((node for node in readers if node.op == "Where"), None)
        if guard is not None and where is not None and editor.sole_reader(guard.outputs[0]) is where:
            if where.inputs[0] == guard.outputs[0] and where.inputs[2] == value and editor.scalar(where.inputs[1]) == 0:
                nodes.extend([guard, where])
                return where.outputs[0]
    return value


def _context(editor: Editor, softmax: Node) -> _Context | None:
    """Walk forward from the Softmax over quantization and the product with V to the merged heads."""
    nodes: list[Node] = []
    value = _drop_nan_guard(editor, softmax.outputs[0], nodes)
    first: Quantization | None = None
    probs: Quantization | None = None
    dynamic = False
    while True:
        node = editor.sole_reader(value)
        if node is None:
            return None
        if editor.is_fused(node):
            if node.op == "Quantize" and first is None:
                if probs is not None and not probs.same_as(node.fused.quantization):
                    first = probs
                probs = node.fused.quantization
            elif node.op == "DynamicQuantize" and probs is None:
                dynamic = True
            elif node.op != "Dequantize" or not (probs and probs.same_as(node.fused.quantization)):
                return None
            nodes.append(node)
            value = node.outputs[0]
            continue
        if node.op not in ("MatMul", "MatMulInteger", "QLinearMatMul"):
            return None
        product = _product(editor, node)
        break
    if product is None or product.left != value:
        return None
    if product.mode == "static" and (probs is None or not product.agrees(product.left_quantization, probs)):
        return None
    if (product.mode == "dynamic") != dynamic or (product.mode == "float" and probs is not None):
        return None
    merged = _merged(editor, product, nodes)
    if merged is None:
        return None
    return _Context(product, first, probs, dynamic, merged[1], merged[0], merged[2], nodes)


def _merged(editor: Editor, product: _Product, nodes: list[Node]) -> tuple[str, Quantization | None, bool] | None:
    """Follow the context (B, A, S, D) until its heads are merged; return that value, its quantization, if in bytes."""
    value = product.output
    shape = editor.facts.shape(value)
    if shape is None or len(shape) != 4:
        return None
    axes: Axes | None = Axes.of(shape, editor.facts.sizes)
    result, in_bytes = product.result, product.result is not None
    while True:
        if axes is None:
            return None
        node = editor.sole_reader(value)
        if axes.matches([[0], [2], [1, 3]]):
            # Bytes that nobody dequantizes are read as they are: the next Quantize had equal parameters and is gone.
            if not in_bytes or node is None or node.op != "Dequantize":
                return value, result, in_bytes
        if node is None:
            return None
        if editor.is_fused(node):
            if node.op not in ("Quantize", "Dequantize"):
                return None
            if result is not None and not result.same_as(node.fused.quantization):
                return None
            result, in_bytes = node.fused.quantization, node.op == "Quantize"
        elif node.op in MOVES:
            axes = axes.after(node, editor.facts)
        else:
            return None
        nodes.append(node)
        value = node.outputs[0]


def _fuse(editor: Editor, softmax: Node, known: dict[tuple[Expr, int], PositionBias]) -> None:
    rank = editor.facts.rank(softmax.inputs[0])
    last = -1 if editor.graph.opsets.get("", 13) >= 13 else 1
    if rank != 4 or attribute(softmax, "axis", last) not in (-1, 3):
        return
    scores, context = _scores(editor, softmax), _context(editor, softmax)
    if scores is None or context is None:
        return
    q = scores.product.operand(editor, right=False, transposed=False)
    k = scores.product.operand(editor, right=True, transposed=True)
    v = context.product.operand(editor, right=True, transposed=False)
    if q is None or k is None or v is None:
        return
    counts = {item.axes.size(1) for item in (q, k, v)}
    heads = counts.pop()
    if counts or heads is None:
        return
    shapes = [item.shape(editor) for item in (q, k, v)]
    if not all(editor.facts.same(a, b) for shape in shapes[1:] for a, b in zip(shapes[0], shape, strict=True)):
        return
    trips: list[tuple[Quantization, list[Node]] | None] = []
    for product, item in ((scores.product, q), (scores.product, k), (context.product, v)):
        trips.append(None)
        if product.mode == "float" and item.quantization is not None:
            trips[-1] = item.quantization, [node for node in item.nodes if node.op in ("Quantize", "Dequantize")]
            item.quantization = None
    added = scores.added
    fused = _attention(heads, scores, context, q, k, v)
    bases = [item.emit(editor, heads) for item in (q, k, v)] if fused is not None else [None]
    if fused is None or None in bases:
        editor.sweep(base for base in bases if base)
        return
    if added.positions is not None:
        what = added.positions, fused.heads
        if what not in known:
            known[what] = position_bias(editor, what[0], editor.facts.need(softmax.inputs[0]), fused.heads)
        fused = replace(fused, positions=known[what])
    # A round trip through bytes before a float product is done before the heads are split: it moves no element.
    inputs: list[str] = [
        base if trip is None else _round_trip(editor, base, *trip)  # type: ignore[arg-type, misc]
        for base, trip in zip(bases, trips, strict=True)
    ]
    if added.mask is not None or added.array is not None:
        inputs.append(emit_key_mask(editor, *added.mask) if added.mask is not None else "")
    if added.array is not None:
        array, mask = added.array
        inputs.append(array if mask is None else emit_score_mask(editor, array, mask))
    absorbed = [*q.nodes, *k.nodes, *scores.product.nodes, *scores.nodes[::-1], softmax, *v.nodes]
    absorbed += [*context.product.nodes, *context.nodes]
    output = context.output
    if context.in_bytes and context.result is not None:
        output = editor.fresh(f"{context.output}.real")
        editor.facts.shapes[output] = editor.facts.need(context.output)
        editor.facts.dtypes[output] = np.dtype(np.float32)
    editor.emit(fused, inputs, output, absorbed)
    if context.in_bytes and context.result is not None:
        editor.emit(Quantize(context.result), [output], context.output, absorbed[-1:])


def _round_trip(editor: Editor, value: str, quantization: Quantization, absorbed: list[Node]) -> str:
    stored, real = editor.fresh(f"{value}.stored"), editor.fresh(f"{value}.real")
    for name, dtype in ((stored, quantization.dtype), (real, np.dtype(np.float32))):
        editor.facts.shapes[name], editor.facts.dtypes[name] = editor.facts.need(value), dtype
    editor.emit(Quantize(quantization), [value], stored, absorbed)
    editor.emit(Dequantize(quantization), [stored], real, absorbed)
    return real


def _attention(heads: int, scores: _Scores, context: _Context, q: Operand, k: Operand, v: Operand) -> Attention | None:
    """Put the parts together if the fused op can say them."""
    dynamic = scores.product.mode == "dynamic"
    if dynamic != (context.product.mode == "dynamic") or any(item.dynamic != dynamic for item in (q, k, v)):
        return None
    static_qk, static_pv = scores.product.mode == "static", context.product.mode == "static"
    if static_qk != (q.quantization is not None) or static_qk != (k.quantization is not None):
        return None
    if static_pv != (v.quantization is not None) or (dynamic and scores.quantization is not None):
        return None
    if v.scale != 1.0:
        return None
    return Attention(
        heads=heads,
        scale=scores.scale * q.scale * k.scale,
        q_quantization=q.quantization,
        k_quantization=k.quantization,
        qk_scale=scores.product.scale,
        scores_quantization=scores.quantization,
        scaled_quantization=scores.scaled,
        masked_quantization=scores.masked,
        softmax_quantization=context.softmax,
        probs_quantization=context.probs,
        v_quantization=v.quantization,
        pv_scale=context.product.scale,
        context_quantization=context.result,
        dynamic=dynamic,
    )
