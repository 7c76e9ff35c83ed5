"""Follow the axes of a tensor through Reshape and Transpose: which factors of which original axis lie where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sparsert.graph.ir import Node
from sparsert.graph.known import Shape, Unknown, attribute
from sparsert.graph.shape_rules import slices
from sparsert.graph.shapes import Facts
from sparsert.graph.symbolic import Factors, factors, multiply, quotient


@dataclass(frozen=True)
class Atom:
    """A factor of an original axis; ``path`` orders the factors of one axis from major to minor."""

    axis: int
    path: tuple[int, ...]
    size: Factors


@dataclass(frozen=True)
class _Change:
    """What became of an atom: it was split into ``first`` times ``second``, or cut to ``second`` from ``first`` on."""

    atom: Atom
    split: bool
    first: int
    second: int


SELECTIONS = ("Split", "Slice", "Gather")
"""Ops that may leave a part of one axis."""


def selected_part(facts: Facts, node: Node, output: str) -> tuple[int, int, int] | None:
    """Return the axis of which an output of Split, Slice or Gather holds a part, and that part's start and size."""
    try:
        shape = facts.need(node.inputs[0])
        if node.op == "Slice":
            ((axis, (start, end, step)),) = slices(facts, node).items()
            dim = shape[axis]
            if step != 1 or not all(isinstance(number, int) for number in (start, end, dim)):
                return None
            first, last, _ = slice(start, end).indices(dim)  # type: ignore[arg-type]
            return axis, first, max(0, last - first)
        axis = attribute(node, "axis", 0) % len(shape)
        if node.op == "Gather":
            number, dim = facts.number(node.inputs[1]), shape[axis]
            if facts.rank(node.inputs[1]) != 0 or not isinstance(number, int) or not isinstance(dim, int):
                return None
            return axis, number + dim if number < 0 else number, 1
        sizes = [facts.need(name)[axis] for name in node.outputs]
    except (Unknown, ValueError):
        return None
    if not all(isinstance(size, int) for size in sizes):
        return None
    place = node.outputs.index(output)
    return axis, sum(sizes[:place]), sizes[place]  # type: ignore[arg-type, return-value]


@dataclass(frozen=True)
class Axes:
    """The axes of a tensor, each the product of atoms in row-major order."""

    axes: tuple[tuple[Atom, ...], ...]
    changes: tuple[_Change, ...] = ()
    """Splits and cuts of atoms of known size, in their order."""

    @staticmethod
    def of(shape: Shape, sizes: Mapping[str, int]) -> Axes:
        """Return the axes of a tensor that has not been touched."""
        return Axes(tuple((Atom(axis, (), factors(dim, sizes)),) for axis, dim in enumerate(shape)))

    def after(self, node: Node, facts: Facts, output: str = "") -> Axes | None:
        """Return the axes behind a node that only moves or selects elements; None if it cannot be followed."""
        if node.op == "Transpose":
            perm = attribute(node, "perm", list(range(len(self.axes)))[::-1])
            return replace(self, axes=tuple(self.axes[axis] for axis in perm)) if len(perm) == len(self.axes) else None
        if node.op in SELECTIONS:
            part = selected_part(facts, node, output or node.outputs[0])
            return None if part is None else self._cut(*part, drop=node.op == "Gather")
        if node.op in ("Reshape", "Unsqueeze", "Squeeze", "Flatten"):
            shape = facts.shape(node.outputs[0])
            return None if shape is None else self._regrouped([factors(dim, facts.sizes) for dim in shape])
        return self

    def _cut(self, place: int, start: int, size: int, drop: bool) -> Axes | None:
        """Keep a part of one axis, which has to be a single atom."""
        atoms = [atom for atom in self.axes[place] if atom.size != (1, ())]
        if len(atoms) != 1 or atoms[0].size[1] or not 0 <= start < start + size <= atoms[0].size[0]:
            return None
        (atom,) = atoms
        left = [] if drop else [(replace(atom, size=(size, ())),)]
        axes = (*self.axes[:place], *left, *self.axes[place + 1 :])
        return Axes(axes, (*self.changes, _Change(atom, False, start, size)))

    def joined(self, place: int, axis: int, count: int) -> Axes | None:
        """Let an axis of 1 be one of ``count`` of an axis that is new, as behind a Concat of so many such values."""
        if any(atom.size != (1, ()) for atom in self.axes[place]):
            return None
        return replace(self, axes=(*self.axes[:place], (Atom(axis, (), (count, ())),), *self.axes[place + 1 :]))

    def columns(self, axis: int, size: int) -> np.ndarray:
        """Which elements of an original axis of so many are left, as they come from major to minor."""
        left = np.arange(size)
        paths: list[tuple[int, ...]] = [()]
        for change in self.changes:
            if change.atom.axis == axis:
                place = paths.index(change.atom.path)
                if change.split:
                    left = left.reshape(*left.shape[:place], change.first, change.second, *left.shape[place + 1 :])
                    paths[place : place + 1] = [(*change.atom.path, 0), (*change.atom.path, 1)]
                else:
                    left = left.take(range(change.first, change.first + change.second), place)
        return left.reshape(-1)

    def _regrouped(self, target: Sequence[Factors]) -> Axes | None:
        changes = list(self.changes)
        atoms = [atom for axis in self.axes for atom in axis]
        axes: list[list[Atom]] = []
        for wanted in target:
            axis: list[Atom] = []
            rest: Factors | None = wanted
            while rest != (1, ()) or (not axis and atoms and atoms[0].size == (1, ())):
                if not atoms or rest is None:
                    return None
                atom = atoms.pop(0)
                left = quotient(rest, atom.size)
                if left is None:
                    outer = rest
                    inner = quotient(atom.size, outer)
                    if inner is None:
                        return None
                    if not inner[1] and not outer[1]:
                        changes.append(_Change(atom, True, outer[0], inner[0]))
                    atoms.insert(0, Atom(atom.axis, (*atom.path, 1), inner))
                    atom, left = Atom(atom.axis, (*atom.path, 0), outer), (1, ())
                axis.append(atom)
                rest = left
            axes.append(axis)
        if any(atom.size != (1, ()) for atom in atoms):
            return None
        return Axes(tuple(tuple(axis) for axis in axes), tuple(changes))

    def matches(self, expected: Sequence[Sequence[int]]) -> bool:
        """Whether each axis holds exactly atoms of the original axes listed, and split axes keep major before minor.

        ``expected`` lists original axis numbers per axis; an axis that is split appears in several places in order.
        """
        if len(expected) != len(self.axes):
            return False
        for atoms, axes in zip(self.axes, expected, strict=True):
            order = list(dict.fromkeys(atom.axis for atom in atoms if atom.size != (1, ())))
            if [axis for axis in order if axis not in axes] or order != [axis for axis in axes if axis in order]:
                return False
        return True

    def in_order(self, axis: int, places: Sequence[int]) -> bool:
        """Whether the atoms of an original axis, read off ``places`` in turn, come from major to minor."""
        paths = [atom.path for place in places for atom in self.axes[place] if atom.axis == axis]
        return paths == sorted(paths)

    def size(self, place: int) -> int | None:
        """Return the size of an axis if it is a number."""
        total: Factors = (1, ())
        for atom in self.axes[place]:
            total = multiply(total, atom.size)
        return total[0] if not total[1] else None
