"""Brute-force twins: every fused op in plain NumPy, by the formulas of :mod:`sparsert.ops`, however slow.

``run_graph`` evaluates a whole graph, fused or not; one function per op, named as the op, is the reference of that op's
kernel. Integer parts are exact (int64), floats are float32 unless a formula says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sparsert import ops
from sparsert.graph.evaluate import make_runner
from sparsert.graph.ir import FUSED_DOMAIN, Graph, Node
from sparsert.graph.reads import implicit_inputs
from sparsert.graph.symbolic import apply, plain
from sparsert.ops import Quantization
from sparsert.ops.counted_positions import CountedPositions
from sparsert.ops.disentangled import DisentangledAttention, PositionVectors
from sparsert.ops.patches import Patches
from sparsert.ops.prefix_mask import PrefixMask
from sparsert.ops.rms_norm import RmsNorm
from sparsert.ops.rotary import TOKEN, PositionRows, Rotary
from sparsert.ops.standardize import Standardize

_erf = np.vectorize(math.erf, otypes=[np.float64])


# -- quantization


def quantize(x: np.ndarray, quantization: Quantization) -> np.ndarray:
    """``saturate(round_half_even(x / scale) + zero_point)``; NaN becomes the least number, as in ONNX Runtime."""
    limits = np.iinfo(quantization.dtype)
    stored = np.rint(x / quantization.scale) + quantization.zero_point.astype(np.float32)
    stored = np.where(np.isnan(stored), limits.min, np.clip(stored, limits.min, limits.max))
    return stored.astype(quantization.dtype)


def dequantize(x: np.ndarray, quantization: Quantization) -> np.ndarray:
    """``(x - zero_point) * scale``."""
    return centred(x, quantization.zero_point).astype(np.float32) * quantization.scale


def dynamic_quantize(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 values, scale and zero point of a whole tensor (https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html)."""
    low = np.minimum(np.float32(0), x.min())
    high = np.maximum(np.float32(0), x.max())
    scale = np.float32((high - low) / np.float32(255)) or np.float32(1)
    zero_point = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    stored = np.clip(np.rint(x / scale) + np.float32(zero_point), 0, 255).astype(np.uint8)
    return stored, np.asarray(scale, np.float32), np.asarray(zero_point, np.uint8)


def centred(x: np.ndarray, zero_point: np.ndarray | None) -> np.ndarray:
    """``x - zero_point`` in int64."""
    return x.astype(np.int64) - (0 if zero_point is None else np.asarray(zero_point).astype(np.int64))


# -- ops


def linear_accumulator(x: np.ndarray, zero_point: np.ndarray, op: ops.Linear) -> np.ndarray:
    """The exact integer part of an int8 Linear, int32, shape (..., N)."""
    # float64 products of bytes stay exact up to 2**53, and NumPy multiplies them with BLAS.
    left = centred(x, zero_point).astype(np.float64)
    right = centred(op.weight, op.weight_zero_point).astype(np.float64)
    accumulator = (left @ right).astype(np.int64)
    if op.acc_bias is not None:
        accumulator = accumulator + op.acc_bias.astype(np.int64)
    return accumulator.astype(np.int32)


def linear(
    op: ops.Linear, x: np.ndarray, x_scale: np.ndarray | None = None, x_zero_point: np.ndarray | None = None
) -> np.ndarray:
    """Float, int8 static, or int8 dynamic (with ``x_scale`` and ``x_zero_point``)."""
    if op.weight.dtype == np.float32:
        y = x @ op.weight
    else:
        if op.input_quantization is not None:
            x_zero_point, scale = op.input_quantization.zero_point, op.acc_scale
        else:
            scale = np.float32(x_scale) * op.weight_scale
        y = linear_accumulator(x, x_zero_point, op).astype(np.float32) * scale
    return y if op.bias is None else y + op.bias


def gelu(op: ops.Gelu, x: np.ndarray) -> np.ndarray:
    """Computed in float64, rounded once."""
    wide = x.astype(np.float64)
    if op.approximate == "tanh":
        inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
        return (0.5 * wide * (1 + np.tanh(inner))).astype(np.float32)
    if op.approximate == "sigmoid":
        return (wide / (1 + np.exp(-1.702 * wide))).astype(np.float32)
    return (0.5 * wide * (1 + _erf(wide / math.sqrt(2)))).astype(np.float32)


