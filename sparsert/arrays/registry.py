"""The registry: ops by name, each with the versions whose semantics its function has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["OPERATORS", "Builder", "Compute", "Form", "Unhandled", "build", "operator"]

Compute = Callable[..., Any]
"""Takes the node's input arrays, None for an absent one; returns an array, or a tuple of one for each output."""

Builder = Callable[["Form"], "Compute | None"]
"""Makes of a node's form what runs it, or leaves that to a reference operator."""


class Unhandled(Exception):
    """Arrays came, of a type for instance, that an operator leaves to the reference operators."""


@dataclass(frozen=True)
class Form:
    """What is known of a node before it runs.

    Attributes
    ----------
    op : str
    version : int
        ``since_version`` of its schema.
    attributes : dict
        Those of the node, and the defaults of the others that have one.
    inputs : tuple of bool
        Of each input, whether it is present.
    outputs : int
        How many there are, up to the last that anybody wants.
    """

    op: str
    version: int
    attributes: dict[str, Any]
    inputs: tuple[bool, ...]
    outputs: int

    def has(self, index: int) -> bool:
        """Whether an input is present."""
        return index < len(self.inputs) and self.inputs[index]


OPERATORS: dict[str, tuple[tuple[int, ...], Builder]] = {}


def operator(*versions: int) -> Callable[[Builder], Builder]:
    """Register a function for the op of its name in these versions; it returns None for a form that it leaves alone."""

    def register(builder: Builder) -> Builder:
        OPERATORS[builder.__name__] = (versions, builder)
        return builder

    return register


def build(form: Form) -> Compute | None:
    """Return what runs the op, or None if no function here has its version and form."""
    versions, builder = OPERATORS.get(form.op, ((), None))
    return builder(form) if builder is not None and form.version in versions else None
