"""Every fused op in NumPy, for the nodes that the native plan cannot take: any rank, any dtype that ONNX allows.

One function per op, named as the op, by the formulas of :mod:`sparsert.graph.fused`. Results never share memory with
the inputs. What is wider than float32 is computed a block of rows, or one batch item, at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from sparsert.errors import InputRangeError, InputShapeError, UnsupportedOpError
from sparsert.graph import fused
from sparsert.graph.fused import FusedOp, Quantization, Table

__all__ = ["run_fused"]

# Elements of one block of rows: 8 MiB of float64, which stays in a last-level cache with the result beside it.
_BLOCK = 1 << 20

# A product of two centred bytes is at most 255 * 255, so sums of this many are integers below 2**24, exact in float32.
_EXACT_IN_FLOAT32 = (1 << 24) // (255 * 255)


def run_fused(op: FusedOp, inputs: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Evaluate one fused op.

    Parameters
    ----------
    op : FusedOp
        The op's dataclass, ``node.fused``.
    inputs : sequence of arrays
        As the op's docstring lists them; None for an absent optional input.

    Returns
    -------
    list of arrays
        One per output of the node.

    Raises
    ------
    InputRangeError
        An id, or the position of a token, lies beyond its embedding table.
    InputShapeError
        A sequence is too short for the token that SelectToken takes.
    UnsupportedOpError
        ``op`` is not a fused op.
    """
    function = _FUNCTIONS.get(type(op))
    if function is None:
        raise UnsupportedOpError(f"expected one of the fused ops, got {op!r}. Run ONNX nodes with make_runner instead.")
    # Infinities and NaN go their way as in every other engine; a warning per request would help nobody.
    with np.errstate(all="ignore"):
        outputs = function(op, *inputs)
    return [np.asarray(output) for output in (outputs if isinstance(outputs, tuple) else (outputs,))]


# --------------------------------------------------------------------------------------------------------- quantization


