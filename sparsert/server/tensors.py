"""The tensor form of the Open Inference Protocol v2: a batch of requests as columns, one tensor a field.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol, with Triton's extension for binary
tensors: the JSON comes first, as long as ``Inference-Header-Content-Length`` says, and the tensors' bytes after it.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np
from flask import Response
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_json

from sparsert.server.errors import SchemaError

__all__ = ["TensorRequest", "describe", "is_request", "read_request", "write_response"]

# Python types of a schema's fields, and the datatypes that they travel as; "c" marks no fixed size.
_DATATYPES: dict[type, str] = {str: "BYTES", float: "FP64", int: "INT64", bool: "BOOL"}
_FORMATS = {"FP64": "<%dd", "FP32": "<%df", "INT64": "<%dq", "BOOL": "<%d?"}
_VECTORS = "FP32"
"""The datatype of a field that is a list of vectors, which its schema names as ``x-datatype``."""


@dataclass(frozen=True)
class TensorRequest:
    """A checked request: the fields of each row, which outputs are wanted, and which of them as bytes."""

    id: str | None
    rows: list[dict[str, Any]]
    outputs: list[str]
    binary: frozenset[str]


def describe(schema: type[BaseModel]) -> list[dict[str, Any]]:
    """The required fields of a schema as tensors: name, datatype and shape."""
    return [
        {"name": name, "datatype": _datatype(field), "shape": [-1, -1] if _datatype(field) == _VECTORS else [-1]}
        for name, field in schema.model_fields.items()
        if field.is_required()
    ]


def is_request(content: Any, inputs: type[BaseModel]) -> bool:
    """Whether a body is meant as tensors; a schema may have a field ``inputs`` of its own, which holds no tensors."""
    if not isinstance(content, dict) or "inputs" not in content:
        return False
    if "inputs" not in inputs.model_fields:
        return True
    given = content["inputs"]
    return isinstance(given, list) and bool(given) and isinstance(given[0], dict) and "datatype" in given[0]


def read_request(
    content: Any, binary: bytes, inputs: type[BaseModel], outputs: type[BaseModel], max_rows: int
) -> TensorRequest:
    """Check an inference request and turn its tensors into rows.

    Parameters
    ----------
    content
        The JSON of the request.
    binary
        What follows the JSON.
    inputs, outputs
        The pipeline's schemas.
    max_rows
        Most requests in one.

    Raises
    ------
    SchemaError
        With the place of what does not fit.
    """
    content = _mapping(content, ())
    request_id = content.get("id")
    if request_id is not None and (not isinstance(request_id, str) or len(request_id) > 256):
        raise SchemaError.at(("id",), "must be a string of 256 characters at most", "string_type")
    tensors = _list(content.get("inputs"), ("inputs",))
    names = [field["name"] for field in describe(inputs)]
    optional = [name for name in inputs.model_fields if name not in names]
    columns: dict[str, list[Any]] = {}
    for index, tensor in enumerate(tensors):
        place = ("inputs", index)
        tensor = _mapping(tensor, place)
        name = tensor.get("name")
        if not isinstance(name, str) or name not in inputs.model_fields:
            raise SchemaError.at((*place, "name"), f"must be one of {', '.join([*names, *optional])}")
        if name in columns:
            raise SchemaError.at((*place, "name"), f"{name} is given twice")
        columns[name], binary = _column(tensor, place, _datatype(inputs.model_fields[name]), binary, max_rows)
    if binary:
        raise SchemaError.at(("inputs",), f"{len(binary)} bytes follow the last tensor")
    for name in names:
        if name not in columns:
            raise SchemaError.at(("inputs",), f"the tensor {name} is missing", "missing")
    if len({len(column) for column in columns.values()}) > 1:
        raise SchemaError.at(("inputs",), "all tensors must have as many elements")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    wanted, as_bytes = _wanted_outputs(content, list(outputs.model_fields))
    return TensorRequest(request_id, rows, wanted, as_bytes)


def write_response(request: TensorRequest, model: str, answers: Sequence[BaseModel]) -> Response:
    """The answers as tensors, in JSON or, where the client wants it, as bytes after the JSON.

    Raises
    ------
    SchemaError
        An output that is wanted as bytes is None in some row, or a row has something else than vectors of one length.
    """
    content: dict[str, Any] = {"model_name": model, "model_version": "1"}
    if request.id is not None:
        content["id"] = request.id
    content["outputs"] = []
    tail = b""
    for name in request.outputs:
        datatype = _datatype(type(answers[0]).model_fields[name])
        values = [getattr(answer, name) for answer in answers]
        shape = [len(values)]
        if datatype == _VECTORS:
            vectors = _vectors(name, values)
            shape, values = list(vectors.shape), vectors.ravel().tolist()
        if datatype == "BYTES":  # what no tensor can hold travels as JSON
            values = [value if isinstance(value, str | None) else to_json(value).decode() for value in values]
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if name in request.binary:
            if None in values:
                raise SchemaError.at(
                    ("outputs",), f"{name} has no value in some rows, which bytes cannot say; ask for it in JSON"
                )
            packed = _packed(values, datatype)
            tensor["parameters"] = {"binary_data_size": len(packed)}
            tail += packed
        else:
            tensor["data"] = values
        content["outputs"].append(tensor)
    head = json.dumps(content).encode()
    if not request.binary:
        return Response(head, mimetype="application/json")
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return Response(head + tail, mimetype="application/octet-stream", headers=headers)


def _vectors(name: str, values: Sequence[Any]) -> np.ndarray:
    """The vectors of all rows, each of which has one."""
    rows = [np.asarray(value, dtype=np.float32) for value in values]
    if any(row.ndim != 2 or row.shape != (1, rows[0].shape[-1]) for row in rows):
        message = f"a tensor has one vector for each text, but {name} has one for each token; ask in JSON"
        raise SchemaError.at(("outputs",), message)
    return np.concatenate(rows)


def _datatype(field: FieldInfo) -> str:
    """Datatype of a field: that of its first type, if it is a union; BYTES for what no tensor can hold."""
    if isinstance(field.json_schema_extra, dict) and "x-datatype" in field.json_schema_extra:
        return str(field.json_schema_extra["x-datatype"])
    annotation = field.annotation
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return next((_DATATYPES[kind] for kind in kinds if kind in _DATATYPES), "BYTES")


def _mapping(value: Any, place: tuple[str | int, ...]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise SchemaError.at(place, "must be an object", "dict_type")
    return value


def _list(value: Any, place: tuple[str | int, ...]) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise SchemaError.at(place, "must be a list of tensors", "list_type")
    return value


def _column(
    tensor: Mapping[str, Any], place: tuple[str | int, ...], datatype: str, binary: bytes, max_rows: int
) -> tuple[list[Any], bytes]:
    """Values of one tensor, and what is left of the bytes after the JSON."""
    if tensor.get("datatype") != datatype:
        raise SchemaError.at((*place, "datatype"), f"must be {datatype}")
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not shape or len(shape) > 8 or not all(type(dim) is int for dim in shape):
        raise SchemaError.at((*place, "shape"), "must be a list of integers")
    count = math.prod(shape)
    if min(shape) < 1 or count > max_rows:
        raise SchemaError.at((*place, "shape"), f"must have 1 to {max_rows} elements")
    parameters = _mapping(tensor.get("parameters", {}), (*place, "parameters"))
    size = parameters.get("binary_data_size")
    if size is not None:
        if type(size) is not int or not 0 <= size <= len(binary):
            raise SchemaError.at((*place, "parameters", "binary_data_size"), "must be a length within the body")
        values, binary = _unpacked(binary[:size], datatype, place), binary[size:]
    else:
        values = list(_flat(tensor.get("data"), (*place, "data"), len(shape)))
    if len(values) != count:
        raise SchemaError.at((*place, "data"), f"shape {shape} has {count} elements, got {len(values)}")
    return values, binary


def _flat(data: Any, place: tuple[str | int, ...], depth: int) -> Iterator[Any]:
    """Elements of data that is flat or nested as its shape."""
    if not isinstance(data, list):
        raise SchemaError.at(place, "must be a list", "list_type")
    for item in data:
        if isinstance(item, list):
            if depth < 2:
                raise SchemaError.at(place, "is nested deeper than its shape")
            yield from _flat(item, place, depth - 1)
        else:
            yield item


def _unpacked(data: bytes, datatype: str, place: tuple[str | int, ...]) -> list[Any]:
    """Elements of a binary tensor; each of BYTES is preceded by its length in four bytes."""
    try:
        if datatype in _FORMATS:
            width = struct.calcsize(_FORMATS[datatype] % 1)
            return list(struct.unpack(_FORMATS[datatype] % (len(data) // width), data))
        values: list[Any] = []
        position = 0
        while position < len(data):
            (length,) = struct.unpack_from("<I", data, position)
            position += 4
            if position + length > len(data):
                raise ValueError("a length goes beyond the tensor")
            values.append(data[position : position + length].decode("utf-8"))
            position += length
        return values
    except (struct.error, ValueError) as error:
        raise SchemaError.at((*place, "data"), f"is not a binary tensor of {datatype}: {error}") from None


def _packed(values: Sequence[Any], datatype: str) -> bytes:
    if datatype in _FORMATS:
        return struct.pack(_FORMATS[datatype] % len(values), *values)
    return b"".join(struct.pack("<I", len(data)) + data for data in (str(value).encode() for value in values))


def _wanted_outputs(content: Mapping[str, Any], known: list[str]) -> tuple[list[str], frozenset[str]]:
    """Names of the outputs to give, and those to give as bytes."""
    parameters = _mapping(content.get("parameters", {}), ("parameters",))
    everything = parameters.get("binary_data_output") is True
    if content.get("outputs") is None:
        return known, frozenset(known) if everything else frozenset()
    names, as_bytes = [], set()
    for index, output in enumerate(_list(content["outputs"], ("outputs",))):
        place = ("outputs", index)
        name = _mapping(output, place).get("name")
        if not isinstance(name, str) or name not in known or name in names:
            raise SchemaError.at((*place, "name"), f"must be one of {', '.join(known)}, each once")
        names.append(name)
        options = _mapping(output.get("parameters", {}), (*place, "parameters"))
        if options.get("binary_data", everything) is True:
            as_bytes.add(name)
    return names, frozenset(as_bytes)
