"""Scalar expressions over dimensions, index variables and model inputs, simplified as they are built.

An expression is a number, or a tuple that starts with its kind:

- ``("dim", name)``: a dimension that is chosen when the model runs, at least 1;
- ``("index", key, dim)``: an index variable, ``0 <= index < dim``;
- ``("input", name, *indices)``: one element of a model input;
- ``("table", name, *indices)``: one element of a constant;
- ``(operator, *arguments)``: an ONNX elementwise operator applied to expressions.

With them one element of an integer or mask tensor is written as a function of its indices, which proves what a spelling
of twenty nodes computes: a mask that depends on the key alone, positions that count from two, a head split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

Expr = int | float | bool | tuple


def _divide(a: Any, b: Any) -> Any:
    if isinstance(a, int) and isinstance(b, int):
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return np.float32(a) / np.float32(b)


_NUMERIC: dict[str, Callable[..., Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _divide,
    "Pow": lambda a, b: a**b,
    "Mod": lambda a, b: a % b,
    "Neg": lambda a: -a,
    "Abs": abs,
    "Sqrt": lambda a: np.sqrt(np.float32(a)),
    "Reciprocal": lambda a: np.float32(1) / np.float32(a),
    "Cos": lambda a: np.cos(np.float32(a)),
    "Sin": lambda a: np.sin(np.float32(a)),
    "Sign": lambda a: (a > 0) - (a < 0),
    "Log": lambda a: np.log(np.float32(a)),
    "Floor": math.floor,
    "Ceil": math.ceil,
    "And": lambda a, b: bool(a and b),
    "Or": lambda a, b: bool(a or b),
    "Xor": lambda a, b: bool(a) != bool(b),
    "Not": lambda a: not a,
    "Equal": lambda a, b: bool(a == b),
    "Less": lambda a, b: bool(a < b),
    "LessOrEqual": lambda a, b: bool(a <= b),
    "Greater": lambda a, b: bool(a > b),
    "GreaterOrEqual": lambda a, b: bool(a >= b),
    "Where": lambda c, a, b: a if c else b,
    "Min": min,
    "Max": max,
    "ToBool": bool,
    "ToInt": int,
    "ToFloat": lambda a: np.float32(a),
    "Stored": lambda a, scale, zero, low, high: int(
        max(low, min(high, np.rint(np.float32(a) / np.float32(scale)) + zero))
    ),
    "Real": lambda a, scale, zero: np.float32(a - zero) * np.float32(scale),
}

ELEMENTWISE = frozenset(_NUMERIC) - {"ToBool", "ToInt", "ToFloat", "Stored", "Real"}
"""ONNX operators that :func:`apply` understands under their own name."""


def is_number(expr: Expr) -> bool:
    """Whether the expression has been reduced to a number."""
    return not isinstance(expr, tuple)


def plain(value: Any) -> Expr:
    """Python's bool, int or float; floats rounded to float32, as the model would."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def lower_bound(expr: Expr) -> float | None:
    """Return a number that the expression never falls below, or None if none is known."""
    if not isinstance(expr, tuple):
        return float(expr)
    if expr[0] == "dim":
        return 1.0
    if expr[0] == "index":
        return 0.0
    if expr[0] in ("Add", "Mul"):
        low = [lower_bound(item) for item in expr[1:]]
        if None in low:
            return None
        if expr[0] == "Add":
            return low[0] + low[1]  # type: ignore[operator]
        return low[0] * low[1] if min(low) >= 0 else None  # type: ignore[operator, type-var]
    return None


def _compare(operator: str, a: Expr, b: Expr) -> bool | None:
    """Decide a comparison from bounds, or return None."""
    if operator in ("Greater", "GreaterOrEqual"):
        return _compare("Less" if operator == "Greater" else "LessOrEqual", b, a)
    if a == b:
        return operator != "Less"
    low_a, low_b = lower_bound(a), lower_bound(b)
    if operator == "Equal":
        if is_number(a) and low_b is not None and low_b > a:  # type: ignore[operator]
            return False
        if is_number(b) and low_a is not None and low_a > b:  # type: ignore[operator]
            return False
        return None
    if is_number(b) and low_a is not None:
        if low_a > b:  # type: ignore[operator]
            return False
        if operator == "Less" and low_a >= b:  # type: ignore[operator]
            return False
    if is_number(a) and low_b is not None:
        if low_b > a or (operator == "LessOrEqual" and low_b >= a):  # type: ignore[operator]
            return True
    if isinstance(a, tuple) and a[0] == "index" and a[2] == b:
        return True
    return None


