"""ONNX Runtime's own ops, written out in standard ones: what its optimizers, quantizers and Olive put into files.

One function an op, named as the op (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md). It
says with a decorator which inputs, outputs and attributes the op has, since no schema of the onnx package knows it, and
writes the nodes that compute the same; fusion takes them from there.
"""

from __future__ import annotations

from typing import Any

from sparsert.graph.contrib import activation, attention, embed, matmul, normalization, quantized
from sparsert.graph.contrib.expansion import OPS, Expansion
from sparsert.graph.ir import Graph, Node
from sparsert.graph.shapes import Facts

__all__ = ["expand"]

MODULES = (activation, attention, embed, matmul, normalization, quantized)
"""Files with ops, which register them when they are imported."""

# Some of ONNX Runtime's ops stand in the default domain, where no version of the standard has them.
_DOMAINS = {"": frozenset({"SimplifiedLayerNormalization"}), "com.microsoft": frozenset(OPS)}


def expand(graph: Graph) -> None:
    """Write the nodes of a loaded graph that are known here out in standard ones, in place.

    Raises
    ------
    ModelFormatError
        A node is not what its op allows.
    UnsupportedOpError
        An op is used in a way that is not supported; the message says which and what to do.
    """
    if not any(_known(node) for node in graph.nodes):
        return
    facts, taken = Facts(graph), _names(graph)
    shared: dict[tuple[Any, ...], str] = {}
    read = {name for node in graph.nodes for name in node.inputs} | {info.name for info in graph.outputs}
    nodes: list[Node] = []
    for node in graph.nodes:
        written = [node]
        if _known(node):
            written = Expansion(graph, node, facts, taken, shared, read).written()
        for item in written:
            facts.visit(item)
        nodes += written
    graph.nodes = nodes


def _known(node: Node) -> bool:
    return node.op in _DOMAINS.get(node.domain, ())


def _names(graph: Graph) -> set[str]:
    names = {name for node in graph.nodes for name in (*node.outputs, node.name)}
    return names | set(graph.constants) | {info.name for info in graph.inputs}
