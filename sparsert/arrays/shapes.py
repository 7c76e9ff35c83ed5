"""Shapes and places: what moves numbers or tells their number, and computes none. Mostly views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsert.arrays.registry import Compute, Form, operator

__all__ = [
    "Concat",
    "ConstantOfShape",
    "Expand",
    "EyeLike",
    "Flatten",
    "Identity",
    "Pad",
    "Range",
    "Reshape",
    "Shape",
    "Size",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Trilu",
    "Unsqueeze",
]

_LATEST = (19, 21, 23, 24, 25)


@operator(1, 13, 14, 16, *_LATEST)
def Identity(form: Form) -> Compute:
    return lambda x: x


@operator(5, 13, 14, *_LATEST)
def Reshape(form: Form) -> Compute:
    keeps_zero = form.attributes.get("allowzero", 0)

    def run(x: np.ndarray, shape: np.ndarray) -> np.ndarray:
        sizes = shape.tolist()
        if not keeps_zero and 0 in sizes:
            sizes = [size or x.shape[axis] for axis, size in enumerate(sizes)]
        return x.reshape(sizes)

    return run


@operator(1, 9, 11, 13, 21, 23, 24, 25)
def Flatten(form: Form) -> Compute:
    axis = form.attributes["axis"]

    def run(x: np.ndarray) -> np.ndarray:
        split = axis + x.ndim if axis < 0 else axis
        return x.reshape(math.prod(x.shape[:split]), math.prod(x.shape[split:]))

    return run


@operator(1, 13, 21, 23, 24, 25)
def Transpose(form: Form) -> Compute:
    perm = form.attributes.get("perm")
    return lambda x: x.transpose(perm)


@operator(1, 11, 13, 21, 23, 24, 25)
def Squeeze(form: Form) -> Compute:
    fixed: Any = form.attributes.get("axes")

    def run(x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
        chosen = fixed if axes is None else axes.reshape(-1).tolist()
        return x.squeeze(None if chosen is None else tuple(chosen))

    return run


@operator(1, 11, 13, 21, 23, 24, 25)
def Unsqueeze(form: Form) -> Compute:
    fixed: Any = form.attributes.get("axes")

    def run(x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
        return np.expand_dims(x, tuple(fixed if axes is None else axes.reshape(-1).tolist()))

    return run


@operator(4, 11, 13)
def Concat(form: Form) -> Compute:
    axis = form.attributes["axis"]
    return lambda *arrays: np.concatenate(arrays, axis)


@operator(2, 11, 13, 18)
def Split(form: Form) -> Compute:
    axis, fixed, count = form.attributes["axis"], form.attributes.get("split"), form.outputs

    def run(x: np.ndarray, split: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        along, size = axis % x.ndim, x.shape[axis]
        sizes = fixed if split is None else split.tolist()
        if sizes is None:
            parts = form.attributes.get("num_outputs", count)
            step = -(-size // parts)  # the last part may be smaller
            sizes = [step] * (parts - 1) + [size - step * (parts - 1)]
        if min(sizes, default=0) < 0 or sum(sizes) != size:
            raise ValueError(f"expected parts of {size} in all along axis {axis}, came {list(sizes)}")
        before, parts, start = (slice(None),) * along, [], 0
        for length in sizes:
            place = (*before, slice(start, start + length))
            parts.append(x[place])
            start += length
        return tuple(parts)

    return run


@operator(1, 10, 11, 13)
def Slice(form: Form) -> Compute:
    """ONNX counts and clamps as Python does."""
    fixed: tuple[Any, ...] = tuple(form.attributes.get(name) for name in ("starts", "ends", "axes"))

    def run(
        x: np.ndarray,
        starts: np.ndarray | None = None,
        ends: np.ndarray | None = None,
        axes: np.ndarray | None = None,
        steps: np.ndarray | None = None,
    ) -> np.ndarray:
        if starts is None or ends is None:
            first, last, along = fixed
        else:
            first, last = starts.tolist(), ends.tolist()
            along = None if axes is None else axes.tolist()
        jumps = [1] * len(first) if steps is None else steps.tolist()
        chosen = [slice(None)] * x.ndim
        for begin, end, axis, step in zip(first, last, range(x.ndim) if along is None else along, jumps, strict=False):
            chosen[axis] = slice(begin, end, step)
        return x[tuple(chosen)]

    return run


@operator(8, 13)
def Expand(form: Form) -> Compute:
    return lambda x, shape: np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(shape.tolist())))


@operator(6, 13)
def Tile(form: Form) -> Compute:
    return lambda x, repeats: np.tile(x, repeats.tolist())


@operator(1, 13, 15, *_LATEST)
def Shape(form: Form) -> Compute:
    start, end = form.attributes.get("start", 0), form.attributes.get("end")
    return lambda x: np.array(x.shape[start:end], np.int64)


@operator(1, 13, *_LATEST)
def Size(form: Form) -> Compute:
    return lambda x: np.array(x.size, np.int64)


@operator(9, 20, 21, 23, 24, 25)
def ConstantOfShape(form: Form) -> Compute | None:
    value = form.attributes.get("value", np.zeros(1, np.float32))
    if not isinstance(value, np.ndarray):
        return None
    return lambda shape: np.full(shape.tolist(), value.reshape(()), value.dtype)


@operator(11)
def Range(form: Form) -> Compute:
    def run(start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> np.ndarray:
        count = max(0, math.ceil((limit.item() - start.item()) / delta.item()))
        return start.reshape(()) + np.arange(count).astype(start.dtype) * delta.reshape(())

    return run


@operator(14)
def Trilu(form: Form) -> Compute:
    keep = np.triu if form.attributes["upper"] else np.tril
    return lambda x, k=None: keep(x, 0 if k is None else k.item())


@operator(9, 22)
def EyeLike(form: Form) -> Compute | None:
    if "dtype" in form.attributes:
        return None
    return lambda x: np.eye(x.shape[0], x.shape[1], k=form.attributes["k"], dtype=x.dtype)


@operator(2, 11, 13, 18, *_LATEST)
def Pad(form: Form) -> Compute:
    """Negative numbers cut off."""
    mode = form.attributes["mode"]
    fixed: Any = form.attributes.get("pads")
    constant = form.attributes.get("value", 0.0)

    def run(
        x: np.ndarray,
        pads: np.ndarray | None = None,
        value: np.ndarray | None = None,
        axes: np.ndarray | None = None,
    ) -> np.ndarray:
        sizes = fixed if pads is None else pads.reshape(-1).tolist()
        widths = _widths(x.ndim, sizes, None if axes is None else axes.tolist())
        cut = tuple(slice(max(0, -a), size - max(0, -b)) for (a, b), size in zip(widths, x.shape, strict=True))
        added = [(max(0, a), max(0, b)) for a, b in widths]
        if mode == "constant":
            filler = constant if value is None else value.reshape(()) if value.size else 0
            return np.pad(x[cut], added, constant_values=x.dtype.type(filler))
        return np.pad(x[cut], added, mode=mode)

    return run


def _widths(rank: int, pads: Sequence[int], axes: Sequence[int] | None) -> list[tuple[int, int]]:
    """Numbers before and after each axis."""
    widths = [(0, 0)] * rank
    half = len(pads) // 2
    for index, axis in enumerate(range(rank) if axes is None else axes):
        widths[axis] = (pads[index], pads[half + index])
    return widths
