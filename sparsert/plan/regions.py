"""Regions: which steps run without a barrier between them, and how the work of a chunk is divided into units."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from sparsert import cpu
from sparsert.kernels.formats import BLOCK_ROWS
from sparsert.kernels.table import UNITS
from sparsert.ops.steps import Step

__all__ = ["Division", "Region", "find_regions"]

_BAND_TILES = 4
"""Tiles per band, at most, for models whose weights do not fit the L3: each reading of the weights serves a band.

BERT-base on two Zen 3 cores with an L3 of 32 MB: dense float (340 MB) gains 15 to 25 %, 90 % unstructured int8 (37 MB)
about 5 %; 4-block int8 (14 MB) loses 2 %, because a band's activations leave the L2.
"""

_TYPICAL_L3 = 32 << 20

_ATTENTION_SHARES = 8
"""Units of attention for each thread: enough that the last ones end at about the same time."""


@functools.lru_cache(maxsize=1)
def _l3_bytes() -> int:
    """Size of the L3, read once: a new shape should not read the machine's description again."""
    return cpu.cache_sizes()["L3"] or _TYPICAL_L3


@dataclass(frozen=True)
class Division:
    """How a chunk is divided among threads.

    Attributes
    ----------
    tiles, threads : int
    strips : int
        Strips of the rows of a matrix, for fewer tiles than keep all threads busy; else 1.
    band : int
        Tiles of a band.
    """

    tiles: int
    threads: int
    strips: int
    band: int

    @classmethod
    def of(cls, tiles: int, threads: int, weight_bytes: int) -> Division:
        """The division of a chunk of at most ``tiles`` tiles, for weights of so many bytes."""
        strips = 1 if tiles >= 2 * threads or tiles % threads == 0 else threads
        band = _band(tiles, threads) if weight_bytes > _l3_bytes() and strips == 1 else 1
        return cls(tiles, threads, strips, band)


def _band(tiles: int, threads: int) -> int:
    """The largest band that still gives every thread the same number of bands, or at least four."""
    for size in range(min(_BAND_TILES, tiles), 1, -1):
        bands = -(-tiles // size)
        if (tiles % size == 0 and bands % threads == 0) or bands >= 4 * threads:
            return size
    return 1


@dataclass(frozen=True)
class Region:
    """Steps from ``first`` to ``stop`` that run without a barrier; units and size as `UNITS` has them."""

    first: int
    stop: int
    units: int
    size: int


def find_regions(steps: Sequence[Step], division: Division, separate: bool = False) -> list[Region]:
    """Consecutive steps that look at one tile form one region; with strips, steps that need no barrier between them.

    With ``separate``, every step is a region of its own.
    """
    regions: list[Region] = []
    for index, step in enumerate(steps):
        units, size = _units(step, division)
        last = regions[-1] if regions else None
        if last is not None and not separate and _joins(steps, last, step, units, division):
            regions[-1] = Region(last.first, index + 1, last.units, last.size)
        else:
            regions.append(Region(index, index + 1, units, size))
    return regions


def _units(step: Step, division: Division) -> tuple[int, int]:
    """How a step by itself is divided."""
    if step.opcode == "attention":
        return UNITS.shares, _ATTENTION_SHARES * division.threads if division.threads > 1 else 1
    if division.strips > 1 and _has_strips(step):
        return UNITS.strips, division.strips
    return UNITS.bands, division.band


def _has_strips(step: Step) -> bool:
    """Whether strips of a step's rows can be computed one by one."""
    return step.opcode in ("embed", "linear") and step.rows > BLOCK_ROWS


def _joins(steps: Sequence[Step], last: Region, step: Step, units: int, division: Division) -> bool:
    """Whether a step can follow those of the last region without a barrier.

    Steps of one tile can; a dynamic quantization follows from what was found in other tiles, if there are any. Strips
    can if they read nothing that other strips write: Q, K and V of one value; and the attention of heads whose rows a
    strip has computed itself, as long as no token looks at another tile.
    """
    if last.units == UNITS.bands:
        return units == UNITS.bands and (step.opcode != "dynamic" or division.tiles == 1)
    if last.units != UNITS.strips:
        return False
    if _has_strips(step):
        written = {buffer for other in steps[last.first : last.stop] for buffer in other.writes}
        return not written.intersection(step.reads)
    if step.opcode not in ("byte_sums", "attention") or division.tiles > 1:
        return False
    heads, size = step.constants["heads"], step.constants["size"]
    whole = heads * size % (BLOCK_ROWS * division.strips) == 0
    return bool(heads % division.strips == 0 and whole)
