"""The tensors of a folder: ``model.safetensors``, also in shards, mapped and not read before somebody looks at them.

A safetensors file is the length of its header (uint64, little-endian), the header as JSON, and the bytes of the
tensors: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import logging
import math
import mmap
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from sparsert.errors import ModelFormatError, ModelNotFoundError, ShapeError
from sparsert.graph.mapped import bytes_at, map_file

__all__ = ["INDEX_FILE", "WEIGHTS_FILE", "Weights", "read_weights", "weight_files"]

_LOGGER = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
"""Says which shard holds which tensor."""

_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_POINTER = b"version https://git-lfs"
_OLD_NAMES = {".gamma": ".weight", ".beta": ".bias"}
"""Of LayerNorm, in files that were converted from TensorFlow."""
_BUFFERS = ("position_ids", "token_type_ids")
"""Tensors that old versions of transformers saved with the weights, and that count up from 0 or are 0."""

_OF_ENCODERS = re.compile(r"embeddings|layers?\.\d|layer_groups\.\d")


@dataclass(frozen=True)
class _Tensor:
    """A tensor of a file: its stored type, its shape, and its bytes."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray


@dataclass
class Weights:
    """The tensors of a folder by name, and which of them a model took."""

    source: Path
    """The file or index that names them all."""
    tensors: dict[str, _Tensor]
    prefix: str = ""
    """What the base model's names begin with in files of models with a head, such as ``bert.``."""
    taken: set[str] = field(default_factory=set)

    def __contains__(self, name: str) -> bool:
        return name in self.tensors or self.prefix + name in self.tensors

    def take(self, name: str, shape: Sequence[int | None]) -> np.ndarray:
        """Return a tensor of floats, in the type that the file has, with or without the base model's prefix.

        Parameters
        ----------
        name
            Without the prefix.
        shape
            What the configuration says; None where it says nothing.

        Raises
        ------
        ModelFormatError
            The folder lacks the tensor, or it is not of floats.
        ShapeError
            The tensor has another shape.
        """
        key = self.prefix + name if self.prefix + name in self.tensors else name
        tensor = self.tensors.get(key)
        if tensor is None:
            raise ModelFormatError(
                f"{self.source}: expected a tensor {name!r} or {self.prefix + name!r}, came none of that name among "
                f"{len(self.tensors)}; the file belongs to another model or has another head than the task asks for"
            )
        where = f"{tensor.file}: tensor {tensor.name!r}"
        if tensor.dtype not in _FLOATS:
            raise ModelFormatError(
                f"{where}: expected {', '.join(_FLOATS)}, came {tensor.dtype}; save the model with weights of floats"
            )
        if len(shape) != len(tensor.shape) or any(
            want not in (None, got) for want, got in zip(shape, tensor.shape, strict=True)
        ):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise ShapeError(
                f"{where}: expected shape ({wanted}), came {tensor.shape}; config.json and the weights disagree"
            )
        self.taken.add(key)
        return tensor.data.view(_FLOATS[tensor.dtype]).reshape(tensor.shape)

    def report_left_over(self) -> None:
        """Log the tensors that the model had no use for: a warning where they belong to its encoder."""
        left = [name for name in self.tensors if name not in self.taken and not name.endswith(_BUFFERS)]
        layers = [name for name in left if _OF_ENCODERS.search(name)]
        for level, names in (
            (logging.WARNING, layers),
            (logging.INFO, [name for name in left if name not in layers]),
        ):
            if names:
                first = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
                _LOGGER.log(level, "%s: %d tensors are not part of the model: %s", self.source, len(names), first)


