"""Tasks by name: the classes that were registered."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sparsert.errors import InputError
from sparsert.pipelines.imports import load_module

__all__ = ["IMPORT", "add", "find", "names", "normalised"]

IMPORT = "import:"
"""Before the file or module of a task that is not the package's own."""

# Endpoints of a server are named after their tasks, and those names stand in its routes.
_USABLE = re.compile(r"[a-z0-9][a-z0-9._]{0,79}")

_classes: dict[str, Any] = {}


def normalised(task: str) -> str:
    """The name of a task in one spelling: lower case, with ``_`` between words."""
    if not isinstance(task, str):
        raise InputError(f"task must be a str such as 'question-answering', got {task!r}")
    return task.lower().replace("-", "_")


def add(tasks: Sequence[str], kind: type) -> None:
    """Register a class under normalised names.

    Raises
    ------
    InputError
        One of them has other characters than a name of an endpoint may have.
    RuntimeError
        One of them is taken.
    """
    for name in tasks:
        if not _USABLE.fullmatch(name):
            raise InputError(
                "the name of a task has at most 80 letters from a to z, digits, '.', '_' and '-', and begins with a "
                f"letter or digit; got {name!r}"
            )
        if name in _classes:
            raise RuntimeError(
                f"task {name} already registered by Pipeline.register. attempting to register pipeline: "
                f"{kind.__name__}, but pipeline: {_classes[name].__name__}, already registered"
            )
    _classes.update(dict.fromkeys(tasks, kind))


def find(task: str) -> Any:
    """The class of a task, by a name of it or by ``import:`` and the module or file that registers it.

    Raises
    ------
    InputError
        There is no such task.
    """
    if isinstance(task, str) and task.startswith(IMPORT):
        found = getattr(load_module(task.removeprefix(IMPORT)), "TASK", None)
        if not isinstance(found, str):
            raise InputError(f"{task}: expected a str named TASK that names a registered task, got {found!r}")
        task = found
    name = normalised(task)
    if name not in _classes:
        raise InputError(f"Unknown Pipeline task {task}. Currently supported tasks are {names()}")
    return _classes[name]


def names() -> list[str]:
    """Names and aliases of all tasks, sorted."""
    return sorted(_classes)
