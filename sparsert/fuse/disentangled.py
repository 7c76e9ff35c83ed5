"""Disentangled attention of DeBERTa: a sum of three products under one Softmax, two of them looked up by distance."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from sparsert.fuse.axes import Axes
from sparsert.fuse.mask import emit_key_mask
from sparsert.fuse.operand import constant_factor
from sparsert.graph.editor import Editor
from sparsert.graph.grids import compute
from sparsert.graph.ir import Node
from sparsert.graph.known import Shape, Unknown, attribute
from sparsert.graph.symbolic import Expr, evaluate, leaves_of
from sparsert.ops import HIDDEN, KeyMask
from sparsert.ops.disentangled import DisentangledAttention, PositionVectors

_MOVES = ("Transpose", "Reshape", "Unsqueeze", "Squeeze")
_FARTHEST = 1 << 17
"""Distances that are looked at: what holds up to here is taken to hold for every length."""

_SCORES_SPLIT = ([0], [0], [1], [2])
_DISTANCE = ("index", "distance", 1 << 62)


def fuse_disentangled(editor: Editor) -> None:
    """Replace every attention whose scores are looked up by the distance of query and key."""
    if not editor.nodes("GatherElements"):
        return
    for node in editor.nodes("Softmax"):
        if editor.alive(node):
            _fuse(editor, node)


@dataclass
class _Heads:
    """Q, K or V: the (B, S, H) value that heads are split from, their number, and a factor on the way."""

    base: str
    heads: int
    scale: float
    nodes: list[Node]


@dataclass
class _Term:
    """A summand of the scores: "content", "keys" (a query with a position's key) or "queries"."""

    kind: str
    scale: float
    left: _Heads
    right: _Heads | None = None
    positions: PositionVectors | None = None
    nodes: list[Node] = field(default_factory=list)


@dataclass
class _Mask:
    source: str
    mask: KeyMask
    spelled: str
    masked_queries: str


def _fuse(editor: Editor, softmax: Node) -> None:
    shape = editor.facts.shape(softmax.inputs[0])
    last = -1 if editor.graph.opsets.get("", 13) >= 13 else 1
    if shape is None or len(shape) != 4 or attribute(softmax, "axis", last) not in (-1, 3):
        return
    nodes: list[Node] = []
    value, mask = _unmasked(editor, softmax.inputs[0], shape, nodes)
    if value is None:
        return
    value, before = _scaled(editor, value, nodes)
    value = _before_split(editor, value, nodes)
    if value is None:
        return
    value, behind = _scaled(editor, value, nodes)
    terms = _terms(editor, value)
    content = terms.get("content") if terms else None
    if terms is None or content is None or content.right is None or len(terms) < 2:
        return
    keys, queries = terms.get("keys"), terms.get("queries")
    q, k = content.left, content.right
    scale = content.scale * q.scale * k.scale
    for term, operand in ((keys, q), (queries, k)):
        if term is not None and (
            term.left.base != operand.base
            or term.left.heads != q.heads
            or not np.isclose(term.scale * term.left.scale, scale, rtol=1e-6)
        ):
            return
    context = _context(editor, softmax, mask, shape)
    if context is None:
        return
    v, output, masked_queries, after = context
    if len({q.heads, k.heads, v.heads}) != 1 or v.scale != 1.0:
        return
    if not (editor.facts.same_shape(q.base, k.base) and editor.facts.same_shape(q.base, v.base)):
        return
    inputs = [q.base, k.base, v.base]
    if mask is not None:
        inputs.append(emit_key_mask(editor, mask.source, mask.mask, mask.spelled))
    fused = DisentangledAttention(
        q.heads,
        scale * before * behind,
        keys.positions if keys else None,
        queries.positions if queries else None,
        masked_queries,
    )
    absorbed = [node for term in terms.values() for node in term.nodes]
    editor.emit(fused, inputs, output, [*absorbed, *nodes[::-1], softmax, *after])


# -- from the Softmax up to the sum


def _unmasked(editor: Editor, value: str, shape: Shape, nodes: list[Node]) -> tuple[str | None, _Mask | None]:
    """Step up over ``Where(condition, number, scores)``; the scores, None if that cannot be told."""
    node = editor.producer(value, "Where")
    if node is None:
        return value, None
    if editor.sole_reader(value) is None:
        return None, None
    nodes.append(node)
    condition, yes, no = node.inputs
    filler, scores = (yes, no) if editor.is_constant(yes) else (no, yes)
    number = editor.scalar(filler)
    found = _pair_condition(editor, condition, shape)
    # where a score could outweigh the filler, adding it would be something else than replacing the score
    if number is None or number > HIDDEN or found is None or found[1] != (filler == no):
        return None, None
    source, _, masked_queries, formula = found
    return scores, _Mask(source, KeyMask(formula, float(number)), condition, masked_queries)


def _pair_condition(editor: Editor, value: str, scores: Shape) -> tuple[str, bool, str, str] | None:
    """Recognise a bool that depends on one input at (b, key), or at (b, query) and (b, key).

    Returns the input, the bool for mask 1 at both places, what masked queries do, and the formula of the key mask.
    """
    shape = editor.facts.shape(value)
    if shape is None or len(shape) != 4:
        return None
    names = ("batch", "head", "query", "key")
    index = tuple(("index", name, dim) for name, dim in zip(names, scores, strict=True))
    try:
        expr = editor.facts.element(value, tuple(0 if dim == 1 else i for dim, i in zip(shape, index, strict=True)))
    except (Unknown, RecursionError):
        return None
    leaves = set(leaves_of(expr))
    sources = {leaf[1] for leaf in leaves if leaf[0] == "input" and leaf[2] == index[0]}
    by_place = {leaf[3]: leaf for leaf in leaves if leaf[0] == "input" and editor.facts.rank(leaf[1]) == 2}
    if len(sources) != 1 or len(by_place) != len(leaves) or by_place.keys() not in ({index[3]}, {*index[2:]}):
        return None
    (source,) = sources
    dims = editor.facts.need(source)
    if not all(editor.facts.same(a, b) for a, b in zip(dims, (scores[0], scores[3]), strict=True)):
        return None
    dtype = editor.facts.dtype(source)
    kind = float if dtype is not None and dtype.kind == "f" else int
    query, key = by_place.get(index[2]), by_place[index[3]]
    pairs = [(a, b) for a in (0, 1, 2) for b in (0, 1, 2)]
    values = {}
    for a, b in pairs:
        numbers: dict[Expr, float] = {key: kind(b)}
        if query is not None:
            numbers[query] = kind(a)
        values[a, b] = evaluate(expr, numbers)
    for formula, seen in (("where", (1, 2)), ("equal", (1,))):
        both = {(a, b): b in seen and (query is None or a in seen) for a, b in values}
        if isinstance(values[1, 1], bool) and all((item == values[1, 1]) == both[at] for at, item in values.items()):
            return source, values[1, 1], "attend" if query is None else "uniform", formula
    return None


def _before_split(editor: Editor, value: str, nodes: list[Node]) -> str | None:
    """Step up over the Reshape that splits (B A, S, S) into (B, A, S, S), if there is one."""
    node = editor.producer(value, "Reshape")
    if node is None:
        return value
    shape = editor.facts.shape(node.inputs[0])
    axes = None if shape is None or len(shape) != 3 else Axes.of(shape, editor.facts.sizes).after(node, editor.facts)
    if editor.sole_reader(value) is None or axes is None or not axes.matches(_SCORES_SPLIT):
        return None
    nodes.append(node)
    return node.inputs[0]


def _terms(editor: Editor, value: str) -> dict[str, _Term] | None:
    """The summands of a value by their kind; None if one is unknown, is read elsewhere, or comes twice."""
    found: dict[str, _Term] = {}
    adds: list[Node] = []
    values = [value]
    while values:
        value = values.pop()
        if editor.scalar(value) == 0:
            continue  # what torch's sum starts from
        node = editor.producer(value)
        if node is None or editor.sole_reader(value) is None:
            return None
        if node.op == "Add":
            adds.append(node)
            values += node.inputs
            continue
        term = _term(editor, value)
        if term is None or term.kind in found:
            return None
        found[term.kind] = term
    if "content" in found:
        found["content"].nodes += adds
    return found


def _scaled(editor: Editor, value: str, nodes: list[Node]) -> tuple[str, float]:
    """Step up over products with and divisions by a number."""
    scale = 1.0
    while (node := editor.producers.get(value)) is not None:
        factor = constant_factor(editor, node)
        if factor is None or editor.sole_reader(value) is None:
            break
        nodes.append(node)
        value, scale = factor[0], scale * factor[1]
    return value, scale


def _swaps_last(node: Node) -> bool:
    perm = list(attribute(node, "perm", []))
    return perm == [*range(len(perm) - 2), len(perm) - 1, len(perm) - 2]


def _term(editor: Editor, value: str) -> _Term | None:
    """One summand of the scores."""
    nodes: list[Node] = []
    value, scale = _scaled(editor, value, nodes)
    product = editor.producer(value, "MatMul")
    if product is not None:
        left = _heads(editor, product.inputs[0], False)
        right = _heads(editor, product.inputs[1], True)
        nodes += [product, *(left.nodes if left else []), *(right.nodes if right else [])]
        return _Term("content", scale, left, right, nodes=nodes[::-1]) if left and right else None
    transposed = editor.producer(value, "Transpose")
    if transposed is not None and _swaps_last(transposed):
        nodes.append(transposed)
        value, factor = _scaled(editor, transposed.inputs[0], nodes)
        scale *= factor
    else:
        transposed = None
    gather = editor.producer(value, "GatherElements")
    if gather is None or editor.sole_reader(value) is None:
        return None
    rank = editor.facts.rank(value)
    if rank is None or attribute(gather, "axis", 0) not in (-1, rank - 1):
        return None
    nodes.append(gather)
    data, factor = _scaled(editor, gather.inputs[0], nodes)
    scale *= factor
    product = editor.producer(data, "MatMul")
    left = _heads(editor, product.inputs[0], False) if product is not None else None
    if product is None or left is None or editor.sole_reader(data) is None:
        return None
    nodes += [product, *left.nodes]
    vectors = _vectors(editor, product.inputs[1], left.heads, nodes)
    rows = None if vectors is None else _rows(editor, gather.inputs[1], transposed is not None, vectors.shape[1])
    if vectors is None or rows is None:
        return None
    kind = "keys" if transposed is None else "queries"
    return _Term(kind, scale, left, None, PositionVectors(vectors, rows), nodes[::-1])


# -- operands


def _heads(editor: Editor, value: str, transposed: bool) -> _Heads | None:
    """Step up from (B A, S, D) or (B, A, S, D), last axes swapped if transposed, to the value before the split."""
    nodes: list[Node] = []
    moves: list[Node] = []
    scale = 1.0
    while (node := editor.producers.get(value)) is not None and not editor.is_fused(node):
        if node.op in _MOVES:
            moves.append(node)
            value = node.inputs[0]
        else:
            factor = constant_factor(editor, node)
            if factor is None:
                break
            value, scale = factor[0], scale * factor[1]
        nodes.append(node)
    shape = editor.facts.shape(value)
    if shape is None or len(shape) != 3 or not editor.is_float(value):
        return None
    axes: Axes | None = Axes.of(shape, editor.facts.sizes)
    for node in moves[::-1]:
        axes = None if axes is None else axes.after(node, editor.facts)
    if axes is None:
        return None
    tail = [[2], [1]] if transposed else [[1], [2]]
    places = (0, 1 if transposed else 2) if len(axes.axes) == 3 else (1, 2 if transposed else 3)
    front = [[0, 2]] if len(axes.axes) == 3 else [[0], [2]]
    size = axes.size(places[1])
    if not axes.matches([*front, *tail]) or not axes.in_order(2, places) or not isinstance(shape[2], int) or not size:
        return None
    return _Heads(value, shape[2] // size, scale, nodes)


def _vectors(editor: Editor, value: str, heads: int, nodes: list[Node]) -> np.ndarray | None:
    """The constant (heads, R, D) whose transpose every item of the batch is multiplied with."""
    turned, found = False, None
    while found is None:
        found = editor.constant(value)
        node = editor.producer(value, "Transpose", "Tile", "Expand")
        if found is not None or node is None:
            break
        if node.op == "Transpose":
            if not _swaps_last(node):
                return None
            turned = not turned
        elif not _repeats_first(editor, node):
            return None
        nodes.append(node)
        value = node.inputs[0]
    if found is None or found.dtype != np.float32 or found.ndim not in (3, 4) or found.size == 0:
        return None
    if found.shape[:-2] not in ((heads,), (1, heads)):
        return None
    found = found.reshape(heads, *found.shape[-2:])
    return found if turned else found.swapaxes(1, 2)


def _repeats_first(editor: Editor, node: Node) -> bool:
    """Whether a Tile or Expand leaves all axes but the first as they are."""
    try:
        wanted = editor.facts.vector(node.inputs[1])
    except Unknown:
        return False
    if node.op == "Tile":
        return all(number == 1 for number in wanted[1:])
    shape = editor.facts.shape(node.inputs[0])
    if shape is None or len(shape) != len(wanted):
        return False
    return shape[0] == 1 and all(a == 1 or a == b for a, b in zip(wanted[1:], shape[1:], strict=True))


# -- rows by distance


def _rows(editor: Editor, value: str, by_key: bool, limit: int) -> np.ndarray | None:
    """The row that an index takes for every distance ``query - key``, until it stays the same.

    The index is (..., query, key), or (..., key, query) with ``by_key``.
    """
    shape = editor.facts.shape(value)
    if shape is None or len(shape) < 2:
        return None
    tokens = shape[-1]
    pair = [("index", "query", tokens), ("index", "key", tokens)]
    outer = tuple(("index", f"outer{axis}", dim) for axis, dim in enumerate(shape[:-2]))
    try:
        expr = editor.facts.element(value, (*outer, *(pair[::-1] if by_key else pair)))
    except (Unknown, RecursionError):
        return None
    return _rows_of(_by_distance(expr, *pair), limit)


def _by_distance(expr: Expr, query: Expr, key: Expr) -> Expr:
    """The expression with the distance in place of differences of query and key."""
    if not isinstance(expr, tuple):
        return expr
    if expr == ("Sub", query, key):
        return _DISTANCE
    if expr == ("Sub", key, query):
        return ("Neg", _DISTANCE)
    if expr[0] in ("dim", "index", "input"):
        return expr
    return (expr[0], *(_by_distance(item, query, key) for item in expr[1:]))


@lru_cache(maxsize=8)
def _rows_of(expr: Expr, limit: int) -> np.ndarray | None:
    """The rows for distances up to the one from which on they stay the same; None if they do not, or are none."""
    if set(leaves_of(expr)) != {_DISTANCE}:
        return None
    try:
        rows = compute(expr, {_DISTANCE: np.arange(-_FARTHEST, _FARTHEST + 1)}, {})
    except (LookupError, TypeError, ValueError):
        return None
    if rows.shape != (2 * _FARTHEST + 1,) or rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= limit:
        return None
    before, behind = rows[:_FARTHEST] != rows[0], rows[_FARTHEST + 1 :] != rows[-1]
    reach = (
        int(
            max(
                _FARTHEST - before.argmax() if before.any() else 0,
                np.flatnonzero(behind)[-1] + 1 if behind.any() else 0,
            )
        )
        + 1
    )
    return rows[_FARTHEST - reach : _FARTHEST + reach + 1].copy() if reach < _FARTHEST // 2 else None


# -- from the Softmax down to the merged heads


def _context(
    editor: Editor, softmax: Node, mask: _Mask | None, shape: Shape
) -> tuple[_Heads, str, str, list[Node]] | None:
    """V, the merged heads, what masked queries get, and the nodes up to there."""
    value, nodes = softmax.outputs[0], []
    masked_queries = mask.masked_queries if mask is not None else "attend"
    node = editor.sole_reader(value)
    if node is not None and node.op == "Where" and mask is not None and masked_queries == "uniform":
        condition, yes, no = node.inputs
        found = _pair_condition(editor, condition, shape)
        if found is None or found[0] != mask.source or found[2] != "uniform":
            return None
        kept, filler = (yes, no) if found[1] else (no, yes)
        if kept != value or editor.scalar(filler) != 0:
            return None
        masked_queries = "zero"
        nodes.append(node)
        value = node.outputs[0]
    axes: Axes | None = Axes.of(shape, editor.facts.sizes)
    while (node := editor.sole_reader(value)) is not None and node.op in _MOVES:
        axes = None if axes is None else axes.after(node, editor.facts)
        nodes.append(node)
        value = node.outputs[0]
    if node is None or node.op != "MatMul" or node.inputs[0] != value or axes is None:
        return None
    if not axes.matches([[0, 1], [2], [3]] if len(axes.axes) == 3 else [[0], [1], [2], [3]]):
        return None
    v = _heads(editor, node.inputs[1], False)
    result = editor.facts.shape(node.outputs[0])
    if v is None or result is None:
        return None
    nodes += [*v.nodes, node]
    value = node.outputs[0]
    axes = Axes.of(result, editor.facts.sizes)
    while axes is not None:
        merged = [[0], [1], [0, 2]] if len(result) == 3 else [[0], [2], [1, 3]]
        if len(axes.axes) == 3 and axes.matches(merged) and value != node.outputs[0]:
            return v, value, masked_queries, nodes
        reader = editor.sole_reader(value)
        if reader is None or reader.op not in _MOVES:
            return None
        axes = axes.after(reader, editor.facts)
        nodes.append(reader)
        value = reader.outputs[0]
    return None
