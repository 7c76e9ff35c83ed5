"""Instance: a segment bound to a number of tiles, with addresses and memory of its own. One runs at a time."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsert import cpu
from sparsert.errors import InputShapeError
from sparsert.kernels.formats import ACCUMULATORS, BLOCK_ROWS
from sparsert.kernels.loop.places import ATTENTION_WORK, FLOAT_ROW, PANEL_BLOCKS, STEP_SCRATCH
from sparsert.kernels.loop.run import run_entry, run_program
from sparsert.kernels.records import PARAMETERS
from sparsert.kernels.rows import FINISH
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
    QUEUE_COLUMNS,
    REGION_COLUMNS,
    REGION_KIND,
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
from sparsert.ops.steps import ROW_BYTES, Buffer, DynamicParameters, Stage, Step
from sparsert.plan.layout import Layout
from sparsert.plan.segment import Segment

__all__ = ["Instance"]

_GROUP_TILES = 4
"""Tiles per group, at most, for models whose weights do not fit the L3: each reading of the weights serves a group.

BERT-base on two Zen 3 cores with an L3 of 32 MB: dense float (340 MB) gains 15 to 25 %, 90 % unstructured int8 (37 MB)
about 5 %; 4-block int8 (14 MB) loses 2 %, because a group's activations leave the L2.
"""

_TYPICAL_L3 = 32 << 20

_PANEL_BYTES = 96 << 10
"""Weights that one panel of row blocks may take in the L2."""

_ATTENTION_SHARES = 8
"""Units of attention for each thread: enough that the last ones end at about the same time."""

_ALIGNMENT = 64

_ARRAY = {"gather": GATHER.array, "select": SELECT.array}
"""Column of the array that a step leaves values in."""


@functools.lru_cache(maxsize=1)
def _l3_bytes() -> int:
    """Size of the L3, read once: a new shape should not read the machine's description again."""
    return cpu.cache_sizes()["L3"] or _TYPICAL_L3


def _aligned(size: int) -> np.ndarray:
    """Zeroed bytes at a 64-byte boundary."""
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size]


@dataclass
class _Region:
    first: int
    last: int
    kind: int
    size: int


@dataclass(eq=False)
class _Binding:
    """What calls of the same shapes share: the program holds the addresses of these arrays."""

    layout: Layout
    lead: tuple[int, ...]
    ids: dict[str, np.ndarray]
    """int64 arrays of shape ``lead``, which every call fills."""
    biases: dict[str, np.ndarray]
    """Key biases by mask, which every call fills; "" is that of no mask."""


