"""Packed projections: a Linear of which parts of the columns are read, as Linears of these parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from sparsert.fuse.axes import SELECTIONS, selected_part
from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.ops import Add, Dequantize, FusedOp, Linear, Quantize

__all__ = ["columns_of", "fuse_packed"]


def fuse_packed(editor: Editor) -> None:
    """Replace parts of the last axis of what a Linear gives, if parts are all that is read of it."""
    for value in dict.fromkeys(node.inputs[0] for node in editor.nodes("Split", "Slice")):
        readers = editor.readers(value)
        if value in editor.outputs or not readers or editor.facts.rank(value) not in (2, 3):
            continue
        parts = {output: _part(editor, reader, output) for reader in readers for output in reader.outputs}
        if None in parts.values() or not all(_alone(editor, node) for node in _chain(editor, value)):
            continue
        nodes = {
            output: _node_of(editor, value, np.arange(part[0], part[0] + part[1]))
            for output, part in parts.items()
            if part is not None and (editor.readers(output) or output in editor.outputs)
        }
        for output, node in nodes.items():
            if node is not None:
                editor.emit(*node[:2], output, node[2])


def _part(editor: Editor, node: Node, output: str) -> tuple[int, int] | None:
    """Return start and size of the channels that an output of a Split or Slice holds; a single one is no part."""
    if editor.is_fused(node) or node.op not in SELECTIONS or node.op == "Gather":
        return None
    part = selected_part(editor.facts, node, output)
    if part is None or part[0] != len(editor.facts.need(node.inputs[0])) - 1 or part[2] == 1:
        return None
    return part[1:]


def _chain(editor: Editor, value: str) -> Iterator[Node]:
    """The nodes before a value that work on each of its columns, behind the Linear."""
    node = editor.producers.get(value)
    while node is not None and _columnwise(editor, node):
        yield node
        node = editor.producers.get(_operand(editor, node))


def _columnwise(editor: Editor, node: Node) -> bool:
    """Whether a node quantizes, goes back, or adds a constant vector."""
    if isinstance(node.fused, Quantize | Dequantize):
        return True
    if editor.is_fused(node) or node.op != "Add" or not editor.is_float(node.outputs[0]):
        return False
    operands = editor.split_constant(node)
    vector = editor.vector(operands[1], editor.channels(node.outputs[0])) if operands else None
    same = operands is not None and editor.facts.same_shape(operands[0], node.outputs[0])
    return vector is not None and vector.dtype == np.float32 and same


def _operand(editor: Editor, node: Node) -> str:
    """The value of which a node works on each column."""
    operands = editor.split_constant(node)
    return node.inputs[0] if operands is None else operands[0]


def _alone(editor: Editor, node: Node) -> bool:
    return editor.sole_reader(_operand(editor, node)) is node


def columns_of(editor: Editor, value: str, columns: np.ndarray) -> str | None:
    """Return the value (B, S, n) that holds some of the columns of a value (B, S, N); None if it is not of a Linear."""
    *lead, channels = editor.facts.need(value)
    if np.array_equal(columns, np.arange(channels)):  # type: ignore[arg-type]
        return value
    node = _node_of(editor, value, columns)
    if node is None:
        return None
    result = editor.fresh(f"{value}[{columns[0]}]")
    editor.facts.shapes[result], editor.facts.dtypes[result] = (*lead, len(columns)), editor.facts.dtypes[value]
    editor.emit(*node[:2], result, node[2])
    return result


def _node_of(editor: Editor, value: str, columns: np.ndarray) -> tuple[FusedOp, list[str], list[Node]] | None:
    """Return op and inputs of a node that gives some of the columns of a value, and what it stands for."""
    node = editor.producers.get(value)
    start, stop = int(columns[0]), int(columns[-1]) + 1
    part = slice(start, stop) if np.array_equal(columns, np.arange(start, stop)) else columns
    if node is None:
        return None
    if isinstance(node.fused, Linear):
        return _part_of(node.fused, part), list(node.inputs), [node]
    source = columns_of(editor, _operand(editor, node), columns) if _columnwise(editor, node) else None
    if source is None or node.fused is not None:
        return None if source is None else (node.fused, [source], [node])
    operands = editor.split_constant(node)
    vector = editor.vector(operands[1], editor.channels(value)) if operands else None
    if vector is None:
        return None
    name = editor.fresh(f"{value}[{start}].vector")
    editor.constants[name] = np.ascontiguousarray(vector[part])
    return Add(), [source, name], [node]


def _part_of(linear: Linear, columns: slice | np.ndarray) -> Linear:
    """The Linear of some columns; a view of the weights where they lie side by side."""

    def of(numbers: np.ndarray | None) -> np.ndarray | None:
        return numbers[columns] if numbers is not None and numbers.ndim else numbers

    return replace(
        linear,
        weight=linear.weight[:, columns],
        weight_zero_point=of(linear.weight_zero_point),
        weight_scale=of(linear.weight_scale),
        acc_bias=of(linear.acc_bias),
        acc_scale=of(linear.acc_scale),
        bias=of(linear.bias),
    )
