"""Follow the axes of a tensor through Reshape and Transpose: which factors of which original axis lie where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparsert.graph.ir import Node
from sparsert.graph.known import Shape, attribute
from sparsert.graph.shapes import Facts
from sparsert.graph.symbolic import Factors, factors, multiply, quotient


@dataclass(frozen=True)
class Atom:
    """A factor of an original axis; ``path`` orders the factors of one axis from major to minor."""

    axis: int
    path: tuple[int, ...]
    size: Factors


@dataclass(frozen=True)
class Axes:
    """The axes of a tensor, each the product of atoms in row-major order."""

    axes: tuple[tuple[Atom, ...], ...]

    @staticmethod
    def of(shape: Shape, sizes: Mapping[str, int]) -> Axes:
        """Return the axes of a tensor that has not been touched."""
        return Axes(tuple((Atom(axis, (), factors(dim, sizes)),) for axis, dim in enumerate(shape)))

    def after(self, node: Node, facts: Facts) -> Axes | None:
        """Return the axes behind a node that only moves elements; None if it cannot be followed."""
        if node.op == "Transpose":
            perm = attribute(node, "perm", list(range(len(self.axes)))[::-1])
            return Axes(tuple(self.axes[axis] for axis in perm)) if len(perm) == len(self.axes) else None
        if node.op in ("Reshape", "Unsqueeze", "Squeeze", "Flatten"):
            shape = facts.shape(node.outputs[0])
            return None if shape is None else self._regrouped([factors(dim, facts.sizes) for dim in shape])
        return self

    def _regrouped(self, target: Sequence[Factors]) -> Axes | None:
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
                    atoms.insert(0, Atom(atom.axis, (*atom.path, 1), inner))
                    atom, left = Atom(atom.axis, (*atom.path, 0), outer), (1, ())
                axis.append(atom)
                rest = left
            axes.append(axis)
        if any(atom.size != (1, ()) for atom in atoms):
            return None
        return Axes(tuple(tuple(axis) for axis in axes))

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
