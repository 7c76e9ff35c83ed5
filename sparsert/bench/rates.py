"""A rate on one core and on all."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Rate"]


@dataclass(frozen=True)
class Rate:
    """A rate on one core, and of all cores together: GMAC/s for arithmetic, GB/s for reading."""

    one: float
    all: float
