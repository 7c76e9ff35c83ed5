"""What ``SentenceTransformer`` and ``CrossEncoder`` share of the habits of the library whose names they have."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sparsert.errors import InputError
from sparsert.pipelines.row_model import RowModel

__all__ = ["as_tensor", "model_reference", "progress", "set_limit", "with_meaning"]

_log = logging.getLogger(__name__)

# Arguments of the library's constructors that mean nothing here, where they ask for nothing that is not done anyway.
_WITHOUT_MEANING = (
    "device", "cache_folder", "trust_remote_code", "local_files_only", "token", "use_auth_token", "model_kwargs",
    "processor_kwargs", "tokenizer_kwargs", "config_kwargs", "model_card_data", "backend",
)  # fmt: skip


def model_reference(name: str | Path, revision: str | None, organization: str) -> str | Path:
    """A model reference from what the library takes: a path, or the name of a repository."""
    text = str(name)
    if ":" in text or Path(text).expanduser().exists() or text.startswith((".", "/", "~")) or text == "default":
        return name
    repository = text if "/" in text else f"{organization}/{text}"
    if repository.count("/") > 1:
        return name
    return f"hf:{repository}" if revision is None else f"hf:{repository}@{revision}"


def with_meaning(options: dict[str, Any], name: str) -> dict[str, Any]:
    """The options that mean something here; a warning names those that do not, unless they ask for nothing."""
    ignored = [key for key in _WITHOUT_MEANING if options.get(key) not in (None, False, "cpu", "onnx")]
    if ignored:
        _log.warning("%s: %s mean nothing here and are ignored", name, ", ".join(ignored))
    return {key: value for key, value in options.items() if key not in _WITHOUT_MEANING}


def set_limit(rows: RowModel, tokens: int) -> None:
    """Change how many tokens a row may have.

    Raises
    ------
    InputError
        They leave no room for text, or the model takes fewer.
    """
    most = rows.longest or sys.maxsize
    if not isinstance(tokens, int) or not rows.tokenizer.single.special_tokens < tokens <= most:
        raise InputError(f"max_seq_length must leave room for text and be an int of at most {most}, got {tokens!r}")
    rows.sequence_length = tokens


class _NoBar:
    """A bar that nobody sees."""

    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, count: int) -> None:
        """Nothing is shown."""


def progress(total: int, wanted: bool | None, unit: str = " texts") -> Any:
    """A bar on stderr, if one is wanted; else one that costs nothing, of which a query would notice a tenth of 1 ms."""
    if not wanted:
        return _NoBar()
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, file=sys.stderr)


def as_tensor(array: np.ndarray) -> Any:
    """An array as a tensor of torch.

    Raises
    ------
    InputError
        Torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError("tensors need torch, which is not installed; leave out convert_to_tensor") from error
    return torch.from_numpy(np.ascontiguousarray(array))
