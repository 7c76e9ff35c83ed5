"""What the compiler asks of a fused op: one class an op, all its traits in one place.

Shapes in the ops' docstrings: B batch, S tokens, H channels, K input features, N output features, V rows of a table.
Unless said otherwise a value is float32 of shape (B, S, H); a two-dimensional value (B, H) is treated as one token per
item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from sparsert.graph.editor import Editor
from sparsert.graph.ir import Node
from sparsert.ops.steps import Buffer, PackedLinear, Parameters, Stage, Step

__all__ = ["Builder", "FusedOp", "Operand"]


@dataclass(frozen=True)
class Operand:
    """A form in which a node wants a value: the name and form of a buffer, and the quantization on the way to it."""

    name: str
    form: str = "floats"
    parameters: Parameters | None = None


class Builder(Protocol):
    """What an op lowers itself with; :class:`sparsert.plan.lower.Lowering` is the one that there is."""

    channels: dict[str, int]
    """Last dimension of every known value."""
    constants: dict[str, np.ndarray]

    def readers(self, value: str) -> list[Node]:
        """Nodes of the segment that read a value."""

    def needed(self, value: str) -> bool:
        """Whether somebody outside of the segment reads a value."""

    def buffer(self, value: str, form: str = "floats") -> Buffer:
        """The buffer of a value in a form that a step before has written."""

    def new_buffer(self, value: str, form: str, rows: int) -> Buffer:
        """A buffer for a step to write."""

    def has(self, value: str, form: str = "floats") -> bool:
        """Whether :meth:`buffer` would find one."""

    def packed(self, node: Node) -> PackedLinear:
        """The packed weight of a Linear."""

    def add_ids(self, names: Sequence[str]) -> None:
        """Enter inputs that are token ids."""

    def add_mask(self, name: str) -> None:
        """Enter a value that is a key mask; "" for none."""

    def add_score_array(self, name: str) -> None:
        """Enter a value that is added to the scores of attention."""

    def absorb(self, node: Node) -> None:
        """Note that a step of another node stands for this one as well."""

    def vector_stage(self, name: str) -> Stage:
        """A stage that adds a constant of one number a channel."""

    def add(self, step: Step) -> None:
        """Append a step as it is."""

    def produce(self, step: Step, value: str) -> None:
        """Append a step whose rows are ``value``: it absorbs what follows, and sinks the result in all forms wanted."""

    def derive(self, value: str) -> None:
        """Make other forms of a value that is there as floats only, and give it to who needs it outside."""

    def output(self, name: str, shape: str, columns: int, step: Step) -> None:
        """Note that a step leaves an array: "tokens" is lead + (columns,), "feature" lead, "items" (B, columns)."""


class FusedOp:
    """A fused op. Subclasses are frozen dataclasses of its constants; here are the traits of the usual one.

    The usual op turns one value of tiles into another, token by token.
    """

    leading: ClassVar[int | None] = 1
    """How many inputs, from the first on, have the leading dimensions that the op works over; None for all."""
    keeps_lead: ClassVar[bool] = False
    """Whether the result has the leading dimensions of the first input, when the op runs on arrays."""
    mixes: ClassVar[bool] = False
    """Whether the result of a token depends on other tokens."""
    broadcasts: ClassVar[bool] = False
    """Whether inputs of different leading dimensions are broadcast."""
    quantizes: ClassVar[bool] = False
    """Whether the result is bytes, which never leave the tiles."""
    selects: ClassVar[bool] = False
    """Whether the result is no value of tiles, so that nothing native can follow."""
    on_arrays: ClassVar[bool] = False
    """Whether the op belongs outside of segments, where it costs next to nothing."""
    on_rows: ClassVar[bool] = False
    """Whether the op runs on arrays with sequences as rows, in which zeros behind them change nothing."""
    layer_kind: ClassVar[str] = "Other"
    """What an analysis counts the op's time as, one of :data:`sparsert.analyze.result.KINDS`."""

    @classmethod
    def recognise(cls, editor: Editor) -> None:
        """Replace ONNX nodes that are this op, once LayerNorms are found and before any other pattern looks.

        By default nothing: patterns that depend on each other, or are more than a few nodes, are :mod:`sparsert.fuse`.
        """

    @property
    def couples(self) -> bool:
        """Whether the result of a sequence depends on others of its batch."""
        return False

    @property
    def takes_bytes(self) -> bool:
        """Whether the first input has to be quantized inside the segment."""
        return False

    @property
    def in_channels(self) -> int | None:
        """Last dimension of the first input, where it follows from the op."""
        return None

    def out_channels(self, sizes: Sequence[int | None]) -> int | None:
        """Last dimension of the first output; ``sizes`` are those of the inputs, None where unknown."""
        return sizes[0]

    def lead_inputs(self, node: Node) -> list[str]:
        """Inputs with the leading dimensions that the op works over."""
        return [name for name in node.inputs[: self.leading] if name]

    def tile_inputs(self, node: Node) -> list[str]:
        """Inputs that a kernel reads as tiles of activations."""
        return self.lead_inputs(node)

    def takes(self, constants: Sequence[np.ndarray | None]) -> bool:
        """Whether the run loop can take these of :meth:`lead_inputs` as constants; None is a computed value."""
        return all(array is None for array in constants)

    def fits(self, sizes: Sequence[int | None]) -> bool:
        """Whether the run loop can take the op in this form.

        Sizes that contradict each other are left to the array form, which says so: a kernel would read beyond its
        buffer.
        """
        return sizes[0] is not None and self.in_channels in (None, sizes[0])

    def compute(self, *inputs: Any) -> Any:
        """The op in NumPy: any rank, any dtype that ONNX allows; one array, or a tuple of arrays.

        Results never share memory with inputs. What is wider than float32 is computed a block of rows, or one item of
        the batch, at a time.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it is computed")

    def operands(self, builder: Builder, node: Node, value: str) -> list[Operand]:
        """The forms in which the node wants a value that it reads."""
        return [Operand(value)]

    def byte_form(self, builder: Builder, node: Node) -> str:
        """The form in which the node takes quantized activations."""
        return "rows"

    def stage(self, builder: Builder, node: Node, value: str) -> tuple[Stage, str] | None:
        """The node as a stage of the step that produces ``value``, and the result's name; None if it cannot."""
        return None

    def lower(self, builder: Builder, node: Node) -> None:
        """Append the node's steps: by default, load the first input that is no constant, and apply :meth:`stage`."""
        value = next(name for name in node.inputs if name not in builder.constants)
        x = builder.buffer(value)
        found = self.stage(builder, node, value)
        assert found is not None, f"{node.op} '{node.name}' reads a value that no step has produced"
        stage, result = found
        builder.produce(Step("rows", [x], stages=[stage], source="load", rows=x.rows), result)

    def details(self, packed: PackedLinear | None, tier: str) -> dict[str, Any]:
        """Fields of the report's line, as sparsert.plan.report.StepReport has them; ``packed`` is a Linear's weight."""
        return {"kernel": f"{type(self).__name__.lower()} {tier}"}
