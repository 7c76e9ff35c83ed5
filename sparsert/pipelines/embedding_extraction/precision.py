"""Embeddings in fewer bits, as sentence-transformers quantizes them."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from sparsert.errors import InputError, InputTypeError

__all__ = ["PRECISIONS", "check_precision", "quantize_embeddings"]

_log = logging.getLogger(__name__)

PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")

# Fewer rows than this give ranges that new texts often leave.
_FEW_ROWS = 100


def check_precision(precision: str) -> str:
    """The same precision, if there is such.

    Raises
    ------
    InputError
        It is none of :data:`PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {list(PRECISIONS)}, got {precision!r}")
    return precision


def quantize_embeddings(
    embeddings: np.ndarray | Sequence[np.ndarray],
    precision: str,
    ranges: np.ndarray | None = None,
    calibration_embeddings: np.ndarray | None = None,
) -> np.ndarray:
    """Store embeddings in fewer bits.

    Parameters
    ----------
    embeddings : float array, shape (W, H) or (H,)
        The vectors; a list of vectors will do.
    precision : {"float32", "int8", "uint8", "binary", "ubinary"}
        ``int8`` and ``uint8`` divide the range of each dimension into 255 steps; ``binary`` and ``ubinary`` keep one
        bit a dimension, whether it is positive, eight of them in an int8 (less 128) or uint8.
    ranges : float array, shape (2, H), optional
        Least and greatest number of each dimension, for ``int8`` and ``uint8``.
    calibration_embeddings : float array, shape (M, H), optional
        Embeddings from which ``ranges`` are taken; by default ``embeddings`` themselves, so that a vector depends on
        the others of its batch.

    Returns
    -------
    array, shape (W, H), or (W, ceil(H / 8)) in bits

    Raises
    ------
    InputError
        The precision is unknown, or a single vector would have to give the ranges.
    InputTypeError
        The embeddings are integers already.
    """
    check_precision(precision)
    values = np.asarray(embeddings)
    if values.dtype in (np.int8, np.uint8):
        raise InputTypeError(f"embeddings to quantize must be floats, got {values.dtype}; they are quantized already")
    if precision == "float32":
        return values.astype(np.float32)
    if precision in ("binary", "ubinary"):
        bits = np.packbits(values > 0, axis=-1)
        return bits if precision == "ubinary" else (bits - 128).astype(np.int8)
    if ranges is None and (calibration_embeddings is not None or values.size):
        ranges = _ranges(values if calibration_embeddings is None else calibration_embeddings, precision)
    if ranges is None:  # nothing to quantize
        return values.astype(precision)
    least, greatest = np.asarray(ranges, dtype=np.float32)
    steps = (greatest - least) / 255
    steps = np.where(steps == 0, 1, steps)
    buckets = np.clip(np.floor((values - least) / steps), 0, 255)
    return buckets.astype(np.uint8) if precision == "uint8" else (buckets - 128).astype(np.int8)


def _ranges(embeddings: np.ndarray, precision: str) -> np.ndarray:
    """Least and greatest number of each dimension, shape (2, H)."""
    if embeddings.ndim == 1 or len(embeddings) == 1:
        raise InputError(
            f"precision {precision!r} needs ranges, which a single embedding does not have; encode without it, and "
            "call quantize_embeddings with ranges or calibration_embeddings of many texts"
        )
    if len(embeddings) < _FEW_ROWS:
        _log.warning(
            "%s ranges come from %d embeddings only; ranges or calibration_embeddings of more texts would be stabler",
            precision,
            len(embeddings),
        )
    return np.stack([embeddings.min(axis=0), embeddings.max(axis=0)])
