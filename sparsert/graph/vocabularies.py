"""How many rows the tables have that a graph's inputs index: the range of token ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sparsert.graph.ir import Graph, Node

__all__ = ["vocabularies"]

# Ops whose output holds exactly the values of their first input, reordered or converted.
_KEEP_VALUES = frozenset({"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
# Ops that keep the number of rows of a constant table.
_KEEP_ROWS = frozenset({"Cast", "DequantizeLinear", "Identity", "QuantizeLinear"})


def _origin(name: str, producers: Mapping[str, Node], through: Iterable[str]) -> str:
    """Follow ``name`` upwards through first inputs of the ops in ``through``."""
    while name in producers and producers[name].op in through and producers[name].inputs:
        name = producers[name].inputs[0]
    return name


def vocabularies(graph: Graph) -> dict[str, int]:
    """Map each graph input that indexes the rows of a constant table, such as token ids, to the number of rows."""
    producers = graph.producers()
    inputs = {info.name for info in graph.inputs}
    rows: dict[str, int] = {}
    for node in graph.nodes:
        if node.op != "Gather" or node.domain or len(node.inputs) != 2 or node.attributes.get("axis", 0) != 0:
            continue
        table = graph.constants.get(_origin(node.inputs[0], producers, _KEEP_ROWS))
        index = _origin(node.inputs[1], producers, _KEEP_VALUES)
        if table is not None and table.ndim and index in inputs:
            rows[index] = min(rows.get(index, table.shape[0]), table.shape[0])
    return rows
