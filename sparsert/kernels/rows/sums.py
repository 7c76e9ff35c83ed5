"""Sums down the columns of a tile, for the statistics of normalizations."""

from __future__ import annotations

from collections.abc import Callable

from sparsert.kernels.jit import TILE
from sparsert.kernels.simd import Simd, Value

__all__ = ["column_sums"]

_SUM_ROWS = 16
"""Rows summed on their own before they join the total: the rounding error of a sum of 768 falls to a tenth."""


def column_sums(
    v: Simd, source: Value, rows: Value, terms: Callable[[Value, int], tuple[Value, ...]]
) -> list[tuple[Value, ...]]:
    """For each vector of a row, the sums over all rows of what ``terms(value, vector)`` gives."""
    b, zero = v.builder, v.zero(v.f32)
    count = len(terms(zero, 0))
    totals = [[v.variable(zero) for _ in range(count)] for _ in range(v.row)]
    with v.loop(rows, step=_SUM_ROWS) as first:
        end = v.add(first, _SUM_ROWS)
        last = b.select(b.icmp_signed("<", end, rows), end, rows)
        partial = [[v.variable(zero) for _ in range(count)] for _ in range(v.row)]
        with v.loop(last, start=first) as row:
            for k, value in enumerate(v.load_row(v.at(source, v.mul(row, 4 * TILE)), v.f32)):
                for variable, term in zip(partial[k], terms(value, k), strict=True):
                    variable.set(b.fadd(variable.get(), term))
        for total, variable in zip(sum(totals, []), sum(partial, []), strict=True):
            total.set(b.fadd(total.get(), variable.get()))
    return [tuple(variable.get() for variable in row) for row in totals]