def activation(op: ops.Activation, x: np.ndarray) -> np.ndarray:
    """relu, tanh or silu, which is computed in float64 and rounded once."""
    if op.function == "silu":
        wide = x.astype(np.float64)
        return (wide * (1 / (1 + np.exp(-wide)))).astype(np.float32)
    return np.maximum(x, np.float32(0)) if op.function == "relu" else np.tanh(x)


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a + b."""
    return a + b


def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a * b."""
    return a * b


def rotary(op: Rotary, x: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Channel by channel, in float64 and rounded once."""
    y, wide = np.empty(x.shape, np.float64), x.astype(np.float64)
    size = len(op.partners)
    for channel in range(x.shape[-1]):
        place, partner = channel % size, op.partners[channel % size]
        y[..., channel] = wide[..., channel]
        if partner:
            y[..., channel] *= factors[..., op.cosines[place]]
            turned = wide[..., channel + partner] * factors[..., op.sines[place]]
            y[..., channel] += -turned if partner > 0 else turned
    return y.astype(np.float32)


def position_rows(op: PositionRows, ids: np.ndarray) -> np.ndarray:
    """Each position's factors by themselves, from the formula."""

    def number(expr: Any, token: int) -> Any:
        if expr == TOKEN:
            return token
        if not isinstance(expr, tuple):
            return expr
        if expr[0] == "Element":
            return plain(expr[1].numbers[number(expr[2], token)])
        return apply(expr[0], *(number(item, token) for item in expr[1:]))

    rows = [[number(column, token) for column in op.table.columns] for token in range(ids.shape[1])]
    return np.broadcast_to(np.float32(rows), (*ids.shape, len(op.table.columns)))


def layer_norm(op: ops.LayerNorm, x: np.ndarray) -> np.ndarray:
    """Computed in float64, rounded once."""
    wide = x.astype(np.float64)
    difference = wide - wide.mean(axis=-1, keepdims=True)
    variance = (difference**2).mean(axis=-1, keepdims=True)
    return (difference / np.sqrt(variance + op.epsilon) * op.gamma + op.beta).astype(np.float32)


def standardize(op: Standardize, x: np.ndarray) -> np.ndarray:
    """The variance rounds as the file has it, in float32; the rest is float64."""
    wide = x.astype(np.float64)
    difference = wide - wide.mean(axis=-1, keepdims=True)
    variance = (difference**2).mean(axis=-1, keepdims=True).astype(np.float32)
    variance = _round_trip(variance, op.variance_quantization) + np.float32(op.epsilon)
    return (difference / np.sqrt(_round_trip(variance, op.sum_quantization))).astype(np.float32)


def lookup(op: ops.Lookup, x: np.ndarray) -> np.ndarray:
    """The entry of each byte, counted from the least that its type has."""
    numbers = dict(zip(range(np.iinfo(x.dtype).min, 256), op.table, strict=False))
    return np.array([numbers[int(byte)] for byte in x.ravel()], np.float32).reshape(x.shape)


def rms_norm(op: RmsNorm, x: np.ndarray) -> np.ndarray:
    """Computed in float64, rounded once."""
    wide = x.astype(np.float64)
    return (wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True) + op.epsilon) * op.gamma).astype(np.float32)


def embeddings(op: ops.Embeddings, *rows: np.ndarray) -> np.ndarray:
    """Sum of table rows, in table order."""
    batch, tokens = rows[0].shape
    remaining = iter(rows)
    total: np.ndarray | None = None
    for table in op.tables:
        if table.index == "input":
            index = next(remaining)
        elif table.index == "position":
            index = np.broadcast_to(np.arange(tokens) + table.offset, (batch, tokens))
        else:
            index = np.full((batch, tokens), table.offset)
        count = len(table.weight)
        if index.min() < -count or index.max() >= count:
            raise IndexError(f"row {index.min()}..{index.max()} of a table of {count}")
        part = table.weight[index]
        if table.quantization is not None:
            part = dequantize(part, table.quantization)
        total = _round_trip(part if total is None else total + part, table.rounding)
    assert total is not None
    return total


def key_mask(op: ops.KeyMask, mask: np.ndarray) -> np.ndarray:
    """Added to the scores of every query."""
    if op.formula == "linear":
        return (np.float32(1) - mask.astype(np.float32)) * np.float32(op.value)
    kept = mask == 1 if op.formula == "equal" else mask != 0
    return np.where(kept, np.float32(0), np.float32(op.value))


