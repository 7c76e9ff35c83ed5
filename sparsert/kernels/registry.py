"""Registries: kernels of one calling convention by name and code, and the switch that compiled code chooses with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llvmlite import ir

from sparsert.kernels.simd import Value, make_simd, micro_kernel, of_integers

__all__ = ["HALF", "Emit", "Registry"]

Emit = Callable[..., None]
"""A kernel's emitter, ``emit(v, *arguments)``: writes its IR through a :class:`Simd`."""

HALF = 1 << 16
"""Added to the code of a kernel for a tile whose second half is empty."""


class Registry:
    """Kernels of ``arity`` integer arguments. A code is stated with each, so nothing depends on the order of adding.

    Parameters
    ----------
    what : str
        What its entries are, for messages.
    arity : int
    halves : bool
        Whether kernels are compiled for half rows as well, those that say nothing else: their emitters take ``v.row``
        vectors for a row of a tile. ``halved`` has the names of those that are.
    """

    def __init__(self, what: str, arity: int, halves: bool = False) -> None:
        self.what = what
        self.arity = arity
        self.halves = halves
        self.codes: dict[str, int] = {}
        self.halved: set[str] = set()
        self._emitters: dict[str, Emit] = {}
        self._kernels: dict[tuple[str, int], Any] = {}

    def add(self, name: str, code: int, emit: Emit, halves: bool | None = None) -> None:
        """Enter a kernel.

        Raises
        ------
        ValueError
            The name or the code is taken.
        """
        if name in self.codes or code in self.codes.values():
            raise ValueError(f"{self.what} '{name}' has code {code}, but one of them is taken: {self.codes}")
        self.codes[name], self._emitters[name] = code, emit
        if self.halves if halves is None else halves:
            self.halved.add(name)

    def add_all(self, kernels: Mapping[str, Emit], first_code: int, halves: bool | None = None) -> None:
        """Enter kernels by name, under codes from ``first_code`` on."""
        for code, (name, emit) in enumerate(kernels.items(), first_code):
            self.add(name, code, emit, halves)

    def __contains__(self, name: object) -> bool:
        return name in self.codes

    def __iter__(self) -> Iterator[str]:
        return iter(self.codes)

    def __getitem__(self, name: str) -> Any:
        """One kernel alone, to be called from compiled code."""
        return self.kernel(name)

    def kernel(self, name: str, row: int = 4) -> Any:
        """One kernel alone for ``row`` vectors of a row of a tile."""
        if (name, row) not in self._kernels:
            self._kernels[name, row] = micro_kernel(self.arity, row)(self._emitters[name])
        return self._kernels[name, row]

    def dispatcher(self, others_do_nothing: bool = False) -> Any:
        """``dispatch(code, *arguments)``: the kernel of that code, for compiled code, which gets all of them inlined.

        With :data:`HALF` in the code it computes half a row, or a whole one if it has no form for halves. A code that
        no kernel has ends the process, since its arguments are addresses; or does nothing if asked to.
        """

        def switch(builder: ir.IRBuilder, values: Sequence[Value]) -> None:
            other, done = (builder.append_basic_block(name) for name in ("other", "done"))
            choice = builder.switch(values[0], other)
            for name, code in sorted(self.codes.items(), key=lambda entry: entry[1]):
                cases = [(4, [code]), (2, [code + HALF])] if name in self.halved else [(4, [code, code + HALF])]
                for row, codes in cases:
                    block = builder.append_basic_block(name)
                    for number in codes:
                        choice.add_case(ir.Constant(values[0].type, number), block)
                    builder.position_at_end(block)
                    self._emitters[name](make_simd(builder, row), *values[1:])
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
