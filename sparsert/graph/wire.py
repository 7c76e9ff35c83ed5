"""Parse an ONNX protobuf without reading its large tensors.

``ModelProto.ParseFromString`` needs the whole file as bytes and copies all of it; reading tensors out of the message
copies again. Here the wire format is walked on the mapped file instead: every large ``raw_data`` is replaced by a short
token, the remaining skeleton (a few hundred kilobytes for BERT) is parsed by protobuf, and a large tensor is an array
on the mapped pages, which nobody reads before its weights are packed. The same walk refuses lengths that reach beyond
the file.
"""

from __future__ import annotations

import os
from io import BufferedReader

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from sparsert.errors import ModelFormatError
from sparsert.graph.mapped import bytes_at, map_file

# Messages below this size stay in the skeleton whole: walking into them would cost more than a second copy of them.
_SMALL = 4096

_RAW = "raw_data"
_CHILDREN: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {5: "TensorProto"},
    "TensorProto": {9: _RAW},
}
"""Field numbers worth descending into, per message; subgraphs and functions stay whole."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


class ModelFile:
    """An open ONNX file, parsed into ``model`` with the large tensors left on disk.

    Parameters
    ----------
    file : binary file
    path : str
        Name of the file in error messages.

    Raises
    ------
    ModelFormatError
        If the bytes are not an ONNX protobuf.
    """

    def __init__(self, file: BufferedReader, path: str) -> None:
        self.path = path
        self._pages = map_file(file)
        self._blobs: list[tuple[int, int]] = []
        # Random for each load, so that no file can contain a token of its own.
        self._token = os.urandom(16)
        if not len(self._pages):
            raise ModelFormatError(f"{path}: expected an ONNX protobuf, the file is empty")
        skeleton = self._skeleton(0, len(self._pages), "ModelProto")
        self.model = onnx.ModelProto()
        try:
            self.model.ParseFromString(skeleton)
        except (DecodeError, ValueError, RuntimeError) as error:
            raise self._malformed(f"protobuf refused it ({error})") from error

    def blob_size(self, raw_data: bytes) -> int | None:
        """Size in bytes of the tensor that ``raw_data`` is a token for; None if it is no token."""
        index = self._blob_index(raw_data)
        return None if index is None else self._blobs[index][1]

    def read_blob(self, raw_data: bytes) -> np.ndarray:
        """Return the bytes that a token stands for, as :func:`bytes_at` does."""
        index = self._blob_index(raw_data)
        if index is None:
            raise ValueError("not a token of this file")
        return bytes_at(self._pages, *self._blobs[index])

    def _blob_index(self, raw_data: bytes) -> int | None:
        if len(raw_data) != 24 or not raw_data.startswith(self._token):
            return None
        return int.from_bytes(raw_data[16:], "little")

    def _malformed(self, detail: str) -> ModelFormatError:
        return ModelFormatError(
            f"{self.path}: expected an ONNX protobuf, came malformed or truncated bytes: {detail}; "
            "check that the file was downloaded completely"
        )

    def _skeleton(self, start: int, end: int, message: str) -> bytes:
        """Copy the message at bytes [start, end) with every large ``raw_data`` below it replaced by a token."""
        children = _CHILDREN[message]
        parts: list[bytes] = []
        copied = position = start
        while position < end:
            header = self._pages[position : min(position + 20, end)]
            key, used = self._varint(header, 0, position)
            field, wire = key >> 3, key & 7
            if wire == _VARINT:
                _, used = self._varint(header, used, position)
                length = 0
            elif wire == _LENGTH:
                length, used = self._varint(header, used, position)
            elif wire in (_FIXED64, _FIXED32):
                length = 8 if wire == _FIXED64 else 4
            else:
                raise self._malformed(f"wire type {wire} of field {field} in {message} at byte {position}")
            body = position + used
            if field == 0 or length > end - body:
                raise self._malformed(
                    f"field {field} of {message} at byte {position} claims {length} bytes of {max(end - body, 0)}"
                )
            if wire == _LENGTH and length > _SMALL and field in children:
                parts.append(self._pages[copied:position])
                child = children[field]
                inner = self._tokenize(body, length) if child == _RAW else self._skeleton(body, body + length, child)
                parts += [encode_varint(key), encode_varint(len(inner)), inner]
                copied = body + length
            position = body + length
        parts.append(self._pages[copied:end])
        return b"".join(parts)

    def _tokenize(self, offset: int, size: int) -> bytes:
        self._blobs.append((offset, size))
        return self._token + (len(self._blobs) - 1).to_bytes(8, "little")

    def _varint(self, data: bytes, start: int, position: int) -> tuple[int, int]:
        """Decode the varint at ``data[start:]`` into (value, end)."""
        value = 0
        for index in range(start, min(start + 10, len(data))):
            value |= (data[index] & 0x7F) << (7 * (index - start))
            if data[index] < 0x80:
                return value, index + 1
        raise self._malformed(f"no valid field header at byte {position}")


def encode_varint(value: int) -> bytes:
    """A number of protobuf's wire format: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
