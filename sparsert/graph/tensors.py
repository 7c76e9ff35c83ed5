"""ONNX tensors to numpy arrays: every element type, every storage form, no trust in what a tensor claims.

Memory is taken only for bytes that exist: the claimed shape is compared with the bytes at hand before any allocation.
A large tensor takes none: its array lies in the mapped file.
Element types and packing: https://onnx.ai/onnx/api/classes.html#tensorproto and
https://onnx.ai/onnx/technical/int4.html; external data: https://onnx.ai/onnx/repo-docs/ExternalData.html.
"""

from __future__ import annotations

import math
import mmap
import os
import stat
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import onnx

from sparsert.errors import ModelFormatError, ModelNotFoundError
from sparsert.graph.mapped import bytes_at, map_file
from sparsert.graph.wire import ModelFile


class ElementType(NamedTuple):
    """One value of ``TensorProto.data_type``: name, numpy dtype, stored bits, and the field of unpacked values."""

    name: str
    dtype: np.dtype
    bits: int
    field: str


def _element_types() -> dict[int, ElementType]:
    table: list[tuple[int, Any, int, str]] = [
        (1, np.float32, 32, "float_data"),
        (2, np.uint8, 8, "int32_data"),
        (3, np.int8, 8, "int32_data"),
        (4, np.uint16, 16, "int32_data"),
        (5, np.int16, 16, "int32_data"),
        (6, np.int32, 32, "int32_data"),
        (7, np.int64, 64, "int64_data"),
        (8, object, 0, "string_data"),
        (9, np.bool_, 8, "int32_data"),
        (10, np.float16, 16, "int32_data"),
        (11, np.float64, 64, "double_data"),
        (12, np.uint32, 32, "uint64_data"),
        (13, np.uint64, 64, "uint64_data"),
        (14, np.complex64, 64, "float_data"),
        (15, np.complex128, 128, "double_data"),
    ]
    extended = [
        (16, "bfloat16", 16),
        (17, "float8_e4m3fn", 8),
        (18, "float8_e4m3fnuz", 8),
        (19, "float8_e5m2", 8),
        (20, "float8_e5m2fnuz", 8),
        (21, "uint4", 4),
        (22, "int4", 4),
        (23, "float4_e2m1fn", 4),
        (24, "float8_e8m0fnu", 8),
        (25, "uint2", 2),
        (26, "int2", 2),
        (27, "float6_e2m3fn", 6),
        (28, "float6_e3m2fn", 6),
    ]
    # An old ml_dtypes lacks the youngest types; a file that uses one is then refused as an unknown data type.
    table += [
        (code, getattr(ml_dtypes, name), bits, "int32_data")
        for code, name, bits in extended
        if hasattr(ml_dtypes, name)
    ]
    types = {code: ElementType(np.dtype(t).name, np.dtype(t), bits, field) for code, t, bits, field in table}
    types[8] = types[8]._replace(name="string")
    return types


ELEMENT_TYPES = _element_types()

# A sparse tensor holds few bytes and may claim any dense size; a quarter of a gibibyte is beyond any real constant.
_MAX_DENSE_FROM_SPARSE = 1 << 28


