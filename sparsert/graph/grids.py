"""Expressions on grids of their indices: for many elements what `sparsert.graph.symbolic` writes for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sparsert.graph.symbolic import Expr, apply, is_number

__all__ = ["as_distance", "compute"]


def _divide(a: Any, b: Any) -> Any:
    if np.asarray(a).dtype.kind == "f":
        return np.divide(a, b)
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))


_ON_ARRAYS: dict[str, Callable[..., Any]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _divide,
    "Pow": np.power,
    "Mod": np.mod,
    "Neg": np.negative,
    "Abs": np.abs,
    "Sqrt": np.sqrt,
    "Log": np.log,
    "Reciprocal": np.reciprocal,
    "Cos": np.cos,
    "Sin": np.sin,
    "Sign": np.sign,
    "Floor": np.floor,
    "Ceil": np.ceil,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
    "Not": np.logical_not,
    "Equal": np.equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Where": np.where,
    "Min": np.minimum,
    "Max": np.maximum,
    "ToBool": lambda a: np.asarray(a).astype(bool),
    "ToInt": lambda a: np.asarray(a).astype(np.int64),
    "ToFloat": lambda a: np.asarray(a).astype(np.float32),
    "Stored": lambda a, scale, zero, low, high: np.clip(np.rint(a / scale) + zero, low, high),
    "Real": lambda a, scale, zero: np.asarray(a - zero, np.float32) * np.float32(scale),
}


def compute(expr: Expr, leaves: Mapping[Expr, np.ndarray], tables: Mapping[str, np.ndarray]) -> np.ndarray:
    """Compute an expression for arrays of its leaves, which broadcast against each other.

    Parameters
    ----------
    expr : Expr
    leaves : dict
        An int64 array for every index variable.
    tables : dict
        The constants that the expression reads, by name.

    Returns
    -------
    ndarray
        Of the shape to which the leaves that it reads broadcast; floats are float32 throughout, as in the model.

    Raises
    ------
    IndexError
        The expression reads beyond a table.
    KeyError
        It reads something else than ``leaves`` and ``tables`` have.
    """
    known: dict[Expr, Any] = {}

    def value(item: Expr) -> Any:
        if item in leaves:
            return leaves[item]
        if isinstance(item, bool):
            return np.bool_(item)
        if not isinstance(item, tuple):
            return np.int64(item) if isinstance(item, int) else np.float32(item)
        if item not in known:
            if item[0] == "table":
                known[item] = tables[item[1]][tuple(np.asarray(value(place)) for place in item[2:])]
            elif item[0] == "Element":  # of numbers that the expression holds itself
                known[item] = item[1].numbers[np.asarray(value(item[2]))]
            else:
                known[item] = _ON_ARRAYS[item[0]](*(value(argument) for argument in item[1:]))
        return known[item]

    with np.errstate(all="ignore"):  # a branch that is not taken may be the logarithm of 0
        return np.asarray(value(expr))


def as_distance(expr: Expr, left: Expr, right: Expr, distance: Expr) -> Expr | None:
    """Write an expression that depends on two index variables by their difference alone with ``distance``.

    ``distance`` stands for ``left - right``. None if the expression depends on them in another way, as far as sums and
    comparisons tell.
    """

    def of_distance(coefficient: int, rest: int) -> Expr:
        return apply("Add", rest, apply("Mul", coefficient, distance))

    def rewrite(item: Expr) -> Expr | None:
        if item in (left, right):
            return None
        if not isinstance(item, tuple) or item[0] in ("index", "dim"):
            return item
        line = _line(item, left, right)
        if line is not None and line[0] == -line[1]:
            return of_distance(line[0], line[2])
        if item[0] in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
            lines = [_line(side, left, right) for side in item[1:]]
            if lines[0] is not None and lines[1] is not None:
                a, b, c = (x - y for x, y in zip(*lines, strict=True))
                return apply(item[0], of_distance(a, c), 0) if a == -b else None
        first = 2 if item[0] == "table" else 1
        inner = [rewrite(argument) for argument in item[first:]]
        if any(argument is None for argument in inner):
            return None
        if item[0] == "table":
            return (*item[:2], *inner)
        return apply(item[0], *inner)  # type: ignore[arg-type]

    return rewrite(expr)


def _line(expr: Expr, left: Expr, right: Expr) -> tuple[int, int, int] | None:
    """The integers a, b and c of ``a * left + b * right + c``; None for anything else."""
    if expr == left:
        return 1, 0, 0
    if expr == right:
        return 0, 1, 0
    if not isinstance(expr, tuple):
        return (0, 0, expr) if isinstance(expr, int) and not isinstance(expr, bool) else None
    if expr[0] == "Mul" and is_number(expr[1]):
        line, factor = _line(expr[2], left, right), expr[1]
        if line is None or not isinstance(factor, int):
            return None
        return line[0] * factor, line[1] * factor, line[2] * factor
    if expr[0] not in ("Add", "Sub", "Neg"):
        return None
    lines = [_line(item, left, right) for item in expr[1:]]
    if any(line is None for line in lines):
        return None
    if expr[0] == "Neg":
        lines.insert(0, (0, 0, 0))
    sign = 1 if expr[0] == "Add" else -1
    return tuple(x + sign * y for x, y in zip(*lines, strict=True))  # type: ignore
