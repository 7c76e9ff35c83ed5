"""Which outputs a graph has: some of them only, or values between its nodes, and without what nobody needs for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sparsert.errors import InputError, InputTypeError
from sparsert.graph.ir import Dim, Graph, Node, TensorInfo
from sparsert.graph.reads import reads
from sparsert.graph.shapes import Facts

__all__ = ["First", "Wanted", "check_wanted", "choose_outputs"]


@dataclass(frozen=True)
class First:
    """The first token of every sequence of a value of shape (batch, tokens, ...): an output of shape (batch, ...)."""

    name: str


Wanted = str | First


def check_wanted(outputs: Sequence[Wanted]) -> tuple[Wanted, ...]:
    """Return ``outputs`` as a tuple of different names, at least one, or raise an InputError."""
    if isinstance(outputs, (str, First)) or not isinstance(outputs, Sequence):
        raise InputTypeError(f"outputs must be a list of names of outputs, given {outputs!r}")
    for item in outputs:
        if not isinstance(item, (str, First)):
            raise InputTypeError(f"outputs must hold names of outputs, given {item!r} ({type(item)})")
    if not outputs or len(set(outputs)) < len(outputs):
        raise InputError(f"outputs must hold different names, at least one, given {list(outputs)}; None takes all")
    return tuple(outputs)


def choose_outputs(graph: Graph, outputs: Sequence[Wanted]) -> Graph:
    """Cut a loaded graph down to some outputs.

    Parameters
    ----------
    graph : Graph
        A graph of ONNX nodes; it is not changed.
    outputs : sequence of str or First
        Outputs of the graph or values that its nodes compute, in the order in which the result shall have them.

    Returns
    -------
    Graph
        With all inputs, and only the nodes that these outputs need.

    Raises
    ------
    InputError
        There is no such value, or it has no tokens to take the first of.
    """
    there = {info.name: info for info in graph.outputs}
    names = list(there)
    computed = {name for node in graph.nodes for name in node.outputs if name}
    found: list[TensorInfo] = []
    extra: list[Node] = []
    constants = dict(graph.constants)
    facts: Facts | None = None
    for item in outputs:
        name = item.name if isinstance(item, First) else item
        if name not in there and name not in computed:
            raise InputError(
                f"{graph.path or graph.name}: outputs: there is no {name!r}; expected some of {names}, or the "
                "name of a value between the nodes"
            )
        if name not in there or not there[name].shape:  # a file may leave the shape of an output open
            facts = facts or _facts(graph)
            there[name] = _described(name, facts, graph)
        if isinstance(item, First):
            info, node, index = _first(there[name], {*computed, *constants})
            computed.update(node.outputs)
            constants[node.inputs[1]] = index
            extra.append(node)
            found.append(info)
        else:
            found.append(there[name])
    nodes = _needed([*graph.nodes, *extra], {info.name for info in found})
    cut = len(graph.nodes) + len(extra) - len(nodes)
    return replace(
        graph, outputs=found, nodes=nodes, constants=constants, source_node_count=graph.source_node_count - cut
    )


def _first(info: TensorInfo, taken: set[str]) -> tuple[TensorInfo, Node, np.ndarray]:
    """The output that has the first tokens of another, the node that gathers them, and its index."""
    if len(info.shape) < 2:
        raise InputError(
            f"output {info.name!r} has shape {info.shape}, expected (batch, tokens, ...): no first token to take"
        )
    name = f"{info.name}[:, 0]"
    while name in taken:
        name += "'"
    node = Node("Gather", [info.name, f"{name}.index"], [name], {"axis": 1}, name, sources=[name])
    return TensorInfo(name, info.dtype, (info.shape[0], *info.shape[2:])), node, np.zeros((), np.int64)


def _facts(graph: Graph) -> Facts:
    facts = Facts(graph)
    for node in graph.nodes:
        facts.visit(node)
    return facts


def _described(name: str, facts: Facts, graph: Graph) -> TensorInfo:
    """Type and shape of a value between nodes, as far as they follow from the graph; dimensions named as in inputs."""
    dims: dict[object, Dim] = {}
    for info in graph.inputs:
        dims.update(zip(facts.need(info.name), info.shape, strict=True))
    shape = [dim if isinstance(dim, int) else dims.get(dim) for dim in facts.shape(name) or ()]
    return TensorInfo(name, facts.dtype(name) or np.dtype(np.float32), tuple(shape))


def _needed(nodes: Sequence[Node], values: set[str]) -> list[Node]:
    """The nodes that some values depend on; ``nodes`` are in topological order."""
    wanted, kept = set(values), []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            wanted.update(reads(node))
            kept.append(node)
    return kept[::-1]