class TensorReader:
    """Converts the tensors of one model file.

    Parameters
    ----------
    source : ModelFile
        The parsed file, for the tensors that its skeleton left on disk.
    """

    def __init__(self, source: ModelFile) -> None:
        self._source = source
        self._path = source.path
        self._directory = os.path.dirname(source.path) or os.curdir
        # Download caches link both the model and its data into a store of blobs: the model's real directory counts too.
        self._roots = {os.path.realpath(self._directory), os.path.dirname(os.path.realpath(source.path))}
        self._files: dict[str, mmap.mmap | bytes] = {}

    def read(self, tensor: onnx.TensorProto, where: str) -> np.ndarray:
        """Return the tensor as an array, new and writable, or, from 64 KiB on, on the mapped file and read-only.

        An array on the file has the alignment that its bytes happen to have there.

        Parameters
        ----------
        tensor : onnx.TensorProto
        where : str
            The tensor's place in the model, for messages: ``"initializer 'w'"``.

        Raises
        ------
        ModelFormatError
            If type, shape and bytes do not agree, or the external data is not allowed or too short.
        ModelNotFoundError
            If the file with external data is missing.
        """
        element = ELEMENT_TYPES.get(tensor.data_type)
        if element is None:
            known = ", ".join(f"{code} ({item.name})" for code, item in ELEMENT_TYPES.items())
            raise self._error(where, f"expected a data type among {known}; came {tensor.data_type}")
        if tensor.HasField("segment"):
            raise self._error(where, "expected a whole tensor, came a segment, which ONNX never specified")
        shape = tuple(tensor.dims)
        if any(dim < 0 for dim in shape):
            raise self._error(where, f"expected dimensions >= 0, came shape {shape}")
        count = math.prod(shape)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            flat = self._from_bytes(self._external_bytes(tensor, element, shape, where), element, count)
        elif tensor.HasField("raw_data"):
            flat = self._from_raw(tensor.raw_data, element, shape, where)
        else:
            flat = self._from_field(tensor, element, shape, where)
        return self._reshape(flat, shape, where)

    def read_sparse(self, tensor: onnx.SparseTensorProto, where: str) -> np.ndarray:
        """Return a sparse tensor as a new dense array; arguments and errors as for :meth:`read`."""
        shape = tuple(tensor.dims)
        if not shape or any(dim < 0 for dim in shape):
            raise self._error(where, f"expected a sparse tensor with one or more dimensions >= 0, came shape {shape}")
        values = self.read(tensor.values, f"values of {where}")
        indices = self.read(tensor.indices, f"indices of {where}")
        count = math.prod(shape)
        if count * max(values.itemsize, 1) > _MAX_DENSE_FROM_SPARSE:
            raise self._error(
                where,
                f"expected at most {_MAX_DENSE_FROM_SPARSE} bytes when dense, came shape {shape} of {values.dtype}; "
                "store it as a dense initializer",
            )
        if values.dtype == object:
            raise self._error(where, "expected numbers in a sparse tensor, came strings")
        if (
            values.ndim != 1
            or indices.dtype != np.int64
            or indices.shape not in {values.shape, (values.size, len(shape))}
        ):
            raise self._error(
                where,
                f"expected values of shape (n,) and int64 indices of shape (n,) or (n, {len(shape)}), came "
                f"{values.shape} and {indices.dtype} {indices.shape}",
            )
        limits = np.array([count] if indices.ndim == 1 else shape, dtype=np.int64)
        columns = indices.reshape(values.size, limits.size)
        if np.any(columns < 0) or np.any(columns >= limits):
            raise self._error(where, f"expected indices within shape {shape}, came {_first_bad(columns, limits)}")
        dense = np.zeros(count, dtype=values.dtype)
        dense[columns[:, 0] if indices.ndim == 1 else np.ravel_multi_index(tuple(columns.T), shape)] = values
        return self._reshape(dense, shape, where)

    def embed(self, tensor: onnx.TensorProto, where: str) -> None:
        """Check a tensor that stays a protobuf message, and move its external data into the message."""
        self.read(tensor, where)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            element = ELEMENT_TYPES[tensor.data_type]
            raw = self._external_bytes(tensor, element, tuple(tensor.dims), where).tobytes()
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = raw

    def _error(self, where: str, detail: str) -> ModelFormatError:
        return ModelFormatError(f"{self._path}: {where}: {detail}")

    def _reshape(self, flat: np.ndarray, shape: tuple[int, ...], where: str) -> np.ndarray:
        try:
            return flat.reshape(shape)
        except ValueError as error:
            raise self._error(where, f"shape {shape} is beyond what an array can have ({error})") from error

    def _check_size(self, came: int, element: ElementType, shape: tuple[int, ...], where: str) -> None:
        expected = _stored_bytes(math.prod(shape), element)
        if came != expected:
            raise self._error(where, f"expected {expected} bytes for {element.name} of shape {shape}, came {came}")

    def _from_raw(self, raw: bytes, element: ElementType, shape: tuple[int, ...], where: str) -> np.ndarray:
        if element.dtype == object:
            raise self._error(where, "expected strings in string_data, came raw_data")
        size = self._source.blob_size(raw)
        self._check_size(len(raw) if size is None else size, element, shape, where)
        data = np.frombuffer(raw, dtype=np.uint8).copy() if size is None else self._source.read_blob(raw)
        return self._from_bytes(data, element, math.prod(shape))

    @staticmethod
    def _from_bytes(data: np.ndarray, element: ElementType, count: int) -> np.ndarray:
        """Interpret uint8 ``data``, already of the right size, as ``count`` elements."""
        if element.bits < 8:
            return _unpack_bits(data, element.bits, count).view(element.dtype)
        if element.dtype == np.bool_:
            # Any other byte than 0 and 1 in a numpy bool is undefined behaviour in compiled code.
            return data != 0
        return data.view(element.dtype)

    def _from_field(
        self, tensor: onnx.TensorProto, element: ElementType, shape: tuple[int, ...], where: str
    ) -> np.ndarray:
        stored = getattr(tensor, element.field)
        count = math.prod(shape)
        expected = count
        if element.bits in (2, 4):
            expected = _stored_bytes(count, element)
        elif element.dtype.kind == "c":
            expected = 2 * count
        if len(stored) != expected:
            detail = (
                f"expected {expected} values in {element.field} for {element.name} of shape {shape}, came {len(stored)}"
            )
            raise self._error(where, detail)
        if element.dtype == object:
            return self._strings(stored, where)
        if element.dtype.kind == "c":
            part = np.float32 if element.dtype == np.complex64 else np.float64
            return np.fromiter(stored, dtype=part, count=expected).view(element.dtype)
        if element.field in ("float_data", "double_data", "int64_data"):
            return np.fromiter(stored, dtype=element.dtype, count=expected)
        wide = np.fromiter(stored, dtype=np.uint64 if element.field == "uint64_data" else np.int32, count=expected)
        # int32_data holds small integers as values and everything else as bit patterns.
        is_value = element.dtype.kind in "iu" and element.bits >= 8 and element.dtype.isbuiltin == 1
        stored_type = element.dtype if is_value else np.dtype(f"uint{max(element.bits, 8)}")
        if element.bits == 6:
            wide = np.bitwise_and(wide, 0x3F)
        narrow = wide.astype(stored_type)
        if not np.array_equal(narrow, wide):
            wrong = wide[narrow != wide][0]
            raise self._error(where, f"expected values that fit {stored_type} in {element.field}, came {wrong}")
        if is_value:
            return narrow
        if element.bits == 6:
            return narrow.view(element.dtype)
        return self._from_bytes(narrow.view(np.uint8), element, count)

    def _strings(self, stored: Any, where: str) -> np.ndarray:
        array = np.empty(len(stored), dtype=object)
        for index, value in enumerate(stored):
            try:
                array[index] = value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise self._error(where, f"expected UTF-8 text, came {value!r} at element {index}") from error
        return array

    def _external_bytes(
        self, tensor: onnx.TensorProto, element: ElementType, shape: tuple[int, ...], where: str
    ) -> np.ndarray:
        """Read the bytes of a tensor with external data; shape (size,), uint8."""
        if element.dtype == object:
            raise self._error(where, "expected strings in string_data, came external data")
        entries = {entry.key: entry.value for entry in tensor.external_data}
        expected = _stored_bytes(math.prod(shape), element)
        offset = self._external_number(entries, "offset", 0, where)
        self._check_size(self._external_number(entries, "length", expected, where), element, shape, where)
        location = entries.get("location", "")
        pages = self._map_external(location, where)
        if offset + expected > len(pages):
            raise self._error(
                where,
                f"expected {expected} bytes at offset {offset} of external data {location!r}, "
                f"the file has {len(pages)}",
            )
        return bytes_at(pages, offset, expected)

    def _external_number(self, entries: dict[Any, Any], key: str, default: int, where: str) -> int:
        text = entries.get(key)
        if text is None:
            return default
        # 19 digits hold every 64-bit offset; int() alone would take signs, blanks, underscores and megabytes of digits.
        if not isinstance(text, str) or not (text.isascii() and text.isdecimal()) or len(text) > 19:
            raise self._error(where, f"expected a number of bytes as {key} of external data, came {text!r:.60}")
        return int(text)

    def _map_external(self, location: Any, where: str) -> mmap.mmap | bytes:
        """Map the file that ``location`` names, if it lies in the model's directory."""
        if not isinstance(location, str) or not location or "\0" in location:
            raise self._error(where, f"expected a file name as location of external data, came {location!r:.200}")
        if location in self._files:
            return self._files[location]
        parts = location.replace("\\", "/").split("/")
        if os.path.isabs(location) or parts[0] == "" or ".." in parts or ":" in parts[0]:
            raise self._error(
                where, f"expected external data inside the model's directory, came location {location!r:.200}"
            )
        real = os.path.realpath(os.path.join(self._directory, location))
        if not any(real.startswith(os.path.join(root, "")) for root in self._roots):
            raise self._error(
                where,
                f"expected external data inside the model's directory, {location!r:.200} is a link that leaves it",
            )
        missing = f"{self._path}: {where}: expected external data {location!r:.200} in {self._directory}"
        try:
            mode = os.stat(real).st_mode
            if not stat.S_ISREG(mode):
                raise self._error(where, f"expected a regular file as external data, {location!r:.200} is none")
            with open(real, "rb") as file:
                self._files[location] = map_file(file)
        except FileNotFoundError as error:
            raise ModelNotFoundError(f"{missing}, came no such file; keep it beside the model") from error
        except OSError as error:
            raise ModelNotFoundError(f"{missing}, it cannot be read: {error}") from error
        return self._files[location]


def _stored_bytes(count: int, element: ElementType) -> int:
    return (count * element.bits + 7) // 8


def _unpack_bits(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Spread elements of 2, 4 or 6 bits, first element in the lowest bits, over one byte each."""
    if bits == 6:
        planes = np.unpackbits(data, count=6 * count, bitorder="little").reshape(count, 6)
        return np.packbits(planes, axis=1, bitorder="little").reshape(count)
    per_byte = 8 // bits
    spread = np.empty(data.size * per_byte, dtype=np.uint8)
    for index in range(per_byte):
        spread[index::per_byte] = (data >> (bits * index)) & ((1 << bits) - 1)
    return spread[:count]


def _first_bad(columns: np.ndarray, limits: np.ndarray) -> list[int]:
    row = np.flatnonzero(((columns < 0) | (columns >= limits)).any(axis=1))[0]
    return columns[row].tolist()
