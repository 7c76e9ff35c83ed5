"""What follows from the shapes of the inputs alone: exporters' arithmetic, computed once for each shape and kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from sparsert.arrays.registry import OPERATORS
from sparsert.graph.ir import Graph
from sparsert.plan.parts import ArrayPart, SegmentPart

__all__ = ["Remembered", "shape_parts"]

KEPT = 16
"""Shapes of calls whose values stay."""

MOST_BYTES = 1 << 26
"""Of all that stays: DeBERTa-base has 38 MB of keys and queries of positions, which are the same for all shapes."""

_SHAPING = {
    "Reshape": (1,),
    "Expand": (1,),
    "Tile": (1,),
    "Slice": (1, 2, 3, 4),
    "Pad": (1, 3),
    "Split": (1,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "TopK": (1,),
    "OneHot": (1,),
    "ConstantOfShape": (0,),
    "Range": (0, 1, 2),
    **{op: (1,) for op in OPERATORS if op.startswith("Reduce")},
}
"""Inputs whose values tell the shape of a result."""

_BY_VALUES = frozenset({"NonZero"})
"""Ops whose results have shapes that all of their numbers tell; those of the other operators follow from shapes."""


def shape_parts(graph: Graph, parts: Sequence[ArrayPart | SegmentPart]) -> list[ArrayPart]:
    """The parts whose results follow from constants and the shapes of the graph's inputs."""
    shaped = {info.name for info in graph.inputs} | set(graph.constants)
    known = set(graph.constants)
    found = []
    for part in parts:
        names = [name for name in part.inputs if name]
        if isinstance(part, SegmentPart) or part.node.fused is not None:
            if shaped.issuperset(names):
                shaped.update(part.outputs)
            continue
        node = part.node
        if node.domain or not shaped.issuperset(names) or node.op not in OPERATORS or node.op in _BY_VALUES:
            continue
        shaping = [node.inputs[index] for index in _SHAPING.get(node.op, ()) if index < len(node.inputs)]
        if not known.issuperset(filter(None, shaping)):
            continue
        shaped.update(filter(None, node.outputs))
        if node.op in ("Shape", "Size") or known.issuperset(names):
            known.update(filter(None, node.outputs))
            found.append(part)
    return found


class Remembered:
    """Values by the shapes of the inputs that they follow from; any number of threads may ask."""

    def __init__(self) -> None:
        self._values: OrderedDict[tuple[tuple[int, ...], ...], dict[str, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, shapes: tuple[tuple[int, ...], ...]) -> dict[str, np.ndarray] | None:
        """The values for inputs of these shapes, in their order."""
        with self._lock:
            values = self._values.get(shapes)
            if values is not None:
                self._values.move_to_end(shapes)
            return values

    def keep(self, shapes: tuple[tuple[int, ...], ...], values: dict[str, np.ndarray]) -> None:
        """Keep values that nobody writes into. Views are copied: they may be on an input."""
        with self._lock:
            latest = next(reversed(self._values.values()), {})
        # what does not depend on the shapes exists once
        kept = {name: _same(array, latest.get(name)) for name, array in values.items()}
        with self._lock:
            self._values[shapes] = kept
            while len(self._values) > KEPT or _bytes(self._values.values()) > MOST_BYTES:
                self._values.popitem(last=False)


def _same(array: np.ndarray, other: np.ndarray | None) -> np.ndarray:
    """``other``, if it is equal to the array; else the array, or a copy if it is a view."""
    if other is not None and other.shape == array.shape and np.array_equal(other, array):
        return other
    return array if array.flags.owndata else array.copy()


def _bytes(kept: Iterable[dict[str, np.ndarray]]) -> int:
    return sum({id(array): array.nbytes for values in kept for array in values.values()}.values())
