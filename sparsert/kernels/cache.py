"""The disk cache of compiled kernels: where it is, what in it is stale, and a word to those who wait for it to fill."""

from __future__ import annotations

import functools
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core import event
from numba.core.caching import FunctionCache

from sparsert.tiers import TIERS

__all__ = ["announce_compilation", "directory", "remove_stale"]

_log = logging.getLogger(__name__)

_ENTRY = re.compile(rf"_(?:{'|'.join(TIERS)})(?:_portable)?_([0-9a-f]{{12}})-\d+\.py\d+t?\.(?:nbi|\d+\.nbc)")
"""End of the name of a cached kernel's file; the group is the fingerprint of the sources."""


def directory(function: Callable[..., Any]) -> Path | None:
    """Folder where Numba caches ``function`` on disk, or None if it finds none that it can write to.

    ``NUMBA_CACHE_DIR`` wins, then ``__pycache__`` beside the source, then the user's cache.
    """
    try:
        return Path(FunctionCache(function).cache_path)
    except RuntimeError:
        return None


def remove_stale(folder: Path, fingerprint: str) -> list[Path]:
    """Delete the kernels of other versions of the sources from their cache folder, and return what was deleted.

    A folder belongs to one place of the sources, so these cannot be wanted again, except by a process that has run
    since before the sources changed; Numba compiles anew in a process that misses a file.
    """
    removed = []
    for path in sorted(folder.iterdir(), key=lambda path: path.suffix, reverse=True):  # an index before its data
        match = _ENTRY.search(path.name)
        if match and match[0] == path.name[match.start() :] and match[1] != fingerprint:
            path.unlink(missing_ok=True)
            removed.append(path)
    return removed


class _Announcement(event.Listener):
    """Says once that kernels are being compiled, when the first one is not in the cache."""

    def __init__(self, message: str) -> None:
        self._message = message
        self._said = False

    def on_start(self, event: event.Event) -> None:
        function = event.data["dispatcher"].py_func
        if not self._said and (function.__module__ or "").startswith("sparsert."):
            self._said = True
            if sys.stderr is not None and sys.stderr.isatty():
                sys.stderr.write(f"sparsert: {self._message}\n")
                sys.stderr.flush()
            else:
                _log.warning("%s", self._message)

    def on_end(self, event: event.Event) -> None:
        """Nothing: the first answer says that it is over."""


@functools.cache
def announce_compilation(tier: str) -> None:
    """From now on, tell on a terminal, else in the log, when kernels of ``tier`` have to be compiled."""
    message = f"compiling kernels for {tier}, once, about 20 s; `python -m sparsert.warmup` does it ahead of time"
    event.register("numba:compile", _Announcement(message))
