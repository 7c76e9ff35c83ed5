"""Partition: which nodes run natively together, and which run one by one on arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sparsert.graph.ir import Graph, Node
from sparsert.graph.mapped import detach
from sparsert.graph.reads import reads
from sparsert.ops import FusedOp

__all__ = ["PartNodes", "channels_of", "partition"]


@dataclass
class PartNodes:
    """Nodes of one native segment, or one node that runs on arrays; and their values that somebody else reads."""

    nodes: list[Node]
    native: bool
    needed: set[str]


def channels_of(graph: Graph) -> dict[str, int]:
    """Last dimension of every value whose last dimension follows from the graph alone."""
    channels = {info.name: info.shape[-1] for info in graph.inputs if info.shape and isinstance(info.shape[-1], int)}
    channels |= {name: array.shape[-1] for name, array in graph.constants.items() if array.ndim}
    known: dict[str, int] = {name: int(size) for name, size in channels.items()}
    for node in graph.nodes:
        op: FusedOp | None = node.fused
        if op is None:
            continue
        if op.in_channels is not None:
            known.setdefault(node.inputs[0], op.in_channels)
        size = op.out_channels([known.get(name) for name in node.inputs])
        if size is not None:
            known[node.outputs[0]] = size
    return known


def _floating(graph: Graph, name: str) -> bool:
    for info in graph.inputs:
        if info.name == name:
            return np.dtype(info.dtype) == np.float32 and len(info.shape) >= 1
    return name not in graph.constants


class _Partitioner:
    def __init__(self, graph: Graph, channels: dict[str, int]) -> None:
        self.graph = graph
        self.channels = channels
        self.spaces: dict[str, object] = {}
        """Of every array that exists: a token marking which leading dimensions it has."""
        for info in graph.inputs:
            known = all(dim is not None for dim in info.shape)
            lead = info.shape if np.dtype(info.dtype) != np.float32 else info.shape[:-1]
            self.spaces[info.name] = tuple(lead) if known else object()

    def native(self, node: Node) -> bool:
        """Whether the run loop can take a node, as far as its own form and its inputs tell."""
        op: FusedOp | None = node.fused
        if op is None or not op.fits([self.channels.get(name) for name in node.inputs]):
            return False
        constants = self.graph.constants
        if not op.takes([constants.get(name) for name in op.lead_inputs(node)]):
            return False
        return all(_floating(self.graph, name) for name in op.tile_inputs(node) if name not in constants)

    def grow(self, ready: list[Node], have: set[str]) -> list[Node]:
        """The longest list of native nodes that can start now, all over the same leading dimensions."""
        inside: set[str] = set()
        closed: set[str] = set()
        segment: list[Node] = []
        space: object = None
        quantized: set[str] = set()
        for node in ready:
            if not self.native(node):
                continue
            op: FusedOp = node.fused
            names = [name for name in reads(node) if name not in self.graph.constants]
            outside = [name for name in names if name not in inside]
            if any(name in closed for name in names) or any(name not in have for name in outside):
                continue
            if op.takes_bytes and node.inputs[0] not in quantized:
                continue
            spaces = {self.spaces[name] for name in op.lead_inputs(node) if name in outside}
            if len(spaces) > 1 and space is None and op.broadcasts:
                spaces = {object()}  # a run checks that they do
            if len(spaces) > 1 or (spaces and space is not None and next(iter(spaces)) != space):
                continue
            if spaces:
                space = next(iter(spaces))
            segment.append(node)
            if op.quantizes:
                quantized.add(node.outputs[0])
            (closed if op.selects else inside).update(node.outputs)
        return segment

    def kept_space(self, node: Node) -> object:
        """Where the result of an array node lies: beside its first input, if the op keeps leading dimensions.

        Those of a float input are all but its last one, those of ids and masks, which few ops take, all of them.
        """
        values = [name for name in node.inputs if name not in self.graph.constants]
        op: FusedOp | None = node.fused
        if op is not None and op.keeps_lead and values and (op.on_arrays or _floating(self.graph, values[0])):
            return self.spaces[values[0]]
        return object()


def _trim(segment: list[Node], readers: dict[str, set[int]], outputs: set[str]) -> list[Node]:
    """Drop quantizations whose bytes somebody outside reads, and all that depends on them."""
    while True:
        members = {id(node) for node in segment}
        dropped: set[str] = set()
        for node in segment:
            if node.fused.quantizes:
                outside = any(name in outputs or readers.get(name, set()) - members for name in node.outputs)
                if outside:
                    dropped.update(node.outputs)
        if not dropped:
            return segment
        kept = []
        for node in segment:
            if dropped.intersection(node.inputs) or dropped.intersection(node.outputs):
                dropped.update(node.outputs)
            else:
                kept.append(node)
        segment = kept


def partition(graph: Graph, channels: dict[str, int]) -> list[PartNodes]:
    """Order all nodes as native segments and single array nodes, as few segments as readiness allows."""
    work = _Partitioner(graph, channels)
    have = {info.name for info in graph.inputs} | set(graph.constants)
    pending = list(graph.nodes)
    outputs = {info.name for info in graph.outputs}
    readers: dict[str, set[int]] = {}
    for node in graph.nodes:
        for name in reads(node):
            readers.setdefault(name, set()).add(id(node))
    found: list[PartNodes] = []

    def emit(nodes: list[Node], native: bool) -> None:
        members = {id(node) for node in nodes}
        produced = {name for node in nodes for name in node.outputs}
        needed = {name for name in produced if name in outputs or readers.get(name, set()) - members}
        found.append(PartNodes(nodes if native else [detach(node) for node in nodes], native, needed))
        pending[:] = [node for node in pending if id(node) not in members]
        # what a segment selects in one way has the same leading dimensions
        spaces: dict[object, object] = {}
        for node in nodes:
            selection = type(node.fused) if node.fused is not None and node.fused.selects else None
            for name in node.outputs:
                have.add(name)
                work.spaces[name] = spaces.setdefault(selection, object()) if native else work.kept_space(node)

    while pending:
        arrays = [node for node in pending if not work.native(node) and all(name in have for name in reads(node))]
        if arrays:
            for node in arrays:
                emit([node], False)
            continue
        segment = _trim(work.grow(pending, have), readers, outputs)
        if segment:
            emit(segment, True)
        else:  # a native node that only arrays can serve, such as one that reads quantized inputs
            emit([next(node for node in pending if all(name in have for name in reads(node)))], False)
    return found
