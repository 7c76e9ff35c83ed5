"""Attention in one op: products for Q, K and V, heads, masks of several forms, softmax."""

from __future__ import annotations

import math

import numpy as np

from sparsert.graph.contrib.embed import position_of_tokens
from sparsert.graph.contrib.expansion import Expansion, contrib
from sparsert.graph.contrib.matmul import integer_product
from sparsert.graph.widen import widened

__all__: list[str] = []

_UNMASKED = 0.0
_LOWEST = float(np.finfo(np.float32).min)
"""Added to scores of later keys, whatever number masks keys: a query whose own keys are all masked still sees these."""


@contrib(
    [0, 1],
    7,
    outputs=2,
    num_heads=0,
    unidirectional=0,
    qkv_hidden_sizes=(),
    mask_filter_value=-10000.0,
    scale=0.0,
    do_rotary=0,
    rotary_embedding_dim=0,
    past_present_share_buffer=0,
)
def Attention(e: Expansion) -> list[str | None]:
    if e.input(4) or e.attribute("do_rotary"):
        e.refuse("it has a cache of keys and values, or rotary embeddings")
    weight, x = e.array(1), e.input(0)
    if weight.ndim != 2:
        e.malformed(f"expected weights of two dimensions, came {weight.shape}")
    sizes = e.attribute("qkv_hidden_sizes") or [weight.shape[1] // 3] * 3
    if len(sizes) != 3 or sum(sizes) != weight.shape[1] or sizes[0] != sizes[1]:
        e.malformed(f"expected three sizes whose sum is {weight.shape[1]}, came {list(sizes)}")
    parts = _parts(sizes)
    products = [e.op("MatMul", x, e.constant(weight[:, part])) for part in parts]
    bias = e.vector(2, weight.shape[1]) if e.input(2) else None
    q, k, v = (
        value if bias is None else e.op("Add", value, e.constant(bias[part]))
        for value, part in zip(products, parts, strict=True)
    )
    return [_attend(e, x, (q, k, v), sizes[0], e.input(3), e.input(5)), None]


@contrib(
    [0, 1, 2, 3, 4],
    9,
    outputs=2,
    num_heads=0,
    unidirectional=0,
    mask_filter_value=-10000.0,
    scale=0.0,
    do_rotary=0,
    past_present_share_buffer=0,
)
def QAttention(e: Expansion) -> list[str | None]:
    """The products are of bytes; what follows is in float."""
    if e.input(8) or e.attribute("do_rotary"):
        e.refuse("it has a cache of keys and values, or rotary embeddings")
    x, weight, scales = e.input(0), e.array(1), widened(e.array(4))
    if weight.ndim != 2 or weight.shape[1] % 3 or scales.size not in (1, weight.shape[1]):
        e.malformed(f"expected weights (K, 3 H) and one scale or one a column, came {weight.shape}, {scales.shape}")
    size = weight.shape[1] // 3
    bias = e.vector(2, 3 * size)
    zeros = e.array(7) if e.input(7) else None
    q, k, v = (
        integer_product(
            e,
            (x, e.input(3), e.input(6)),
            (
                e.constant(weight[:, part]),
                e.constant(_of(scales, part)),
                "" if zeros is None else e.constant(_of(zeros, part)),
            ),
            e.constant(bias[part]),
        )
        for part in _parts([size] * 3)
    )
    return [_attend(e, x, (q, k, v), size, e.input(5), ""), None]


@contrib([0, 1, 2], 11, outputs=4, num_heads=0, mask_filter_value=-10000.0, scale=0.0, unidirectional=0)
def MultiHeadAttention(e: Expansion) -> list[str | None]:
    if any(e.input(position) for position in range(6, 11)):
        e.refuse("it has a cache of keys and values")
    values = [e.input(position) for position in range(3)]
    ranks = [e.rank(value) for value in values]
    if ranks != [3, 3, 3]:
        e.refuse(f"its query, key and value have {ranks} dimensions, expected three each")
    sizes = [e.size(value) for value in values]
    if e.input(3):
        bias = e.vector(3, sum(sizes))
        values = [e.op("Add", value, e.constant(bias[part])) for value, part in zip(values, _parts(sizes), strict=True)]
    q, k, v = values
    return [_attend(e, k, (q, k, v), sizes[0], e.input(4), e.input(5)), None]


def _parts(sizes: list[int]) -> list[slice]:
    ends = np.cumsum([0, *sizes])
    return [slice(int(first), int(last)) for first, last in zip(ends, ends[1:], strict=False)]


def _of(array: np.ndarray, part: slice) -> np.ndarray:
    """A part of what there is for each column, or the one number for all."""
    return array.reshape(()) if array.size == 1 else array.reshape(-1)[part]


def _attend(e: Expansion, x: str, qkv: tuple[str, str, str], size: int, mask: str, bias: str) -> str:
    """Heads of Q, K and V, each (B, S, H) with Q of ``size`` channels; ``x`` has the batch and the keys."""
    heads = e.attribute("num_heads")
    if heads < 1 or size % heads:
        e.malformed(f"expected a number of heads that divides {size}, came {heads}")
    split = e.constant([0, 0, heads, -1], np.int64)
    q, k, v = (
        e.op("Transpose", e.op("Reshape", value, split), perm=perm)
        for value, perm in zip(qkv, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
    )
    scale = e.attribute("scale") or 1 / math.sqrt(size / heads)
    scores = e.op("Mul", e.op("MatMul", q, k), e.constant(float(scale)))
    scores = e.plus(scores, bias)
    if e.attribute("unidirectional"):
        scores = e.op("Add", scores, _causal(e, qkv[0], x))
    if mask:
        scores = e.op("Add", scores, _mask(e, x, mask))
    context = e.op("MatMul", e.op("Softmax", scores, axis=3), v)
    merged = e.op("Transpose", context, perm=[0, 2, 1, 3])
    return e.op("Reshape", merged, e.constant([0, 0, -1], np.int64))


def _causal(e: Expansion, queries: str, keys: str) -> str:
    """The number added to scores: nothing for keys up to the query's own position."""
    if not e.facts.same(e.shape(queries)[1], e.shape(keys)[1]):
        e.refuse("it is unidirectional over other keys than its queries")
    position = position_of_tokens(e, keys)
    later = e.op("Less", e.over_axes("Unsqueeze", position, [1]), position)
    return e.op("Where", later, e.constant(_LOWEST), e.constant(_UNMASKED))


def _mask(e: Expansion, x: str, mask: str) -> str:
    """The number added to scores (B, A, S, S), from lengths (B,), or a mask of keys (B, S) or of scores (B, S, S)."""
    key = ("mask", mask, float(e.attribute("mask_filter_value")))
    if key not in e.shared:
        rank = e.rank(mask)
        if rank == 1:
            if not e.facts.same(e.shape(mask)[0], e.shape(x)[0]):
                e.refuse(f"its mask of shape {e.shape(mask)} is not one length a sequence")
            dtype = e.facts.dtype(mask)
            lengths = e.over_axes("Unsqueeze", mask, [1])
            if dtype != np.int64:
                lengths = e.op("Cast", lengths, to=7)
            kept = e.op("Less", position_of_tokens(e, x), lengths)
        elif rank in (2, 3):
            dtype = e.facts.dtype(mask)
            kept = e.op("Greater", mask, e.constant(0, dtype if dtype is not None else np.int32))
        else:
            e.refuse(f"its mask has {rank} dimensions, expected 1 to 3")
        filler = e.constant(float(e.attribute("mask_filter_value")))
        added = e.op("Where", kept, e.constant(_UNMASKED), filler)
        e.shared[key] = e.over_axes("Unsqueeze", added, [1] if rank == 3 else [1, 2])
    return e.shared[key]
