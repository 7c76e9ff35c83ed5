"""Files of vectors, written row by row: JSON lines, NumPy's ``.npy``, Parquet. Memory does not grow with their rows.

A file that a reader wants whole is called ``NAME.part`` until all of it is there. It can be read at any time after the
writer is closed, so that nothing is lost of a run that was interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any, BinaryIO, Protocol, TextIO

import numpy as np

from sparsert._texts import TextRecord
from sparsert.errors import InputError

__all__ = ["JsonLines", "NpyFile", "ParquetFile", "VectorFile"]


class VectorFile(Protocol):
    """Takes vectors row by row."""

    def add(self, records: Sequence[TextRecord], vectors: np.ndarray, errors: Sequence[str | None]) -> None:
        """Add rows, shape (n, D); where there is an error, the row says nothing."""
        ...

    def close(self, complete: bool) -> None:
        """Write what is left; ``complete`` says that no row is missing."""
        ...


class JsonLines:
    """``{"id", "embedding"}`` a line, with an id if the record has one; ``{"line", "error"}`` of a bad one."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def add(self, records: Sequence[TextRecord], vectors: np.ndarray, errors: Sequence[str | None]) -> None:
        for record, vector, error in zip(records, vectors, errors, strict=True):
            content: dict[str, Any] = {"id": record.content["id"]} if "id" in record.content else {}
            content |= {"embedding": vector.tolist()} if error is None else {"line": record.line, "error": error}
            self._stream.write(json.dumps(content) + "\n")
        self._stream.flush()

    def close(self, complete: bool) -> None:
        self._stream.flush()
        if self._stream is not sys.stdout:
            self._stream.close()


class NpyFile:
    """An array of shape (rows, D); the row of a bad text is NaN, or 0 in integers.

    Parameters
    ----------
    path : str
        The file.
    """

    def __init__(self, path: str) -> None:
        self._path, self._part = path, f"{path}.part"
        self._file: BinaryIO = open(self._part, "wb")
        self._shape = (0, 0)
        self._dtype: np.dtype | None = None

    def add(self, records: Sequence[TextRecord], vectors: np.ndarray, errors: Sequence[str | None]) -> None:
        if self._dtype is None:
            self._dtype, self._shape = vectors.dtype, (0, vectors.shape[1])
            self._write_header()
        bad = [error is not None for error in errors]
        if any(bad):
            vectors = vectors.copy()
            vectors[bad] = np.nan if vectors.dtype.kind == "f" else 0
        self._file.write(vectors.tobytes())
        self._shape = (self._shape[0] + len(vectors), self._shape[1])

    def close(self, complete: bool) -> None:
        with self._file:
            self._file.seek(0)
            self._write_header()
        if complete:
            os.replace(self._part, self._path)

    def _write_header(self) -> None:
        # NumPy leaves room for a first dimension of any length, so that headers of all shapes are equally long.
        kind = np.dtype(np.float32) if self._dtype is None else self._dtype
        description = {"descr": kind.str, "fortran_order": False, "shape": self._shape}
        np.lib.format.write_array_header_1_0(self._file, description)


class ParquetFile:
    """Columns ``id`` (text), ``embedding`` (a list of fixed size) and ``error`` (text), null where there is none.

    Parameters
    ----------
    path : str
        The file.

    Raises
    ------
    InputError
        pyarrow is not installed.
    """

    def __init__(self, path: str) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise InputError(f"{path}: Parquet needs pyarrow: pip install pyarrow, or write .npy or .jsonl") from error
        self._arrow = pyarrow
        self._path, self._part = path, f"{path}.part"
        self._writer: Any = None

    def add(self, records: Sequence[TextRecord], vectors: np.ndarray, errors: Sequence[str | None]) -> None:
        arrow = self._arrow
        ids = [record.content.get("id") for record in records]
        missing = np.array([error is not None for error in errors], dtype=bool)
        flat = arrow.array(np.ascontiguousarray(vectors).reshape(-1))
        lists = arrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1], mask=arrow.array(missing))
        columns = {
            "id": arrow.array([None if name is None else str(name) for name in ids], arrow.string()),
            "embedding": lists,
            "error": arrow.array(list(errors), arrow.string()),
        }
        table = arrow.table(columns)
        if self._writer is None:
            self._writer = arrow.parquet.ParquetWriter(self._part, table.schema)
        self._writer.write_table(table)

    def close(self, complete: bool) -> None:
        if self._writer is None:
            return
        self._writer.close()
        if complete:
            os.replace(self._part, self._path)
