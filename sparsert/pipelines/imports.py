"""Code of one's own, named by module or by file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from sparsert.errors import InputError

__all__ = ["load_module", "load_object"]


def load_module(reference: str) -> ModuleType:
    """Import a module by its dotted name or the path of its ``.py`` file; a file is run once a process.

    Raises
    ------
    InputError
        There is no such module or file, or it raises as it is imported.
    """
    if not reference.endswith(".py"):
        try:
            return importlib.import_module(reference)
        except ModuleNotFoundError as error:
            raise InputError(f"there is no module {reference!r} to import: {error}") from error
        except Exception as error:  # whatever code of one's own does
            raise _failed(reference, error) from error
    path = Path(reference).resolve()
    if not path.is_file():
        raise InputError(f"there is no file {reference!r} to import")
    # Files in different folders may have one name, and none of them may hide a module that is installed.
    name = f"_sparsert_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None  # the name ends in .py
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[name]
            if isinstance(error, Exception):
                raise _failed(reference, error) from error
            raise
    return sys.modules[name]


def _failed(reference: str, error: Exception) -> InputError:
    return InputError(f"{reference} cannot be imported: {type(error).__name__}: {error}; run it by itself to see where")


def load_object(reference: str) -> Any:
    """What ``path.py:name`` or ``package.module:name`` names."""
    module, _, name = reference.rpartition(":")
    found = getattr(load_module(module), name, None) if module else None
    if found is None:
        raise InputError(f"{reference!r} must be path.py:name or package.module:name, with a name that exists there")
    return found
