"""A folder of packed weights, which processes of one machine map into memory instead of each packing its own.

``SPARSERT_WEIGHTS`` names the folder; without it nothing is stored. A matrix is kept under a hash of all that its
packed form follows from: the op with its numbers, the tier, and the sources that pack it. Nobody else may write to the
folder: what is in it goes to the kernels unchecked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sparsert.graph import quantization
from sparsert.kernels.formats import PackedWeight
from sparsert.kernels.jit import FINGERPRINT, PORTABLE, TIER
from sparsert.ops import Linear, linear, steps
from sparsert.ops.steps import PackedLinear
from sparsert.plan import weights
from sparsert.plan.weights import pack_linear

__all__ = ["load_or_pack"]

_log = logging.getLogger(__name__)

_SOURCES = (*(Path(str(module.__file__)) for module in (quantization, linear, steps, weights)), Path(__file__))
"""What the packed form follows from, beside the kernels' sources: those have a fingerprint of their own."""

_LEAST_BYTES = 1 << 16
"""Smaller matrices are packed anew: a mapping of their own would cost more than they do."""


def load_or_pack(op: Linear, wanted: str | None = None) -> PackedLinear:
    """The packed form of a Linear: mapped from the folder, after packing it if it was not there.

    ``wanted`` is a format, as for :func:`sparsert.plan.weights.pack_linear`.
    """
    folder = os.environ.get("SPARSERT_WEIGHTS")
    if not folder or op.weight.nbytes < _LEAST_BYTES:
        return pack_linear(op, wanted)
    path = Path(folder) / _key(op, wanted)
    try:
        if not path.is_dir():
            _save(path, pack_linear(op, wanted))
        return _load(path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("packed weights cannot be kept in %s: %s", folder, error)
        return pack_linear(op, wanted)


def _key(op: Linear, wanted: str | None) -> str:
    digest = hashlib.blake2b(digest_size=20)
    digest.update(f"{FINGERPRINT} {TIER.name} {PORTABLE} {wanted} {_packer()}".encode())
    _update(digest, op)
    return digest.hexdigest()


@functools.cache
def _packer() -> str:
    return hashlib.blake2b(b"".join(source.read_bytes() for source in _SOURCES), digest_size=8).hexdigest()


def _update(digest: Any, value: Any) -> None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            digest.update(field.name.encode())
            _update(digest, getattr(value, field.name))
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype.str} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
    else:
        digest.update(repr(value).encode())


def _save(path: Path, packed: PackedLinear) -> None:
    """Write a folder beside the wanted one and rename it; if another process was faster, its folder stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=path.parent, prefix="partial-"))
    try:
        plain: dict[str, Any] = {}
        for part, item in (("linear", packed), ("weight", packed.weight)):
            for field in dataclasses.fields(item):
                value = getattr(item, field.name)
                if isinstance(value, np.ndarray):
                    np.save(partial / f"{part}.{field.name}.npy", value)
                elif not isinstance(value, PackedWeight):
                    plain[f"{part}.{field.name}"] = value
        (partial / "plain.json").write_text(json.dumps(plain))
        with contextlib.suppress(OSError):
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _load(path: Path) -> PackedLinear:
    parts: dict[str, dict[str, Any]] = {"linear": {}, "weight": {}}
    for name, value in json.loads((path / "plain.json").read_text()).items():
        part, _, field = name.partition(".")
        parts[part][field] = value
    for file in path.glob("*.npy"):
        part, field, _ = file.name.split(".")
        array = np.load(file, mmap_mode="r", allow_pickle=False) if file.stat().st_size > 4096 else np.load(file)
        parts[part][field] = array
    return PackedLinear(weight=PackedWeight(**parts["weight"]), **parts["linear"])