def weight_files(directory: Path) -> list[Path]:
    """The files that a folder's weights are in, the index first; empty if there are none.

    Raises
    ------
    ModelFormatError
        The index is not what it should be.
    ModelNotFoundError
        A shard is missing.
    """
    whole, index = directory / WEIGHTS_FILE, directory / INDEX_FILE
    if os.path.isfile(whole):
        return [whole]
    if not os.path.isfile(index):
        return []
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelFormatError(
            f"{index}: expected JSON with names of tensors and files under weight_map: {error}"
        ) from error
    for name in shards:
        if not isinstance(name, str) or os.path.basename(name) != name:
            raise ModelFormatError(f"{index}: expected names of files in the same folder, came {name!r}")
        if not os.path.isfile(directory / name):
            raise ModelNotFoundError(f"{index}: expected the shard {name} beside it, came no such file; download it")
    return [index, *(directory / name for name in shards)]


def read_weights(directory: Path, prefix: str) -> Weights:
    """Map the weights of a folder.

    Parameters
    ----------
    directory
        Holds ``model.safetensors``, or ``model.safetensors.index.json`` with its shards.
    prefix
        Of the base model's names in files of models with a head.

    Raises
    ------
    ModelNotFoundError
        There are none, or a shard is missing.
    ModelFormatError
        A file is cut off or malformed.
    """
    files = weight_files(directory)
    if not files:
        others = sorted(path.name for path in directory.glob("*.bin"))
        hint = f"; it has {', '.join(others)}: load it with torch and save it as safetensors" if others else ""
        raise ModelNotFoundError(f"{directory}: expected {WEIGHTS_FILE} or {INDEX_FILE}, came neither{hint}")
    tensors = {}
    for path in files[1:] or files:
        for tensor in _read_file(path):
            name = tensor.name
            for old, new in _OLD_NAMES.items():
                name = name.removesuffix(old) + new if name.endswith(old) else name
            tensors[name] = tensor
    return Weights(files[0], tensors, prefix)


def _read_file(path: Path) -> list[_Tensor]:
    try:
        with open(path, "rb") as file:
            pages = map_file(file)
    except OSError as error:
        raise ModelNotFoundError(f"{path}: cannot be read: {error}") from error
    if pages[: len(_POINTER)] == _POINTER:
        raise ModelFormatError(f"{path}: expected weights, came a pointer of Git LFS; run git lfs pull in its folder")
    size = struct.unpack("<Q", pages[:8])[0] if len(pages) >= 8 else 0
    start = 8 + size
    if not size or start > len(pages):
        raise ModelFormatError(
            f"{path}: expected a safetensors file, came {len(pages)} bytes with a header of {size}; it is cut off or "
            "something else: download it again"
        )
    try:
        header = json.loads(bytes(pages[8:start]))
        header.pop("__metadata__", None)
        return [_read_tensor(path, pages, start, name, entry) for name, entry in header.items()]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, ModelFormatError):
            raise
        raise ModelFormatError(
            f"{path}: expected a header with dtype, shape and data_offsets of every tensor: {error}; download it again"
        ) from error


def _read_tensor(path: Path, pages: mmap.mmap | bytes, start: int, name: str, entry: dict[str, Any]) -> _Tensor:
    dtype, shape, (begin, end) = str(entry["dtype"]), tuple(map(int, entry["shape"])), map(int, entry["data_offsets"])
    if not 0 <= begin <= end or any(size < 0 for size in shape):
        raise ModelFormatError(
            f"{path}: tensor {name!r}: expected a shape and a range of bytes, came {shape} and {begin} to {end}"
        )
    if start + end > len(pages):
        raise ModelFormatError(
            f"{path}: tensor {name!r} ends at byte {start + end}, the file at {len(pages)}; it is cut off: download it "
            "again"
        )
    if dtype in _FLOATS and end - begin != math.prod(shape) * np.dtype(_FLOATS[dtype]).itemsize:
        raise ModelFormatError(
            f"{path}: tensor {name!r}: {dtype} of shape {shape} does not have the {end - begin} bytes that are stored"
        )
    return _Tensor(path, name, dtype, shape, bytes_at(pages, start + begin, end - begin))
