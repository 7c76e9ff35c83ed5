"""Registries: kernels of one calling convention by name and code, and the switch that compiled code chooses with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from llvmlite import ir

from sparsert.kernels.simd import Value, make_simd, micro_kernel, of_integers

__all__ = ["ANY_ROW", "NARROWER", "WHOLE_ROW", "Emit", "Registry"]

Emit = Callable[..., None]
"""A kernel's emitter, ``emit(v, *arguments)``: writes its IR through a :class:`Simd`."""

NARROWER = 1 << 16
"""Added to the code of a kernel for each of the four vectors of a row that is empty at the end of a tile."""

WHOLE_ROW = (4,)
ANY_ROW = (2, 3, 4)
"""Vectors of a row that a kernel computes, in one form for each.

One vector is computed as two: with 8 tokens on AVX2 even half a row waits for the weights of a float model.
"""


class Registry:
    """Kernels of ``arity`` integer arguments. A code is stated with each, so nothing depends on the order of adding.

    Parameters
    ----------
    what : str
        What its entries are, for messages.
    arity : int
    rows : tuple of int
        Numbers of vectors of a row for which kernels are compiled, those that say nothing else: with more than one
        their emitters take ``v.row`` vectors for a row of a tile. The attribute ``rows`` has them by name.
    """

    def __init__(self, what: str, arity: int, rows: tuple[int, ...] = WHOLE_ROW) -> None:
        self.what = what
        self.arity = arity
        self.codes: dict[str, int] = {}
        self.rows: dict[str, tuple[int, ...]] = {}
        self._usual_rows = rows
        self._emitters: dict[str, Emit] = {}
        self._kernels: dict[tuple[str, int], Any] = {}

    def add(self, name: str, code: int, emit: Emit, rows: tuple[int, ...] | None = None) -> None:
        """Enter a kernel.

        Raises
        ------
        ValueError
            The name or the code is taken.
        """
        if name in self.codes or code in self.codes.values():
            raise ValueError(f"{self.what} '{name}' has code {code}, but one of them is taken: {self.codes}")
        self.codes[name], self._emitters[name] = code, emit
        self.rows[name] = rows or self._usual_rows

    def add_all(self, kernels: Mapping[str, Emit], first_code: int, rows: tuple[int, ...] | None = None) -> None:
        """Enter kernels by name, under codes from ``first_code`` on."""
        for code, (name, emit) in enumerate(kernels.items(), first_code):
            self.add(name, code, emit, rows)

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

        With :data:`NARROWER` in the code it computes fewer vectors of a row, if the kernel has a form for that. A code
        that no kernel has ends the process, since its arguments are addresses; or does nothing if asked to.
        """

        def switch(builder: ir.IRBuilder, values: Sequence[Value]) -> None:
            other, done = (builder.append_basic_block(name) for name in ("other", "done"))
            choice = builder.switch(values[0], other)
            for name, code in sorted(self.codes.items(), key=lambda entry: entry[1]):
                least = 0
                for row in self.rows[name]:
                    block = builder.append_basic_block(name)
                    for vectors in range(least + 1, row + 1):
                        number = code + NARROWER * (4 - vectors)
                        choice.add_case(ir.Constant(values[0].type, number), block)
                    least = row
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