def _simplify(operator: str, args: tuple[Expr, ...]) -> Expr | None:
    """Apply the algebra that needs no numbers; None if nothing applies."""
    if operator in ("Add", "Sub", "Mul", "Div") and len(args) == 2:
        a, b = args
        neutral = 0 if operator in ("Add", "Sub") else 1
        if is_number(b) and b == neutral:
            return a
        if operator in ("Add", "Mul") and is_number(a) and a == neutral:
            return b
        if operator == "Mul" and any(isinstance(item, int) and item == 0 for item in args):
            return 0
        if operator == "Sub" and a == b:
            return 0
        if operator in ("Mul", "Div") and isinstance(a, tuple) and a[0] == "Mul" and is_number(a[1]) and is_number(b):
            if operator == "Div" and isinstance(a[1], int) and isinstance(b, int) and a[1] % b == 0:
                return apply("Mul", a[1] // b, a[2])
        if operator == "Div" and isinstance(a, tuple) and a[0] == "Mul" and b in a[1:]:
            return a[2] if a[1] == b else a[1]
    if operator in ("And", "Or"):
        absorbing = operator == "Or"
        for this, other in (args, args[::-1]):
            if is_number(this):
                return absorbing if bool(this) == absorbing else other
        if args[0] == args[1]:
            return args[0]
    if operator == "Where":
        if is_number(args[0]):
            return args[1] if args[0] else args[2]
        if args[1] == args[2]:
            return args[1]
    if operator in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"):
        return _compare(operator, *args)
    if operator in ("Min", "Max") and len(set(args)) == 1:
        return args[0]
    if operator in ("Max", "Min") and len(args) == 2:
        decided = _compare("LessOrEqual", args[0], args[1])
        if decided is not None:
            return args[1] if decided == (operator == "Max") else args[0]
    return None


def apply(operator: str, *args: Expr) -> Expr:
    """Apply an elementwise operator to expressions.

    Parameters
    ----------
    operator : str
        An ONNX operator of :data:`ELEMENTWISE`; ``ToBool``, ``ToInt``, ``ToFloat``; or ``Stored`` and ``Real``: the
        integer of a QuantizeLinear for a value, a scale, a zero point and the limits, and what a DequantizeLinear makes
        of it.
    *args : Expr
        Its arguments.
    """
    if all(is_number(arg) for arg in args):
        with np.errstate(all="ignore"):
            return plain(_NUMERIC[operator](*args))
    simple = _simplify(operator, args)
    if simple is not None:
        return simple
    if operator in ("Add", "Mul") and is_number(args[1]):
        args = args[::-1]
    return (operator, *args)


def evaluate(expr: Expr, leaves: Mapping[Expr, Any]) -> Expr:
    """Compute the expression after replacing the leaves given."""
    if expr in leaves:
        return plain(leaves[expr])
    if not isinstance(expr, tuple):
        return expr
    if expr[0] in ("dim", "index", "input"):
        return expr
    if expr[0] == "table":
        return (*expr[:2], *(evaluate(item, leaves) for item in expr[2:]))
    return apply(expr[0], *(evaluate(item, leaves) for item in expr[1:]))


def leaves_of(expr: Expr) -> Iterator[tuple]:
    """Yield every dimension, index variable, input element and element of a constant that the expression reads.

    It does not look into the indices of inputs.
    """
    if isinstance(expr, tuple):
        if expr[0] in ("dim", "index", "input"):
            yield expr
        else:
            if expr[0] == "table":
                yield expr
            for item in expr[2 if expr[0] == "table" else 1 :]:
                yield from leaves_of(item)


Factors = tuple[int, tuple[Any, ...]]
"""A product as its integer factor and its sorted symbolic factors."""


def factors(expr: Expr, sizes: Mapping[str, int]) -> Factors:
    """Split a dimension into integer and symbolic factors; ``sizes`` gives the dimensions that the file fixes."""
    if not isinstance(expr, tuple):
        return int(expr), ()
    if expr[0] == "dim" and expr[1] in sizes:
        return sizes[expr[1]], ()
    if expr[0] == "Mul":
        a, b = (factors(item, sizes) for item in expr[1:])
        return multiply(a, b)
    if expr[0] == "Add":
        terms = [factors(item, sizes) for item in expr[1:]]
        if not any(symbols for _, symbols in terms):
            return sum(number for number, _ in terms), ()
    return 1, (expr,)


def multiply(a: Factors, b: Factors) -> Factors:
    """Multiply two products."""
    return a[0] * b[0], tuple(sorted(a[1] + b[1], key=repr))


def quotient(a: Factors, b: Factors) -> Factors | None:
    """Divide two products; None if the division leaves a remainder."""
    if b[0] == 0 or a[0] % b[0]:
        return None
    rest = list(a[1])
    for symbol in b[1]:
        if symbol not in rest:
            return None
        rest.remove(symbol)
    return a[0] // b[0], tuple(rest)


def product_of(value: Factors) -> Expr:
    """Turn factors back into an expression."""
    expr: Expr = value[0]
    for symbol in value[1]:
        expr = apply("Mul", expr, symbol)
    return expr
