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
from onnx import TensorProto, helper

from sparsert.errors import ModelError

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
            _add_inside(model, initializers)
        else:
            with _replacing(path.with_name(f"{path.name}.data")) as file:
                _add_beside(model, initializers, f"{path.name}.data", file)
        with _replacing(path) as file:
            file.write(model.SerializeToString(deterministic=True))
    except OSError as error:
        raise ModelError(
            f"cannot write a model of {total / 1e6:.0f} MB to {path}: {error}; give a writable folder with enough "
            "space, by --output or, for the cache, by SPARSERT_MODELS_PATH"
        ) from error


def _widened(name: str, array: np.ndarray) -> np.ndarray:
    """In the order and type of the model's file: float32, or int64 for shapes and indices."""
    if array.dtype == np.int64:
        return array
    wide = np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape)
    if not np.isfinite(wide).all():
        _LOGGER.warning(
            "tensor %r has %d values that are NaN or infinite; the model will compute nothing useful with them",
            name,
            wide.size - int(np.isfinite(wide).sum()),
        )
    return wide


def _add_inside(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        wide = _widened(name, array)
        model.graph.initializer.append(
            helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(wide.dtype), wide.shape, wide.tobytes(), raw=True)
        )


def _add_beside(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray], location: str, file: BinaryIO) -> None:
    """Append the arrays to a file of weights one by one, and tell the model where each lies."""
    for name, array in arrays.items():
        wide = _widened(name, array)
        if wide.dtype == np.int64:  # shapes stay in the model: who reads the graph alone needs them
            _add_inside(model, {name: wide})
            continue
        file.write(bytes(-file.tell() % _ALIGNMENT))
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=wide.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", str(file.tell())), ("length", str(wide.nbytes))):
            tensor.external_data.add(key=key, value=value)
        file.write(wide.data)
        model.graph.initializer.append(tensor)


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
