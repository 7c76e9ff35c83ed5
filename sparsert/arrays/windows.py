"""Windows that move over images and sequences: convolutions by BLAS, and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from sparsert.arrays.products import float_product
from sparsert.arrays.registry import Compute, Form, operator

__all__ = ["AveragePool", "Conv", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"]


def _padding(
    form: Form, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """What is added before and after each axis."""
    mode = form.attributes.get("auto_pad", "NOTSET")
    rank = len(sizes)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        added = []
        for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
            total = max(0, (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size)
            small, large = total // 2, total - total // 2
            added.append((small, large) if mode == "SAME_UPPER" else (large, small))
        return added
    pads = form.attributes.get("pads") or [0] * (2 * rank)
    pads = [0] * (2 * rank) if mode == "VALID" else pads
    return list(zip(pads[:rank], pads[rank:], strict=True))


def _windows(x: np.ndarray, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> np.ndarray:
    """A view of shape (batch, channels, *places, *kernel) of what is padded already."""
    spans = [(width - 1) * dilation + 1 for width, dilation in zip(kernel, dilations, strict=True)]
    view = sliding_window_view(x, spans, tuple(range(2, x.ndim)))
    steps = [slice(None, None, step) for step in (*strides, *dilations)]
    chosen = (slice(None), slice(None), *steps)
    return view[chosen]


@operator(1, 11, 22)
def Conv(form: Form) -> Compute:
    groups = form.attributes["group"]

    def run(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        kernel = weight.shape[2:]
        rank = len(kernel)
        strides = form.attributes.get("strides") or [1] * rank
        dilations = form.attributes.get("dilations") or [1] * rank
        if x.ndim != rank + 2 or x.shape[1] != weight.shape[1] * groups:
            raise ValueError(f"expected (batch, {weight.shape[1] * groups}, ...) of rank {rank + 2}, came {x.shape}")
        padding = _padding(form, x.shape[2:], kernel, strides, dilations)
        padded = np.pad(x, [(0, 0), (0, 0), *padding]) if any(map(any, padding)) else x
        view = _windows(padded, kernel, strides, dilations)
        batch, places = len(x), view.shape[2 : 2 + rank]
        # (batch, groups, channels of a group and kernel, places): rows of neighbouring places are copied at once
        order = (0, 1, *range(2 + rank, 2 + 2 * rank), *range(2, 2 + rank))
        columns = view.transpose(order).reshape(batch, groups, weight.size // len(weight), math.prod(places))
        y = float_product(weight.reshape(groups, len(weight) // groups, -1), columns)
        y = y.reshape(batch, len(weight), *places)
        return y if bias is None else y + bias.reshape(-1, *(1,) * rank)

    return run


def _pooled(form: Form, x: np.ndarray, filler: Any) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Windows of a pooling, and what was added around: in ``ceil_mode`` also for a last window that begins inside."""
    kernel = form.attributes["kernel_shape"]
    rank = len(kernel)
    strides = form.attributes.get("strides") or [1] * rank
    dilations = form.attributes.get("dilations") or [1] * rank
    added = _padding(form, x.shape[2:], kernel, strides, dilations)
    if form.attributes.get("ceil_mode", 0):
        for axis in range(rank):
            (before, after), size = added[axis], x.shape[2 + axis]
            span = (kernel[axis] - 1) * dilations[axis] + 1
            count = -(-(size + before + after - span) // strides[axis]) + 1
            if (count - 1) * strides[axis] >= size + before:
                count -= 1
            added[axis] = (before, max(after, (count - 1) * strides[axis] + span - size - before))
    padded = np.pad(x, [(0, 0), (0, 0), *added], constant_values=filler) if any(map(any, added)) else x
    return _windows(padded, kernel, strides, dilations), added


@operator(1, 8, 10, 11, 12, 22)
def MaxPool(form: Form) -> Compute | None:
    if form.outputs > 1:
        return None

    def run(x: np.ndarray) -> np.ndarray:
        filler = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        view, _ = _pooled(form, x, filler)
        return view.max(tuple(range(x.ndim, view.ndim)))

    return run


@operator(7, 10, 11, 19, 22)
def AveragePool(form: Form) -> Compute | None:
    if form.attributes.get("ceil_mode", 0) and form.attributes.get("count_include_pad", 0):
        return None  # what lies beyond the padding counts in some runtimes

    def run(x: np.ndarray) -> np.ndarray:
        view, added = _pooled(form, x, 0)
        axes = tuple(range(x.ndim, view.ndim))
        total = view.sum(axes, dtype=x.dtype)
        if form.attributes.get("count_include_pad", 0) or not any(map(any, added)):
            return total / x.dtype.type(math.prod(form.attributes["kernel_shape"]))
        inside, _ = _pooled(form, np.ones((1, 1, *x.shape[2:]), x.dtype), 0)
        return total / inside.sum(axes, dtype=x.dtype)

    return run


@operator(1, 22)
def GlobalAveragePool(form: Form) -> Compute:
    return lambda x: x.mean(tuple(range(2, x.ndim)), keepdims=True)


@operator(1, 22)
def GlobalMaxPool(form: Form) -> Compute:
    return lambda x: x.max(tuple(range(2, x.ndim)), keepdims=True)
