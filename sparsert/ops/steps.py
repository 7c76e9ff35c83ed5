"""Steps before they have addresses: what ops lower to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparsert.graph.quantization import Quantization
from sparsert.kernels.formats import BLOCK_ROWS, PackedWeight
from sparsert.kernels.jit import TILE
from sparsert.kernels.records import PARAMETERS, ROUNDING

__all__ = [
    "Buffer",
    "Epilogue",
    "PackedLinear",
    "Parameters",
    "Positions",
    "Stage",
    "Step",
    "padded",
    "quantization_parameters",
    "rounding",
    "row_bytes",
]


def row_bytes(form: str) -> int:
    """Bytes that one row of a tile takes in a form of a value: all forms but floats are of bytes."""
    return 4 * TILE if form == "floats" else TILE


@dataclass(frozen=True)
class Epilogue:
    """What becomes of integer accumulators, one number a row, padded to whole blocks of rows.

    ``acc_bias`` is what is added to the raw accumulator sum(x8 * w8): the file's integer bias minus the input's zero
    point times the column sums. In the dynamic form it holds the column sums alone (the zero points come at run time).
    """

    acc_bias: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class PackedLinear(Epilogue):
    """A packed matrix and its epilogue."""

    weight: PackedWeight
    kept: float
    """Fraction of the weights that the format multiplies."""
    density: float
    block_density: float

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + self.acc_bias.nbytes + self.scale.nbytes + self.bias.nbytes


@dataclass(eq=False)
class Buffer:
    """One value in one form, for every tile."""

    name: str
    form: str
    rows: int

    @property
    def nbytes(self) -> int:
        """Bytes per tile, a multiple of 64. Rows come in whole groups of four, for the forms that interleave them."""
        size = -(-self.rows // 4) * 4 * row_bytes(self.form)
        return -(-size // 64) * 64


Parameters = np.ndarray | Buffer
"""A record that is known before a run, or rows of a tile that a step before has written."""


@dataclass(frozen=True, eq=False)
class Positions:
    """Tables of position vectors (:func:`sparsert.kernels.disentangled.position_table`), and what goes with them.

    ``masked_queries`` is as in the table of steps.
    """

    keys: np.ndarray
    queries: np.ndarray
    reach: int
    masked_queries: int


@dataclass
class Stage:
    """One stage of a step's epilogue; its name is one in STAGES, or a part of one."""

    name: str
    epilogue: Epilogue | None = None
    vector: np.ndarray | None = None
    parameters: Parameters | None = None
    source: Buffer | None = None
    destination: Buffer | None = None


@dataclass
class Step:
    """One step of a segment: an opcode of the run loop, its buffers and constants, and the stages on its rows."""

    opcode: str
    reads: list[Buffer] = field(default_factory=list)
    writes: list[Buffer] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    source: str = ""
    rows: int = 0
    linear: PackedLinear | None = None
    parameters: Parameters | None = None
    constants: dict[str, Any] = field(default_factory=dict)


def padded(values: np.ndarray | float, rows: int, dtype: Any = np.float32) -> np.ndarray:
    """One number a row, with zeros up to a whole block of rows."""
    result = np.zeros(-(-rows // BLOCK_ROWS) * BLOCK_ROWS, dtype)
    result[:rows] = values
    return result


def quantization_parameters(quantization: Quantization) -> np.ndarray:
    """The record that stages read, for a static per-tensor quantization."""
    record = np.zeros(1, PARAMETERS)
    zero_point = quantization.unsigned_zero_point
    record["inverse_scale"] = np.float32(1.0) / np.float32(quantization.scale)
    record["scale"] = quantization.scale
    record["zero_point"] = zero_point
    record["low"], record["high"] = -zero_point, 255 - zero_point
    return record


def rounding(quantization: Quantization | None) -> np.ndarray:
    """The record of a round trip through bytes; for None one that changes nothing."""
    record = np.zeros(1, ROUNDING)
    if quantization is not None:
        found = quantization_parameters(quantization)
        for name in ROUNDING.names or ():
            record[name] = found[name]
    return record
