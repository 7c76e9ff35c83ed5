"""Program: a compiled graph. Native segments and single array nodes, run in order on named arrays."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from sparsert.errors import InputRangeError, InputShapeError
from sparsert.graph.evaluate import implicit_inputs, make_runner
from sparsert.graph.ir import Graph, Node
from sparsert.kernels.jit import TIER
from sparsert.ops import run_fused
from sparsert.plan.instance import Instance
from sparsert.plan.layout import Layout, Packing, even_keys
from sparsert.plan.lower import lower
from sparsert.plan.partition import channels_of, partition, reads
from sparsert.plan.report import StepReport
from sparsert.plan.segment import Segment

__all__ = ["Program", "compile_graph"]

_ELEMENTWISE = frozenset({"Add", "Cast", "Equal", "Mul", "Not", "Sub"})

_UNSIGNED = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}

_KEPT_SHAPES = 8
"""Shapes whose arenas stay allocated; the least recently used one goes first."""

_KEPT_LAYOUTS = 32
"""Layouts of sequences of one length, mostly of a single sequence, that stay: each takes 0.15 ms to make."""


@dataclass
class _ArrayStep:
    """A node that runs on arrays: an ONNX node by its reference operator, or a fused node in NumPy."""

    node: Node
    inputs: list[str]
    runner: Callable[[Sequence[np.ndarray | None]], list[np.ndarray]]

    rows_of: frozenset[str] = frozenset()
    """Inputs of which the node wants sequences as rows, when they lie end to end."""

    def run(self, values: dict[str, np.ndarray], threads: int, lengths: np.ndarray | None = None) -> None:
        inputs = [values[name] if name else None for name in self.inputs]
        if lengths is not None and self.rows_of:
            inside = np.arange(lengths.max()) < lengths[:, None]
            for index, name in enumerate(self.inputs):
                if name in self.rows_of:
                    rows = np.zeros(inside.shape, values[name].dtype)
                    rows[inside] = values[name]
                    inputs[index] = rows
        results = self.runner(inputs)
        if lengths is not None and self.rows_of:
            results = [result[inside] for result in results]
        for name, result in zip(self.node.outputs, results, strict=False):
            if name:
                values[name] = result


@dataclass(frozen=True, eq=False)
class _Call:
    """What follows from the shapes of a call alone."""

    lead: tuple[int, ...]
    items: int
    layout: Layout
    limits: tuple[int, int, int]
    """Tiles, key tiles and threads of the instance that can run it."""


class _Segment:
    """A native segment, with its instances, each used by one caller at a time, and the layouts of the last shapes."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._free: OrderedDict[tuple[int, int, int], list[Instance]] = OrderedDict()
        self._layouts: OrderedDict[tuple[int, int, int], Layout] = OrderedDict()
        self._calls: OrderedDict[tuple[Any, ...], _Call] = OrderedDict()
        self._lock = threading.Lock()
        self.sequences = segment.sequences
        self._even_keys = even_keys(segment)
        self._shaping = [*segment.ids, *segment.arrays]
        self._tables = [(name, len(table.weight)) for name, table in segment.tables() if name]

    def run(self, values: dict[str, np.ndarray], threads: int, lengths: np.ndarray | None = None) -> None:
        """Run on ``values``: arrays of sequences of one length, or of all tokens, the sequences' ``lengths`` given."""
        # scratch is indexed by Numba's thread number, so never fewer than Numba may use here
        threads = max(threads, numba.get_num_threads())
        if lengths is not None and self.sequences:
            call = self._ragged_call(values, threads, lengths)
        else:
            call = self._call(values, threads, 2 if lengths is None else 1)
        self._check_ids(values)
        with self._lock:
            instances = self._free.get(call.limits)
            instance = instances.pop() if instances else None
        if instance is None:
            instance = Instance(self.segment, *call.limits)
        try:
            values.update(instance.run(values, call.layout, call.lead, call.items))
        finally:
            with self._lock:
                self._free.setdefault(call.limits, []).append(instance)
                self._free.move_to_end(call.limits)
                while len(self._free) > _KEPT_SHAPES:
                    self._free.popitem(last=False)

    def _call(self, values: dict[str, np.ndarray], threads: int, rank: int) -> _Call:
        """The call for sequences of one length, kept for the last shapes."""
        key = (threads, rank, *[values[name].shape for name in self._shaping])
        with self._lock:
            call = self._calls.get(key)
            if call is not None:
                self._calls.move_to_end(key)
                return call
        lead = self._lead(values, rank)
        items, tokens = lead if self.sequences else (1, int(np.prod(lead, dtype=np.int64)))
        self._check_lengths(tokens, tokens)
        layout = self._uniform(items, tokens, threads)
        call = _Call(lead, items, layout, (layout.tiles, layout.key_tiles, threads))
        with self._lock:
            self._calls[key] = call
            while len(self._calls) > _KEPT_LAYOUTS:
                self._calls.popitem(last=False)
        return call

    def _ragged_call(self, values: dict[str, np.ndarray], threads: int, lengths: np.ndarray) -> _Call:
        """The call for sequences of these lengths, end to end."""
        lead = self._lead(values, 1)
        self._check_lengths(int(lengths.min()), int(lengths.max()))
        items, tokens = len(lengths), int(lengths[0])
        alike = (lengths == tokens).all()
        layout = self._uniform(items, tokens, threads) if alike else Layout.of(lengths, self._packing(threads))
        # lengths hardly repeat, so instances for about as many tiles serve all
        return _Call(lead, items, layout, (_rounded(layout.tiles), _rounded(layout.key_tiles), threads))

    def _packing(self, threads: int) -> Packing:
        return Packing(threads, self.segment.couples, self._even_keys)

    def _uniform(self, batch: int, tokens: int, threads: int) -> Layout:
        """The layout of sequences of one length, kept for the last shapes."""
        key = (batch, tokens, threads)
        with self._lock:
            layout = self._layouts.get(key)
        if layout is None:
            layout = Layout.of(np.full(batch if tokens else 0, tokens), self._packing(threads))
        with self._lock:
            self._layouts[key] = layout
            self._layouts.move_to_end(key)
            while len(self._layouts) > _KEPT_LAYOUTS:
                self._layouts.popitem(last=False)
        return layout

    def _lead(self, values: dict[str, np.ndarray], rank: int) -> tuple[int, ...]:
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
        if self.sequences and len(lead) != rank:
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
            last = longest - 1 if table.index == "position" else 0
            if table.index != "input" and table.offset + last >= len(table.weight):
                raise InputRangeError(
                    f"The input has a token at position {last}, but the model's position table has "
                    f"{len(table.weight)} rows (first used row {table.offset}); shorten the sequence"
                )


