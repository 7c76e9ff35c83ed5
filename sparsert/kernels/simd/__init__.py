"""Vectors as LLVM IR, written with the instructions of this process' tier.

A micro-kernel is a function ``emit(v, *addresses)`` that writes IR through a :class:`Simd` ``v``; :func:`micro_kernel`
makes it callable from compiled Numba code. :mod:`~sparsert.kernels.simd.vector` has every operation in portable IR. A
tier that does better has a file of its own name here, with a subclass ``Instructions``.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from sparsert.kernels.jit import PORTABLE, TIER
from sparsert.kernels.simd.vector import LOG2_E, Simd, Sums, Value

__all__ = ["LOG2_E", "Simd", "Sums", "Value", "make_simd", "micro_kernel", "of_integers"]

_CLASS: type[Simd] = Simd
if TIER.features and not PORTABLE:
    _CLASS = importlib.import_module(f"{__name__}.{TIER.name}").Instructions

_POSITIONAL = inspect.Parameter.POSITIONAL_OR_KEYWORD


def make_simd(builder: ir.IRBuilder, row: int = 4) -> Simd:
    """What writes vectors at the builder's position, in this process' tier; ``row`` of them for a row of a tile."""
    return _CLASS(builder, TIER, row)


def micro_kernel(arity: int, row: int = 4) -> Callable[[Callable[..., None]], Any]:
    """Make ``emit(v, *int64_values)`` callable from Numba code as a function of ``arity`` int64 arguments.

    ``row`` is as for :func:`make_simd`.
    """

    def decorate(emit: Callable[..., None]) -> Any:
        return of_integers(emit.__name__, arity, lambda builder, values: emit(make_simd(builder, row), *values))

    return decorate


def of_integers(name: str, arity: int, write: Callable[[ir.IRBuilder, Sequence[Value]], None]) -> Any:
    """A function of ``arity`` int64 arguments for compiled code, with the IR that ``write`` puts where it is called."""

    def typing(typing_context: Any, *arguments: Any) -> Any:
        if len(arguments) != arity:
            raise TypeError(f"{name} takes {arity} integers, got {len(arguments)}")

        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[Value]) -> Value:
            write(builder, values)
            return context.get_dummy_value()

        return types.void(*([types.int64] * arity)), codegen

    typing.__name__ = typing.__qualname__ = f"{name}_{TIER.name}"
    # Numba binds the arguments by this signature; without it *arguments would have to arrive as one tuple
    names = ["typing_context", *(f"argument{i}" for i in range(arity))]
    typing.__signature__ = inspect.Signature([inspect.Parameter(n, _POSITIONAL) for n in names])  # type: ignore
    return intrinsic(typing)
