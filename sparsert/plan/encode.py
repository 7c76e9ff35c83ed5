"""Encoding: steps with places become the table of integers that the run loop reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sparsert.kernels.formats import ACCUMULATORS
from sparsert.kernels.jit import TILE
from sparsert.kernels.loop.linear import accumulator_entry
from sparsert.kernels.loop.places import FLOAT_ROW, PANEL_BLOCKS, stage_entry
from sparsert.kernels.rows import FINISH, PREPARE
from sparsert.kernels.stages import STAGES
from sparsert.kernels.table import (
    ATTENTION,
    BYTE_SUMS,
    DYNAMIC,
    ELEMENT,
    EMBED,
    EXTREMA,
    GATHER,
    INDEX,
    LINEAR,
    MODE,
    OPCODE,
    POSITIONS,
    ROWS,
    SCATTER,
    SELECT,
    STAGE,
    STAGE_COLUMNS,
    STEP,
    STEP_COLUMNS,
    TABLE,
    TABLE_COLUMNS,
)
from sparsert.ops.steps import Buffer, Parameters, Positions, Stage, Step, rounding, row_bytes

__all__ = ["Code", "encode"]

_PANEL_BYTES = 96 << 10
"""Weights that one panel of row blocks may take in the L2."""


class Code:
    """A table of integers, and what has to live as long as it does.

    Attributes
    ----------
    table : int64 array, shape (steps, STEP_COLUMNS)
    ids : list of (row of a list of embedding tables, name)
        Where the address of an array of ids belongs.
    positions : int
        Tokens of a sequence, at most.
    """

    def __init__(self, steps: int, places: Mapping[Buffer, tuple[int, int]], positions: int) -> None:
        self.table = np.zeros((steps, STEP_COLUMNS), np.int64)
        self.ids: list[tuple[np.ndarray, str]] = []
        self.positions = positions
        self._places = places
        self._held: list[np.ndarray] = []

    def address(self, array: np.ndarray | None) -> int:
        """Address of an array that is held from now on; 0 for none."""
        if array is None:
            return 0
        self._held.append(array)
        return array.ctypes.data

    def parameters(self, parameters: Parameters | None) -> tuple[int, int]:
        """The place of parameters, as address and stride: a record for all tiles, or rows of each."""
        if isinstance(parameters, Buffer):
            return self._places[parameters]
        return self.address(parameters), 0

    def place(self, row: np.ndarray, column: int, buffer: Buffer) -> None:
        """Write a place: its address and, in the next column, its stride."""
        row[column : column + 2] = self._places[buffer]

    def stages(self, stages: Sequence[Stage]) -> tuple[int, int]:
        """Number of stages, and the address of their table."""
        table = np.zeros((max(len(stages), 1), STAGE_COLUMNS), np.int64)
        for row, stage in zip(table, stages, strict=False):
            row[STAGE.run] = stage_entry().address
            row[STAGE.code] = STAGES.codes[stage.name]
            if stage.epilogue is not None:
                row[STAGE.acc_bias] = self.address(stage.epilogue.acc_bias)
                row[STAGE.scale] = self.address(stage.epilogue.scale)
                row[STAGE.bias] = self.address(stage.epilogue.bias)
            if stage.vector is not None:
                row[STAGE.bias] = self.address(stage.vector)
            row[STAGE.parameters], row[STAGE.parameters_stride] = self.parameters(stage.parameters)
            if stage.source is not None:
                self.place(row, STAGE.source, stage.source)
            if stage.destination is not None:
                self.place(row, STAGE.destination, stage.destination)
                row[STAGE.destination_row_bytes] = row_bytes(stage.destination.form)
        return len(stages), self.address(table)


def encode(steps: Sequence[Step], places: Mapping[Buffer, tuple[int, int]], positions: int) -> Code:
    """Encode steps whose buffers lie at ``places``, for sequences of at most ``positions`` tokens.

    Addresses of a call's arrays are left 0: those of ids, biases of attention, and of what is scattered, gathered or
    selected.
    """
    code = Code(len(steps), places, positions)
    for row, step in zip(code.table, steps, strict=True):
        row[STEP.opcode] = getattr(OPCODE, step.opcode)
        _ENCODERS[step.opcode](code, row, step)
    return code


def _linear(code: Code, row: np.ndarray, step: Step) -> None:
    assert step.linear is not None
    weight = step.linear.weight
    row[LINEAR.run] = accumulator_entry().address
    row[LINEAR.kernel] = ACCUMULATORS.codes[weight.accumulator]
    code.place(row, LINEAR.x, step.reads[0])
    row[LINEAR.rows] = step.rows
    row[LINEAR.headers], row[LINEAR.weights] = code.address(weight.headers), code.address(weight.weights)
    row[LINEAR.offsets] = code.address(weight.offsets) if weight.count is None else weight.count
    row[LINEAR.starts] = code.address(weight.starts)
    blocks = max(1, len(weight.starts) // weight.slices)
    fitting = max(1, min(blocks, _PANEL_BYTES * blocks // max(weight.nbytes, 1)))
    row[LINEAR.panel_blocks] = PANEL_BLOCKS if weight.slices > 1 else fitting
    row[LINEAR.slices] = weight.slices
    row[LINEAR.slice_bytes] = weight.slice_features * row_bytes(step.reads[0].form)
    row[LINEAR.stages], row[LINEAR.stage_table] = code.stages(step.stages)


def _rows(code: Code, row: np.ndarray, step: Step) -> None:
    assert step.parameters is not None or step.source not in PREPARE, f"'{step.source}' reads parameters"
    row[ROWS.source] = FINISH.codes[step.source]
    code.place(row, ROWS.x, step.reads[0])
    row[ROWS.x_row_bytes] = row_bytes(step.reads[0].form)
    row[ROWS.rows] = step.rows
    row[ROWS.gamma], row[ROWS.beta] = (code.address(step.constants.get(name)) for name in ("gamma", "beta"))
    row[ROWS.parameters], row[ROWS.parameters_stride] = code.parameters(step.parameters)
    row[ROWS.stages], row[ROWS.stage_table] = code.stages(step.stages)


def _embed(code: Code, row: np.ndarray, step: Step) -> None:
    tables = step.constants["tables"]
    ids = iter(step.constants["ids"])
    lines = np.zeros((len(tables), TABLE_COLUMNS), np.int64)
    for line, table in zip(lines, tables, strict=True):
        weight = table.up_to(code.positions)
        line[TABLE.weight] = code.address(np.ascontiguousarray(weight))
        line[TABLE.element] = getattr(ELEMENT, weight.dtype.name)
        scale = np.array([1.0], np.float32)
        if table.quantization is not None:
            scale = np.asarray(table.quantization.scale, np.float32).reshape(1)
            line[TABLE.zero_point] = int(table.quantization.zero_point)
        line[TABLE.scale] = code.address(np.ascontiguousarray(scale))
        line[TABLE.index] = getattr(INDEX, table.index)
        if table.index == "input":
            code.ids.append((line, next(ids)))
        else:
            line[TABLE.first_row] = table.offset
        line[TABLE.rounding] = code.address(None if table.rounding is None else rounding(table.rounding))
        line[TABLE.rows] = len(weight)
    row[EMBED.tables], row[EMBED.table_table] = len(tables), code.address(lines)
    row[EMBED.channels] = step.rows
    code.place(row, EMBED.out, step.writes[0])


def _gather(code: Code, row: np.ndarray, step: Step) -> None:
    code.place(row, GATHER.x, step.reads[0])
    row[GATHER.x] += step.constants["row"] * FLOAT_ROW
    row[GATHER.rows] = step.rows
    row[GATHER.width], row[GATHER.column] = step.constants["width"], step.constants["column"]


def _select(code: Code, row: np.ndarray, step: Step) -> None:
    code.place(row, SELECT.x, step.reads[0])
    row[SELECT.rows], row[SELECT.token] = step.rows, step.constants["token"]


def _scatter(code: Code, row: np.ndarray, step: Step) -> None:
    code.place(row, SCATTER.x, step.writes[0])
    row[SCATTER.rows] = step.rows


def _attention(code: Code, row: np.ndarray, step: Step) -> None:
    q, k, v, *sums = step.reads
    for column, buffer in ((ATTENTION.q, q), (ATTENTION.k, k), (ATTENTION.v, v)):
        code.place(row, column, buffer)
    row[ATTENTION.heads], row[ATTENTION.head_size] = step.constants["heads"], step.constants["size"]
    row[ATTENTION.parameters], _ = code.parameters(step.parameters)
    row[ATTENTION.mode], row[ATTENTION.offset_values] = step.constants["mode"], step.constants["offset_values"]
    row[ATTENTION.q_row_bytes], row[ATTENTION.v_row_bytes] = row_bytes(q.form), row_bytes(v.form)
    if step.constants["mode"] != MODE.floats:
        code.place(row, ATTENTION.sums, sums[0])
    if step.constants["distances"] is not None:
        row[ATTENTION.positions] = _positions(code, step.constants["distances"])
    row[ATTENTION.stages], row[ATTENTION.stage_table] = code.stages(step.stages)


def _positions(code: Code, positions: Positions) -> int:
    record = np.zeros(len(POSITIONS), np.int64)
    record[POSITIONS.keys], record[POSITIONS.queries] = code.address(positions.keys), code.address(positions.queries)
    record[POSITIONS.head_bytes] = positions.keys[0].nbytes
    record[POSITIONS.origin], record[POSITIONS.top] = positions.reach + TILE, 2 * positions.reach + TILE
    record[POSITIONS.masked_queries] = positions.masked_queries
    return code.address(record)


def _byte_sums(code: Code, row: np.ndarray, step: Step) -> None:
    for column, buffer in zip((BYTE_SUMS.q, BYTE_SUMS.k), step.reads, strict=True):
        code.place(row, column, buffer)
    code.place(row, BYTE_SUMS.sums, step.writes[0])
    row[BYTE_SUMS.heads], row[BYTE_SUMS.head_size] = step.constants["heads"], step.constants["size"]
    row[BYTE_SUMS.parameters], _ = code.parameters(step.parameters)


def _extrema(code: Code, row: np.ndarray, step: Step) -> None:
    code.place(row, EXTREMA.x, step.reads[0])
    row[EXTREMA.rows] = step.rows
    code.place(row, EXTREMA.extrema, step.writes[0])


def _dynamic(code: Code, row: np.ndarray, step: Step) -> None:
    code.place(row, DYNAMIC.extrema, step.reads[0])
    code.place(row, DYNAMIC.tokens, step.writes[0])


_ENCODERS: dict[str, Callable[[Code, np.ndarray, Step], Any]] = {
    "attention": _attention,
    "byte_sums": _byte_sums,
    "dynamic": _dynamic,
    "embed": _embed,
    "extrema": _extrema,
    "gather": _gather,
    "linear": _linear,
    "rows": _rows,
    "scatter": _scatter,
    "select": _select,
}