def compile_graph(graph: Graph) -> Program:
    """Lower a fused graph to a :class:`Program`: choose formats, pack weights, find the fallbacks.

    Raises
    ------
    UnsupportedOpError
        A node that neither a kernel nor a fallback can run.
    """
    channels = channels_of(graph)
    groups = partition(graph, channels)
    outputs = {info.name for info in graph.outputs}
    steps: list[_ArrayStep | _Segment] = []
    reports: list[StepReport] = []
    for position, group in enumerate(groups):
        if group.native:
            later = {name for other in groups[position + 1 :] for node in other.nodes for name in reads(node)}
            produced = {name for node in group.nodes for name in node.outputs}
            needed = {name for name in produced if name in later or name in outputs}
            segment = lower(graph, group.nodes, channels, needed)
            steps.append(_Segment(segment))
            reports += [_native_report(node, segment) for node in group.nodes]
        else:
            steps.append(_array_step(group.nodes[0], graph))
            reports.append(_array_report(group.nodes[0]))
    for index, report in enumerate(reports):
        report.index = index
    return Program(graph, steps, reports)


def _rounded(count: int) -> int:
    """A count rounded up to one of four steps a power of two."""
    step = 1 << max(0, count.bit_length() - 3)
    return -(-count // step) * step


def _array_step(node: Node, graph: Graph) -> _ArrayStep:
    if node.fused is not None:
        op = node.fused
        return _ArrayStep(node, list(node.inputs), lambda arrays: run_fused(op, arrays))
    return _ArrayStep(node, [*node.inputs, *implicit_inputs(node)], make_runner(node, graph.opsets))


def _array_report(node: Node) -> StepReport:
    if node.fused is None:
        note = "runs by the reference operator, one node at a time: correct and slow"
        return StepReport(0, node.op, node.name, "onnx.reference", fallback=True, sources=list(node.sources), note=note)
    note = "" if node.fused.on_arrays else "no native kernel for this form; runs in NumPy"
    return StepReport(
        0, node.op, node.name, "numpy", fallback=not node.fused.on_arrays, sources=list(node.sources), note=note
    )


def _native_report(node: Node, segment: Segment) -> StepReport:
    details = node.fused.details(segment.packed.get(node.outputs[0]), TIER.name)
    return StepReport(0, node.op, node.name, sources=list(node.sources), **details)


class Program:
    """A compiled graph. Any number of threads may call :meth:`run`; the weights exist once.

    Attributes
    ----------
    steps : list of StepReport
        What runs, in order, for :meth:`sparsert.Engine.report`.
    output_spaces : dict or None
        Of each output, whether it has a value per "token" or per "sequence"; None where :meth:`run` takes no lengths.
    coupled : bool
        Whether a sequence's result depends on the others of its batch (dynamic quantization).
    """

    def __init__(self, graph: Graph, steps: list[_ArrayStep | _Segment], reports: list[StepReport]) -> None:
        self.steps = reports
        self._steps = steps
        self._outputs = [info.name for info in graph.outputs]
        self._constants = {
            name: graph.constants[name]
            for name in {name for step in steps for name in _constant_names(step)} | set(self._outputs)
            if name in graph.constants
        }
        self._dead = _last_uses(steps, set(self._outputs))
        self.output_spaces = _output_spaces(graph, steps)
        self.coupled = any(isinstance(step, _Segment) and step.segment.couples for step in steps)

    def run(
        self, feeds: dict[str, np.ndarray], threads: int, lengths: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Run on named input arrays with the Numba threads that the calling thread has been given.

        Parameters
        ----------
        feeds : dict
            One array per graph input.
        threads : int
            Upper bound of Numba worker threads; ``numba.set_num_threads`` is the caller's business.
        lengths : int64 array, optional
            Tokens of each sequence, at least 1. Then inputs are of shape (all tokens,), the sequences end to end, and
            so are the leading dimensions of outputs of tokens.

        Returns
        -------
        dict
            Output name to array, in graph order.
        """
        values: dict[str, np.ndarray] = {**self._constants, **feeds}
        for step, dead in zip(self._steps, self._dead, strict=True):
            step.run(values, threads, lengths)
            for name in dead:
                values.pop(name, None)
        return {name: values[name] for name in self._outputs}


def _output_spaces(graph: Graph, steps: Sequence[_ArrayStep | _Segment]) -> dict[str, str] | None:
    """Whether outputs have values of tokens or of sequences, if every step can run on tokens end to end; else None.

    Of the nodes that run on arrays masks can, and with sequences as rows those that never look ahead; another may move
    values between tokens. Once a segment has selected a token of every sequence, tokens are out of sight and whatever
    follows does as in a batch.
    """
    spaces = {info.name: "token" for info in graph.inputs if len(info.shape) == 2}
    for step in steps:
        if isinstance(step, _ArrayStep):
            names = [name for name in step.inputs if name and name not in graph.constants]
        else:
            names = [*step.segment.ids, *step.segment.arrays, *(name for name in step.segment.masks if name)]
        found = {spaces.get(name) for name in names}
        if len(found) != 1 or None in found:
            return None
        (space,) = found
        if isinstance(step, _ArrayStep):
            op = step.node.fused
            if space == "token" and not (op is not None and op.on_arrays):
                if not _looks_back(step.node, graph):
                    return None
                step.rows_of = frozenset(names)
            spaces |= dict.fromkeys(step.node.outputs, space)
        elif step.segment.couples or (step.sequences and space != "token"):
            return None
        else:
            spaces |= {output.name: "sequence" if output.shape == "items" else space for output in step.segment.outputs}
    names = [info.name for info in graph.outputs]
    return {name: spaces[name] for name in names} if all(name in spaces for name in names) else None


def _looks_back(node: Node, graph: Graph) -> bool:
    """Whether a node gives every token a value that follows from this token and those before it, in rows of any length.

    Such nodes compute the positions of RoBERTa and its kin, which count the tokens that are not padding.
    """
    constants = [graph.constants[name] for name in node.inputs if name in graph.constants]
    if node.domain or any(array.size != 1 for array in constants):
        return False
    if node.op == "CumSum":
        axes = [int(array.reshape(())) for array in constants]
        return axes in ([1], [-1]) and not node.attributes.get("reverse", 0)
    return node.op in _ELEMENTWISE


def _constant_names(step: _ArrayStep | _Segment) -> list[str]:
    return step.inputs if isinstance(step, _ArrayStep) else [*step.segment.ids, *step.segment.masks]


def _last_uses(steps: Sequence[_ArrayStep | _Segment], outputs: set[str]) -> list[list[str]]:
    """For every step, the values that nobody reads after it."""
    seen: set[str] = set(outputs)
    dead: list[list[str]] = []
    for step in reversed(steps):
        names = set(_constant_names(step))
        if isinstance(step, _Segment):
            names |= set(step.segment.arrays) | {output.name for output in step.segment.outputs}
        else:
            names |= set(step.node.outputs)
        dead.append([name for name in names if name and name not in seen])
        seen |= names
    return dead[::-1]
