"""Parts: what a program is made of. Native segments and single nodes on arrays, each executed on named arrays."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numba
import numpy as np

from sparsert.errors import InputRangeError, InputShapeError
from sparsert.graph.ir import Node
from sparsert.plan.instance import Instance
from sparsert.plan.layout import Layout, Packing, even_keys
from sparsert.plan.segment import Segment
from sparsert.ragged import flatten_rows, pad_rows

__all__ = ["KEPT_LAYOUTS", "KEPT_SHAPES", "ArrayPart", "Call", "SegmentPart"]

_UNSIGNED = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}

KEPT_SHAPES = 8
"""Shapes whose arenas stay allocated; the least recently used one goes first."""

KEPT_LAYOUTS = 32
"""Layouts of sequences of one length, mostly of a single sequence, that stay: each takes 0.15 ms to make."""


@dataclass
class ArrayPart:
    """A node that runs on arrays: an ONNX node by its reference operator, or a fused node in NumPy."""

    node: Node
    inputs: list[str]
    runner: Callable[[Sequence[np.ndarray | None]], list[np.ndarray]]
    rows_of: frozenset[str] = frozenset()
    """Inputs of which the node wants sequences as rows, when they lie end to end."""
    dead: list[str] = field(default_factory=list)
    """Values that nobody reads after it."""

    @property
    def outputs(self) -> list[str]:
        """Names of the values that it leaves."""
        return self.node.outputs

    @property
    def couples(self) -> bool:
        """Whether the result of a sequence depends on others of its batch."""
        return self.node.op == "DynamicQuantizeLinear" or (self.node.fused is not None and self.node.fused.couples)

    def execute(self, values: dict[str, np.ndarray], threads: int, lengths: np.ndarray | None = None) -> None:
        """Add the node's results to ``values``, in which its inputs are."""
        inputs = [values[name] if name else None for name in self.inputs]
        as_rows = lengths if self.rows_of else None
        if as_rows is not None:
            inputs = [
                pad_rows(array, as_rows) if array is not None and name in self.rows_of else array
                for name, array in zip(self.inputs, inputs, strict=True)
            ]
        results = self.runner(inputs)
        if as_rows is not None:
            results = [flatten_rows(result, as_rows) for result in results]
        for name, result in zip(self.node.outputs, results, strict=False):
            if name:
                values[name] = result


@dataclass(frozen=True, eq=False)
class Call:
    """What follows from the shapes of a call alone."""

    lead: tuple[int, ...]
    items: int
    tokens: int
    """Of the longest sequence."""
    layout: Layout
    limits: tuple[int, int, int]
    """Tiles, key tiles and threads of the instance that can run it."""


