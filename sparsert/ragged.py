"""Sequences of different lengths: end to end or as padded rows, and through an engine that only takes rectangles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from sparsert.errors import EngineError, InputShapeError

__all__ = ["flatten_rows", "pad_rows", "per_token", "run_padded"]

_ROWS = 16
"""Sequences of a padded batch where the engine does not fix their number; sorted by length they differ little."""


def pad_rows(
    flat: np.ndarray, lengths: np.ndarray, width: int | None = None, left: bool = False, value: int = 0
) -> np.ndarray:
    """Lay sequences that lie end to end out as rows.

    Parameters
    ----------
    flat : ndarray, shape (T, ...)
        The tokens of all sequences.
    lengths : int array, shape (n,)
        Tokens of each sequence; their sum is T.
    width : int, optional
        Columns; by default the longest length.
    left : bool
        Whether the padding comes before a sequence.
    value : int
        What the padding consists of.

    Returns
    -------
    ndarray, shape (n, width, ...)
    """
    inside = _inside(lengths, int(lengths.max()) if width is None else width, left)
    rows = np.full((*inside.shape, *flat.shape[1:]), value, flat.dtype)
    rows[inside] = flat
    return rows


def flatten_rows(rows: np.ndarray, lengths: np.ndarray, left: bool = False) -> np.ndarray:
    """Lay padded rows, shape (n, width, ...), end to end without their padding: the inverse of :func:`pad_rows`."""
    flat: np.ndarray = rows[_inside(lengths, rows.shape[1], left)]
    return flat


def _inside(lengths: np.ndarray, width: int, left: bool) -> np.ndarray:
    """Which columns of each row belong to its sequence; boolean, shape (n, width)."""
    columns = np.arange(width)
    return columns >= width - lengths[:, None] if left else columns < lengths[:, None]


def run_padded(
    run: Callable[[list[np.ndarray]], Sequence[np.ndarray]],
    inputs: Sequence[np.ndarray],
    lengths: np.ndarray,
    masks: Sequence[bool],
    outputs: Sequence[bool | None],
    rows: int | None = None,
    tokens: int | None = None,
    alone: bool = False,
) -> list[np.ndarray]:
    """Run sequences that lie end to end in padded batches, and lay the results end to end.

    Parameters
    ----------
    run
        Takes arrays of shape (batch, tokens) and returns the outputs.
    inputs : sequence of ndarray
        Each of shape (T,).
    lengths : int array, shape (n,)
        Tokens of each sequence, at least 1, with sum T.
    masks : sequence of bool
        Of each input, whether it says which tokens count. Without any, only sequences of one length share a batch.
    outputs : sequence of bool or None
        Of each output, whether it has a value per token; None if its shape in a run shall tell.
    rows, tokens : int, optional
        Batch size and length of every run, where ``run`` takes no other.
    alone : bool
        Whether sequences of one batch influence each other, so that each is run by itself.

    Returns
    -------
    list of ndarray
        Shape (T, ...) for an output of tokens, else (n, ...).

    Raises
    ------
    InputShapeError
        The model has no mask and a sequence is shorter than ``tokens``.
    """
    if tokens is not None and not any(masks) and (lengths != tokens).any():
        raise InputShapeError(
            f"a sequence has {int(lengths.min())} tokens, expected {tokens}: the model takes no other length and has "
            "no mask to tell padding apart; pad the sequences, or export the model with a mask or with open dimensions"
        )
    begins = np.cumsum(lengths) - lengths
    joined: list[np.ndarray] = []
    known: list[bool] = []
    for batch in _batches(lengths, 1 if alone else rows or _ROWS, any(masks)):
        width = tokens or int(lengths[batch].max())
        # a fixed number of rows repeats the last sequence
        places = np.pad(batch, (0, (rows or 0) - len(batch) if rows else 0), mode="edge")
        results = run(_padded(inputs, begins[places], lengths[places], width))
        if not joined:
            known = _kinds(outputs, results, width)
            if tokens is None and known != _kinds(outputs, results, 0):
                # As many classes as tokens look alike; another number of tokens tells
                fewer = width - 1 or 2
                others = run(_padded(inputs, begins[places], np.minimum(lengths[places], fewer), fewer))
                known = [a and b for a, b in zip(known, _kinds(outputs, others, fewer), strict=True)]
            joined = [
                np.empty(
                    (len(inputs[0]), *result.shape[2:]) if of_tokens else (len(lengths), *result.shape[1:]),
                    result.dtype,
                )
                for of_tokens, result in zip(known, results, strict=True)
            ]
        for of_tokens, result, whole in zip(known, results, joined, strict=True):
            leading = (len(places), width) if of_tokens else (len(places),)
            if result.shape[: len(leading)] != leading:
                raise EngineError(
                    f"an output has shape {result.shape}, expected it to begin with {leading}: its values belong "
                    "neither to tokens nor to sequences; use run"
                )
            if of_tokens:
                whole[_tokens(begins[batch], lengths[batch])] = flatten_rows(result[: len(batch)], lengths[batch])
            else:
                whole[batch] = result[: len(batch)]
    return joined


def _padded(inputs: Sequence[np.ndarray], begins: np.ndarray, lengths: np.ndarray, width: int) -> list[np.ndarray]:
    """Sequences of flat inputs as rows."""
    chosen = _tokens(begins, lengths)
    return [pad_rows(array[chosen], lengths, width) for array in inputs]


def _kinds(known: Sequence[bool | None], results: Sequence[np.ndarray], width: int) -> list[bool]:
    """Whether each output has a value per token, by its shape in a run of so many tokens where that is not known."""
    return [
        result.shape[1:2] == (width,) if of_tokens is None else of_tokens
        for of_tokens, result in zip(known, results, strict=True)
    ]


def _tokens(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Indices of the tokens of sequences that begin anywhere, one sequence after another."""
    moved = begins - (np.cumsum(lengths) - lengths)
    return np.arange(lengths.sum()) + np.repeat(moved, lengths)


def _batches(lengths: np.ndarray, rows: int, padding: bool) -> Iterator[np.ndarray]:
    """Indices of the sequences of each batch: similar lengths together, or only equal ones without ``padding``."""
    order = np.argsort(lengths, kind="stable")
    edges = [0] if padding else [0, *(np.flatnonzero(np.diff(lengths[order])) + 1)]
    for first, stop in zip(edges, [*edges[1:], len(order)], strict=True):
        for begin in range(first, stop, rows):
            yield order[begin : min(begin + rows, stop)]


def per_token(shape: Sequence[int | str | None], tokens: set[int | str | None]) -> bool | None:
    """Whether an output of this shape has a value per token, where inputs have ``tokens`` as second dimension.

    None if the shape does not tell: numbers may be equal by chance, and dimensions without a name may be anything.
    """
    if len(shape) == 1:
        return False
    second = shape[1] if shape else None
    if isinstance(second, str):
        return True if second in tokens else None
    return False if second is not None and None not in tokens and second not in tokens else None
