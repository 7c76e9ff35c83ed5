"""Packages whose modules are found by themselves: a file laid into the folder is all that it takes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence


def import_modules(package: str, folder: Sequence[str]) -> None:
    """Import every module of a package, for what they add to registries.

    Parameters
    ----------
    package, folder
        ``__name__`` and ``__path__`` of the package.
    """
    for module in pkgutil.iter_modules(folder, f"{package}."):
        importlib.import_module(module.name)
