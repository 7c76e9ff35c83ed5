"""Lowering: a run of fused nodes becomes steps of the native run loop, one function a fused op."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from sparsert import cpu
from sparsert.graph import fused
from sparsert.graph.ir import Graph, Node
from sparsert.graph.mapped import detach, let_go
from sparsert.kernels.accumulate import BLOCK_ROWS
from sparsert.kernels.attention import BOUNDED_SPAN, SUM_ROWS
from sparsert.kernels.table import MODE
from sparsert.plan.steps import (
    Buffer,
    DynamicParameters,
    Parameters,
    Stage,
    Step,
    attention_parameters,
    fuse_stages,
    quantization_parameters,
)
from sparsert.plan.store import load_or_pack
from sparsert.plan.weights import PackedLinear, pack_linear, unsigned_zero_point

__all__ = ["Lowering", "Output", "can_lower"]

_ACTIVATIONS = {"relu": "relu", "tanh": "tanh"}


@dataclass
class Output:
    """An array that a segment leaves: ``shape`` "tokens" is lead + (columns,), "feature" lead, "items" (B, columns)."""

    name: str
    shape: str
    columns: int
    step: Step


def _scalar(quantization: fused.Quantization | None) -> bool:
    return quantization is not None and np.size(quantization.scale) == 1 and np.size(quantization.zero_point) == 1


def _attention_mode(op: fused.Attention, record: np.ndarray) -> int:
    """How the kernel computes scores."""
    if op.q_quantization is None:
        return MODE.floats
    if op.scores_quantization is None:
        return MODE.int8
    bounded = 255 * abs(float(record["score_factor"][0])) <= BOUNDED_SPAN
    return MODE.bounded_scores if bounded else MODE.quantized_scores


_ATTENTION_FORMS = ("quads", "signed_quads", "signed_rows")
"""Forms of Q, K and V for attention in int8."""


def _attention_fits(op: fused.Attention, sizes: set[int | None]) -> bool:
    channels = sizes.pop()
    if sizes or op.dynamic or channels is None or channels % op.heads or (channels // op.heads) % 4:
        return False
    parts = (op.q_quantization, op.k_quantization, op.probs_quantization, op.v_quantization)
    if all(part is None for part in (*parts, op.scores_quantization, op.context_quantization)):
        return True
    if not all(_scalar(part) for part in parts) or np.size(op.qk_scale) != 1 or np.size(op.pv_scale) != 1:
        return False
    if op.qk_scale is None or op.pv_scale is None:
        return False
    if any(part is not None and not _scalar(part) for part in (op.scores_quantization, op.context_quantization)):
        return False
    probabilities = op.probs_quantization
    assert probabilities is not None
    return unsigned_zero_point(probabilities.dtype, probabilities.zero_point) == 0


def can_lower(node: Node, channels: dict[str, int]) -> bool:
    """Whether the native run loop can take a fused node. ``channels`` maps values to their last dimension.

    Sizes that contradict each other are left to the array nodes, which say so: a kernel would read beyond its buffer.
    """
    op = node.fused
    match op:
        case fused.Attention():
            return _attention_fits(op, {channels.get(name) for name in node.inputs[:3]})
        case fused.Quantize() | fused.Dequantize():
            return _scalar(op.quantization) and node.inputs[0] in channels
        case fused.Add():
            return all(name in channels for name in node.inputs) and len({channels[name] for name in node.inputs}) == 1
        case fused.Linear():
            if op.input_quantization is not None and not _scalar(op.input_quantization):
                return False
            if op.weight.ndim != 2 or op.weight.dtype not in (np.float32, np.int8, np.uint8):
                return False
            return channels.get(node.inputs[0]) == op.weight.shape[0]
        case fused.LayerNorm():
            return channels.get(node.inputs[0]) == len(op.gamma)
        case fused.KeyMask():
            return False
        case fused.Embeddings():
            return len({table.weight.shape[1:] for table in op.tables}) == 1 and all(map(_table_fits, op.tables))
        case None:
            return False
    return node.inputs[0] in channels


def _table_fits(table: fused.Table) -> bool:
    if table.quantization is None:
        return table.weight.dtype == np.float32
    return _scalar(table.quantization) and table.weight.dtype in (np.uint8, np.int8)


@dataclass
class Lowering:
    """Lowers the nodes of one segment.

    Parameters
    ----------
    graph : Graph
    nodes : list of Node
        Fused nodes in topological order.
    channels : dict
        Last dimension of every known value.
    needed : set of str
        Values of the segment that somebody outside reads.
    """

    graph: Graph
    nodes: list[Node]
    channels: dict[str, int]
    needed: set[str]
    steps: list[Step] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    arrays: list[str] = field(default_factory=list)
    packed: dict[str, PackedLinear] = field(default_factory=dict)
    """Packed weights by the output of their node."""
    covered: list[tuple[int, ...]] = field(default_factory=list)
    """For every step, the numbers of the nodes that it stands for; none for a step that only moves an input."""
    node_count: int = 0
    _buffers: dict[tuple[str, str], Buffer] = field(default_factory=dict)
    _dynamic: dict[str, DynamicParameters] = field(default_factory=dict)
    _done: set[int] = field(default_factory=set)

    def run(self) -> Lowering:
        """Lower every node; returns self."""
        produced = {name for node in self.nodes for name in node.outputs}
        self._readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                self._readers.setdefault(name, []).append(node)
        self._pack()
        self.node_count = len(self.nodes)
        for node in self.nodes:
            for name in self._tile_inputs(node):
                if name not in produced and name not in self.arrays and name not in self.graph.constants:
                    self._scatter(name)
        numbers = {id(node): number for number, node in enumerate(self.nodes)}
        self.covered = [()] * len(self.steps)
        for node in self.nodes:
            if id(node) not in self._done:
                before = set(self._done)
                self._done.add(id(node))
                _RULES[type(node.fused)](self, node)
                nodes = tuple(sorted(numbers[done] for done in self._done - before))
                self.covered += [nodes] * (len(self.steps) - len(self.covered))
        return self

    def release(self) -> None:
        """Let go of the file's own weights: packed, they would stay in memory twice."""
        self.graph = replace(self.graph, nodes=[], constants={})
        self.nodes, self._readers = [], {}

    def _pack(self) -> None:
        """Pack all weights, on all cores: the packers release the GIL most of the time."""
        linears = [node for node in self.nodes if isinstance(node.fused, fused.Linear)]
        with ThreadPoolExecutor(cpu.available_cores()) as pool:
            packed = pool.map(lambda node: _pack(node.fused), linears)
            self.packed = {node.outputs[0]: result for node, result in zip(linears, packed, strict=True)}

    @staticmethod
    def _tile_inputs(node: Node) -> list[str]:
        match node.fused:
            case fused.Embeddings():
                return []
            case fused.Attention():
                return node.inputs[:3]
            case fused.Add():
                return node.inputs
        return node.inputs[:1]

    def _buffer(self, value: str, form: str, rows: int) -> Buffer:
        key = (value, form)
        if key not in self._buffers:
            self._buffers[key] = Buffer(value, form, rows)
        return self._buffers[key]

    def _scatter(self, name: str) -> None:
        self.arrays.append(name)
        step = Step("scatter", rows=self.channels[name], constants={"array": name})
        step.writes.append(self._buffer(name, "floats", self.channels[name]))
        self.steps.append(step)
        if name in self._readers:
            self._derive(name)

    def _derive(self, value: str) -> None:
        """Quantized forms of a value that exists as floats only."""
        sinks = [sink for sink in self._sinks(value) if sink.kind != "floats"]
        if sinks:
            floats = self._buffers[value, "floats"]
            self.steps.append(Step("rows", [floats], [], sinks, "load", floats.rows))
            self._finish(self.steps[-1])

    # -- epilogues --------------------------------------------------------------------------------------------------

    def _produce(self, step: Step, value: str) -> None:
        """Let ``step``, whose rows are ``value``, absorb what follows and sink the result in every form wanted."""
        value = self._absorb(step, value)
        step.stages += self._sinks(value)
        if not any(stage.destination for stage in step.stages):
            return  # nobody reads it
        step.stages = fuse_stages(step.stages) if self._sink_count(step) == 1 else step.stages
        self.steps.append(step)
        self._finish(step)
        self._export(value)

    @staticmethod
    def _sink_count(step: Step) -> int:
        return sum(stage.destination is not None for stage in step.stages)

    @staticmethod
    def _finish(step: Step) -> None:
        for stage in step.stages:
            if stage.source is not None:
                step.reads.append(stage.source)
            if stage.destination is not None:
                step.writes.append(stage.destination)

    def _absorb(self, step: Step, value: str) -> str:
        """Append transforms for the chain of sole readers; returns the value at its end."""
        while value not in self.needed and len(self._readers.get(value, [])) == 1:
            node = self._readers[value][0]
            stage, result = self._as_stage(node, value)
            if stage is None:
                break
            step.stages.append(stage)
            self._done.add(id(node))
            value = result
        return value

    def _as_stage(self, node: Node, value: str) -> tuple[Stage | None, str]:
        op, result = node.fused, node.outputs[0]
        match op:
            case fused.Gelu():
                return Stage("gelu" if op.approximate == "none" else "gelu_tanh"), result
            case fused.Activation():
                return Stage(_ACTIVATIONS[op.kind]), result
            case fused.Add() if node.inputs[0] != node.inputs[1]:
                other = node.inputs[1] if node.inputs[0] == value else node.inputs[0]
                if other in self.graph.constants:
                    return self._vector_stage(other), result
                if (other, "floats") in self._buffers:
                    return Stage("add", source=self._buffers[other, "floats"]), result
            case fused.Quantize():
                readers = self._readers.get(result, [])
                if result not in self.needed and len(readers) == 1:
                    last = readers[0]
                    if isinstance(last.fused, fused.Dequantize) and _same(op.quantization, last.fused.quantization):
                        self._done.add(id(last))
                        record = quantization_parameters(op.quantization)
                        return Stage("fake_quantize", parameters=record), last.outputs[0]
        return None, value

    def _vector_stage(self, name: str) -> Stage:
        vector = self.graph.constants[name].astype(np.float32).reshape(-1)
        padded = np.zeros(-(-len(vector) // BLOCK_ROWS) * BLOCK_ROWS, np.float32)
        padded[: len(vector)] = vector
        return Stage("bias", vector=padded)

    def _sinks(self, value: str) -> list[Stage]:
        """One sink for every form in which somebody reads ``value``."""
        rows = self.channels[value]
        sinks: dict[tuple[str, str], Stage] = {}

        def sink(name: str, form: str, parameters: Parameters | None = None) -> None:
            if (name, form) not in sinks and (name, form) not in self._buffers:
                sinks[name, form] = Stage(form, parameters=parameters, destination=self._buffer(name, form, rows))

        floats = value in self.needed
        for node in self._readers.get(value, []):
            op = node.fused
            if isinstance(op, fused.Quantize):
                self._done.add(id(node))
                record = quantization_parameters(op.quantization)
                for reader in self._readers.get(node.outputs[0], []):
                    sink(node.outputs[0], self._layout(reader), record)
            elif isinstance(op, fused.Attention) and op.q_quantization is not None:
                for position, form in enumerate(_ATTENTION_FORMS):
                    if node.inputs[position] == value:
                        quantization = (op.q_quantization, op.k_quantization, op.v_quantization)[position]
                        assert quantization is not None
                        sink(f"{value}@{node.outputs[0]}@{position}", form, quantization_parameters(quantization))
            else:
                floats = True
        if floats:
            sink(value, "floats")
        return list(sinks.values())

    def _layout(self, reader: Node) -> str:
        """The form in which ``reader`` takes quantized activations."""
        if isinstance(reader.fused, fused.Linear):
            return self.packed[reader.outputs[0]].weight.layout
        return "rows"

    def _export(self, value: str) -> None:
        if value in self.needed:
            floats = self._buffers[value, "floats"]
            step = Step("gather", [floats], rows=floats.rows, constants={"row": 0, "width": floats.rows, "column": 0})
            self.steps.append(step)
            self.outputs.append(Output(value, "tokens", floats.rows, step))

    # -- one function a fused op ------------------------------------------------------------------------------------

    def _embeddings(self, node: Node) -> None:
        op: fused.Embeddings = node.fused
        self.ids += [name for name in node.inputs if name not in self.ids]
        out = node.outputs[0]
        floats = self._buffer(out, "floats", self.channels[out])
        constants = {"tables": detach(op.tables), "ids": list(node.inputs)}
        self.steps.append(Step("embed", [], [floats], rows=floats.rows, constants=constants))
        self._derive(out)
        self._export(out)

    def _linear(self, node: Node) -> None:
        op: fused.Linear = node.fused
        packed = self.packed[node.outputs[0]]
        weight = packed.weight
        form = "floats" if weight.layout == "float" else weight.layout
        x = self._buffers[node.inputs[0], form]
        step = Step("linear", [x], [], [], weight.kernel, weight.out_features, packed)
        if weight.layout == "float":
            if op.bias is not None:
                step.stages.append(Stage("bias", vector=packed.bias))
        elif op.input_quantization is None:
            dynamic = self._dynamic[node.inputs[1]]
            step.stages.append(Stage("dequantize_dynamic", linear=packed, parameters=dynamic))
        else:
            step.stages.append(Stage("dequantize", linear=packed))
        self._produce(step, node.outputs[0])

    def _layer_norm(self, node: Node) -> None:
        op: fused.LayerNorm = node.fused
        x = self._buffers[node.inputs[0], "floats"]
        rows = len(op.gamma)
        padding = (0, -rows % BLOCK_ROWS)
        constants = {
            "gamma": np.pad(op.gamma.astype(np.float32), padding),
            "beta": np.pad(op.beta.astype(np.float32), padding),
            "epsilon": np.array([op.epsilon, 1.0 / rows], np.float32),
        }
        self._produce(Step("rows", [x], [], [], "layer_norm", rows, constants=constants), node.outputs[0])

    def _attention(self, node: Node) -> None:
        op: fused.Attention = node.fused
        channels = self.channels[node.inputs[0]]
        integer = op.q_quantization is not None
        if integer:
            names = [f"{name}@{node.outputs[0]}@{position}" for position, name in enumerate(node.inputs[:3])]
            forms = list(_ATTENTION_FORMS)
        else:
            names, forms = node.inputs[:3], ["floats"] * 3
        reads = [self._buffers[name, form] for name, form in zip(names, forms, strict=True)]
        mask = node.inputs[3] if len(node.inputs) > 3 and node.inputs[3] else ""
        if mask not in self.masks:
            self.masks.append(mask)
        record = attention_parameters(op)
        constants = {
            "heads": op.heads,
            "size": channels // op.heads,
            "mask": mask,
            "mode": _attention_mode(op, record),
            "offset_values": bool(integer and record["value_offset"][0] != 0),
        }
        if integer:
            sums = self._buffer(f"{node.outputs[0]}@sums", "floats", SUM_ROWS * op.heads)
            self.steps.append(Step("byte_sums", reads[:2], [sums], parameters=record, constants=constants))
            reads.append(sums)
        step = Step("attention", reads, rows=channels, parameters=record, constants=constants)
        if integer:
            assert op.pv_scale is not None
            padded = -(-channels // BLOCK_ROWS) * BLOCK_ROWS
            linear = _epilogue(padded, float(np.float32(op.pv_scale)))
            step.stages.append(Stage("dequantize", linear=linear))
            if op.context_quantization is not None:
                context = quantization_parameters(op.context_quantization)
                step.stages.append(Stage("fake_quantize", parameters=context))
        self._produce(step, node.outputs[0])

    def _dequantize(self, node: Node) -> None:
        x = self._buffers[node.inputs[0], "rows"]
        record = quantization_parameters(node.fused.quantization)
        self._produce(Step("rows", [x], [], [], "dequantize", x.rows, parameters=record), node.outputs[0])

    def _dynamic_quantize(self, node: Node) -> None:
        """Extrema of every tile, then the parameters of the whole tensor, then the bytes."""
        x = self._buffers[node.inputs[0], "floats"]
        dynamic = DynamicParameters(node.outputs[0])
        self._dynamic[node.outputs[1]] = dynamic
        self.steps.append(Step("extrema", [x], rows=x.rows, parameters=dynamic))
        self.steps.append(Step("dynamic", parameters=dynamic))
        step = Step("rows", [x], [], [], "load", x.rows)
        for form in dict.fromkeys(self._layout(reader) for reader in self._readers.get(node.outputs[0], [])):
            destination = self._buffer(node.outputs[0], form, x.rows)
            step.stages.append(Stage(form, parameters=dynamic, destination=destination))
        self.steps.append(step)
        self._finish(step)

    def _elementwise(self, node: Node) -> None:
        """A node that no step could absorb: load its first input and apply it."""
        value = node.inputs[0]
        if value in self.graph.constants:  # vector + x
            value = node.inputs[1]
        x = self._buffers[value, "floats"]
        step = Step("rows", [x], [], [], "load", x.rows)
        if isinstance(node.fused, fused.Add) and node.inputs[0] == node.inputs[1]:
            step.stages.append(Stage("add", source=x))
            self._produce(step, node.outputs[0])
            return
        stage, result = self._as_stage(node, value)
        assert stage is not None, f"{node.op} '{node.name}' reads a value that no step has produced"
        step.stages.append(stage)
        self._produce(step, result)

    def _quantize(self, node: Node) -> None:
        """Its input's producer has sunk the bytes already (:meth:`_sinks`)."""

    def _select_token(self, node: Node) -> None:
        floats = self._buffers[node.inputs[0], "floats"]
        step = Step("select", [floats], rows=floats.rows, constants={"token": node.fused.index})
        self.steps.append(step)
        self.outputs.append(Output(node.outputs[0], "items", floats.rows, step))

    def _select_feature(self, node: Node) -> None:
        floats = self._buffers[node.inputs[0], "floats"]
        row = node.fused.index % floats.rows
        step = Step("gather", [floats], rows=1, constants={"row": row, "width": 1, "column": 0})
        self.steps.append(step)
        self.outputs.append(Output(node.outputs[0], "feature", 1, step))


_RULES: dict[type, Callable[[Lowering, Node], None]] = {
    fused.Embeddings: Lowering._embeddings,
    fused.Linear: Lowering._linear,
    fused.LayerNorm: Lowering._layer_norm,
    fused.Attention: Lowering._attention,
    fused.Quantize: Lowering._quantize,
    fused.Dequantize: Lowering._dequantize,
    fused.DynamicQuantize: Lowering._dynamic_quantize,
    fused.Gelu: Lowering._elementwise,
    fused.Activation: Lowering._elementwise,
    fused.Add: Lowering._elementwise,
    fused.SelectToken: Lowering._select_token,
    fused.SelectFeature: Lowering._select_feature,
}


def _same(a: fused.Quantization, b: fused.Quantization) -> bool:
    return a.dtype == b.dtype and np.array_equal(a.scale, b.scale) and np.array_equal(a.zero_point, b.zero_point)


def _pack(op: fused.Linear) -> PackedLinear:
    """Pack a Linear, and give back the pages that its weights take in the mapped file."""
    packed = load_or_pack(op)
    let_go(op.weight)
    return packed


def _epilogue(rows: int, scale: float) -> PackedLinear:
    """Epilogue constants of a product of activations: no weights, one scale."""
    zeros = np.zeros(rows, np.float32)
    none = pack_linear(fused.Linear(np.zeros((1, 1), np.float32))).weight
    return PackedLinear(none, np.zeros(rows, np.int32), np.full(rows, scale, np.float32), zeros, 0.0, 0.0)
