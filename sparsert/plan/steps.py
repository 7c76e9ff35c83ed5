"""Steps before they have addresses: what a native segment does to which tiles of values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparsert.graph.fused import Quantization
from sparsert.kernels.jit import TILE
from sparsert.kernels.records import ATTENTION_PARAMETERS, PARAMETERS
from sparsert.kernels.stages import STAGES
from sparsert.plan.weights import PackedLinear, unsigned_zero_point

__all__ = [
    "ROW_BYTES",
    "Buffer",
    "DynamicParameters",
    "Stage",
    "Step",
    "attention_parameters",
    "fuse_stages",
    "quantization_parameters",
]

ROW_BYTES = {"floats": 4 * TILE, "rows": TILE, "quads": TILE, "signed_rows": TILE, "signed_quads": TILE}
"""Bytes that one row of a tile takes in each form of a value."""


@dataclass(eq=False)
class Buffer:
    """One value in one form, for every tile."""

    name: str
    form: str
    rows: int

    @property
    def nbytes(self) -> int:
        """Bytes per tile, a multiple of 64. Rows come in whole groups of four, for the forms that interleave them."""
        size = -(-self.rows // 4) * 4 * ROW_BYTES[self.form]
        return -(-size // 64) * 64


@dataclass(eq=False)
class DynamicParameters:
    """A quantization that a run computes; each instance of a plan has its own record."""

    name: str


Parameters = np.ndarray | DynamicParameters


@dataclass
class Stage:
    """One stage of a step's epilogue; ``kind`` is a name in STAGES or a part of one."""

    kind: str
    linear: PackedLinear | None = None
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

    @property
    def local(self) -> bool:
        """Whether a tile's result depends on that tile alone."""
        return self.opcode not in ("attention", "dynamic")


def quantization_parameters(quantization: Quantization) -> np.ndarray:
    """The record that stages read, for a static per-tensor quantization."""
    record = np.zeros(1, PARAMETERS)
    zero_point = unsigned_zero_point(quantization.dtype, quantization.zero_point)
    record["inverse_scale"] = np.float32(1.0) / np.float32(quantization.scale)
    record["scale"] = quantization.scale
    record["zero_point"] = zero_point
    record["low"], record["high"] = -zero_point, 255 - zero_point
    record["acc_scale"] = 1.0
    return record


def attention_parameters(op: Any) -> np.ndarray:
    """The record that attention reads; see ATTENTION_PARAMETERS for the formulas."""
    record = np.zeros(1, ATTENTION_PARAMETERS)
    if op.q_quantization is None:
        record["qk_factor"] = op.scale
        return record
    qk_scale = np.float32(op.qk_scale)
    scores = op.scores_quantization
    if scores is None:
        record["qk_factor"] = qk_scale * np.float32(op.scale)
    else:
        zero_point = unsigned_zero_point(scores.dtype, scores.zero_point)
        record["qk_factor"] = qk_scale / np.float32(scores.scale)
        record["low"], record["high"] = -zero_point, 255 - zero_point
        record["score_factor"] = np.float32(scores.scale) * np.float32(op.scale)
    record["probability_factor"] = np.float32(1.0) / np.float32(op.probs_quantization.scale)
    record["query_zero_point"] = unsigned_zero_point(op.q_quantization.dtype, op.q_quantization.zero_point)
    record["key_offset"] = 128 - unsigned_zero_point(op.k_quantization.dtype, op.k_quantization.zero_point)
    record["value_offset"] = 128 - unsigned_zero_point(op.v_quantization.dtype, op.v_quantization.zero_point)
    return record


def fuse_stages(stages: list[Stage]) -> list[Stage]:
    """Replace the longest fusable suffix of stages by the fused stage, which keeps values in registers."""
    for first in range(len(stages)):
        suffix = stages[first:]
        name = "+".join(stage.kind for stage in suffix)
        if len(suffix) > 1 and name in STAGES:
            merged = Stage(name)
            for stage in suffix:
                merged.linear = merged.linear or stage.linear
                merged.vector = stage.vector if merged.vector is None else merged.vector
                merged.parameters = stage.parameters if merged.parameters is None else merged.parameters
                merged.source = merged.source or stage.source
                merged.destination = merged.destination or stage.destination
            return [*stages[:first], merged]
    return stages