class Instance:
    """One segment for a number of tiles at once and a number of threads.

    Parameters
    ----------
    segment : Segment
    tiles : int
        Tiles of a chunk, at most.
    key_tiles : int
        Tiles over which a sequence extends, at most.
    threads : int
        Threads that will run it; more would overflow the scratch.
    separate_steps : bool
        Make every step a region of its own, for :meth:`timed_run`.
    """

    def __init__(
        self, segment: Segment, tiles: int, key_tiles: int, threads: int, separate_steps: bool = False
    ) -> None:
        self._segment = segment
        self._separate = separate_steps
        self._tiles, self._threads = tiles, threads
        self._keep: list[Any] = []
        self._parts = 1 if tiles >= 2 * threads or tiles % threads == 0 else threads
        weights = segment.nbytes
        streamed = weights > _l3_bytes()
        self._group = _group_size(tiles, threads) if streamed and self._parts == 1 else 1
        self._regions = self._find_regions()
        self._place_buffers(key_tiles)
        names = {
            p.name for step in segment.steps for p in self._parameters_of(step) if isinstance(p, DynamicParameters)
        }
        self._dynamic = {name: np.zeros(1, PARAMETERS) for name in names}
        self._extrema = {name: np.zeros((tiles, 2), np.float32) for name in names}
        self._program = np.zeros((len(segment.steps), STEP_COLUMNS), np.int64)
        self._id_places: list[tuple[np.ndarray, str]] = []
        self._binding: _Binding | None = None
        for row, step in zip(self._program, segment.steps, strict=True):
            self._encode(row, step)
        rows = {id(step): row for row, step in zip(self._program, segment.steps, strict=True)}
        self._scatters = [
            (rows[id(step)], step.constants["array"]) for step in segment.steps if step.opcode == "scatter"
        ]
        self._attentions = [
            (rows[id(step)], step.constants["mask"]) for step in segment.steps if step.opcode == "attention"
        ]
        self._gathers = [(rows[id(output.step)], output) for output in segment.outputs]
        self._table = np.array([(r.first, r.last, r.kind, r.size) for r in self._regions], np.int64).reshape(
            -1, REGION_COLUMNS
        )

    @property
    def nbytes(self) -> int:
        """Memory of the activations and scratch in bytes."""
        return self._arena.nbytes + self._scratch.nbytes

    # -- layout -----------------------------------------------------------------------------------------------------

    def _find_regions(self) -> list[_Region]:
        """Consecutive tile-local steps form one region; with row parts, steps that need no barrier between them."""
        regions: list[_Region] = []
        open_region = False
        for index, step in enumerate(self._segment.steps):
            if self._joins(regions, step):
                regions[-1].last = index + 1
            elif step.opcode == "attention":
                shares = _ATTENTION_SHARES * self._threads if self._threads > 1 else 1
                regions.append(_Region(index, index + 1, REGION_KIND.shares, shares))
            elif step.opcode == "dynamic":
                regions.append(_Region(index, index + 1, REGION_KIND.once, 1))
            elif self._parts > 1 and self._divides(step):
                regions.append(_Region(index, index + 1, REGION_KIND.strips, self._parts))
            elif open_region and self._parts == 1 and not self._separate:
                regions[-1].last = index + 1
                continue
            else:
                regions.append(_Region(index, index + 1, REGION_KIND.bands, self._group))
                open_region = True
                continue
            open_region = False
        return regions

    @staticmethod
    def _divides(step: Step) -> bool:
        """Whether parts of a step's rows can be computed one by one."""
        return step.opcode in ("embed", "linear") and step.rows > BLOCK_ROWS

    def _joins(self, regions: list[_Region], step: Step) -> bool:
        """Whether the parts of a step can follow those of the last region's steps without a barrier.

        They can if they read nothing that other parts write: Q, K and V of one value; and the attention of heads whose
        rows a part has computed itself, as long as no token looks at another tile.
        """
        if not regions or regions[-1].kind != REGION_KIND.strips or self._separate:
            return False
        before = self._segment.steps[regions[-1].first : regions[-1].last]
        written = {id(buffer) for other in before for buffer in other.writes}
        if self._divides(step):
            return not written.intersection(map(id, step.reads))
        if step.opcode not in ("byte_sums", "attention") or self._tiles > 1:
            return False
        heads, size = step.constants["heads"], step.constants["size"]
        return heads % self._parts == 0 and heads * size % (BLOCK_ROWS * self._parts) == 0

    def _place_buffers(self, key_tiles: int) -> None:
        """Offsets by lifetime: values of one region in the thread's scratch, the others in the arena."""
        region_of = {}
        for number, region in enumerate(self._regions):
            for index in range(region.first, region.last):
                region_of[index] = number
        lives: dict[int, tuple[Buffer, int, int]] = {}
        for index, step in enumerate(self._segment.steps):
            for buffer in (*step.reads, *step.writes):
                first = lives[id(buffer)][1] if id(buffer) in lives else index
                lives[id(buffer)] = (buffer, first, index)
        own, shared = [], []
        for life in lives.values():
            stays = self._parts == 1 and region_of[life[1]] == region_of[life[2]]
            (own if stays else shared).append(life)
        # in the arena a buffer stays alive for whole regions, since threads run ahead of each other inside one
        widened = [(b, self._regions[region_of[f]].first, self._regions[region_of[e]].last - 1) for b, f, e in shared]
        shared_offsets, shared_size = _allocate(widened)
        own_offsets, own_size = _allocate(own)
        fixed = STEP_SCRATCH
        attention = 0
        for step in self._segment.steps:
            if step.opcode == "attention":
                rows = (2 * step.constants["size"] + 8) * FLOAT_ROW
                attention = max(attention, rows + key_tiles * ATTENTION_WORK)
        self._stride = -(-max(fixed + own_size * self._group, attention) // 4096) * 4096 + _ALIGNMENT
        self._arena = _aligned(shared_size * self._tiles)
        self._scratch = _aligned(self._stride * self._threads)
        self._queues = _aligned(8 * QUEUE_COLUMNS * self._threads).view(np.int64).reshape(self._threads, QUEUE_COLUMNS)
        self._scratch_address = self._scratch.ctypes.data
        arena = self._arena.ctypes.data
        self._places: dict[int, tuple[int, int]] = {}
        for buffer, _, _ in shared:
            self._places[id(buffer)] = (arena + shared_offsets[id(buffer)] * self._tiles, buffer.nbytes)
        for buffer, _, _ in own:
            self._places[id(buffer)] = (fixed + own_offsets[id(buffer)] * self._group, -buffer.nbytes)

    # -- encoding ---------------------------------------------------------------------------------------------------

    @staticmethod
    def _parameters_of(step: Step) -> list[Any]:
        return [step.parameters, *(stage.parameters for stage in step.stages)]

    def _address(self, array: np.ndarray | None) -> int:
        if array is None:
            return 0
        self._keep.append(array)
        return array.ctypes.data

    def _parameter_address(self, parameters: Any) -> int:
        if isinstance(parameters, DynamicParameters):
            return self._dynamic[parameters.name].ctypes.data
        return self._address(parameters)

    def _place(self, row: np.ndarray, column: int, buffer: Buffer) -> None:
        """Write a place: its address and, in the next column, its stride."""
        row[column : column + 2] = self._places[id(buffer)]

    def _encode(self, row: np.ndarray, step: Step) -> None:
        row[STEP.opcode] = getattr(OPCODE, step.opcode)
        getattr(self, f"_encode_{step.opcode}")(row, step)

    def _encode_stages(self, stages: list[Stage]) -> int:
        table = np.zeros((max(len(stages), 1), STAGE_COLUMNS), np.int64)
        for row, stage in zip(table, stages, strict=False):
            row[STAGE.code] = STAGES.codes[stage.kind]
            if stage.epilogue is not None:
                row[STAGE.acc_bias] = self._address(stage.epilogue.acc_bias)
                row[STAGE.scale] = self._address(stage.epilogue.scale)
                row[STAGE.bias] = self._address(stage.epilogue.bias)
            if stage.vector is not None:
                row[STAGE.bias] = self._address(stage.vector)
            row[STAGE.parameters] = self._parameter_address(stage.parameters)
            if stage.source is not None:
                self._place(row, STAGE.source, stage.source)
            if stage.destination is not None:
                self._place(row, STAGE.destination, stage.destination)
                row[STAGE.destination_row_bytes] = ROW_BYTES[stage.destination.form]
        return self._address(table)

    def _encode_linear(self, row: np.ndarray, step: Step) -> None:
        assert step.linear is not None
        weight = step.linear.weight
        row[LINEAR.kernel] = ACCUMULATORS.codes[weight.accumulator]
        self._place(row, LINEAR.x, step.reads[0])
        row[LINEAR.rows] = step.rows
        row[LINEAR.headers] = self._address(weight.headers)
        row[LINEAR.weights] = self._address(weight.weights)
        row[LINEAR.starts] = self._address(weight.starts)
        row[LINEAR.offsets] = weight.count or self._address(weight.offsets)
        blocks = max(1, len(weight.starts) // weight.slices)
        fitting = max(1, min(blocks, _PANEL_BYTES * blocks // max(weight.nbytes, 1)))
        row[LINEAR.panel_blocks] = PANEL_BLOCKS if weight.slices > 1 else fitting
        row[LINEAR.slices] = weight.slices
        row[LINEAR.slice_bytes] = weight.slice_features * ROW_BYTES[step.reads[0].form]
        row[LINEAR.stages], row[LINEAR.stage_table] = len(step.stages), self._encode_stages(step.stages)

    def _encode_rows(self, row: np.ndarray, step: Step) -> None:
        row[ROWS.source] = FINISH.codes[step.source]
        self._place(row, ROWS.x, step.reads[0])
        row[ROWS.x_row_bytes] = ROW_BYTES[step.reads[0].form]
        row[ROWS.rows] = step.rows
        row[ROWS.gamma] = self._address(step.constants.get("gamma"))
        row[ROWS.beta] = self._address(step.constants.get("beta"))
        epsilon = step.constants.get("epsilon")
        parameters = self._address(epsilon) if epsilon is not None else self._parameter_address(step.parameters)
        row[ROWS.parameters] = parameters
        row[ROWS.stages], row[ROWS.stage_table] = len(step.stages), self._encode_stages(step.stages)

    def _encode_embed(self, row: np.ndarray, step: Step) -> None:
        tables = step.constants["tables"]
        ids = iter(step.constants["ids"])
        encoded = np.zeros((len(tables), TABLE_COLUMNS), np.int64)
        for line, table in zip(encoded, tables, strict=True):
            line[TABLE.weight] = self._address(np.ascontiguousarray(table.weight))
            line[TABLE.element] = getattr(ELEMENT, table.weight.dtype.name)
            scale = np.array([1.0], np.float32)
            if table.quantization is not None:
                scale = np.asarray(table.quantization.scale, np.float32).reshape(1)
                line[TABLE.zero_point] = int(table.quantization.zero_point)
            line[TABLE.scale] = self._address(np.ascontiguousarray(scale))
            line[TABLE.index] = getattr(INDEX, table.index)
            if table.index == "input":
                self._id_places.append((line, next(ids)))
            else:
                line[TABLE.first_row] = table.offset
            line[TABLE.rows] = len(table.weight)
        row[EMBED.tables], row[EMBED.table_table] = len(tables), self._address(encoded)
        row[EMBED.channels] = step.rows
        self._place(row, EMBED.out, step.writes[0])

    def _encode_gather(self, row: np.ndarray, step: Step) -> None:
        self._place(row, GATHER.x, step.reads[0])
        row[GATHER.x] += step.constants["row"] * FLOAT_ROW
        row[GATHER.rows] = step.rows
        row[GATHER.width], row[GATHER.column] = step.constants["width"], step.constants["column"]

    def _encode_select(self, row: np.ndarray, step: Step) -> None:
        self._place(row, SELECT.x, step.reads[0])
        row[SELECT.rows], row[SELECT.token] = step.rows, step.constants["token"]

    def _encode_scatter(self, row: np.ndarray, step: Step) -> None:
        self._place(row, SCATTER.x, step.writes[0])
        row[SCATTER.rows] = step.rows

    def _encode_attention(self, row: np.ndarray, step: Step) -> None:
        constants = step.constants
        q, _, v = step.reads[:3]
        for column, buffer in zip((ATTENTION.q, ATTENTION.k, ATTENTION.v), step.reads, strict=False):
            self._place(row, column, buffer)
        row[ATTENTION.heads], row[ATTENTION.head_size] = constants["heads"], constants["size"]
        row[ATTENTION.parameters] = self._parameter_address(step.parameters)
        row[ATTENTION.mode], row[ATTENTION.offset_values] = constants["mode"], constants["offset_values"]
        row[ATTENTION.q_row_bytes], row[ATTENTION.v_row_bytes] = ROW_BYTES[q.form], ROW_BYTES[v.form]
        if constants["mode"] != MODE.floats:
            self._place(row, ATTENTION.sums, step.reads[3])
        row[ATTENTION.stages], row[ATTENTION.stage_table] = len(step.stages), self._encode_stages(step.stages)

    def _encode_byte_sums(self, row: np.ndarray, step: Step) -> None:
        for column, buffer in zip((BYTE_SUMS.q, BYTE_SUMS.k), step.reads, strict=True):
            self._place(row, column, buffer)
        self._place(row, BYTE_SUMS.sums, step.writes[0])
        row[BYTE_SUMS.heads], row[BYTE_SUMS.head_size] = step.constants["heads"], step.constants["size"]
        row[BYTE_SUMS.parameters] = self._parameter_address(step.parameters)

    def _encode_extrema(self, row: np.ndarray, step: Step) -> None:
        self._place(row, EXTREMA.x, step.reads[0])
        row[EXTREMA.rows] = step.rows
        row[EXTREMA.extrema] = self._extrema[step.parameters.name].ctypes.data  # type: ignore[union-attr]

    def _encode_dynamic(self, row: np.ndarray, step: Step) -> None:
        name = step.parameters.name  # type: ignore[union-attr]
        row[DYNAMIC.extrema] = self._extrema[name].ctypes.data
        row[DYNAMIC.parameters] = self._dynamic[name].ctypes.data

    # -- running ----------------------------------------------------------------------------------------------------

    def run(
        self, values: dict[str, np.ndarray], layout: Layout, lead: tuple[int, ...], items: int
    ) -> dict[str, np.ndarray]:
        """Run the segment on arrays. The GIL is released.

        Parameters
        ----------
        values : dict
            Inputs by name: with leading dimensions ``lead``, or such that broadcast to them.
        layout : Layout
            The sequences, within the instance's limits.
        lead : tuple of int
            Leading dimensions of inputs and outputs: (batch, tokens), or (all tokens,).
        items : int
            Number of sequences.
        """
        results, held = self._bind(values, layout, lead, items)
        for first, stop in layout.chunks:
            self._execute(self._table, layout.meta[first:stop])
        del held  # what the program holds addresses of lives until here
        return results

    def timed_run(
        self, values: dict[str, np.ndarray], layout: Layout, lead: tuple[int, ...], items: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """:meth:`run` region by region: the results, and the seconds (regions,) that each region took."""
        results, held = self._bind(values, layout, lead, items)
        seconds = np.zeros(len(self._table))
        for first, stop in layout.chunks:
            for index in range(len(self._table)):
                begin = time.perf_counter()
                self._execute(self._table[index : index + 1], layout.meta[first:stop])
                seconds[index] += time.perf_counter() - begin
        del held
        return results, seconds

    def _execute(self, table: np.ndarray, meta: np.ndarray) -> None:
        run_program(
            self._program,
            table,
            self._queues,
            meta,
            len(meta),
            self._scratch_address,
            self._stride,
            run_entry().address,
        )

    def _bind(
        self, values: dict[str, np.ndarray], layout: Layout, lead: tuple[int, ...], items: int
    ) -> tuple[dict[str, np.ndarray], Any]:
        """Put inputs where the program finds them, and outputs' addresses into it: the outputs, and what must outlive
        the run."""
        binding = self._binding
        if binding is None or binding.layout is not layout or binding.lead != lead:
            binding = self._binding = self._new_binding(layout, lead)
        for name, array in binding.ids.items():
            array[...] = values[name]
        for name, bias in binding.biases.items():
            if name:
                mask = values[name]
                layout.key_bias((mask if mask.shape == lead else _fit_mask(mask, lead)).reshape(-1), bias)
        arrays = []
        for row, name in self._scatters:
            arrays.append(np.ascontiguousarray(values[name], np.float32))
            row[SCATTER.array] = arrays[-1].ctypes.data
        results: dict[str, np.ndarray] = {}
        for row, output in self._gathers:
            shape = {
                "tokens": (*lead, output.columns),
                "feature": lead,
                "items": (items, output.columns),
            }[output.shape]
            results[output.name] = np.empty(shape, np.float32)
            row[_ARRAY[output.step.opcode]] = results[output.name].ctypes.data
        return results, (binding, arrays)

    def _new_binding(self, layout: Layout, lead: tuple[int, ...]) -> _Binding:
        """Arrays for the ids and key biases of calls of these shapes, their addresses in the program."""
        ids = {name: np.empty(lead, np.int64) for name in self._segment.ids}
        for line, name in self._id_places:
            line[TABLE.ids] = ids[name].ctypes.data
        biases = {mask: layout.key_bias(0.0) for mask in self._segment.masks}
        for row, mask in self._attentions:
            row[ATTENTION.key_bias] = biases[mask].ctypes.data
        return _Binding(layout, lead, ids, biases)


def _group_size(tiles: int, threads: int) -> int:
    """The largest group that still gives every thread the same number of groups, or at least four."""
    for size in range(min(_GROUP_TILES, tiles), 1, -1):
        groups = -(-tiles // size)
        if (tiles % size == 0 and groups % threads == 0) or groups >= 4 * threads:
            return size
    return 1


def _fit_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.broadcast_to(mask, shape)
    except ValueError as error:
        raise InputShapeError(
            f"The attention mask has shape {mask.shape}, expected {shape} as the token ids"
        ) from error


def _allocate(lives: list[tuple[Buffer, int, int]]) -> tuple[dict[int, int], int]:
    """First-fit offsets such that buffers alive at the same step do not overlap; and the size of the whole."""
    placed: list[tuple[int, int, int, int]] = []
    offsets: dict[int, int] = {}
    size = 0
    for buffer, first, last in sorted(lives, key=lambda life: (life[1], -life[0].nbytes)):
        offset = 0
        for start, end, begin, stop in sorted(placed):
            if begin <= last and first <= stop and offset < end and start < offset + buffer.nbytes:
                offset = end
        placed.append((offset, offset + buffer.nbytes, first, last))
        offsets[id(buffer)] = offset
        size = max(size, offset + buffer.nbytes)
    return offsets, size
