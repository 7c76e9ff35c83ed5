"""The order in which nodes can run: every value has one producer, and no node waits for itself."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from sparsert.errors import ModelFormatError
from sparsert.graph.ir import Node


def sort_nodes(
    nodes: Sequence[Node], reads: Sequence[Sequence[str]], outside: set[str], path: str, *, open_scope: bool = False
) -> tuple[list[int], list[str]]:
    """Sort nodes topologically, keeping the given order wherever it is sound.

    Parameters
    ----------
    nodes : sequence of Node
    reads : sequence of sequences of str
        Values that each node reads, with those that its subgraphs read; ``""`` is an absent input. Entries beyond the
        number of nodes are readers that are no node, such as the outputs of a subgraph.
    outside : set of str
        Values that exist before any node runs: inputs and constants.
    path : str
        Name of the file in error messages.
    open_scope : bool
        Whether a value that nothing here produces may come from an enclosing graph.

    Returns
    -------
    order : list of int
        Positions in ``nodes``, each after those that it depends on.
    free : list of str
        Values that must come from the enclosing graph; empty unless ``open_scope``.

    Raises
    ------
    ModelFormatError
        If a value has two producers or none, or nodes form a cycle.
    """
    producer: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in filter(None, node.outputs):
            if name in outside:
                raise _error(path, node, f"expected a new value as output, {name!r} is an input or initializer already")
            if name in producer:
                other = nodes[producer[name]].name
                raise _error(
                    path, node, f"expected a new value as output, {name!r} is written by node {other!r} already"
                )
            producer[name] = index
    free: dict[str, None] = {}
    waits: list[set[int]] = []
    for index, names in enumerate(reads):
        missing = [name for name in names if name and name not in producer and name not in outside]
        if missing and not open_scope:
            detail = f"expected a node, input or initializer that gives its input {missing[0]!r}, came none"
            raise _error(path, nodes[index], detail)
        free.update(dict.fromkeys(missing))
        if index < len(nodes):
            waits.append({producer[name] for name in names if name in producer})
    return _kahn(nodes, waits, path), list(free)


def _kahn(nodes: Sequence[Node], waits: list[set[int]], path: str) -> list[int]:
    readers: list[list[int]] = [[] for _ in nodes]
    for index, producers in enumerate(waits):
        for other in producers:
            readers[other].append(index)
    pending = [len(producers) for producers in waits]
    ready = [index for index, count in enumerate(pending) if count == 0]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            pending[reader] -= 1
            if pending[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = next(index for index, count in enumerate(pending) if count)
        raise _error(
            path, nodes[stuck], f"expected an acyclic graph, came the cycle {_cycle(nodes, waits, pending, stuck)}"
        )
    return order


def _cycle(nodes: Sequence[Node], waits: list[set[int]], pending: list[int], start: int) -> str:
    """Name the nodes of one cycle, found by walking back from a node that never became ready."""
    walk = [start]
    while True:
        before = next(other for other in sorted(waits[walk[-1]]) if pending[other])
        if before in walk:
            names = [nodes[index].name for index in [*walk[walk.index(before) :], before]]
            shown = names if len(names) <= 8 else [*names[:8], "…"]
            return " <- ".join(shown)
        walk.append(before)


def _error(path: str, node: Node, detail: str) -> ModelFormatError:
    return ModelFormatError(f"{path}: node {node.name!r} ({node.op}): {detail}")
