"""Registries: kernels of one calling convention by name and code, and the switch that compiled code chooses with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llvmlite import ir

from sparsert.kernels.simd import Value, make_simd, micro_kernel, of_integers

__all__ = ["Emit", "Registry"]

Emit = Callable[..., None]
"""A kernel's emitter, ``emit(v, *arguments)``: writes its IR through a :class:`Simd`."""


class Registry:
    """Kernels of ``arity`` integer arguments. A code is stated with each, so nothing depends on the order of adding.

    Parameters
    ----------
    what : str
        What its entries are, for messages.
    arity : int
    """

    def __init__(self, what: str, arity: int) -> None:
        self.what = what
        self.arity = arity
        self.codes: dict[str, int] = {}
        self._emitters: dict[str, Emit] = {}
        self._kernels: dict[str, Any] = {}

    def add(self, name: str, code: int, emit: Emit) -> None:
        """Enter a kernel.

        Raises
        ------
        ValueError
            The name or the code is taken.
        """
        if name in self.codes or code in self.codes.values():
            raise ValueError(f"{self.what} '{name}' has code {code}, but one of them is taken: {self.codes}")
        self.codes[name], self._emitters[name] = code, emit

    def add_all(self, kernels: Mapping[str, Emit], first_code: int) -> None:
        """Enter kernels by name, under codes from ``first_code`` on."""
        for code, (name, emit) in enumerate(kernels.items(), first_code):
            self.add(name, code, emit)

    def __contains__(self, name: object) -> bool:
        return name in self.codes

    def __iter__(self) -> Iterator[str]:
        return iter(self.codes)

    def __getitem__(self, name: str) -> Any:
        """One kernel alone, to be called from compiled code."""
        if name not in self._kernels:
            self._kernels[name] = micro_kernel(self.arity)(self._emitters[name])
        return self._kernels[name]

    def dispatcher(self, others_do_nothing: bool = False) -> Any:
        """``dispatch(code, *arguments)``: the kernel of that code, for compiled code, which gets all of them inlined.

        A code that no kernel has ends the process, since its arguments are addresses; or does nothing if asked to.
        """

        def switch(builder: ir.IRBuilder, values: Sequence[Value]) -> None:
            other, done = (builder.append_basic_block(name) for name in ("other", "done"))
            choice = builder.switch(values[0], other)
            for name, code in sorted(self.codes.items(), key=lambda entry: entry[1]):
                block = builder.append_basic_block(name)
                choice.add_case(ir.Constant(values[0].type, code), block)
                builder.position_at_end(block)
                self._emitters[name](make_simd(builder), *values[1:])
                builder.branch(done)
            builder.position_at_end(other)
            if others_do_nothing:
                builder.branch(done)
            else:
                builder.call(builder.module.declare_intrinsic("llvm.trap", fnty=_TRAP), [])
                builder.unreachable()
            builder.position_at_end(done)

        return of_integers(f"dispatch_{self.what.replace(' ', '_')}", 1 + self.arity, switch)


_TRAP = ir.FunctionType(ir.VoidType(), [])