def _quantized(x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Divide by the scale, round half to even, add the zero point, saturate (ONNX QuantizeLinear)."""
    x = np.asarray(x, np.float32)
    limits = np.iinfo(dtype)
    stored = np.divide(x, scale, out=np.empty(x.shape, np.float32))
    np.rint(stored, out=stored)
    np.add(stored, np.asarray(zero_point, np.float32), out=stored)
    np.clip(stored, limits.min, limits.max, out=stored)
    return stored.astype(dtype)


def _dequantized(x: np.ndarray, quantization: Quantization) -> np.ndarray:
    # A difference of bytes is exact in float32.
    real = np.subtract(
        x, quantization.zero_point, dtype=np.float32, casting="same_kind", out=np.empty(x.shape, np.float32)
    )
    return np.multiply(real, quantization.scale, out=real)


def _round_trip(x: np.ndarray, quantization: Quantization | None) -> np.ndarray:
    return x if quantization is None else _dequantized(quantize(fused.Quantize(quantization), x), quantization)


def _range_to_uint8(low: np.float32, high: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of ONNX DynamicQuantizeLinear for a range ``low <= 0 <= high``."""
    scale = np.float32((high - low) / np.float32(255))
    if scale == 0:
        scale = np.float32(1)
    zero_point = np.rint(np.clip(-low / scale, 0, 255))
    return np.array(scale, np.float32), np.array(zero_point).astype(np.uint8)


def quantize(op: fused.Quantize, x: np.ndarray) -> np.ndarray:
    """ONNX QuantizeLinear (https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html)."""
    return _quantized(x, op.quantization.scale, op.quantization.zero_point, op.quantization.dtype)


def dequantize(op: fused.Dequantize, x: np.ndarray) -> np.ndarray:
    """ONNX DequantizeLinear: ``(x - zero_point) * scale``."""
    return _dequantized(x, op.quantization)


def dynamic_quantize(op: fused.DynamicQuantize, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ONNX DynamicQuantizeLinear (https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html)."""
    zero = np.float32(0)
    scale, zero_point = _range_to_uint8(x.min(initial=zero), x.max(initial=zero))
    return _quantized(x, scale, zero_point, np.dtype(np.uint8)), scale, zero_point


# ------------------------------------------------------------------------------------------------------------- products


def _row_blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices over ``rows`` rows of ``width`` elements, each of about ``_BLOCK`` elements."""
    step = max(1, _BLOCK // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, start + step)


def _product_type(terms: int) -> type[np.floating[Any]]:
    """The float type in which a sum of so many products of centred bytes is exact: 2**53 holds any number of them."""
    return np.float32 if terms <= _EXACT_IN_FLOAT32 else np.float64


def _centred(x: np.ndarray, zero_point: np.ndarray | None, kind: type[np.floating[Any]]) -> np.ndarray:
    """``x - zero_point`` exactly, in a type that BLAS multiplies."""
    return x.astype(kind) if zero_point is None else np.subtract(x, zero_point, dtype=kind, casting="same_kind")


def linear(
    op: fused.Linear, x: np.ndarray, x_scale: np.ndarray | None = None, x_zero_point: np.ndarray | None = None
) -> np.ndarray:
    """``x W + b``: float, int8 static, or int8 dynamic (with ``x_scale`` and ``x_zero_point``)."""
    in_features, out_features = op.weight.shape
    if x.ndim == 0 or x.shape[-1] != in_features:
        raise InputShapeError(
            f"Linear: expected an input of shape (..., {in_features}), got {x.shape}. Check the shapes of the inputs."
        )
    y = np.empty((*x.shape[:-1], out_features), np.float32)
    rows_in, rows_out = x.reshape(-1, in_features), y.reshape(-1, out_features)
    if op.weight.dtype == np.float32:
        np.matmul(rows_in, op.weight, out=rows_out)
    else:
        if op.input_quantization is not None:
            x_zero_point, scale = op.input_quantization.zero_point, op.acc_scale
        else:
            scale = np.float32(x_scale) * op.weight_scale
        kind = _product_type(in_features)
        weight = _centred(op.weight, op.weight_zero_point, kind)
        for block in _row_blocks(len(rows_in), max(in_features, out_features)):
            accumulator = (_centred(rows_in[block], x_zero_point, kind) @ weight).astype(np.int64)
            if op.acc_bias is not None:
                accumulator += op.acc_bias
            # int32 is the type of the accumulator in ONNX: a sum beyond it wraps.
            np.multiply(accumulator.astype(np.int32).astype(np.float32), scale, out=rows_out[block])
    if op.bias is not None:
        y += op.bias
    return y


# ---------------------------------------------------------------------------------------------------------- elementwise


def gelu(op: fused.Gelu, x: np.ndarray) -> np.ndarray:
    """``x * Phi(x)``, or its tanh approximation, in float64 and rounded once."""
    # Here: the import takes 0.1 s, and nearly every model runs its Gelu natively.
    from scipy.special import ndtr

    y = np.empty(x.shape, np.float32)
    flat_in, flat_out = x.reshape(-1), y.reshape(-1)
    for block in _row_blocks(x.size, 1):
        wide = flat_in[block].astype(np.float64)
        if op.approximate == "tanh":
            inner = math.sqrt(2 / math.pi) * wide * (1 + 0.044715 * wide * wide)
            flat_out[block] = 0.5 * wide * (1 + np.tanh(inner))
        else:
            flat_out[block] = wide * ndtr(wide)
    return y


def activation(op: fused.Activation, x: np.ndarray) -> np.ndarray:
    """relu or tanh."""
    return np.maximum(x, np.float32(0)) if op.kind == "relu" else np.tanh(x)


def add(op: fused.Add, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a + b``."""
    return np.add(a, b)


def layer_norm(op: fused.LayerNorm, x: np.ndarray) -> np.ndarray:
    """Normalize over the last axis, in float64 and rounded once."""
    y = np.empty(x.shape, np.float32)
    rows_in, rows_out = x.reshape(-1, x.shape[-1]), y.reshape(-1, x.shape[-1])
    for block in _row_blocks(len(rows_in), x.shape[-1]):
        wide = rows_in[block].astype(np.float64)
        wide -= wide.mean(axis=-1, keepdims=True)
        variance = np.einsum("ij,ij->i", wide, wide)[:, None] / x.shape[-1]
        wide /= np.sqrt(variance + op.epsilon)
        wide *= op.gamma
        wide += op.beta
        rows_out[block] = wide
    return y


# ------------------------------------------------------------------------------------------------- embeddings and masks


def _table_rows(number: int, table: Table, index: np.ndarray) -> np.ndarray:
    """Rows of one table, float32; negative indices count from the end (ONNX Gather)."""
    rows = len(table.weight)
    outside = index[(index < -rows) | (index >= rows)]
    if outside.size:
        what = "id" if table.index == "input" else "position"
        remedy = "Tokenize with the model's own vocabulary" if table.index == "input" else "Give a shorter sequence"
        raise InputRangeError(
            f"Embeddings: table {number} has {rows} rows, expected a {what} in [{-rows}, {rows}), got {outside[0]}. "
            f"{remedy}."
        )
    part = table.weight[index]
    return part if table.quantization is None else _dequantized(part, table.quantization)


def embeddings(op: fused.Embeddings, *ids: np.ndarray) -> np.ndarray:
    """The sum of the tables' rows, in table order."""
    tokens = ids[0].shape[-1]
    remaining = iter(ids)
    total: np.ndarray | None = None
    for number, table in enumerate(op.tables):
        if table.index == "input":
            index = next(remaining)
        elif table.index == "position":
            index = np.arange(table.offset, table.offset + tokens)
        else:
            index = np.array(table.offset)
        part = _table_rows(number, table, index)
        total = part if total is None else total + part
    assert total is not None, "an Embeddings has at least one table"
    return total


def key_mask(op: fused.KeyMask, mask: np.ndarray) -> np.ndarray:
    """What is added to the scores of every query, float32."""
    value = np.float32(op.value)
    if op.kind == "linear":
        return np.asarray((np.float32(1) - mask.astype(np.float32)) * value)
    return np.where(mask != 0, np.float32(0), value)


# ------------------------------------------------------------------------------------------------------------ attention


def _heads_first(x: np.ndarray, heads: int) -> np.ndarray:
    """(S, H) to (heads, S, H / heads)."""
    tokens, channels = x.shape
    return x.reshape(tokens, heads, channels // heads).swapaxes(0, 1)


def _integer_product(a: np.ndarray, a_zero: np.ndarray, b: np.ndarray, b_zero: np.ndarray) -> np.ndarray:
    """The exact product of centred bytes, rounded to float32 once."""
    kind = _product_type(a.shape[-1])
    return np.matmul(_centred(a, a_zero, kind), _centred(b, b_zero, kind)).astype(np.float32, copy=False)


def _softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis, in place."""
    scores -= scores.max(axis=-1, keepdims=True, initial=-np.inf)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def attention(
    op: fused.Attention, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None = None
) -> np.ndarray:
    """Multi-head attention: float, int8 static, or int8 dynamic; one batch item at a time."""
    shape = q.shape
    # (B, H) is one token per item.
    q, k, v = (x[:, None] if x.ndim == 2 else x for x in (q, k, v))
    if mask is not None:
        mask = np.broadcast_to(mask, k.shape[:2])
    scores_of, context_of = (_dynamic_products if op.dynamic else _static_products)(op, q, k, v)

    # The ranges of a dynamic form are those of the whole batch, so its probabilities are computed twice, except those
    # of the item computed last: a batch of one pays nothing.
    @lru_cache(maxsize=1)
    def probabilities(item: int) -> np.ndarray:
        scores = _round_trip(scores_of(item), op.scores_quantization) * np.float32(op.scale)
        if mask is not None:
            scores += mask[item]
        return _softmax(scores)

    context = np.empty(q.shape, np.float32)
    for item, product in enumerate(context_of(probabilities)):
        merged = _round_trip(product, op.context_quantization).swapaxes(0, 1)
        context[item] = merged.reshape(context[item].shape)
    return context.reshape(shape)


_Probabilities = Callable[[int], np.ndarray]
_Products = tuple[Callable[[int], np.ndarray], Callable[[_Probabilities], Iterator[np.ndarray]]]
"""The scores (heads, S, S) of an item, and the contexts (heads, S, D) of all items in order."""


def _static_products(op: fused.Attention, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> _Products:
    """Both products of an Attention whose scales the file states, each integer or float."""
    q_format, k_format = op.q_quantization, op.k_quantization
    p_format, v_format = op.probs_quantization, op.v_quantization

    def scores_of(item: int) -> np.ndarray:
        left, right = _heads_first(q[item], op.heads), _heads_first(k[item], op.heads)
        if q_format is None or k_format is None:
            return np.matmul(left, right.swapaxes(1, 2))
        left, right = quantize(fused.Quantize(q_format), left), quantize(fused.Quantize(k_format), right)
        return _integer_product(left, q_format.zero_point, right.swapaxes(1, 2), k_format.zero_point) * op.qk_scale

    def context_of(probabilities: _Probabilities) -> Iterator[np.ndarray]:
        for item in range(len(q)):
            left, right = probabilities(item), _heads_first(v[item], op.heads)
            if p_format is None or v_format is None:
                yield np.matmul(left, right)
            else:
                left, right = quantize(fused.Quantize(p_format), left), quantize(fused.Quantize(v_format), right)
                yield _integer_product(left, p_format.zero_point, right, v_format.zero_point) * op.pv_scale

    return scores_of, context_of


def _dynamic_products(op: fused.Attention, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> _Products:
    """Both products of an Attention whose operands pass DynamicQuantizeLinear, per tensor over the whole batch."""
    (q8, q_scale, q_zero), (k8, k_scale, k_zero), (v8, v_scale, v_zero) = (
        dynamic_quantize(fused.DynamicQuantize(), x) for x in (q, k, v)
    )

    def scores_of(item: int) -> np.ndarray:
        left, right = _heads_first(q8[item], op.heads), _heads_first(k8[item], op.heads)
        return _integer_product(left, q_zero, right.swapaxes(1, 2), k_zero) * (q_scale * k_scale)

    def context_of(probabilities: _Probabilities) -> Iterator[np.ndarray]:
        highest = [probabilities(item).max(initial=np.float32(0)) for item in range(len(q))]
        p_scale, p_zero = _range_to_uint8(np.float32(0), np.max(highest, initial=np.float32(0)))
        for item in range(len(q)):
            left = _quantized(probabilities(item), p_scale, p_zero, np.dtype(np.uint8))
            yield _integer_product(left, p_zero, _heads_first(v8[item], op.heads), v_zero) * (p_scale * v_scale)

    return scores_of, context_of


# --------------------------------------------------------------------------------------------------------------- slices


def select_token(op: fused.SelectToken, x: np.ndarray) -> np.ndarray:
    """``x[:, index, :]``."""
    if not -x.shape[1] <= op.index < x.shape[1]:
        raise InputShapeError(
            f"SelectToken: expected a sequence that has token {op.index}, got {x.shape[1]} tokens. Give longer inputs."
        )
    return x[:, op.index, :].copy()


def select_feature(op: fused.SelectFeature, x: np.ndarray) -> np.ndarray:
    """``x[..., index]``."""
    return x[..., op.index].copy()


_FUNCTIONS: dict[type, Callable[..., Any]] = {
    fused.Quantize: quantize,
    fused.Dequantize: dequantize,
    fused.DynamicQuantize: dynamic_quantize,
    fused.Linear: linear,
    fused.Gelu: gelu,
    fused.Activation: activation,
    fused.Add: add,
    fused.LayerNorm: layer_norm,
    fused.Embeddings: embeddings,
    fused.KeyMask: key_mask,
    fused.Attention: attention,
    fused.SelectToken: select_token,
    fused.SelectFeature: select_feature,
}
