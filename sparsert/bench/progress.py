"""A progress bar on a terminal, and nothing elsewhere."""

from __future__ import annotations

import shutil
import sys
from types import TracebackType
from typing import TextIO

__all__ = ["ProgressBar"]

_BAR_COLUMNS = 24


class ProgressBar:
    """One line that is rewritten in place on a terminal; silent when `stream` (stderr by default) is none."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._active = self._stream.isatty()
        self._drawn = False

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def show(self, label: str, fraction: float) -> None:
        """Draw the bar at `fraction` (0 to 1), followed by `label`."""
        if not self._active:
            return
        filled = round(fraction * _BAR_COLUMNS)
        text = f"[{'#' * filled}{'.' * (_BAR_COLUMNS - filled)}] {fraction:4.0%} {label}"
        columns = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r\x1b[K{text[:columns]}")
        self._stream.flush()
        self._drawn = True

    def clear(self) -> None:
        """Take the bar away, so that other lines can follow."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False
