"""Names and shapes in an ONNX file. Files of the caller are read, never written: overrides go to temporary copies."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

import onnx

from sparsert.errors import InputError, InputShapeError, ModelFormatError
from sparsert.utils.model_path import model_to_path
from sparsert.utils.shapes import InputShapes, normalize_input_shapes

__all__ = ["get_input_names", "get_output_names", "override_onnx_batch_size", "override_onnx_input_shapes"]


def _load(model: str | os.PathLike[str], weights: bool = False) -> tuple[str, onnx.ModelProto]:
    path = model_to_path(model)
    try:
        return path, onnx.load(path, load_external_data=weights)
    except Exception as error:  # protobuf's own exception types differ by version
        raise ModelFormatError(
            f"{path} could not be parsed as an ONNX model: {error}. Export or copy it again."
        ) from error


def _true_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs that are not merely listed initializers."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def get_input_names(model: str | os.PathLike[str]) -> list[str]:
    """Names of the inputs of a model, in graph order."""
    return [value.name for value in _true_inputs(_load(model)[1])]


def get_output_names(model: str | os.PathLike[str]) -> list[str]:
    """Names of the outputs of a model, in graph order."""
    return [value.name for value in _load(model)[1].graph.output]


def _refuse_inplace(inplace: bool) -> None:
    if inplace:
        raise InputError(
            "inplace=True would write to your model file, which sparsert never does. Use the path that is yielded."
        )


@contextlib.contextmanager
def _temporary_copy(model: onnx.ModelProto) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="sparsert-") as folder:
        path = os.path.join(folder, "model.onnx")
        # Protobuf cannot write more than 2 GB into one message.
        external = model.ByteSize() >= 2**31 - 1
        onnx.save(model, path, save_as_external_data=external)
        yield path


@contextlib.contextmanager
def override_onnx_batch_size(model: str | os.PathLike[str], batch_size: int, inplace: bool = False) -> Iterator[str]:
    """Yield the path of a temporary copy whose inputs and outputs have ``batch_size`` as leading dimension."""
    _refuse_inplace(inplace)
    if batch_size < 1:
        raise InputError(f"batch_size must be greater than 0, given {batch_size}")
    _, proto = _load(model, weights=True)
    for value in [*_true_inputs(proto), *proto.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims:
            dims[0].dim_value = batch_size
    with _temporary_copy(proto) as path:
        yield path


@contextlib.contextmanager
def override_onnx_input_shapes(
    model: str | os.PathLike[str], input_shapes: InputShapes, inplace: bool = False
) -> Iterator[str]:
    """Yield the path of a temporary copy whose inputs have ``input_shapes`` (in any form that Engine accepts)."""
    _refuse_inplace(inplace)
    path, proto = _load(model, weights=True)
    inputs = _true_inputs(proto)
    shapes = normalize_input_shapes(input_shapes, len(inputs))
    if shapes is None:
        yield path
        return
    for value, shape in zip(inputs, shapes, strict=True):
        dims = value.type.tensor_type.shape.dim
        if len(dims) != len(shape):
            raise InputShapeError(
                f"Input '{value.name}' shape doesn't match shape override: {[dim.dim_value for dim in dims]} vs {shape}"
            )
        for dim, size in zip(dims, shape, strict=True):
            dim.dim_value = size
    with _temporary_copy(proto) as copy:
        yield copy
