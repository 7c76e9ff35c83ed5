"""Write a model and its weights to disk, complete or not at all."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from sparsert.errors import ModelError
from sparsert.graph.mapped import let_go
from sparsert.graph.wire import encode_varint

__all__ = ["save_model"]

_LOGGER = logging.getLogger(__name__)

LARGEST_FILE = 2**31 - 2**24
"""Bytes of weights that a single file may have: protobuf ends at 2 GiB, and the graph needs some room."""

_ALIGNMENT = 4096
"""Of tensors in a file of their own, as ONNX recommends it, so that each can be mapped."""


def save_model(
    model: onnx.ModelProto, initializers: Mapping[str, np.ndarray], path: Path, largest: int = LARGEST_FILE
) -> None:
    """Write a model with its weights as float32; more than ``largest`` bytes of them go to ``<path>.data``.

    Files appear by rename, the model last, so whoever finds it can read it.

    Raises
    ------
    ModelError
        The folder cannot be written.
    """
    total = sum(array.size * (8 if array.dtype == np.int64 else 4) for array in initializers.values())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if total <= largest:
            with _replacing(path) as file:
                _write_with_weights(model, initializers, file)
            return
        with _replacing(path.with_name(f"{path.name}.data")) as file:
            _write_weights(model, initializers, f"{path.name}.data", file)
        with _replacing(path) as file:
            file.write(model.SerializeToString(deterministic=True))
    except OSError as error:
        raise ModelError(
            f"cannot write a model of {total / 1e6:.0f} MB to {path}: {error}; give a writable folder with enough "
            "space, by --output or, for the cache, by SPARSERT_MODELS_PATH"
        ) from error


def _write_with_weights(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray], file: BinaryIO) -> None:
    """Write the model's message with one tensor after another, where protobuf would need all of them twice in memory.

    A field is its key, ``number << 3 | 2``, the length of its content, and that:
    https://protobuf.dev/programming-guides/encoding.
    """
    graph = model.graph.SerializeToString(deterministic=True)
    tensors = {}
    for name, array in arrays.items():
        data_type = TensorProto.INT64 if array.dtype == np.int64 else TensorProto.FLOAT
        tensor = TensorProto(name=name, data_type=data_type, dims=array.shape).SerializeToString(deterministic=True)
        size = array.size * (8 if data_type == TensorProto.INT64 else 4)
        tensor += _field(TensorProto, "raw_data", size)
        tensors[name] = _field(onnx.GraphProto, "initializer", len(tensor) + size) + tensor, size
    shell = onnx.ModelProto()
    shell.CopyFrom(model)
    shell.ClearField("graph")
    length = len(graph) + sum(len(head) + size for head, size in tensors.values())
    file.write(shell.SerializeToString(deterministic=True) + _field(onnx.ModelProto, "graph", length) + graph)
    for name, array in arrays.items():
        file.write(tensors[name][0])
        file.write(_widened(name, array).data)
        let_go(array)


def _field(message: type, name: str, length: int) -> bytes:
    """What comes before the content of a field of bytes or of a message."""
    number: int = message.DESCRIPTOR.fields_by_name[name].number  # type: ignore[attr-defined]
    return encode_varint(number << 3 | 2) + encode_varint(length)


def _write_weights(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray], location: str, file: BinaryIO) -> None:
    """Write the arrays to a file of their own, one after another, and tell the model where each lies."""
    for name, array in arrays.items():
        if array.dtype == np.int64:  # shapes stay in the model: who reads the graph alone needs them
            model.graph.initializer.append(numpy_helper.from_array(array, name))
            continue
        file.write(bytes(-file.tell() % _ALIGNMENT))
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", file.tell()), ("length", 4 * array.size)):
            tensor.external_data.add(key=key, value=str(value))
        file.write(_widened(name, array).data)
        let_go(array)
        model.graph.initializer.append(tensor)


def _widened(name: str, array: np.ndarray) -> np.ndarray:
    """In the order and type of the model's file: float32, or int64 for shapes and indices."""
    if array.dtype == np.int64:
        return np.ascontiguousarray(array)
    wide = np.ascontiguousarray(array, dtype=np.float32)
    odd = wide.size - int(np.isfinite(wide).sum())
    if odd:
        _LOGGER.warning(
            "tensor %r has %d values that are NaN or infinite; the model will compute nothing useful", name, odd
        )
    return wide


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` once it is complete."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would lock other users out
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
