"""Inline the local functions of a model, so that a graph holds operators only."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import inliner

from sparsert.errors import ModelFormatError

# Functions that call functions multiply; a few lines of file must not become a graph that fills the memory.
_MAX_NODES = 1_000_000

_Key = tuple[str, str, str]


def inline_functions(model: onnx.ModelProto, path: str) -> onnx.ModelProto:
    """Return the model with every call of a local function replaced by the function's nodes.

    Raises
    ------
    ModelFormatError
        If functions call themselves, are called with too many arguments, grow beyond one million nodes, or were written
        for another opset than the model.
    """
    if not model.functions:
        return model
    functions = {_key(function): function for function in model.functions}
    if len(functions) != len(model.functions):
        raise ModelFormatError(f"{path}: expected local functions with different names, came duplicates")
    _expanded_size(model.graph.node, functions, {}, (), path)
    try:
        inlined = inliner.inline_local_functions(model)
    except Exception as error:  # the inliner is compiled code that raises exceptions of its own
        raise ModelFormatError(f"{path}: the local functions cannot be inlined: {error}") from error
    for node in _walk(inlined.graph.node):
        if _call(node) in functions:
            raise ModelFormatError(
                f"{path}: node {node.name!r} ({node.op_type}): its local function cannot be inlined, since it imports "
                "another opset than the model; export the model without functions"
            )
    return inlined


def _expanded_size(
    nodes: Iterable[onnx.NodeProto],
    functions: dict[_Key, onnx.FunctionProto],
    sizes: dict[_Key, int],
    callers: tuple[_Key, ...],
    path: str,
) -> int:
    """Count the nodes after inlining; ``sizes`` remembers functions, ``callers`` finds recursion."""
    total = 0
    for node in _walk(nodes):
        total += 1
        key = _call(node)
        if key not in functions:
            continue
        where = f"{path}: node {node.name!r} ({node.op_type})"
        function = functions[key]
        if key in callers:
            raise ModelFormatError(f"{where}: expected functions that do not call themselves, came a recursion")
        if len(node.input) > len(function.input) or len(node.output) > len(function.output):
            raise ModelFormatError(
                f"{where}: expected at most {len(function.input)} inputs and {len(function.output)} outputs, as its "
                f"local function has, came {len(node.input)} and {len(node.output)}"
            )
        if key not in sizes:
            sizes[key] = _expanded_size(function.node, functions, sizes, (*callers, key), path)
        total += sizes[key]
        if total > _MAX_NODES:
            raise ModelFormatError(f"{where}: expected at most {_MAX_NODES} nodes after inlining functions, came more")
    return total


def _walk(nodes: Iterable[onnx.NodeProto]) -> Iterable[onnx.NodeProto]:
    """Yield nodes with those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
                yield from _walk(graph.node)


def _key(function: onnx.FunctionProto) -> _Key:
    return _normal(function.domain), function.name, function.overload


def _call(node: onnx.NodeProto) -> _Key:
    return _normal(node.domain), node.op_type, node.overload


def _normal(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
