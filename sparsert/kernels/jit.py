"""How kernels are compiled: the tier, the flags, and a cache that notices every change.

Numba's disk cache recognises a function by file, name and line, and does not see a changed callee in another file. So
every kernel's name carries the tier and a fingerprint of the kernels' sources: another tier or an edited kernel is
another name, hence another cache entry.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import cfunc, njit, types

from sparsert import cpu
from sparsert.kernels import cache
from sparsert.tiers import TIERS, Tier

__all__ = ["FINGERPRINT", "PORTABLE", "TIER", "TILE", "cache_folders", "entry", "inner", "jit"]

_log = logging.getLogger(__name__)

TIER: Tier = TIERS[cpu.isa()]
"""The tier all kernels of this process are compiled for."""

PORTABLE: bool = TIER.portable and cpu.portable()
"""Tests only: portable IR stands in for the instructions of the tier, so that its kernels run on any CPU."""

TILE: int = TIER.vector_bytes
"""Tokens per tile: one vector of bytes, so a row of a uint8 tile is one register and a row of floats four.

On AVX2 a tile of 32 keeps 768 channels (24 KB) in an L1 of 32 KB, and two accumulator sets in 16 registers; 64 tokens
spilled registers and ran 8 % slower (Zen 3).
"""


def _fingerprint(folder: Path = Path(__file__).parent) -> str:
    """Hash of the tiers' records, and of all sources in a folder and below it, with their places in it."""
    digest = hashlib.sha256(repr(TIERS).encode())
    for source in sorted(folder.rglob("*.py")):
        digest.update(source.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


FINGERPRINT: str = _fingerprint()

_CACHED = cache.directory(_fingerprint) is not None
if not _CACHED:
    _log.warning(
        "no folder for compiled kernels can be written, so every process compiles them again; set NUMBA_CACHE_DIR"
    )


_SOURCE_FOLDERS: dict[str, Callable[..., Any]] = {}
"""Folders of the sources that were compiled from so far, each with one of its functions."""


def cache_folders() -> list[Path]:
    """Where all kernels that have been imported are cached: Numba makes a folder for each folder of sources."""
    found = {cache.directory(function) for function in _SOURCE_FOLDERS.values()}
    return sorted(folder for folder in found if folder is not None)


def jit(**flags: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` with this package's flags: cached on disk, GIL released, no Python-style division checks.

    ``fastmath`` stays off: NaN must propagate, and the micro-kernels state every fused multiply-add themselves.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        _rename(function)
        return njit(cache=_CACHED, nogil=True, error_model="numpy", boundscheck=False, **flags)(function)

    return decorate


def inner() -> Callable[[Callable[..., Any]], Any]:
    """:func:`jit` for what compiled code alone calls: no wrapper for Python, since that takes its time to compile.

    A call from Python would crash the process.
    """
    return jit(no_cpython_wrapper=True, no_cfunc_wrapper=True)


def entry(function: Callable[..., Any], arity: int) -> Any:
    """``numba.cfunc`` of ``arity`` integers with the flags of :func:`jit`, to be called at its ``address``.

    LLVM compiles a function again inside every compiled function that calls it; behind an address it is compiled once.
    """
    _rename(function)
    signature = types.void(*(types.int64,) * arity)
    return cfunc(signature, cache=_CACHED, error_model="numpy", boundscheck=False)(function)


def _rename(function: Callable[..., Any]) -> None:
    """Give a function the name that its cache entry is found by, and note where it is from."""
    _SOURCE_FOLDERS.setdefault(os.path.dirname(function.__code__.co_filename), function)
    variant = f"{TIER.name}_portable" if PORTABLE else TIER.name
    function.__qualname__ = f"{function.__qualname__}_{variant}_{FINGERPRINT}"
