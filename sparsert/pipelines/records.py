"""The records of a dataset's file, JSON, JSON lines or CSV, and errors that name file, record and key."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sparsert.errors import InputError

__all__ = [
    "check_object",
    "collect",
    "id_of",
    "kind_of",
    "list_of",
    "numbered_records",
    "read_records",
    "text_of",
    "value_of",
]

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


class _Example(Protocol):
    @property
    def id(self) -> str: ...


_E = TypeVar("_E", bound=_Example)


def read_records(path: str | Path) -> list[tuple[str, Any]]:
    """The records of a file, each with its place in it, such as ``"record 3"`` or ``"line 3"``.

    A file whose name ends in ``.csv`` or ``.tsv`` has a line of names first, and its values are strings, of which empty
    ones are left out. Any other is a JSON list, an object with a list under ``data``, or JSON lines.

    Raises
    ------
    InputError
        The file cannot be read or is none of these.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    delimiter = _DELIMITERS.get(Path(path).suffix.lower())
    if delimiter is not None:
        return _table(path, text, delimiter)
    try:
        content = json.loads(text)
    except ValueError as error:
        lines = _json_lines(path, text)
        if lines is None:
            raise InputError(f"{path} is not JSON ({error}), nor does its first line hold a JSON object") from error
        return lines
    if isinstance(content, dict) and "data" in content:
        content = content["data"]
    if isinstance(content, dict):
        return [("record 1", content)]  # JSON lines of one line
    if not isinstance(content, list):
        raise InputError(f"{path} must hold a list of records, got {kind_of(content)}")
    return [(f"record {number}", element) for number, element in enumerate(content, 1)]


def _json_lines(path: str | Path, text: str) -> list[tuple[str, Any]] | None:
    """The elements of a file of JSON lines; None if its first line is not a JSON object."""
    elements: list[tuple[str, Any]] = []
    # Not splitlines(): it also cuts at U+2028 and others, which JSON allows within a string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            element = json.loads(line)
        except ValueError as error:
            if not elements:
                return None
            raise InputError(f"{path}: line {number} is not JSON: {error}") from error
        if not elements and not isinstance(element, dict):
            return None
        elements.append((f"line {number}", element))
    return elements or None


def _table(path: str | Path, text: str, delimiter: str) -> list[tuple[str, Any]]:
    """The rows of a CSV file."""
    csv.field_size_limit(sys.maxsize >> 1)  # the usual limit of 131,072 characters is less than a book
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records: list[tuple[str, Any]] = []
    try:
        names = next(reader, [])
        begin = reader.line_num + 1
        for row in reader:
            place, begin = f"line {begin}", reader.line_num + 1
            if len(row) > len(names):
                raise InputError(
                    f"{path}: {place} has {len(row)} values for the {len(names)} names of the first line; put quotes "
                    "around texts"
                )
            if row:
                records.append((place, {name: value for name, value in zip(names, row, strict=False) if value}))
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num} is not CSV: {error}") from error
    return records


def numbered_records(path: str | Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The objects of a file: the place of each for messages, its ``id`` or else its number, and itself."""
    for number, (name, record) in enumerate(read_records(path), 1):
        place = f"{path}: {name}"
        check_object(place, record)
        yield place, id_of(place, record) if "id" in record else str(number), record


def collect(path: str | Path, examples: Iterable[tuple[str, _E]], max_samples: int | None, things: str) -> list[_E]:
    """The first examples of a file, each of which comes with its place there, such as ``"file.json: record 3"``.

    Raises
    ------
    InputError
        Two have one id, or there are none of these ``things``, or ``max_samples`` is no number of them.
    """
    if max_samples is not None and (isinstance(max_samples, bool) or max_samples < 1):
        raise InputError(f"max_samples must be None or an int of at least 1, got {max_samples!r}")
    found: list[_E] = []
    seen: dict[str, str] = {}
    for place, example in examples:
        if example.id in seen:
            raise InputError(
                f"{place} has the id {example.id!r}, which {seen[example.id]} has already; give each its own"
            )
        seen[example.id] = place.removeprefix(f"{path}: ")
        found.append(example)
        if len(found) == max_samples:
            break
    if not found:
        raise InputError(f"{path} holds no {things}")
    return found


# ---- values of a record ----------------------------------------------------------------------------------------------


def check_object(place: str, value: Any) -> None:
    """Raise InputError where a value is no JSON object."""
    if not isinstance(value, dict):
        raise InputError(f"{place} must be a JSON object, got {kind_of(value)}")


def value_of(place: str, record: dict[str, Any], key: str) -> Any:
    """The value of a key that must be there."""
    if key not in record:
        raise InputError(f"{place} has no {key!r}; its keys are {sorted(record)}")
    return record[key]


def text_of(place: str, record: dict[str, Any], key: str) -> str:
    """The string of a key."""
    value = value_of(place, record, key)
    if not isinstance(value, str):
        raise InputError(f"{place}: {key!r} must be a string, got {kind_of(value)}")
    return value


def list_of(place: str, record: dict[str, Any], key: str) -> Sequence[Any]:
    """The list of a key."""
    value = value_of(place, record, key)
    if not isinstance(value, list):
        raise InputError(f"{place}: {key!r} must be a list, got {kind_of(value)}")
    return value


def id_of(place: str, record: dict[str, Any]) -> str:
    """The id of a record, a string or an integer."""
    name = value_of(place, record, "id")
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise InputError(f"{place}: 'id' must be a string, got {kind_of(name)}")
    return str(name)


def kind_of(value: Any) -> str:
    """What a JSON value is, in the words of JSON."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
