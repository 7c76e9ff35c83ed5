"""Chains of ops on single values that begin at bytes: a table of their 256 results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsert.errors import SparsertError
from sparsert.graph.editor import Editor
from sparsert.graph.evaluate import make_runner
from sparsert.graph.ir import Node
from sparsert.ops import Lookup, Quantization

_LINEAR = frozenset("Add Sub Mul Div Neg".split())
"""With a number these are scalings and offsets, which other patterns look for."""

_BENT = frozenset(
    "Erf Tanh Sigmoid Relu Exp Sqrt Abs Pow Min Max Clip HardSigmoid HardSwish Softplus Softsign Gelu Elu Selu "
    "LeakyRelu Celu Mish Log Reciprocal Swish".split()
)

_ROUND_TRIP = frozenset(["Quantize", "Dequantize"])

_NATIVE = frozenset(["Activation", "Gelu"])
"""Fused ops that have stages of their own."""


def fuse_lookups(editor: Editor) -> None:
    """Replace what follows a Dequantize, number by number, up to the one value that others read, by a table.

    GELU is a chain of five ops and up to four quantizations in files whose every op is quantized: whatever it does, its
    result is one of 256, so the table is exact.
    """
    for node in editor.nodes("Dequantize", fused=True):
        if editor.alive(node) and node.fused.quantization.scalar:
            _fuse(editor, node)


def _fuse(editor: Editor, start: Node) -> None:
    nodes = _closure(editor, start)
    inside = {id(node) for node in nodes}
    exits = [node for node in nodes if _leaves(editor, node, inside)]
    if len(exits) != 1:
        return
    # What quantizes the result belongs to whoever reads it.
    (last,) = exits
    while editor.is_fused(last) and last.op in _ROUND_TRIP:
        nodes = [node for node in nodes if node is not last]
        previous = editor.producers.get(last.inputs[0])
        if previous is None or previous is start or id(previous) not in inside:
            return
        last = previous
    kinds = {node.op for node in nodes}
    if len(nodes) == 1 and kinds <= _NATIVE or not kinds & (_BENT | _NATIVE):
        return
    if not editor.is_float(last.outputs[0]) or not editor.facts.same_shape(start.outputs[0], last.outputs[0]):
        return
    table = _table(editor, start, nodes, last.outputs[0])
    if table is not None:
        editor.emit(Lookup(start.fused.quantization, table), [start.inputs[0]], last.outputs[0], [start, *nodes])


def _closure(editor: Editor, start: Node) -> list[Node]:
    """Nodes in order that compute from nothing but the value of ``start`` and numbers, element by element."""
    known, nodes, seen = {start.outputs[0]}, [], {id(start)}
    queue = list(editor.readers(start.outputs[0]))
    while queue:
        node = queue.pop(0)
        if id(node) in seen or not _elementwise(editor, node):
            continue
        if all(name in known or editor.scalar(name) is not None for name in node.inputs if name):
            seen.add(id(node))
            nodes.append(node)
            known.add(node.outputs[0])
            queue += editor.readers(node.outputs[0])
    return nodes


def _elementwise(editor: Editor, node: Node) -> bool:
    if editor.is_fused(node):
        return node.op in _NATIVE or (node.op in _ROUND_TRIP and node.fused.quantization.scalar)
    return node.domain in ("", "ai.onnx") and (node.op in _LINEAR or node.op in _BENT)


def _leaves(editor: Editor, node: Node, inside: set[int]) -> bool:
    """Whether somebody outside reads what a node computes."""
    name = node.outputs[0]
    return name in editor.outputs or any(id(reader) not in inside for reader in editor.readers(name))


def _table(editor: Editor, start: Node, nodes: Sequence[Node], result: str) -> np.ndarray | None:
    quantization: Quantization = start.fused.quantization
    limits = np.iinfo(quantization.dtype)
    stored = np.arange(limits.min, limits.max + 1).astype(quantization.dtype)
    values = {start.outputs[0]: quantization.dequantize(stored)}
    for node in nodes:
        arrays = [values[name] if name in values else editor.constant(name) if name else None for name in node.inputs]
        try:
            with np.errstate(all="ignore"):
                if editor.is_fused(node):
                    values[node.outputs[0]] = node.fused.compute(*arrays)
                else:
                    numbers = [array if array is None or array.size > 1 else array.reshape(()) for array in arrays]
                    (values[node.outputs[0]],) = make_runner(node, editor.graph.opsets)(numbers)
        except SparsertError:
            return None
    table = values[result]
    return table.astype(np.float32) if table.shape == stored.shape and np.isfinite(table).all() else None
