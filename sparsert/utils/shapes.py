"""Shapes as command lines and callers write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sparsert.errors import InputError, InputShapeError, InputTypeError

__all__ = ["MOST_ITEMS", "InputShapes", "normalize_input_shapes", "parse_input_shapes"]

MOST_ITEMS = 2**31 - 1
"""The largest dimension that is taken."""

InputShapes = str | Sequence[int] | Sequence[Sequence[int]] | None
"""A text such as ``"[1,128],[1,128]"``, one shape for every input, or one shape for each."""


def parse_input_shapes(text: str | None) -> list[list[int]] | None:
    """Parse ``"[1,2,3],[4,5,6]"`` into a list of lists; an empty text or None means no override.

    Raises
    ------
    InputError
        The text holds no bracketed list of integers, or anything besides such lists.
    """
    if not text:
        return None
    groups = re.findall(r"\[\s*(\d+(?:\s*,\s*\d+)*)\s*,?\s*\]", text)
    rest = re.sub(r"\[\s*\d+(?:\s*,\s*\d+)*\s*,?\s*\]", "", text).strip(" ,[]\t")
    if not groups or rest:
        raise InputError(f"Can't parse input shapes parameter: {text}")
    try:
        return [[int(dim) for dim in group.split(",")] for group in groups]
    except ValueError as error:  # more digits than Python converts
        raise InputError(f"Can't parse input shapes parameter: {error}") from error


def normalize_input_shapes(shapes: InputShapes, inputs: int) -> list[list[int]] | None:
    """Bring any accepted form into one shape for each of ``inputs`` inputs; one shape is replicated to all."""
    if shapes is None:
        return None
    if isinstance(shapes, str):
        listed: Any = parse_input_shapes(shapes)
        if listed is None:
            return None
    elif isinstance(shapes, Sequence):
        listed = list(shapes)
    else:
        raise InputTypeError(f"input_shapes must be a list or a str such as '[1,128]', given {type(shapes)}")
    if not listed:
        return None
    if not isinstance(listed[0], (Sequence, tuple)):
        listed = [listed]
    result = [[_dim(dim) for dim in shape] for shape in listed]
    if len(result) == 1:
        result *= inputs
    if len(result) != inputs:
        raise InputShapeError(f"Mismatch of number of model inputs ({inputs}) and override shapes ({len(result)})")
    return result


def _dim(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise InputTypeError(f"input_shapes must hold integers, given {value!r}")
    if int(value) < 1:
        raise InputShapeError(f"input_shapes must hold dimensions greater than 0, given {value}")
    if int(value) > MOST_ITEMS:
        raise InputShapeError(f"input_shapes must hold dimensions of at most {MOST_ITEMS}")
    return int(value)
