"""Lowering: a run of fused nodes becomes steps of the native run loop."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from sparsert import cpu
from sparsert.graph.ir import Graph, Node
from sparsert.graph.mapped import let_go
from sparsert.kernels.stages import STAGES
from sparsert.ops import Linear
from sparsert.ops.steps import Buffer, PackedLinear, Stage, Step, padded
from sparsert.plan.segment import Output, Segment
from sparsert.plan.store import load_or_pack

__all__ = ["lower"]

_SMALL = 1 << 12
"""Bytes of an array that are compared number by number."""


def lower(
    graph: Graph, nodes: Sequence[Node], channels: dict[str, int], needed: set[str], wanted: str | None = None
) -> Segment:
    """Lower the nodes of one segment.

    Parameters
    ----------
    graph : Graph
    nodes : list of Node
        Fused nodes in topological order.
    channels : dict
        Last dimension of every known value.
    needed : set of str
        Values of the segment that somebody outside reads.
    wanted : str, optional
        A format for all weights; by default each gets the one that the cost model finds cheapest.
    """
    lowering = Lowering(graph.constants, nodes, channels, needed, wanted)
    produced = {name for node in nodes for name in node.outputs}
    for node in nodes:
        for name in node.fused.tile_inputs(node):
            if name not in produced and name not in lowering.constants:
                lowering.scatter(name)
    numbers = {id(node): number for number, node in enumerate(nodes)}
    covered: list[tuple[int, ...]] = [()] * len(lowering.steps)
    for node in nodes:
        if not lowering.absorbed(node):
            before = set(lowering.done)
            lowering.absorb(node)
            node.fused.lower(lowering, node)
            stands_for = tuple(sorted(numbers[done] for done in lowering.done - before))
            covered += [stands_for] * (len(lowering.steps) - len(covered))
    return Segment(
        steps=tuple(lowering.steps),
        outputs=tuple(lowering.outputs),
        ids=tuple(lowering.ids),
        arrays=tuple(lowering.arrays),
        masks=tuple(lowering.masks),
        score_arrays=tuple(lowering.score_arrays),
        channels={name: channels[name] for name in lowering.arrays},
        packed=lowering.weights,
        covered=tuple(covered),
        node_count=len(nodes),
        couples=any(node.fused.couples for node in nodes),
    )


class Lowering:
    """The :class:`sparsert.ops.base.Builder` of one segment."""

    def __init__(
        self,
        constants: dict[str, np.ndarray],
        nodes: Sequence[Node],
        channels: dict[str, int],
        needed: set[str],
        wanted: str | None,
    ) -> None:
        self.constants, self.channels = constants, channels
        self.steps: list[Step] = []
        self.outputs: list[Output] = []
        self.ids: list[str] = []
        self.arrays: list[str] = []
        self.masks: list[str] = []
        self.score_arrays: list[str] = []
        self.done: set[int] = set()
        """Nodes that steps stand for, by their ``id``."""
        self.weights = _pack(nodes, wanted)
        self._needed = needed
        self._buffers: dict[tuple[str, str], Buffer] = {}
        self._readers: dict[str, list[Node]] = {}
        for node in nodes:
            for name in dict.fromkeys(node.inputs):
                self._readers.setdefault(name, []).append(node)

    # -- what there is

    def readers(self, value: str) -> list[Node]:
        return self._readers.get(value, [])

    def needed(self, value: str) -> bool:
        return value in self._needed

    def buffer(self, value: str, form: str = "floats") -> Buffer:
        return self._buffers[value, form]

    def new_buffer(self, value: str, form: str, rows: int) -> Buffer:
        return self._buffers.setdefault((value, form), Buffer(value, form, rows))

    def has(self, value: str, form: str = "floats") -> bool:
        return (value, form) in self._buffers

    def packed(self, node: Node) -> PackedLinear:
        return self.weights[node.outputs[0]]

    def absorb(self, node: Node) -> None:
        self.done.add(id(node))

    def absorbed(self, node: Node) -> bool:
        """Whether a step stands for a node already."""
        return id(node) in self.done

    def vector_stage(self, name: str) -> Stage:
        vector = self.constants[name].reshape(-1)
        return Stage("bias", vector=padded(vector, len(vector)))

    # -- inputs and outputs

    def add_ids(self, names: Sequence[str]) -> None:
        self.ids += [name for name in names if name not in self.ids]

    def add_mask(self, name: str) -> None:
        if name not in self.masks:
            self.masks.append(name)

    def add_score_array(self, name: str) -> None:
        if name not in self.score_arrays:
            self.score_arrays.append(name)

    def scatter(self, name: str) -> None:
        """Bring an array into tiles, unless it is there."""
        if name in self.arrays:
            return
        self.arrays.append(name)
        floats = self.new_buffer(name, "floats", self.channels[name])
        self.add(Step("scatter", writes=[floats], rows=floats.rows, constants={"array": name}))
        self._sink_other_forms(name)

    def output(self, name: str, shape: str, columns: int, step: Step) -> None:
        self.outputs.append(Output(name, shape, columns, step))

    # -- steps

    def add(self, step: Step) -> None:
        if isinstance(step.parameters, Buffer):
            step.reads.append(step.parameters)
        for stage in step.stages:
            if isinstance(stage.parameters, Buffer):
                step.reads.append(stage.parameters)
            if stage.source is not None:
                step.reads.append(stage.source)
            if stage.destination is not None:
                step.writes.append(stage.destination)
        self.steps.append(step)

    def derive(self, value: str) -> None:
        self._sink_other_forms(value)
        self._export(value)

    def produce(self, step: Step, value: str) -> None:
        value = self._absorb_readers(step, value)
        sinks = self._sinks(value)
        step.stages += sinks
        if not sinks:
            return  # nobody reads it
        if len(sinks) == 1:
            step.stages = _fuse_stages(step.stages)
        self.add(step)
        self._export(value)

    def _absorb_readers(self, step: Step, value: str) -> str:
        """Append stages for the chain of sole readers; returns the value at its end."""
        while not self.needed(value) and len(self.readers(value)) == 1:
            (node,) = self.readers(value)
            found = node.fused.stage(self, node, value)
            if found is None:
                break
            stage, value = found
            step.stages.append(stage)
            self.absorb(node)
        return value

    def _sinks(self, value: str) -> list[Stage]:
        """One sink for every form in which somebody wants ``value``, and that is not there."""
        rows, wanted = self.channels[value], []
        for node in self.readers(value):
            wanted += node.fused.operands(self, node, value)
        # floats last, as the stages are fused with bytes first
        forms = {(operand.name, operand.form): operand.parameters for operand in wanted if operand.form != "floats"}
        if self.needed(value) or any(operand.form == "floats" for operand in wanted):
            forms[value, "floats"] = None
        return [
            Stage(form, parameters=parameters, destination=self.new_buffer(name, form, rows))
            for (name, form), parameters in forms.items()
            if not self.has(name, form)
        ]

    def _sink_other_forms(self, value: str) -> None:
        """Quantized forms of a value that exists as floats only."""
        sinks = [sink for sink in self._sinks(value) if sink.name != "floats"]
        if sinks:
            floats = self.buffer(value)
            self.add(Step("rows", [floats], stages=sinks, source="load", rows=floats.rows))

    def _export(self, value: str) -> None:
        if self.needed(value):
            floats = self.buffer(value)
            step = Step("gather", [floats], rows=floats.rows, constants={"row": 0, "width": floats.rows, "column": 0})
            self.add(step)
            self.output(value, "tokens", floats.rows, step)


def _pack(nodes: Sequence[Node], wanted: str | None) -> dict[str, PackedLinear]:
    """Pack all weights, on the cores that the environment grants: the packers release the GIL most of the time.

    Layers that share a matrix, as those of ALBERT do, share its packed form.
    """
    linears = {node.outputs[0]: _identity(node.fused) for node in nodes if isinstance(node.fused, Linear)}
    different = {linears[node.outputs[0]]: node for node in nodes if node.outputs[0] in linears}
    with ThreadPoolExecutor(cpu.default_cores()) as pool:
        packed = dict(zip(different, pool.map(lambda node: _pack_one(node, wanted), different.values()), strict=True))
    return {name: packed[identity] for name, identity in linears.items()}


def _identity(value: Any) -> Any:
    """Something hashable, equal for the same numbers; large arrays are the same if they lie at the same place."""
    if isinstance(value, np.ndarray):
        place = value.tobytes() if value.nbytes <= _SMALL else (value.ctypes.data, value.strides)
        return value.dtype.str, value.shape, place
    if is_dataclass(value):
        return tuple(_identity(getattr(value, field.name)) for field in fields(value))
    return value


def _pack_one(node: Node, wanted: str | None) -> PackedLinear:
    """Pack a Linear, and give back the pages that its weights take in the mapped file."""
    packed = load_or_pack(node.fused, wanted)
    let_go(node.fused.weight)
    return packed


def _fuse_stages(stages: list[Stage]) -> list[Stage]:
    """Replace the longest fusable suffix of stages by the fused stage, which keeps values in registers."""
    for first in range(len(stages)):
        suffix = stages[first:]
        name = "+".join(stage.name for stage in suffix)
        if len(suffix) > 1 and name in STAGES:
            merged = Stage(name)
            for stage in suffix:
                merged.epilogue = merged.epilogue or stage.epilogue
                merged.vector = stage.vector if merged.vector is None else merged.vector
                merged.parameters = stage.parameters if merged.parameters is None else merged.parameters
                merged.source = merged.source or stage.source
                merged.destination = merged.destination or stage.destination
            return [*stages[:first], merged]
    return stages
