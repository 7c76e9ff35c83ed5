"""Windows: ranges of a text's tokens, through which a text that is longer than the model's sequence is read."""

from __future__ import annotations

import numpy as np

from sparsert.errors import InputRangeError

__all__ = ["window_ranges"]


def window_ranges(tokens: int, budget: int, overlap: int, side: str = "right") -> np.ndarray:
    """Half-open ranges of a text's tokens, one per window.

    Parameters
    ----------
    tokens : int
        Number of the text's tokens. With none there is still one window, an empty one.
    budget : int
        Tokens that a window holds.
    overlap : int
        Tokens that consecutive windows share, less than ``budget``.
    side : {"right", "left"}
        With "left", the first window is the end of the text and the last one its beginning.

    Returns
    -------
    int64 array, shape (W, 2)
        Every window is full except perhaps the last.
    """
    if tokens <= budget:
        return np.array([[0, tokens]], dtype=np.int64)
    if budget < 1:
        raise InputRangeError(
            f"no token of the text fits into a window (budget {budget}); shorten what else the window holds, or raise "
            "sequence_length"
        )
    if not 0 <= overlap < budget:
        raise InputRangeError(f"windows of {budget} tokens must overlap by 0 to {budget - 1} tokens, got {overlap}")
    step = budget - overlap
    count = -(-(tokens - budget) // step) + 1
    starts = np.arange(count, dtype=np.int64) * step
    ranges = np.stack([starts, np.minimum(starts + budget, tokens)], axis=1)
    return tokens - ranges[:, ::-1] if side == "left" else ranges
