"""Scalar loads and stores at raw addresses, for compiled code that follows pointers out of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = [
    "call",
    "fetch_add_i64",
    "load_f32",
    "load_i32",
    "load_i64",
    "load_i8",
    "load_u8",
    "pointer",
    "store_f32",
    "store_i32",
]


def _loader(kind: ir.Type, result: types.Type, extend: str | None) -> Any:
    @intrinsic
    def load(typing_context: Any, address: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[ir.Value]) -> ir.Value:
            value = builder.load(builder.inttoptr(values[0], kind.as_pointer()))
            return getattr(builder, extend)(value, ir.IntType(64)) if extend else value

        return result(types.int64), codegen

    return load


def _storer(kind: ir.Type, argument: types.Type, truncate: bool) -> Any:
    @intrinsic
    def store(typing_context: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[ir.Value]) -> ir.Value:
            stored = builder.trunc(values[1], kind) if truncate else values[1]
            builder.store(stored, builder.inttoptr(values[0], kind.as_pointer()))
            return context.get_dummy_value()

        return types.void(types.int64, argument), codegen

    return store


load_i64 = _loader(ir.IntType(64), types.int64, None)
load_i32 = _loader(ir.IntType(32), types.int64, "sext")
load_i8 = _loader(ir.IntType(8), types.int64, "sext")
load_u8 = _loader(ir.IntType(8), types.int64, "zext")
load_f32 = _loader(ir.FloatType(), types.float32, None)
store_f32 = _storer(ir.FloatType(), types.float32, False)
store_i32 = _storer(ir.IntType(32), types.int64, True)


@intrinsic
def fetch_add_i64(typing_context: Any, address: Any, value: Any) -> Any:
    """Add to an int64 that other threads add to as well; returns what it was before."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[ir.Value]) -> ir.Value:
        place = builder.inttoptr(values[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, values[1], "monotonic")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def pointer(typing_context: Any, address: Any) -> Any:
    """An address as a pointer to int64, for ``numba.carray``."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[ir.Value]) -> ir.Value:
        return builder.inttoptr(values[0], ir.IntType(64).as_pointer())

    return types.CPointer(types.int64)(types.int64), codegen


@intrinsic
def call(typing_context: Any, address: Any, arguments: Any) -> Any:
    """Call the C function at ``address`` on a tuple of int64; it returns nothing."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[ir.Value]) -> ir.Value:
        word = ir.IntType(64)
        function_type = ir.FunctionType(ir.VoidType(), [word] * len(signature.args[1]))
        function = builder.inttoptr(values[0], function_type.as_pointer())
        builder.call(function, [builder.extract_value(values[1], i) for i in range(len(signature.args[1]))])
        return context.get_dummy_value()

    return types.void(types.int64, types.UniTuple(types.int64, len(arguments))), codegen
