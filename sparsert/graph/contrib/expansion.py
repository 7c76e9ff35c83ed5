"""One node of ONNX Runtime's own while it is written out: what it says, checked, and the nodes that replace it."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from sparsert.errors import ModelFormatError, UnsupportedOpError
from sparsert.graph.ir import Graph, Node
from sparsert.graph.known import Shape
from sparsert.graph.shapes import Facts
from sparsert.graph.widen import widened

__all__ = ["OPS", "Expansion", "contrib"]

Written = Callable[["Expansion"], "str | Sequence[str | None]"]
"""Writes the nodes and returns the values of the outputs; None for one that cannot be had."""


@dataclass(frozen=True)
class _Op:
    write: Written
    needed: frozenset[int]
    """Positions of inputs that must be there."""
    most: int
    outputs: int
    attributes: dict[str, Any]
    """Defaults, whose types the values must have; an empty str stands for one without default, of any type."""


OPS: dict[str, _Op] = {}
"""By name, every op that can be written out."""


def contrib(needed: Sequence[int], most: int, outputs: int = 1, **attributes: Any) -> Callable[[Written], Written]:
    """Register a function as the op of its name: positions of needed inputs, most inputs and outputs, attributes."""

    def register(write: Written) -> Written:
        OPS[write.__name__] = _Op(write, frozenset(needed), most, outputs, attributes)
        return write

    return register


class Expansion:
    """What a function of an op reads and writes with; values are named, "" is an absent one."""

    def __init__(
        self,
        graph: Graph,
        node: Node,
        facts: Facts,
        taken: set[str],
        shared: dict[tuple[Any, ...], str],
        read: set[str],
    ) -> None:
        self._graph, self._node, self._taken, self._read = graph, node, taken, read
        self._nodes: list[Node] = []
        self._op = OPS[node.op]
        self.facts = facts
        self.shared = shared
        """Values that later nodes of the graph can use as well."""
        self.opset = graph.opsets.get("", 1)
        self._check()

    def written(self) -> list[Node]:
        """The nodes in the place of this one."""
        found = self._op.write(self)
        values = [found] if isinstance(found, str) else list(found)
        names: dict[str, str] = {}
        for output, value in zip(self._node.outputs, values, strict=False):
            if not output:
                continue
            if value is None:
                if output in self._read:
                    self.refuse(f"its output {output!r} is read, which cannot be computed")
            elif value in names or not any(value in node.outputs for node in self._nodes):
                self._nodes.append(Node("Identity", [value], [output], name=self.fresh("Identity")))
            else:
                names[value] = output
        for node in self._nodes:
            node.inputs = [names.get(name, name) for name in node.inputs]
            node.outputs = [names.get(name, name) for name in node.outputs]
            node.sources = list(self._node.sources)
        for key, value in self.shared.items():
            self.shared[key] = names.get(value, value)
        return self._nodes

    # -- reading

    def input(self, position: int) -> str:
        """Name of an input, "" if it is absent."""
        return self._node.inputs[position] if position < len(self._node.inputs) else ""

    def attribute(self, name: str) -> Any:
        """An attribute's value, or its default."""
        return self._node.attributes.get(name, self._op.attributes[name])

    def rank(self, value: str) -> int:
        """How many dimensions a value has."""
        return len(self.shape(value))

    def shape(self, value: str) -> Shape:
        """The symbolic shape of a value."""
        shape = self.facts.shape(value)
        if shape is None:
            self.refuse(f"the shape of its input {value!r} does not follow from the graph")
        return shape

    def size(self, value: str) -> int:
        """The last dimension of a value."""
        shape = self.shape(value)
        if not shape or not isinstance(shape[-1], int):
            self.refuse(f"the last dimension of {value!r} is no number")
        return shape[-1]

    def array(self, position: int) -> np.ndarray:
        """A constant input, as stored."""
        name = self.input(position)
        if name not in self._graph.constants:
            self.refuse(f"its input {name!r} is no constant")
        return self._graph.constants[name]

    def vector(self, position: int, size: int) -> np.ndarray:
        """A constant input of ``size`` numbers, widened."""
        array = widened(self.array(position))
        if array.shape != (size,):
            self.malformed(f"expected input {position} of shape ({size},), came {array.shape}")
        return array

    def refuse(self, reason: str) -> NoReturn:
        """Raise that the node is used in a way that is not supported."""
        raise UnsupportedOpError(
            f"{self._graph.path}: node {self._node.name!r}: op {self._node.op!r} of ONNX Runtime is not supported in "
            f"this form: {reason}. Expected a form as in encoders; use the file from before it was optimized for ONNX "
            "Runtime."
        )

    def malformed(self, reason: str) -> NoReturn:
        """Raise that the node is not what its op allows."""
        raise ModelFormatError(
            f"{self._graph.path}: node {self._node.name!r}: op {self._node.op!r}: {reason}. The file is malformed; "
            "export it again."
        )

    # -- writing

    def fresh(self, hint: str) -> str:
        """A name that is not in use."""
        name, count = f"{self._node.name}/{hint}", 0
        while name in self._taken:
            count += 1
            name = f"{self._node.name}/{hint}.{count}"
        self._taken.add(name)
        return name

    def constant(self, array: Any, dtype: Any = None) -> str:
        """A constant; floats are float32."""
        array = np.asarray(array, dtype)
        name = self.fresh("constant")
        self._graph.constants[name] = array.astype(np.float32) if array.dtype == np.float64 else array
        return name

    def node(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Append a standard node; the names of its outputs."""
        names = [self.fresh(op) for _ in range(outputs)]
        kept = list(inputs)
        while kept and not kept[-1]:
            kept.pop()
        node = Node(op, kept, names, attributes, self.fresh(op))
        self._nodes.append(node)
        self.facts.visit(node)
        return names

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a standard node of one output; the output's name."""
        return self.node(op, *inputs, **attributes)[0]

    def over_axes(self, op: str, value: str, axes: Sequence[int], **attributes: Any) -> str:
        """Append a node whose axes are an input from opset 13 on: Unsqueeze, Squeeze, ReduceSum."""
        if self.opset < 13:
            return self.op(op, value, axes=list(axes), **attributes)
        return self.op(op, value, self.constant(axes, np.int64), **attributes)

    def plus(self, value: str, bias: str) -> str:
        """The sum with a bias, if there is one."""
        return self.op("Add", value, bias) if bias else value

    # -- checking

    def _check(self) -> None:
        node, op = self._node, self._op
        given = {position for position, name in enumerate(node.inputs) if name}
        if not op.needed <= given or (given and max(given) >= op.most):
            needed = sorted(op.needed)
            self.malformed(f"expected at most {op.most} inputs and those at {needed}, came {node.inputs}")
        if len(node.outputs) > op.outputs or not any(node.outputs):
            self.malformed(f"expected 1 to {op.outputs} outputs, came {node.outputs}")
        for name, value in node.attributes.items():
            if name not in op.attributes:
                self.malformed(f"expected attributes among {sorted(op.attributes)}, came {name!r}")
            default = op.attributes[name]
            kind = numbers.Real if isinstance(default, float) else numbers.Integral
            fits = isinstance(value, str if isinstance(default, str) else list if default == () else kind)
            if not fits:
                self.malformed(f"expected a {type(default).__name__} as attribute {name!r}, came {value!r:.80}")
