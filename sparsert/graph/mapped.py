"""Arrays on a mapped file: read when somebody looks at them, given back when nobody does any more.

Nothing is copied, and the system may drop what was read, so a model's weights are in memory once, packed. The price:
whoever writes into the file changes the arrays, and whoever cuts it off ends a process that reads them. So nothing that
outlives the compilation of a model stays on a map: see :func:`detach`.
"""

from __future__ import annotations

import mmap
from dataclasses import fields, is_dataclass, replace
from io import BufferedReader
from typing import TypeVar

import numpy as np

__all__ = ["bytes_at", "detach", "is_mapped", "let_go", "map_file"]

_SMALLEST = 1 << 16
"""Bytes from which on an array stays in the file. BERT has hundreds of 3 to 12 KB, each of which would keep a page."""

_PIECE = 1 << 22
"""Bytes copied at once."""

_T = TypeVar("_T")


def map_file(file: BufferedReader) -> mmap.mmap | bytes:
    """Map a file for reading; the map lasts as long as an array on it, whether the file is closed or not."""
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # a file system that cannot map, or an empty file
        return file.read()


def bytes_at(pages: mmap.mmap | bytes, offset: int, size: int) -> np.ndarray:
    """Return ``size`` bytes of a mapped file at ``offset``, which the caller has checked against its length.

    Returns
    -------
    array, shape (size,), uint8
        From 64 KiB on it lies in the file: read-only, at any address. Else it is a copy.
    """
    array = np.frombuffer(pages, np.uint8, size, offset)
    return array if size >= _SMALLEST else array.copy()


def is_mapped(array: np.ndarray) -> bool:
    """Whether an array lies on a mapped file."""
    return _map_of(array) is not None


def let_go(array: np.ndarray) -> None:
    """Give back the memory that reading an array on a mapped file has taken; it can still be read again.

    Anything else than an array on a mapped file is left alone.
    """
    pages = _map_of(array)
    if pages is None or not array.size:
        return
    start = _address(array) - _address(np.frombuffer(pages, np.uint8))
    stop = start + sum((size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True)) + 1
    # whole pages only: what lies beside the array may be in use
    first, last = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, stop // mmap.PAGESIZE * mmap.PAGESIZE
    if first < last:
        pages.madvise(mmap.MADV_DONTNEED, first, last - first)


def detach(value: _T) -> _T:
    """Return ``value`` with every array on a mapped file replaced by a copy, also in tuples, dicts and dataclasses."""
    result: object = value
    if isinstance(value, np.ndarray):
        result = value if _map_of(value) is None else _copy(value)
    elif isinstance(value, tuple) and type(value) is tuple:
        result = tuple(map(detach, value))
    elif isinstance(value, dict):
        result = {key: detach(item) for key, item in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        result = replace(value, **{field.name: detach(getattr(value, field.name)) for field in fields(value)})
    return result  # type: ignore[return-value]


def _copy(array: np.ndarray) -> np.ndarray:
    """Copy a mapped array piece by piece, so that it never is in memory twice."""
    if array.nbytes <= _PIECE or not array.ndim:
        return array.copy()
    copied = np.empty(array.shape, array.dtype)
    rows = max(1, _PIECE * len(array) // array.nbytes)
    for first in range(0, len(array), rows):
        piece = array[first : first + rows]
        copied[first : first + rows] = piece
        let_go(piece)
    return copied


def _map_of(array: np.ndarray) -> mmap.mmap | None:
    tensor = array.base if isinstance(array.base, np.ndarray) else array
    pages = tensor.base.obj if isinstance(tensor.base, memoryview) else None
    return pages if isinstance(pages, mmap.mmap) else None


def _address(array: np.ndarray) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
