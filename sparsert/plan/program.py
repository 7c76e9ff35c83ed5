"""Program: a compiled graph. Native segments and single array nodes, executed in order on named arrays."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from sparsert.arrays.compiled import gelu, gelu_tanh
from sparsert.arrays.runner import make_array_runner
from sparsert.errors import SparsertError
from sparsert.graph.evaluate import failure
from sparsert.graph.ir import Graph, Node
from sparsert.graph.reads import implicit_inputs
from sparsert.kernels.jit import TIER
from sparsert.ops import Gelu, run_fused
from sparsert.plan.lower import lower
from sparsert.plan.partition import channels_of, partition
from sparsert.plan.parts import ArrayPart, SegmentPart
from sparsert.plan.remembered import Remembered, shape_parts
from sparsert.plan.report import StepReport
from sparsert.plan.segment import Segment

__all__ = ["Program", "compile_graph"]

_ELEMENTWISE = frozenset({"Add", "Cast", "Equal", "Mul", "Not", "Sub"})


def compile_graph(graph: Graph) -> Program:
    """Lower a fused graph to a :class:`Program`: choose formats, pack weights, find the fallbacks.

    Raises
    ------
    UnsupportedOpError
        A node that neither a kernel nor a fallback can run.
    """
    channels = channels_of(graph)
    parts: list[ArrayPart | SegmentPart] = []
    reports: list[StepReport] = []
    for found in partition(graph, channels):
        if found.native:
            segment = lower(graph, found.nodes, channels, found.needed)
            parts.append(SegmentPart(segment))
            reports += [_native_report(node, segment) for node in found.nodes]
        else:
            part, report = _array_part(found.nodes[0], graph)
            parts.append(part)
            reports.append(report)
    for index, report in enumerate(reports):
        report.index = index
    return Program(graph, parts, reports)


def _array_part(node: Node, graph: Graph) -> tuple[ArrayPart, StepReport]:
    """What runs a node on arrays, and what the report says of it."""
    report = StepReport(0, node.op, node.name, "numpy", fallback=True, sources=list(node.sources))
    if node.fused is not None:
        report.fallback = not (node.fused.on_arrays or node.fused.on_rows)
        report.note = "no native kernel for this form; runs in NumPy" if report.fallback else ""
        return ArrayPart(node, list(node.inputs), lambda arrays: _run_fused(node, arrays)), report
    runner, own = make_array_runner(node, graph.opsets)
    report.note = "not fused; runs on arrays"
    if not own:
        report.kernel, report.note = "onnx.reference", "runs by the reference operator: correct and slow"
    return ArrayPart(node, [*node.inputs, *implicit_inputs(node)], runner), report


_GELUS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"none": gelu, "tanh": gelu_tanh}


def _run_fused(node: Node, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    try:
        if isinstance(node.fused, Gelu) and arrays[0] is not None:  # as exact as float32 is, in a tenth of the time
            return [_GELUS[node.fused.approximate](arrays[0])]
        return run_fused(node.fused, arrays)
    except (SparsertError, MemoryError):
        raise
    except Exception as error:  # whatever NumPy raises on arrays that do not fit
        raise failure(node, dict(zip(node.inputs, arrays, strict=True)), error) from error


def _native_report(node: Node, segment: Segment) -> StepReport:
    details = node.fused.details(segment.packed.get(node.outputs[0]), TIER.name)
    return StepReport(0, node.op, node.name, sources=list(node.sources), **details)


class Program:
    """A compiled graph. Any number of threads may call :meth:`run`; the weights exist once.

    Attributes
    ----------
    reports : list of StepReport
        What runs, in order, for :meth:`sparsert.Engine.report`.
    parts : list of ArrayPart or SegmentPart
    output_spaces : dict or None
        Of each output, whether it has a value per "token" or per "sequence"; None where :meth:`run` takes no lengths.
    coupled : bool
        Whether a sequence's result depends on the others of its batch in :meth:`run` (dynamic quantization).
    """

    def __init__(self, graph: Graph, parts: list[ArrayPart | SegmentPart], reports: list[StepReport]) -> None:
        self.reports = reports
        self.parts = parts
        self._outputs = [info.name for info in graph.outputs]
        wanted = {name for part in parts for name in part.inputs} | set(self._outputs)
        self._constants = {name: graph.constants[name] for name in wanted if name in graph.constants}
        self._inputs = [info.name for info in graph.inputs]
        self.output_spaces = _output_spaces(graph, parts)
        self.coupled = any(part.couples for part in parts)
        outputs = set(self._outputs)
        for part, dead in zip(parts, _last_uses(parts, outputs), strict=True):
            part.dead = dead
        shaped = {id(part) for part in shape_parts(graph, parts)}
        others = [part for part in parts if id(part) not in shaped]
        self._all = [(part, part.dead) for part in parts]
        self._others = list(zip(others, _last_uses(others, outputs), strict=True))
        read = {name for part in others for name in part.inputs} | outputs
        self._shaped = {name for part in parts if id(part) in shaped for name in part.outputs if name in read}
        self._remembered = Remembered()
        self._shared = {id(array) for array in self._constants.values()}
        self._costs: dict[int, float] = {}
        """Seconds of the parts of the last run, by their ids."""

    def start(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The values that the first part finds: constants, and one array per graph input."""
        return {**self._constants, **feeds}

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
            so are the leading dimensions of outputs of tokens; and each sequence is quantized dynamically by itself.

        Returns
        -------
        dict
            Output name to array, in graph order.
        """
        values = self.start(feeds)
        shapes = tuple(values[name].shape for name in self._inputs) if self._shaped and lengths is None else None
        known = self._remembered.find(shapes) if shapes else None
        found: dict[str, np.ndarray] = {}
        costs: dict[int, float] = {}
        values.update(known or {})
        last = time.perf_counter()
        with np.errstate(all="ignore"):  # infinities and NaN go their way
            for part, dead in self._all if known is None else self._others:
                part.execute(values, threads, lengths)
                if shapes and known is None:
                    found.update((name, values[name]) for name in part.outputs if name in self._shaped)
                for name in dead:
                    values.pop(name, None)
                now = time.perf_counter()
                costs[id(part)], last = now - last, now
        if shapes and known is None:
            self._remembered.keep(shapes, found)
        self._costs = costs
        return {name: self._own(name, values[name]) for name in self._outputs}

    def known(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray] | None:
        """Values that follow from the shapes of the inputs, if a run on such shapes has been."""
        return self._remembered.find(tuple(feeds[name].shape for name in self._inputs)) if self._shaped else None

    def follows_from_shapes(self, part: ArrayPart | SegmentPart) -> bool:
        """Whether a part's results are among :meth:`known`, or nobody else wants them."""
        return all(part is not other for other, _ in self._others)

    def costs(self) -> list[tuple[float, float] | None]:
        """Of every report, the seconds of its node in the last run and their share of it; None in a segment."""
        costs, total = self._costs, sum(self._costs.values())
        found: list[tuple[float, float] | None] = []
        for part in self.parts:
            if isinstance(part, SegmentPart):
                found += [None] * part.segment.node_count
            else:
                seconds = costs.get(id(part), 0.0)
                found.append((seconds, seconds / total) if total else None)
        return found

    def _own(self, name: str, array: np.ndarray) -> np.ndarray:
        """An output as an array of its own, if others keep it, and with its numbers in a row."""
        if name in self._shaped or id(array) in self._shared:
            return array.copy()
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def _output_spaces(graph: Graph, parts: Sequence[ArrayPart | SegmentPart]) -> dict[str, str] | None:
    """Whether outputs have values of tokens or of sequences, if every part can run on tokens end to end; else None.

    Of the nodes that run on arrays masks can, and with sequences as rows those that never look ahead; another may move
    values between tokens. Once a segment has selected a token of every sequence, tokens are out of sight and whatever
    follows does as in a batch, unless it takes one range for all of it.
    """
    spaces = {info.name: "token" for info in graph.inputs if len(info.shape) == 2}
    for part in parts:
        names = [name for name in part.inputs if name and name not in graph.constants]
        found = {spaces.get(name) for name in names}
        space = found.pop() if len(found) == 1 else None
        if space is None:
            return None
        if isinstance(part, ArrayPart):
            op = part.node.fused
            if part.couples:
                return None
            if space == "token" and not (op is not None and op.on_arrays):
                if not (op.on_rows if op is not None else _looks_back(part.node, graph)):
                    return None
                part.rows_of = frozenset(names)
            spaces |= dict.fromkeys(part.node.outputs, space)
        elif part.sequences and space != "token":
            return None
        else:
            part.selected = space == "sequence"
            spaces |= {output.name: "sequence" if output.shape == "items" else space for output in part.segment.outputs}
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


def _last_uses(parts: Sequence[ArrayPart | SegmentPart], outputs: set[str]) -> list[list[str]]:
    """Of every part, the values that nobody reads after it."""
    seen: set[str] = set(outputs)
    dead = []
    for part in reversed(parts):
        names = {name for name in (*part.inputs, *part.outputs) if name}
        dead.append(sorted(names - seen))
        seen |= names
    return dead[::-1]
