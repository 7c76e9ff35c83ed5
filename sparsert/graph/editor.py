"""A graph under construction: who produces and who reads every value, constants, and replacement of nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sparsert.graph.ir import FUSED_DOMAIN, Graph, Node
from sparsert.graph.mapped import detach
from sparsert.graph.order import sort_nodes
from sparsert.graph.quantization import Quantization
from sparsert.graph.reads import captured, reads
from sparsert.graph.shapes import Facts
from sparsert.graph.widen import widened

WeightOnly = Literal["float", "dynamic"]
"""How weights run that are stored in bytes while activations are floats: as floats, or with activations in bytes."""


@dataclass(frozen=True)
class QuantizedConstant:
    """A constant behind a DequantizeLinear, kept as stored; ``axis`` is that of a per-channel scale, else None."""

    stored: np.ndarray
    quantization: Quantization
    axis: int | None

    def dequantized(self) -> np.ndarray:
        """Return the float32 array it stands for."""
        scale, zero_point = self.quantization.scale, self.quantization.zero_point
        if self.axis is not None:
            shape = [-1 if axis == self.axis else 1 for axis in range(self.stored.ndim)]
            scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
        return Quantization(scale, zero_point, self.quantization.dtype).dequantize(self.stored)

    def rescaled(self, factor: np.ndarray) -> QuantizedConstant | None:
        """The product with a float32 array, if that is the scale of what had none: one number, or one a channel."""
        plain = self.axis is None and self.quantization.scale == 1
        axes = [axis for axis, size in enumerate(factor.shape) if size != 1]
        if not plain or factor.dtype != np.float32 or factor.ndim > self.stored.ndim or len(axes) > 1:
            return None
        axis = axes[0] + self.stored.ndim - factor.ndim if axes else None
        if axis is not None and factor.size != self.stored.shape[axis]:
            return None
        scale = factor.reshape(-1) if axes else factor.reshape(())
        zeros = np.broadcast_to(self.quantization.zero_point, scale.shape)
        return QuantizedConstant(self.stored, Quantization(scale, zeros, self.quantization.dtype), axis)

    def transposed(self, perm: list[int]) -> QuantizedConstant:
        """Return the constant with its axes permuted."""
        axis = None if self.axis is None else perm.index(self.axis)
        return QuantizedConstant(self.stored.transpose(perm), self.quantization, axis)


class Editor:
    """Holds a copy of the graph's node list while passes replace nodes; :meth:`finish` gives the new graph.

    Replacing a node removes everything that nobody reads any more, so a reader found later is a reader that counts.
    """

    def __init__(self, graph: Graph, weight_only: WeightOnly = "float") -> None:
        self.graph = graph
        self.weight_only = weight_only
        self.constants = dict(graph.constants)
        self.quantized: dict[str, QuantizedConstant] = {}
        self.outputs = {info.name for info in graph.outputs}
        self.inputs = {info.name for info in graph.inputs}
        self.facts = Facts(graph)
        self.facts.constants = self.constants
        self.producers: dict[str, Node] = {}
        self._readers: dict[str, dict[int, Node]] = {}
        self._position: dict[int, float] = {}
        self._nodes: dict[int, Node] = {}
        self._names = {name for node in graph.nodes for name in node.outputs} | self.inputs | set(self.constants)
        for position, node in enumerate(graph.nodes):
            name = node.name or f"{node.op}_{position}"
            copy = Node(
                node.op, list(node.inputs), list(node.outputs), dict(node.attributes), name, node.domain, node.fused
            )
            copy.sources = list(node.sources) or [name]
            self._insert(copy, float(position))

    # -- looking

    def nodes(self, *ops: str, fused: bool = False) -> list[Node]:
        """Return the living nodes in order, only those of the given ops if any; ``fused`` picks the vocabulary."""
        found = [node for node in self._nodes.values() if not ops or (node.op in ops and self.is_fused(node) == fused)]
        return sorted(found, key=lambda node: self._position[id(node)])

    def alive(self, node: Node) -> bool:
        """Whether the node has not been replaced or removed."""
        return id(node) in self._nodes

    @staticmethod
    def is_fused(node: Node) -> bool:
        """Whether the node speaks the fused vocabulary."""
        return node.domain == FUSED_DOMAIN

    def producer(self, value: str, *ops: str) -> Node | None:
        """Return the ONNX node (of one of ``ops``, if given) that writes the value, else None."""
        node = self.producers.get(value)
        if node is None or node.domain not in ("", "ai.onnx") or (ops and node.op not in ops):
            return None
        return node

    def fused_producer(self, value: str, op: str) -> Node | None:
        """Return the fused node of type ``op`` that writes the value, else None."""
        node = self.producers.get(value)
        return node if node is not None and self.is_fused(node) and node.op == op else None

    def readers(self, value: str) -> list[Node]:
        """Return the nodes that read the value, without those that only ask for its shape."""
        return [node for node in self._readers.get(value, {}).values() if node.op not in ("Shape", "Size")]

    def sole_reader(self, value: str) -> Node | None:
        """Return the one node that reads the value; None if there are others or the value is a graph output."""
        readers = self.readers(value)
        return readers[0] if len(readers) == 1 and value not in self.outputs else None

    def constant(self, value: str) -> np.ndarray | None:
        """Return the constant array, dequantized or widened if it is stored in fewer bits, or None."""
        if value in self.constants:
            return widened(self.constants[value])
        if value in self.quantized:
            return self.quantized[value].dequantized()
        return None

    def is_constant(self, value: str) -> bool:
        """Whether the value is the same in every run."""
        return value in self.constants or value in self.quantized

    def scalar(self, value: str) -> float | None:
        """Return a constant of one element as a Python number, or None."""
        array = self.constants.get(value)
        if array is None and value in self.quantized and self.quantized[value].stored.size == 1:
            array = self.quantized[value].dequantized()
        if array is None or array.size != 1 or array.dtype.kind not in "biuf":
            return None
        return array.reshape(-1)[0].item()

    def split_constant(self, node: Node) -> tuple[str, str] | None:
        """Return (other, constant) operand of a node with two inputs of which exactly one is constant."""
        if len(node.inputs) != 2:
            return None
        a, b = node.inputs
        if self.is_constant(a) == self.is_constant(b):
            return None
        return (b, a) if self.is_constant(a) else (a, b)

    def vector(self, value: str, size: int | None) -> np.ndarray | None:
        """Return a constant that broadcasts along the last axis as shape (size,), or None."""
        array = self.constant(value)
        if (
            array is None
            or array.ndim == 0
            or array.size != array.shape[-1]
            or (size is not None and array.size != size)
        ):
            return None
        return array.reshape(-1)

    def channels(self, value: str) -> int | None:
        """Return the size of the last dimension if it is a known number."""
        shape = self.facts.shape(value)
        return shape[-1] if shape and isinstance(shape[-1], int) else None

    def is_float(self, value: str) -> bool:
        """Whether the value is float32."""
        return self.facts.dtype(value) == np.float32

    def quantization(self, scale: str, zero_point: str, axis_size: int | None = None) -> Quantization | None:
        """Read constant quantization parameters; per tensor unless ``axis_size`` allows vectors of that size."""
        scales = self.constants.get(scale)
        if scales is None or scales.dtype != np.float32:
            return None
        zeros = self.constants.get(zero_point) if zero_point else np.zeros(scales.shape, np.uint8)
        if zeros is None or zeros.dtype not in (np.uint8, np.int8):
            return None
        if scales.size == 1 and zeros.size == 1:
            return Quantization(scales.reshape(()), zeros.reshape(()), zeros.dtype)
        if axis_size is not None and scales.shape == (axis_size,) and zeros.size in (1, axis_size):
            return Quantization(scales, np.broadcast_to(zeros.reshape(-1), (axis_size,)), zeros.dtype)
        return None

    # -- changing

    def fresh(self, hint: str) -> str:
        """Return a value name that is not in use."""
        name, count = hint, 0
        while name in self._names:
            count += 1
            name = f"{hint}.{count}"
        self._names.add(name)
        return name

    def emit(self, fused: Any, inputs: list[str], output: str | list[str], absorbed: Iterable[Node]) -> Node:
        """Put a fused node in the place of the nodes that write ``output``; fresh outputs come after the inputs.

        Parameters
        ----------
        fused : an op of :mod:`sparsert.ops`
        inputs, output : value names
        absorbed : nodes
            What the fused node stands for; they vanish as far as nobody else reads them.
        """
        outputs = [output] if isinstance(output, str) else output
        sources: dict[str, None] = {}
        for node in absorbed:
            sources.update(dict.fromkeys(node.sources))
        op = type(fused).__name__
        node = Node(op, inputs, outputs, {}, next(iter(sources), op), FUSED_DOMAIN, fused, list(sources))
        replaced = {id(self.producers[name]): self.producers[name] for name in outputs if name in self.producers}
        if replaced:
            position = max(self._position[key] for key in replaced)
        else:
            position = (
                max((self._position[id(self.producers[i])] for i in inputs if i in self.producers), default=-1.0) + 0.5
            )
        orphans = [self._detach(old) for old in replaced.values()]
        self._insert(node, position)
        self.sweep(name for names in orphans for name in names)
        return node

    def alias(self, node: Node, source: str) -> bool:
        """Remove a node whose only output equals ``source``; False if a graph output or a subgraph needs its name."""
        output = node.outputs[0]
        renamed = source if output in self.outputs else output
        if any(renamed in captured(reader) for reader in self._readers.get(renamed, {}).values()):
            return False
        if output in self.outputs:
            origin = self.producers.get(source)
            if origin is None or source in self.outputs:
                return False
            self._detach(node)
            origin.outputs[origin.outputs.index(source)] = output
            del self.producers[source]
            self.producers[output] = origin
            self.facts.producers[output] = origin
            if source in self.facts.shapes:
                self.facts.shapes[output] = self.facts.shapes[source]
            if source in self.facts.dtypes:
                self.facts.dtypes[output] = self.facts.dtypes[source]
            self._rename(source, output)
            return True
        self._detach(node)
        self._rename(output, source)
        self.sweep([source])
        return True

    def keep_inputs(self, node: Node, count: int) -> None:
        """Take away all inputs of a node but the first ones."""
        position, orphans = self._position[id(node)], self._detach(node)
        del node.inputs[count:]
        self._insert(node, position)
        self.sweep(orphans)

    def _rename(self, old: str, new: str) -> None:
        for reader in list(self._readers.pop(old, {}).values()):
            reader.inputs = [new if name == old else name for name in reader.inputs]
            self._readers.setdefault(new, {})[id(reader)] = reader

    def make_constant(self, node: Node, arrays: list[np.ndarray | QuantizedConstant]) -> None:
        """Replace a node by the constants that it computes; graph outputs keep their node."""
        if any(name in self.outputs for name in node.outputs):
            return
        for name, array in zip(node.outputs, arrays, strict=False):
            if isinstance(array, QuantizedConstant):
                self.quantized[name] = array
                self.facts.shapes[name], self.facts.dtypes[name] = array.stored.shape, np.dtype(np.float32)
            elif name:
                self.constants[name] = array
        self.sweep(self._detach(node))

    def _insert(self, node: Node, position: float) -> None:
        self._nodes[id(node)] = node
        self._position[id(node)] = position
        for name in node.outputs:
            if name:
                self.producers[name] = node
        for name in reads(node):
            self._readers.setdefault(name, {})[id(node)] = node

    def _detach(self, node: Node) -> list[str]:
        """Take the node out; return the values that it read."""
        del self._nodes[id(node)]
        for name in node.outputs:
            if self.producers.get(name) is node:
                del self.producers[name]
        names = reads(node)
        for name in names:
            self._readers.get(name, {}).pop(id(node), None)
        return names

    def sweep(self, values: Iterable[str] | None = None) -> None:
        """Remove nodes that nobody reads: those that write ``values`` and what they read, or all."""
        queue = [name for node in self.nodes() for name in node.outputs] if values is None else list(values)
        while queue:
            node = self.producers.get(queue.pop())
            if node is None or any(name in self.outputs or self._readers.get(name) for name in node.outputs if name):
                continue
            queue.extend(self._detach(node))

    # -- result

    def finish(self) -> Graph:
        """Return the new graph: nodes in topological order, only constants that a node or an output reads."""
        self.sweep()
        graph, nodes = self.graph, self.nodes()
        read = [reads(node) for node in nodes]
        used = {name for names in read for name in names} | self.outputs
        constants = {name: detach(array) for name in used if (array := self.constant(name)) is not None}
        order, _ = sort_nodes(nodes, read, self.inputs | set(constants), graph.path or graph.name)
        return Graph(
            graph.name,
            list(graph.inputs),
            list(graph.outputs),
            [nodes[index] for index in order],
            constants,
            dict(graph.opsets),
            graph.path,
            graph.source_node_count or len(graph.nodes),
            dict(graph.stated),
        )