def counted_positions(op: CountedPositions, ids: np.ndarray) -> np.ndarray:
    """One token after the other."""
    positions = np.full(ids.shape, op.padding, np.int64)
    for row, values in zip(positions, ids, strict=True):
        following = op.first
        for token, value in enumerate(values):
            if value != op.pad:
                row[token], following = following, following + 1
    return positions


def prefix_mask(op: PrefixMask, mask: np.ndarray) -> np.ndarray:
    """As many keys from the first on as the row of the mask counts."""
    kept = np.zeros(mask.shape, bool)
    for row, values in zip(kept, mask, strict=True):
        row[: sum(int(value) == 1 if op.ones else int(value) for value in values)] = True
    return kept


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis; a row of -inf throughout gives zeros."""
    highest = scores.max(axis=-1, keepdims=True)
    shifted = np.exp(scores - np.where(np.isneginf(highest), 0, highest))
    total = shifted.sum(axis=-1, keepdims=True)
    return shifted / np.where(total == 0, 1, total)


def patches(op: Patches, x: np.ndarray) -> np.ndarray:
    """One patch after the other, from the left to the right and down."""
    rows, columns = x.shape[2] // op.height, x.shape[3] // op.width
    found = [
        x[:, :, r * op.height : (r + 1) * op.height, c * op.width : (c + 1) * op.width].reshape(len(x), -1)
        for r in range(rows)
        for c in range(columns)
    ]
    return np.stack(found, axis=1)


def score_mask(op: ops.ScoreMask, condition: np.ndarray) -> np.ndarray:
    """Added to scores."""
    return np.where(condition == op.kept, np.float32(0), np.float32(op.value))


def position_bias(bias: ops.PositionBias, tokens: int) -> np.ndarray:
    """Number by number: (heads, queries, keys)."""

    def value(expr: Any, leaves: dict[Any, int]) -> Any:
        if expr in leaves or not isinstance(expr, tuple):
            return leaves.get(expr, expr)
        if expr[0] == "table":
            return bias.tables[expr[1]][tuple(int(value(item, leaves)) for item in expr[2:])]
        if expr[0] == "Where":  # the other branch may be the logarithm of 0
            return value(expr[2] if value(expr[1], leaves) else expr[3], leaves)
        return apply(expr[0], *(plain(value(item, leaves)) for item in expr[1:]))

    result = np.empty((bias.heads, tokens, tokens), np.float32)
    with np.errstate(all="ignore"):
        for place in np.ndindex(*result.shape):
            result[place] = value(bias.expr, dict(zip(bias.indices, place, strict=True)))
    return result


def attention(
    op: ops.Attention,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    mask: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """Float, int8 static, or int8 dynamic multi-head attention."""
    q, k, v = (_split(x, op.heads) for x in (q, k, v))
    k = k.transpose(0, 1, 3, 2)
    scores = _product(q, op.q_quantization, k, op.k_quantization, op.qk_scale, op.dynamic)
    scores = _round_trip(scores, op.scores_quantization) * np.float32(op.scale)
    scores = _round_trip(scores, op.scaled_quantization)
    if op.positions is not None:
        scores = scores + position_bias(op.positions, q.shape[2])
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores + mask[:, None, None, :]
    probs = _round_trip(softmax(_round_trip(scores, op.masked_quantization)), op.softmax_quantization)
    context = _product(probs, op.probs_quantization, v, op.v_quantization, op.pv_scale, op.dynamic)
    context = _round_trip(context, op.context_quantization)
    batch, heads, tokens, size = context.shape
    return np.ascontiguousarray(context.transpose(0, 2, 1, 3)).reshape(batch, tokens, heads * size)


def disentangled_attention(
    op: DisentangledAttention, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None = None
) -> np.ndarray:
    """One score after the other, in float64."""
    batch, tokens, hidden = q.shape
    queries, keys, values = (_split(x.astype(np.float64), op.heads) for x in (q, k, v))
    context = np.zeros(values.shape)

    def vector(positions: PositionVectors | None, head: int, distance: int) -> np.ndarray | float:
        if positions is None:
            return 0.0
        last = len(positions.rows) - 1
        return positions.vectors[head, positions.rows[min(max(distance + last // 2, 0), last)]]

    for item in range(batch):
        for head, i in np.ndindex(op.heads, tokens):
            query = queries[item, head, i]
            scores = np.array(
                [
                    np.sum(query * (key + vector(op.position_keys, head, i - j)))
                    + np.sum(key * vector(op.position_queries, head, i - j))
                    for j, key in enumerate(keys[item, head])
                ]
            )
            scores *= op.scale
            if mask is not None:
                scores += mask[item]
            probabilities = softmax(scores)
            if mask is not None and mask[item, i] < 0 and op.masked_queries != "attend":
                probabilities[:] = {"uniform": 1 / tokens, "zero": 0}[op.masked_queries]
            context[item, head, i] = probabilities @ values[item, head]
    return context.transpose(0, 2, 1, 3).reshape(batch, tokens, hidden).astype(np.float32)


def _split(x: np.ndarray, heads: int) -> np.ndarray:
    batch, tokens, hidden = x.shape
    return x.reshape(batch, tokens, heads, hidden // heads).transpose(0, 2, 1, 3)


def _round_trip(x: np.ndarray, quantization: Quantization | None) -> np.ndarray:
    return x if quantization is None else dequantize(quantize(x, quantization), quantization)


def _product(
    a: np.ndarray,
    qa: Quantization | None,
    b: np.ndarray,
    qb: Quantization | None,
    scale: np.ndarray | None,
    dynamic: bool,
) -> np.ndarray:
    if dynamic:
        (a8, sa, za), (b8, sb, zb) = dynamic_quantize(a), dynamic_quantize(b)
        return _integer_product(a8, za, b8, zb) * np.float32(sa * sb)
    if qa is None or qb is None:
        return a @ b
    return _integer_product(quantize(a, qa), qa.zero_point, quantize(b, qb), qb.zero_point) * scale


def _integer_product(a: np.ndarray, za: np.ndarray, b: np.ndarray, zb: np.ndarray) -> np.ndarray:
    return (centred(a, za).astype(np.float64) @ centred(b, zb).astype(np.float64)).astype(np.float32)


def select_token(op: ops.SelectToken, x: np.ndarray) -> np.ndarray:
    """x[:, index, :]."""
    return x[:, op.index, :]


def select_feature(op: ops.SelectFeature, x: np.ndarray) -> np.ndarray:
    """x[:, :, index]."""
    return x[:, :, op.index]


# -- graphs

_TWINS: dict[str, Callable[..., Any]] = {
    "Quantize": lambda op, x: quantize(x, op.quantization),
    "Dequantize": lambda op, x: dequantize(x, op.quantization),
    "DynamicQuantize": lambda op, x: dynamic_quantize(x),
    "Linear": linear,
    "Gelu": gelu,
    "Activation": activation,
    "Add": lambda op, a, b: add(a, b),
    "Multiply": lambda op, a, b: multiply(a, b),
    "Rotary": rotary,
    "PositionRows": position_rows,
    "LayerNorm": layer_norm,
    "RmsNorm": rms_norm,
    "Standardize": standardize,
    "Scale": lambda op, x: x * op.factors,
    "Lookup": lookup,
    "Embeddings": embeddings,
    "KeyMask": key_mask,
    "PrefixMask": prefix_mask,
    "CountedPositions": counted_positions,
    "ScoreMask": score_mask,
    "Patches": patches,
    "Attention": attention,
    "DisentangledAttention": disentangled_attention,
    "TokenMask": lambda op, mask: mask.astype(np.float32)[:, :, None],
    "MaskTokens": lambda op, x, mask: x * mask,
    "SelectToken": select_token,
    "SelectFeature": select_feature,
}


def run_node(node: Node, inputs: list[np.ndarray | None], opsets: Mapping[str, int]) -> list[np.ndarray]:
    """Evaluate one node of either vocabulary."""
    if node.domain != FUSED_DOMAIN:
        results = iter(make_runner(node, opsets)(inputs))
        return [next(results) if name else np.empty(0) for name in node.outputs]
    with np.errstate(over="ignore", invalid="ignore"):
        result = _TWINS[node.op](node.fused, *inputs)
    return list(result) if isinstance(result, tuple) else [result]


def run_graph(graph: Graph, feeds: Mapping[str, np.ndarray], keep: bool = False) -> dict[str, np.ndarray]:
    """Evaluate a graph.

    Parameters
    ----------
    graph : Graph
    feeds : mapping
        Input name to array.
    keep : bool
        Return every value, not only the graph's outputs.
    """
    values: dict[str, Any] = {"": None, **graph.constants, **feeds}
    for node in graph.nodes:
        names = node.inputs if node.domain == FUSED_DOMAIN else [*node.inputs, *implicit_inputs(node)]
        outputs = run_node(node, [values[name] for name in names], graph.opsets)
        values.update(zip(node.outputs, outputs, strict=True))
    return values if keep else {info.name: values[info.name] for info in graph.outputs}
