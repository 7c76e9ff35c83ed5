"""Instance: a segment bound to a number of tiles, with addresses and memory of its own. One caller at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsert.errors import InputShapeError
from sparsert.kernels.jit import TILE
from sparsert.kernels.loop.run import run_entry, run_regions
from sparsert.kernels.table import ATTENTION, GATHER, REGION_COLUMNS, SCATTER, SELECT, TABLE
from sparsert.ops.score_bias import NO_BIAS, BiasTable, PositionBias, bias_of_array
from sparsert.plan.encode import encode
from sparsert.plan.layout import Layout
from sparsert.plan.memory import Memory, plan_memory
from sparsert.plan.regions import Division, find_regions
from sparsert.plan.segment import Segment

__all__ = ["Instance"]

_ARRAY = {"gather": GATHER.array, "select": SELECT.array}
"""Column of the array that a step leaves values in."""


@dataclass(eq=False)
class _Binding:
    """What calls of the same shapes share: the table holds the addresses of these arrays."""

    layout: Layout
    lead: tuple[int, ...]
    ids: dict[str, np.ndarray]
    """int64 arrays of shape ``lead``, which every call fills."""
    biases: dict[str, np.ndarray]
    """Key biases by mask, which every call fills; "" is that of no mask."""
    tables: list[BiasTable]
    """Numbers of positions that attention adds to scores."""


@dataclass(frozen=True, eq=False)
class Bound:
    """A call that can be executed, again and again: its results, and arrays whose addresses the table holds."""

    results: dict[str, np.ndarray]
    held: Any


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
        Threads that will execute it; more would overflow the scratch.
    separate_steps : bool
        Make every step a region of its own, for :meth:`timed_call`.

    Attributes
    ----------
    division : Division
    regions : list of Region
    memory : Memory
    """

    def __init__(
        self, segment: Segment, tiles: int, key_tiles: int, threads: int, separate_steps: bool = False
    ) -> None:
        steps = segment.steps
        self.division = Division.of(tiles, threads, segment.nbytes)
        self.regions = find_regions(steps, self.division, separate_steps)
        self.memory = Memory(plan_memory(steps, self.regions, self.division, key_tiles), self.division)
        self._segment = segment
        self._code = encode(steps, self.memory.places, key_tiles * TILE)
        self._binding: _Binding | None = None
        rows = {id(step): row for row, step in zip(self._code.table, steps, strict=True)}
        self._scatters = [(rows[id(step)], step.constants["array"]) for step in steps if step.opcode == "scatter"]
        self._attentions = [(rows[id(step)], step.constants) for step in steps if step.opcode == "attention"]
        self._outputs = [(rows[id(output.step)], output) for output in segment.outputs]
        table = [(region.first, region.stop, region.units, region.size) for region in self.regions]
        self._regions = np.array(table, np.int64).reshape(-1, REGION_COLUMNS)

    def call(
        self, values: Mapping[str, np.ndarray], layout: Layout, lead: tuple[int, ...], items: int
    ) -> dict[str, np.ndarray]:
        """Compute the segment's outputs. The GIL is released.

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
        bound = self.bind(values, layout, lead, items)
        for first, stop in layout.chunks:
            self.execute(layout.meta[first:stop])
        return bound.results

    def timed_call(
        self, values: Mapping[str, np.ndarray], layout: Layout, lead: tuple[int, ...], items: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """:meth:`call` region by region: the results, and the seconds (regions,) that each region took."""
        bound = self.bind(values, layout, lead, items)
        seconds = np.zeros(len(self.regions))
        for first, stop in layout.chunks:
            for index in range(len(self.regions)):
                begin = time.perf_counter()
                self.execute(layout.meta[first:stop], [index])
                seconds[index] += time.perf_counter() - begin
        return bound.results, seconds

    def execute(self, meta: np.ndarray, regions: Sequence[int] | None = None) -> None:
        """Run a chunk, of which ``meta`` describes the tiles, through all regions or some; :meth:`bind` comes first."""
        run_regions(
            self._code.table,
            self._regions if regions is None else self._regions[regions],
            self.memory.queues,
            meta,
            len(meta),
            self.memory.scratch,
            self.memory.stride,
            run_entry().address,
        )

    def bind(self, values: Mapping[str, np.ndarray], layout: Layout, lead: tuple[int, ...], items: int) -> Bound:
        """Put inputs where the table has them, and outputs' addresses into it; arguments as for :meth:`call`.

        What is returned must live while the table is executed.
        """
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
        added: dict[tuple[str, PositionBias | None, int], BiasTable] = {}
        for row, constants in self._attentions:
            if constants["array"]:
                what = constants["array"], constants["positions"], constants["heads"]
                if what not in added:
                    array = values[what[0]]
                    array = array if what[1] is None else array + what[1].values(lead[-1])
                    added[what] = bias_of_array(array, items, what[2], lead)
                _add_to_scores(row, added[what])
        results: dict[str, np.ndarray] = {}
        for row, output in self._outputs:
            shape = {
                "tokens": (*lead, output.columns),
                "feature": lead,
                "items": (items, output.columns),
            }[output.shape]
            results[output.name] = np.empty(shape, np.float32)
            row[_ARRAY[output.step.opcode]] = results[output.name].ctypes.data
        return Bound(results, (binding, arrays, added))

    def _new_binding(self, layout: Layout, lead: tuple[int, ...]) -> _Binding:
        """Arrays for the ids and key biases of calls of these shapes, their addresses in the table."""
        ids = {name: np.empty(lead, np.int64) for name in self._segment.ids}
        for line, name in self._code.ids:
            line[TABLE.ids] = ids[name].ctypes.data
        biases = {mask: layout.key_bias(0.0) for mask in self._segment.masks}
        tables = []
        for row, constants in self._attentions:
            row[ATTENTION.key_bias] = biases[constants["mask"]].ctypes.data
            if not constants["array"]:
                positions = constants["positions"]
                tables.append(NO_BIAS if positions is None else positions.table(layout.longest))
                _add_to_scores(row, tables[-1])
        return _Binding(layout, lead, ids, biases, tables)


def _add_to_scores(row: np.ndarray, table: BiasTable) -> None:
    """Write into a step of attention what it adds to scores."""
    row[ATTENTION.score_bias], row[ATTENTION.score_item] = table.address, table.item
    row[ATTENTION.score_head], row[ATTENTION.score_key] = table.head, table.stride
    row[ATTENTION.before], row[ATTENTION.after] = table.before, table.after


def _fit_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.broadcast_to(mask, shape)
    except ValueError as error:
        raise InputShapeError(
            f"The attention mask has shape {mask.shape}, expected {shape} as the token ids"
        ) from error
