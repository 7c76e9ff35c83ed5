"""Numbers by their places: gathering, scattering, sorting."""

from __future__ import annotations

from typing import Any

import numpy as np

from sparsert.arrays.compiled import gather_rows
from sparsert.arrays.registry import Compute, Form, operator

__all__ = ["Gather", "GatherElements", "GatherND", "NonZero", "OneHot", "ScatterElements", "ScatterND", "TopK"]


@operator(1, 11, 13)
def Gather(form: Form) -> Compute:
    axis = form.attributes["axis"]

    def run(x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        if indices.ndim == 0:  # a view
            along = axis % x.ndim if -x.ndim <= axis < x.ndim else axis
            place = (*(slice(None),) * along, indices.item())
            return x[place]
        return np.take(x, indices, axis)

    return run


@operator(11, 13)
def GatherElements(form: Form) -> Compute:
    axis = form.attributes["axis"]

    def run(x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        along = _checked_axis(x, indices, axis)
        if along == x.ndim - 1:
            return gather_rows(x, indices)
        kept = [slice(None) if dim == along else slice(size) for dim, size in enumerate(indices.shape)]
        return np.take_along_axis(x[tuple(kept)], indices, along)

    return run


def _checked_axis(x: np.ndarray, indices: np.ndarray, axis: int) -> int:
    if not -x.ndim <= axis < x.ndim or x.ndim != indices.ndim:
        raise ValueError(f"expected indices of rank {x.ndim} and an axis of it, came {indices.ndim} and {axis}")
    return axis % x.ndim


@operator(11, 12, 13)
def GatherND(form: Form) -> Compute:
    shared = form.attributes.get("batch_dims", 0)

    def run(x: np.ndarray, indices: np.ndarray) -> np.ndarray:
        batch = np.ogrid[tuple(slice(size) for size in indices.shape[:shared])] if shared else []
        rest = indices.ndim - 1 - shared
        places = [grid.reshape(grid.shape + (1,) * rest) for grid in batch]
        chosen = (*places, *np.moveaxis(indices, -1, 0))
        return x[chosen]

    return run


_REDUCTIONS: dict[str, Any] = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}


@operator(11, 13, 16, 18)
def ScatterElements(form: Form) -> Compute:
    axis, reduction = form.attributes["axis"], form.attributes.get("reduction", "none")

    def run(x: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
        along = _checked_axis(x, indices, axis)
        y = x.copy(order="C")
        places: list[Any] = list(np.ogrid[tuple(slice(size) for size in indices.shape)])
        places[along] = indices
        if reduction == "none":
            y[tuple(places)] = updates
        else:
            _REDUCTIONS[reduction].at(y, tuple(places), updates)
        return y

    return run


@operator(11, 13, 16, 18)
def ScatterND(form: Form) -> Compute:
    reduction = form.attributes.get("reduction", "none")

    def run(x: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
        y = x.copy(order="C")
        places = tuple(np.moveaxis(indices, -1, 0))
        if reduction == "none":
            y[places] = updates
        else:
            _REDUCTIONS[reduction].at(y, places, updates)
        return y

    return run


@operator(9, 13)
def NonZero(form: Form) -> Compute:
    return lambda x: np.array(np.nonzero(x), np.int64) if x.ndim else np.zeros((0, int(x != 0)), np.int64)


@operator(9, 11)
def OneHot(form: Form) -> Compute:
    axis = form.attributes["axis"]

    def run(indices: np.ndarray, depth: np.ndarray, values: np.ndarray) -> np.ndarray:
        size = int(depth.item())
        along = axis % (indices.ndim + 1)
        chosen = np.expand_dims(np.where(indices < 0, indices + size, indices), along)
        classes = np.arange(size).reshape((size,) + (1,) * (indices.ndim - along))
        return np.where(chosen == classes, values[1], values[0])

    return run


@operator(10, 11, 24)
def TopK(form: Form) -> Compute:
    """Of equal numbers the one at the lower place comes first."""
    axis, largest = form.attributes["axis"], form.attributes.get("largest", 1)

    def run(x: np.ndarray, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        count, size = k.item(), x.shape[axis]
        if not 0 <= count <= size:
            raise ValueError(f"expected k in [0, {size}], came {count}")
        if largest:
            order = size - 1 - np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
        else:
            order = np.argsort(x, axis, kind="stable")
        places = np.take(order, np.arange(count), axis)
        return np.take_along_axis(x, places, axis), places

    return run
