"""The JSON files of a model's folder: reading them, checking their values, and the list of modules.

``modules.json`` is what sentence-transformers writes: the parts of an embedding model, each with its class and folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from sparsert.errors import ModelFormatError

_T = TypeVar("_T")

MODULES = "modules.json"


@dataclass(frozen=True)
class Module:
    """One part of a sentence-transformers model."""

    kind: str
    """The last part of its class's name, such as ``Pooling``; the rest changes with the library's version."""
    type: str
    """The class's full name."""
    path: str
    """Its folder below the root; empty for the root itself."""


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file that may be absent.

    Raises
    ------
    ModelFormatError
        It is no JSON, or no object.
    """
    content = _load(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ModelFormatError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def read_modules(root: Path) -> list[Module]:
    """The modules of a sentence-transformers folder, in order; empty for a folder of another kind.

    Raises
    ------
    ModelFormatError
        ``modules.json`` is malformed, or names a folder outside of the root.
    """
    path = root / MODULES
    content = _load(path)
    if content is None:
        return []
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise ModelFormatError(f"{path} must hold a list of objects, each with type and path")
    modules = []
    for entry in content:
        kind = value_of(entry, "type", str, "", path)
        folder = value_of(entry, "path", str, "", path)
        if not kind:
            raise ModelFormatError(f"{path}: a module has no type: {json.dumps(entry)[:200]}")
        parts = PurePosixPath(folder)
        if parts.is_absolute() or ".." in parts.parts or "\0" in folder:
            raise ModelFormatError(f"{path}: path must be a folder below {root}, got {folder!r:.200}")
        modules.append(Module(kind.rpartition(".")[2], kind, "" if folder == "." else folder))
    return modules


def value_of(content: Mapping[str, Any], key: str, kind: type[_T], default: Any, path: Path) -> Any:
    """A value of a JSON file: of one type, or the default where it is missing or null. An int is a float too.

    Raises
    ------
    ModelFormatError
        It has another type; the message names file and key. A bool is no int.
    """
    value = content.get(key)
    if value is None:
        return default
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or (kind in (int, float) and isinstance(value, bool)):
        names = {str: "a string", int: "an integer", bool: "true or false", dict: "an object", list: "a list"}
        raise ModelFormatError(f"{path}: {key} must be {names.get(kind, 'a number')}, got {value!r:.200}")
    return value


def _load(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{path} is not JSON: {error}") from error
