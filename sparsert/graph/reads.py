"""Which values a node reads: its inputs, and what its subgraphs take from the graph around them."""

from __future__ import annotations

import onnx

from sparsert.graph.ir import Node

__all__ = ["captured", "implicit_inputs", "reads"]


def reads(node: Node) -> list[str]:
    """Values that ``node`` reads, each once, those that its subgraphs take from outside included."""
    return list(dict.fromkeys([*filter(None, node.inputs), *implicit_inputs(node)]))


def implicit_inputs(node: Node) -> list[str]:
    """Values that the subgraphs of ``node`` (If, Loop, Scan) read from the graph around them, in order of first use."""
    return [name for name in captured(node) if name not in node.inputs]


def captured(node: Node) -> list[str]:
    """The same, with those that are inputs of the node as well."""
    names: dict[str, None] = {}
    for value in node.attributes.values():
        for graph in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(graph, onnx.GraphProto):
                names.update(dict.fromkeys(_free_values(graph)))
    return list(names)


def _free_values(graph: onnx.GraphProto) -> list[str]:
    bound = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    bound |= {tensor.values.name for tensor in graph.sparse_initializer}
    free: list[str] = []
    for node in graph.node:
        free.extend(name for name in node.input if name and name not in bound)
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
                free.extend(name for name in _free_values(inner) if name not in bound)
        bound.update(node.output)
    free.extend(output.name for output in graph.output if output.name not in bound)
    return free
