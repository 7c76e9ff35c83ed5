"""Packed projections: a Linear of which parts of the columns are read, as Linears of these parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparsert.fuse.axes import SELECTIONS, selected_part
from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.ops import Linear

__all__ = ["columns_of", "fuse_packed"]


def fuse_packed(editor: Editor) -> None:
    """Replace parts of the last axis of a Linear, if parts are all that is read of it."""
    for linear in editor.nodes("Linear", fused=True):
        (value,) = linear.outputs
        readers = editor.readers(value)
        if value in editor.outputs or not readers or editor.facts.shape(value) is None:
            continue
        parts = {output: _part(editor, reader, output) for reader in readers for output in reader.outputs}
        if None in parts.values():
            continue
        for output, (start, size) in parts.items():  # type: ignore[misc]
            if editor.readers(output) or output in editor.outputs:
                editor.emit(_part_of(linear.fused, slice(start, start + size)), linear.inputs, output, [linear])


def _part(editor: Editor, node: Node, output: str) -> tuple[int, int] | None:
    """Return start and size of the channels that an output of a Split or Slice holds; a single one is no part."""
    if editor.is_fused(node) or node.op not in SELECTIONS or node.op == "Gather":
        return None
    part = selected_part(editor.facts, node, output)
    if part is None or part[0] != len(editor.facts.need(node.inputs[0])) - 1 or part[2] == 1:
        return None
    return part[1:]


def columns_of(editor: Editor, value: str, columns: np.ndarray) -> str | None:
    """Return the value (B, S, n) that holds some of the columns of a value (B, S, N); None if it is not of a Linear."""
    *lead, channels = editor.facts.need(value)
    if np.array_equal(columns, np.arange(channels)):  # type: ignore[arg-type]
        return value
    linear = editor.fused_producer(value, "Linear")
    if linear is None:
        return None
    start, stop = int(columns[0]), int(columns[-1]) + 1
    part = slice(start, stop) if np.array_equal(columns, np.arange(start, stop)) else columns
    result = editor.fresh(f"{value}[{start}]")
    editor.facts.shapes[result], editor.facts.dtypes[result] = (*lead, len(columns)), np.dtype(np.float32)
    editor.emit(_part_of(linear.fused, part), linear.inputs, result, [linear])
    return result


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
