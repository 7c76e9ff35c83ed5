"""Where model files lie: in the package and in the caches."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGED_MODELS = Path(__file__).resolve().parent / "models"
DEFAULT_MODEL = PACKAGED_MODELS / "minilm-l6-squad-pruned60_quant"


def cache_root() -> Path:
    """Folder that generated models are written to: ``SPARSERT_MODELS_PATH``, or ``~/.cache/sparsert``."""
    return _from_environment("SPARSERT_MODELS_PATH") or Path.home() / ".cache" / "sparsert"


def zoo_roots() -> list[Path]:
    """Folders searched for the files of a ``zoo:`` stub, first match wins."""
    roots = [
        _from_environment("SPARSERT_MODELS_PATH"),
        _from_environment("SPARSEZOO_MODELS_PATH"),
        Path.home() / ".cache" / "sparsert",
        Path.home() / ".cache" / "sparsezoo",
    ]
    return list(dict.fromkeys(root for root in roots if root is not None))


def _from_environment(variable: str) -> Path | None:
    value = os.environ.get(variable, "").strip()
    return Path(value).expanduser() if value else None
