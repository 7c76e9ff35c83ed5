"""Segment: a native run of fused nodes, lowered to steps. What follows from a graph alone, whatever shapes come."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sparsert.ops import Table
from sparsert.ops.steps import PackedLinear, Step

__all__ = ["Output", "Segment"]


@dataclass(frozen=True, eq=False)
class Output:
    """An array that a segment leaves: ``shape`` "tokens" is lead + (columns,), "feature" lead, "items" (B, columns)."""

    name: str
    shape: str
    columns: int
    step: Step


@dataclass(frozen=True, eq=False)
class Segment:
    """Steps over the same leading dimensions, and the names of what they take and leave.

    Attributes
    ----------
    steps : tuple of Step
    outputs : tuple of Output
    ids, arrays, masks, score_arrays : tuple of str
        Inputs: token ids, float arrays, key masks ("" is that of no mask), and what else is added to scores.
    channels : dict
        Last dimension of every array.
    packed : dict
        Weights of the Linears, by the output of their node.
    covered : tuple
        For every step, the numbers of the nodes that it stands for; none for a step that only moves an input.
    node_count : int
    couples : bool
        Whether the result of a sequence depends on others of its batch.
    """

    steps: tuple[Step, ...]
    outputs: tuple[Output, ...]
    ids: tuple[str, ...]
    arrays: tuple[str, ...]
    masks: tuple[str, ...]
    score_arrays: tuple[str, ...]
    channels: Mapping[str, int]
    packed: Mapping[str, PackedLinear]
    covered: tuple[tuple[int, ...], ...]
    node_count: int
    couples: bool

    @property
    def sequences(self) -> bool:
        """Whether it matters which tokens belong to one sequence."""
        return any(step.opcode in ("attention", "select", "embed") for step in self.steps)

    @property
    def nbytes(self) -> int:
        """Memory of the packed weights in bytes; layers may share them."""
        return sum(packed.nbytes for packed in {id(packed): packed for packed in self.packed.values()}.values())

    def tables(self) -> Iterator[tuple[str, Table]]:
        """Every embedding table, with the name of the ids that choose its rows, "" where positions do."""
        for step in self.steps:
            if step.opcode == "embed":
                names = iter(step.constants["ids"])
                for table in step.constants["tables"]:
                    yield next(names) if table.index == "input" else "", table
