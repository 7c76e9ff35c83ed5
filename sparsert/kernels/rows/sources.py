"""The registries of sources of rows.

A source may have a first pass over all rows of a tile, ``prepare(x, rows, parameters, statistics)``, which leaves rows
of statistics, and has ``finish(x, block, rows, statistics, gamma, beta, parameters)``, which makes one block of rows
from those of ``x``. ``x``, ``gamma`` and ``beta`` point to the block's first row.
"""

from __future__ import annotations

from sparsert.kernels.registry import ANY_ROW, Emit, Registry

__all__ = ["FINISH", "PREPARE", "STATISTICS_ROWS", "add_source"]

FINISH = Registry("source of rows", 7, ANY_ROW)
PREPARE = Registry("source of rows", 4, ANY_ROW)
"""First passes; a source without one is not in it."""

STATISTICS_ROWS = 2
"""Float rows of a tile that a first pass may write."""


def add_source(name: str, code: int, finish: Emit, prepare: Emit | None = None) -> None:
    """Enter a source of rows; both its passes have one code, since a step states but one.

    Raises
    ------
    ValueError
        The name or the code is taken.
    """
    FINISH.add(name, code, finish)
    if prepare is not None:
        PREPARE.add(name, code, prepare)