class SegmentPart:
    """A native segment, with its instances, each used by one caller at a time, and the layouts of the last shapes."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._free: OrderedDict[tuple[int, int, int], list[Instance]] = OrderedDict()
        self._layouts: OrderedDict[tuple[int, int, Packing], Layout] = OrderedDict()
        self._calls: OrderedDict[tuple[Any, ...], Call] = OrderedDict()
        self._lock = threading.Lock()
        self.dead: list[str] = []
        self.sequences = segment.sequences
        self.selected = False
        """Whether it runs over one token of every sequence, when they lie end to end."""
        self._even_keys = even_keys(segment)
        self._shaping = [*segment.ids, *segment.arrays]
        self._tables = [(name, len(table.weight)) for name, table in segment.tables() if name]

    @property
    def inputs(self) -> list[str]:
        """Names of the values that it reads."""
        segment = self.segment
        return [*segment.ids, *segment.arrays, *segment.masks, *segment.score_arrays]

    @property
    def outputs(self) -> list[str]:
        """Names of the values that it leaves."""
        return [output.name for output in self.segment.outputs]

    @property
    def instances(self) -> list[Instance]:
        """Those that wait for a call."""
        return [instance for instances in self._free.values() for instance in instances]

    @property
    def couples(self) -> bool:
        """Whether the result of a sequence depends on others of its batch."""
        return self.segment.couples

    @property
    def kept(self) -> tuple[int, int]:
        """Number of instances and of layouts that wait for calls of their shapes."""
        return len(self.instances), len(self._layouts)

    def call_for(self, values: dict[str, np.ndarray], threads: int, lengths: np.ndarray | None = None) -> Call:
        """What :meth:`execute` does on these arguments; the ids are checked."""
        # scratch is indexed by Numba's thread number, so never fewer than Numba may use here
        threads = max(threads, numba.get_num_threads())
        if lengths is not None and (self.sequences or self.segment.couples):
            call = self._ragged_call(values, threads, np.ones_like(lengths) if self.selected else lengths)
        else:
            call = self._even_call(values, threads, 2 if lengths is None else 1)
        self._check_ids(values)
        return call

    def execute(self, values: dict[str, np.ndarray], threads: int, lengths: np.ndarray | None = None) -> None:
        """Add the segment's results to ``values``: arrays of sequences of one length, or of all tokens.

        In the latter case the sequences' ``lengths`` are given.
        """
        call = self.call_for(values, threads, lengths)
        with self._lock:
            instances = self._free.get(call.limits)
            instance = instances.pop() if instances else None
        if instance is None:
            instance = Instance(self.segment, *call.limits)
        try:
            values.update(instance.call(values, call.layout, call.lead, call.items))
        finally:
            with self._lock:
                self._free.setdefault(call.limits, []).append(instance)
                self._free.move_to_end(call.limits)
                while len(self._free) > KEPT_SHAPES:
                    self._free.popitem(last=False)

    def _even_call(self, values: dict[str, np.ndarray], threads: int, rank: int) -> Call:
        """The call for sequences of one length, kept for the last shapes."""
        key = (threads, rank, *[values[name].shape for name in self._shaping])
        with self._lock:
            call = self._calls.get(key)
            if call is not None:
                self._calls.move_to_end(key)
                return call
        lead = self._lead(values, rank if self.sequences else None)
        items, tokens = lead if self.sequences else (1, int(np.prod(lead, dtype=np.int64)))
        self._check_lengths(tokens, tokens)
        layout = self._uniform(items, tokens, self._packing(threads, whole=self.segment.couples))
        call = Call(lead, items, tokens, layout, (layout.tiles, layout.key_tiles, threads))
        with self._lock:
            self._calls[key] = call
            while len(self._calls) > KEPT_LAYOUTS:
                self._calls.popitem(last=False)
        return call

    def _ragged_call(self, values: dict[str, np.ndarray], threads: int, lengths: np.ndarray) -> Call:
        """The call for sequences of these lengths, end to end."""
        lead = self._lead(values, 1)
        self._check_lengths(int(lengths.min()), int(lengths.max()))
        items, tokens = len(lengths), int(lengths[0])
        alike, packing = (lengths == tokens).all(), self._packing(threads, whole=False)
        layout = self._uniform(items, tokens, packing) if alike else Layout.of(lengths, packing)
        # lengths hardly repeat, so instances for about as many tiles serve all
        return Call(
            lead, items, int(lengths.max()), layout, (_rounded(layout.tiles), _rounded(layout.key_tiles), threads)
        )

    def _packing(self, threads: int, whole: bool) -> Packing:
        return Packing(threads, whole, self._even_keys)

    def _uniform(self, batch: int, tokens: int, packing: Packing) -> Layout:
        """The layout of sequences of one length, kept for the last shapes."""
        key = (batch, tokens, packing)
        with self._lock:
            layout = self._layouts.get(key)
        if layout is None:
            layout = Layout.of(np.full(batch if tokens else 0, tokens), packing)
        with self._lock:
            self._layouts[key] = layout
            self._layouts.move_to_end(key)
            while len(self._layouts) > KEPT_LAYOUTS:
                self._layouts.popitem(last=False)
        return layout

    def _lead(self, values: dict[str, np.ndarray], rank: int | None) -> tuple[int, ...]:
        """The leading dimensions of the inputs; ``rank`` is how many there must be, None if any number will do."""
        shapes = {name: values[name].shape for name in self.segment.ids}
        shapes |= {name: values[name].shape[:-1] for name in self.segment.arrays}
        try:
            lead = np.broadcast_shapes(*shapes.values())
        except ValueError as error:
            raise InputShapeError(f"Leading dimensions {shapes} do not fit each other, expected the same") from error
        for name, shape in shapes.items():
            if shape != lead and name not in self.segment.ids:
                raise InputShapeError(f"Value '{name}' has leading dimensions {shape}, expected {lead}")
        for name in self.segment.arrays:
            if values[name].shape[-1] != self.segment.channels[name]:
                raise InputShapeError(
                    f"Value '{name}' has {values[name].shape[-1]} channels, expected {self.segment.channels[name]}"
                )
        if rank is not None and len(lead) != rank:
            raise InputShapeError(f"Expected inputs of shape (batch, tokens), got {shapes}")
        return lead

    def _check_ids(self, values: dict[str, np.ndarray]) -> None:
        for name, rows in self._tables:
            ids = values[name]
            # seen as unsigned, a negative id is a huge one: a single pass decides the usual case
            if not ids.size or np.maximum.reduce(ids.view(_UNSIGNED[ids.itemsize]), axis=None) < rows:
                continue
            wrong = ids[(ids < -rows) | (ids >= rows)]
            if wrong.size:
                raise InputRangeError(
                    f"Input '{name}' holds {int(wrong[0])}, but its table has {rows} rows: ids must lie in "
                    f"[{-rows}, {rows})"
                )

    def _check_lengths(self, shortest: int, longest: int) -> None:
        """Refuse sequences too short for a selected token, or too long for a table of positions."""
        for step in self.segment.steps:
            if step.opcode == "select" and not -shortest <= step.constants["token"] < shortest:
                raise InputShapeError(
                    f"The model takes token {step.constants['token']} of every sequence, but a sequence given has "
                    f"{shortest} tokens; give longer inputs"
                )
        for _, table in self.segment.tables():
            last, positions = longest - 1 if table.index == "position" else 0, table.positions
            if table.index != "input" and positions is not None and last >= positions:
                raise InputRangeError(
                    f"The input has a token at position {last}, but the model's position table has "
                    f"{table.offset + positions} rows (first used row {table.offset}); shorten the sequence"
                )


def _rounded(count: int) -> int:
    """A count rounded up to one of four steps a power of two."""
    step = 1 << max(0, count.bit_length() - 3)
    return -(-count // step) * step
