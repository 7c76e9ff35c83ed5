"""What an original's model was given and gave back, kept so that another pipeline can be run on the same logits."""

from pathlib import Path

import numpy as np


class Recording:
    """Sequences of token ids without padding, and the start and end logits of each token."""

    def __init__(self) -> None:
        self._ids: list[np.ndarray] = []
        self._start: list[np.ndarray] = []
        self._end: list[np.ndarray] = []

    def add(self, ids: np.ndarray, mask: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
        """Keep one row; arrays of shape (1, S)."""
        used = mask[0] == 1
        self._ids.append(ids[0][used])
        self._start.append(start[0][used])
        self._end.append(end[0][used])

    def save(self, path: str | Path) -> None:
        """Write all rows, one after another."""
        np.savez(
            path,
            lengths=[len(ids) for ids in self._ids],
            ids=np.concatenate(self._ids),
            start=np.concatenate(self._start),
            end=np.concatenate(self._end),
        )
