"""Evaluation: run one ONNX node by the reference operators of the ``onnx`` package. Correct, and slow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.defs
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from sparsert.errors import EngineError, InputRangeError, ModelFormatError, UnsupportedOpError
from sparsert.graph.ir import Node
from sparsert.graph.reads import implicit_inputs

__all__ = ["Runner", "make_runner"]

_log = logging.getLogger(__name__)

Runner = Callable[[Sequence["np.ndarray | None"]], "list[np.ndarray]"]
"""Takes the arrays of ``node.inputs`` (None for an absent optional one), then those of
:func:`~sparsert.graph.reads.implicit_inputs`."""

# Ops of old opsets without a reference operator, and the later op and opset that compute the same on every node that
# the old schema accepts. (op, since_version) -> (op, opset)
_SUCCESSORS = {
    ("DequantizeLinear", 10): ("DequantizeLinear", 19),
    ("DequantizeLinear", 13): ("DequantizeLinear", 19),
    ("Scatter", 9): ("ScatterElements", 11),
}

# The spelling of the default domain that some exporters write out.
_DEFAULT_DOMAINS = ("", "ai.onnx")


class GatherElements(OpRun):
    """onnx's own takes np.choose, which fails beyond 32 entries along the axis (64 from NumPy 2 on)."""

    op_domain = ""

    def _run(self, data: np.ndarray, indices: np.ndarray, axis: int = 0) -> tuple[np.ndarray]:
        axis %= data.ndim
        kept = [slice(None) if dim == axis else slice(size) for dim, size in enumerate(indices.shape)]
        return (np.take_along_axis(data[tuple(kept)], indices, axis),)


def _attribute(name: str, value: Any, kind: onnx.defs.OpSchema.AttrType) -> onnx.AttributeProto:
    if isinstance(value, onnx.AttributeProto):
        return value
    if isinstance(value, np.ndarray):
        is_tensor = kind == onnx.defs.OpSchema.AttrType.TENSOR
        value = numpy_helper.from_array(value, name) if is_tensor else value.tolist()
    elif isinstance(value, np.generic):
        value = value.item()
    # The type must be given: it cannot be told from an empty list.
    return helper.make_attribute(name, value, attr_type=kind.value)


def _misfit(node: Node, opset: int, reason: str) -> ModelFormatError:
    return ModelFormatError(
        f"node {node.name or node.outputs[0]!r}: op {node.op!r} of opset {opset} {reason}. "
        "The file is malformed; export it again."
    )


def _check_against_schema(node: Node, schema: onnx.defs.OpSchema, opset: int) -> None:
    """Raise ModelFormatError where attributes, or numbers of inputs and outputs, are not what the op allows."""
    unknown = sorted(set(node.attributes) - set(schema.attributes))
    if unknown:
        raise _misfit(node, opset, f"has no attribute {unknown[0]!r}, expected only {sorted(schema.attributes)}")
    missing = [name for name, spec in schema.attributes.items() if spec.required and name not in node.attributes]
    if missing:
        raise _misfit(node, opset, f"requires the attribute {missing[0]!r}, which is missing")
    for what, count, least, most in (
        ("inputs", len(node.inputs), schema.min_input, schema.max_input),
        ("outputs", len(node.outputs), schema.min_output, schema.max_output),
    ):
        if not least <= count <= most:
            raise _misfit(node, opset, f"takes {least} to {most} {what}, and the node has {count}")


def _refusal(node: Node, opset: int | None, reason: str) -> UnsupportedOpError:
    domain = node.domain or "ai.onnx"
    return UnsupportedOpError(
        f"node {node.name or node.outputs[0]!r}: nothing can run op {node.op!r} of domain {domain!r}, "
        f"opset {'unstated' if opset is None else opset} ({reason}). Expected a fused op or a standard ONNX op known "
        f"to onnx {onnx.__version__}. Export the model again without this op, or update the onnx package."
    )


def _opset(node: Node, opsets: Mapping[str, int]) -> int | None:
    if node.domain in _DEFAULT_DOMAINS:
        return opsets.get("", opsets.get("ai.onnx"))
    return opsets.get(node.domain)


def make_runner(node: Node, opsets: Mapping[str, int]) -> Runner:
    """Build the function that runs ``node``; everything that can be checked is checked here, once.

    Parameters
    ----------
    node
        An ONNX node (not a fused op).
    opsets
        The versions that the file imports, by domain.

    Raises
    ------
    UnsupportedOpError
        The domain, op or version is unknown, or has no reference operator.
    ModelFormatError
        The node's attributes do not fit its op.
    """
    domain = "" if node.domain in _DEFAULT_DOMAINS else node.domain
    opset = _opset(node, opsets)
    if opset is None:
        raise _refusal(node, opset, "the file imports no version of the domain")
    try:
        schema = onnx.defs.get_schema(node.op, opset, domain)
    except onnx.defs.SchemaError:
        newest = onnx.defs.has(node.op, domain)
        raise _refusal(node, opset, "the op is not in this opset" if newest else "no such op is known") from None
    op, versions = node.op, dict(opsets)
    if not domain and (node.op, schema.since_version) in _SUCCESSORS:
        op, versions[""] = _SUCCESSORS[node.op, schema.since_version]
    if schema.deprecated and op == node.op:
        raise _refusal(node, opset, "the op was removed from the standard")
    _check_against_schema(node, schema, opset)

    given = [name for name in node.inputs if name]
    hidden = implicit_inputs(node)
    feed_names = list(dict.fromkeys([*given, *hidden]))
    result_names = [name for name in node.outputs if name]
    try:
        proto = helper.make_node(op, node.inputs, node.outputs, name=node.name, domain=domain)
        attributes = sorted(node.attributes.items())
        proto.attribute.extend(_attribute(name, value, schema.attributes[name].type) for name, value in attributes)
        untyped = onnx.ValueInfoProto
        graph = helper.make_graph(
            [proto],
            node.name or node.op,
            [untyped(name=name) for name in feed_names],
            [untyped(name=name) for name in result_names],
        )
        imports = [helper.make_opsetid(name, version) for name, version in versions.items()]
        evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=imports), new_ops=[GatherElements])
    except (NotImplementedError, RuntimeError, KeyError) as error:
        raise _refusal(node, opset, f"no reference operator: {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise _misfit(node, opset, f"does not accept its attributes ({error})") from error
    _log.info("node %r: op %s runs through the reference fallback, which is slow", node.name, node.op)
    positions = [index for index, name in enumerate([*node.inputs, *hidden]) if name]

    def run(arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        feeds = {name: arrays[index] for name, index in zip([*given, *hidden], positions, strict=True)}
        try:
            results = evaluator.run(None, feeds)
        except Exception as error:  # whatever an operator of the onnx package raises on arrays that do not fit
            shapes = ", ".join(f"{name} {getattr(feeds[name], 'shape', None)}" for name in feeds)
            kind = InputRangeError if isinstance(error, IndexError) else EngineError
            raise kind(
                f"node {node.name or node.outputs[0]!r}: op {node.op!r} failed on inputs of shapes {shapes}: "
                f"{error}. Check the shapes and values of the arrays given to the engine."
            ) from error
        return [np.ascontiguousarray(result) if np.ndim(result) else np.asarray(result) for result in results]

    return run
