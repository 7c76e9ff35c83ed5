"""Predictions written to files, as the SQuAD scripts of BERT and DeepSparse do."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsert.errors import InputError

__all__ = ["PredictionFiles"]


class PredictionFiles:
    """Files in a directory to which predictions are appended, one JSON object a line. Safe to use from several threads.

    Parameters
    ----------
    directory : str or Path
        Must exist.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        if not self.directory.is_dir():
            raise InputError(f"Output folder {directory} not found. Make it first")
        self._lock = threading.Lock()

    def append(self, name: str, rows: Sequence[tuple[str | None, Any]]) -> None:
        """Append ``{id: value}`` for each row to the file ``name``; a question without an id is called null."""
        # ASCII, so that any reader takes it whatever its locale.
        lines = "".join(json.dumps({"null" if key is None else key: value}) + "\n" for key, value in rows)
        with self._lock, open(self.directory / name, "a", encoding="ascii") as file:
            file.write(lines)
