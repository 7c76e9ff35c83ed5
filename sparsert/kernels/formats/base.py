"""What a format of weights is: one record, entered in :data:`FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from sparsert.kernels.formats.matrix import Rows
from sparsert.kernels.jit import TIER
from sparsert.kernels.registry import WHOLE_ROW, Emit, Registry
from sparsert.kernels.stages import STAGES

__all__ = ["ACCUMULATORS", "BLOCK_ROWS", "FORMATS", "HEADER_BYTES", "Format", "PackedWeight", "add_format"]

BLOCK_ROWS = 32
"""Output rows per block: 4 KB of int32 scratch on AVX2, 8 KB on AVX-512, small beside the activations in L1."""

HEADER_BYTES = 8

_VARIANTS = 8
"""Codes of accumulators that each format has for itself, and codes of stages."""

_FORMAT_STAGES = 64
"""The first code of stages that belong to formats."""


@dataclass(frozen=True)
class PackedWeight:
    """Streams of one matrix, slice after slice.

    Blocks of :data:`BLOCK_ROWS` rows start at ``starts`` (blocks of all slices, 2), bytes into weights and offsets;
    ``headers`` has a line for every row of every slice.
    """

    format: str
    variant: int
    """Which of the format's accumulators reads it."""
    out_features: int
    in_features: int
    headers: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    starts: np.ndarray
    slices: int = 1
    slice_features: int = 0
    """Input features from the start of one slice to the start of the next; 0 without slices."""
    count: int | None = None
    """What an accumulator without offsets takes in their place; None if it takes offsets."""

    @property
    def form(self) -> str:
        """What the activations must look like."""
        return FORMATS[self.format].form

    @property
    def accumulator(self) -> str:
        """Name of its kernel in :data:`ACCUMULATORS`."""
        return f"{self.format} {self.variant}"

    @property
    def nbytes(self) -> int:
        """Memory of the packed matrix in bytes."""
        return self.headers.nbytes + self.weights.nbytes + self.offsets.nbytes + self.starts.nbytes


@dataclass(frozen=True)
class Format:
    """A format of weights in this process' tier.

    Attributes
    ----------
    name, title : str
        For programs and for people.
    code : int
        Its own number among the formats; those of its accumulators follow from it.
    form : str
        Of the activations: "rows" (uint8 [K][TILE]), "quads" (uint8 [K/4][TILE][4]), "floats" (float32 [K][TILE]), or
        one of its own for which it brings stages, in uint8 and of at most four input features side by side.
    pack : callable
        Makes a :class:`PackedWeight` of a matrix (N, K): int16 with values in -255..255, or float32.
    kernels : sequence of emitters
        Its accumulators, by variant.
    rows : tuple of int
        Numbers of vectors of a row for which these are compiled; with more than one they take ``v.row`` vectors.
    stages : mapping
        Those that bring activations into its form, if the form is its own: the name in
        :data:`~sparsert.kernels.stages.STAGES` and an emitter.
    kept : callable
        Fraction of a matrix' weights that it multiplies, useful or not.
    rates : mapping
        GMAC/s of one core on these weights, by the name of a tier. Only the ratios of a tier matter. For one that no
        machine here has, by instructions: the rate of avx512_vnni, times how many products of how many bytes a loop
        does in an instruction, relative to there.
    accepts : callable
        Whether it can hold a matrix.
    adjacent : int
        Input features side by side that it keeps or drops together: the pattern to prune for. 0 if it keeps all.
    panel_rows : int
        Output rows that share one reading of an activation row.
    """

    name: str
    title: str
    code: int
    form: str
    pack: Callable[[np.ndarray], PackedWeight]
    kept: Callable[[Rows], float]
    rates: Mapping[str, float]
    kernels: tuple[Emit, ...] = ()
    rows: tuple[int, ...] = WHOLE_ROW
    stages: Mapping[str, Emit] = field(default_factory=dict)
    accepts: Callable[[Rows], bool] = lambda rows: True
    adjacent: int = 1
    panel_rows: int = 1

    @property
    def floating(self) -> bool:
        """Whether it is for float32 weights."""
        return self.form == "floats"

    def cost(self, rows: Rows) -> float:
        """Expected time for a matrix, comparable with that of other formats in this tier."""
        return self.kept(rows) / self.rates[TIER.rates]


ACCUMULATORS = Registry("accumulator", 7)

FORMATS: dict[str, Format] = {}
"""All formats of this tier, by name, in the order of their codes."""


def add_format(record: Format) -> None:
    """Enter a format, its accumulators and its stages."""
    assert 0 < len(record.kernels) <= _VARIANTS, record.name
    assert len(record.stages) <= _VARIANTS, record.name
    if record.name in FORMATS or record.code in {other.code for other in FORMATS.values()}:
        raise ValueError(f"format '{record.name}' has code {record.code}, but one of them is taken: {list(FORMATS)}")
    ordered = sorted([*FORMATS.values(), record], key=lambda other: other.code)
    FORMATS.clear()
    FORMATS.update((other.name, other) for other in ordered)
    kernels = {f"{record.name} {variant}": emit for variant, emit in enumerate(record.kernels)}
    ACCUMULATORS.add_all(kernels, _VARIANTS * record.code, record.rows)
    STAGES.add_all(record.stages, _FORMAT_STAGES + _VARIANTS * record.code)
