"""Split arrays into batches of an engine's size, and join what comes out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsert.errors import InputError, InputShapeError

__all__ = ["join_engine_outputs", "split_engine_inputs"]


def split_engine_inputs(items: Sequence[np.ndarray], batch_size: int) -> tuple[list[list[np.ndarray]], int]:
    """Split every array along axis 0 into chunks of ``batch_size``, the last one padded with copies of its last item.

    Returns
    -------
    batches : list of list of ndarray
        For each batch, one C-contiguous array for each of ``items``.
    total : int
        Number of items before padding.

    Raises
    ------
    InputShapeError
        The arrays disagree about their leading dimension, or have none.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be greater than 0, given {batch_size}")
    if not items:
        raise InputError("expected at least one array to split into batches, given none")
    if any(np.ndim(item) == 0 for item in items) or len({len(item) for item in items}) != 1:
        raise InputShapeError("Not all inputs have matching batch size")
    total = len(items[0])
    batches = []
    for start in range(0, total, batch_size):
        missing = max(0, start + batch_size - total)
        chunks = [item[start : start + batch_size] for item in items]
        if missing:
            chunks = [np.concatenate([chunk, np.repeat(chunk[-1:], missing, axis=0)]) for chunk in chunks]
        batches.append([np.ascontiguousarray(chunk) for chunk in chunks])
    return batches, total


def join_engine_outputs(batch_outputs: Sequence[Sequence[np.ndarray]], total: int) -> list[np.ndarray]:
    """Concatenate the outputs of all batches along axis 0 and drop the padding after ``total`` items."""
    if not batch_outputs:
        raise InputError("expected the outputs of at least one batch, given none")
    return [np.concatenate(arrays, axis=0)[:total] for arrays in zip(*batch_outputs, strict=True)]
