"""Texts for command lines: lines, JSON lines or a table, from files and pipes, as many at a time as there are."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from sparsert.errors import InputError

__all__ = ["FORMATS", "TextRecord", "arrived_lines", "at_most", "format_of", "read_texts"]

FORMATS = ("txt", "jsonl", "csv", "tsv")

_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}

# Bytes to ask of a pipe at once; it gives what it has, and does not wait for more.
_READ_SIZE = 1 << 20

# Rows of a table that are handed on together.
_ROWS = 256

_T = TypeVar("_T")


@dataclass(frozen=True)
class TextRecord:
    """A text and where it stood, or the reason why there is none.

    Attributes
    ----------
    line : int
        Of the file, counted from 1; the last of a record of several lines.
    text : str
        What the record is about; empty where there is an error.
    content : dict
        Everything that the record says.
    error : str, optional
        What is wrong with it.
    """

    line: int
    text: str = ""
    content: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


def format_of(path: str) -> str:
    """One of :data:`FORMATS` by the name of a file; lines of text where that does not tell."""
    return _SUFFIXES.get(Path(path).suffix.lower(), "txt")


def read_texts(path: str, kind: str, name: str = "text") -> Iterator[list[TextRecord]]:
    """The texts of a file, some at a time.

    Parameters
    ----------
    path : str
        The file, or ``-`` for stdin, in UTF-8.
    kind : str
        One of :data:`FORMATS`. Of ``txt`` every line is a text, an empty one too; of ``jsonl`` a line is an object or a
        string, and empty ones are passed over; a table has a line of names first.
    name : str
        The key or column that has the text.

    Raises
    ------
    InputError
        The file cannot be read, or is no table with that column.
    """
    try:
        with nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as stream:
            if kind in ("csv", "tsv"):
                yield from _table(path, stream, "," if kind == "csv" else "\t", name)
            else:
                yield from _lines(stream, kind, name)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def arrived_lines(stream: BinaryIO) -> Iterator[list[bytes]]:
    """The lines of a stream, those that have arrived at a time."""
    begun: list[bytes] = []  # pieces of a line that is not complete yet; joined once, since a text may be long
    while chunk := stream.read1(_READ_SIZE):  # type: ignore[attr-defined]
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = b"".join([*begun, lines[0]])
            begun = []
            yield lines
        begun.append(rest)
    if any(begun):
        yield [b"".join(begun)]


def at_most(batches: Iterable[list[_T]], size: int) -> Iterator[list[_T]]:
    """The same things, no more than ``size`` at a time."""
    for batch in batches:
        rest = iter(batch)
        while part := list(islice(rest, size)):
            yield part


def _lines(stream: BinaryIO, kind: str, name: str) -> Iterator[list[TextRecord]]:
    number = 0
    for lines in arrived_lines(stream):
        records = []
        for line in lines:
            number += 1
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if kind == "txt":
                records.append(_of_line(line, number))
            elif line.strip():
                records.append(_of_json(line, number, name))
        yield records


def _of_line(line: bytes, number: int) -> TextRecord:
    try:
        return TextRecord(number, line.removesuffix(b"\r").decode("utf-8"))
    except UnicodeDecodeError as error:
        return TextRecord(number, error=f"not UTF-8: {error.reason} at byte {error.start}")


def _of_json(line: bytes, number: int, name: str) -> TextRecord:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        return TextRecord(number, error=f"not JSON: {error}")
    if isinstance(content, str):
        return TextRecord(number, content)
    if not isinstance(content, dict):
        return TextRecord(number, error=f"expected a JSON object, got {line.strip()[:40].decode('utf-8', 'replace')}")
    text = content.get(name)
    if not isinstance(text, str):
        came = f"got {text!r:.40}" if name in content else f"its keys are {sorted(content)}"
        return TextRecord(number, content=content, error=f"{name!r} must be a string; {came}")
    return TextRecord(number, text, content)


def _table(path: str, stream: BinaryIO, delimiter: str, name: str) -> Iterator[list[TextRecord]]:
    csv.field_size_limit(sys.maxsize >> 1)  # the usual limit of 131,072 characters is less than a book
    reader = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", newline=""), delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        if name not in names:
            raise InputError(f"{path} has no column {name!r}; it has {', '.join(names) or 'none'}")
        records = (_of_row(row, names, reader.line_num, name) for row in reader if row)
        while part := list(islice(records, _ROWS)):
            yield part
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num} is not CSV: {error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error.reason} after line {reader.line_num}") from error


def _of_row(row: list[str], names: list[str], line: int, name: str) -> TextRecord:
    if len(row) > len(names):
        error = f"{len(row)} values for the {len(names)} names of the first line; put quotes around texts"
        return TextRecord(line, error=error)
    content = dict(zip(names, row, strict=False))
    return TextRecord(line, content.get(name, ""), content)
