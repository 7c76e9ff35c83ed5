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

from sparsert.errors import EngineError, InputRangeError, ModelFormatError, SparsertError
from sparsert.graph.ir import Node
from sparsert.graph.reads import implicit_inputs
from sparsert.graph.schema import check_node, refusal, schema_of

__all__ = ["Runner", "failure", "make_runner"]

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


class GatherElements(OpRun):
    """onnx's own is wrong for negative axes, and fails beyond 32 entries along the axis (64 from NumPy 2 on)."""

    op_domain = ""

    def _run(self, data: np.ndarray, indices: np.ndarray, axis: int = 0) -> tuple[np.ndarray]:
        if not -data.ndim <= axis < data.ndim or data.ndim != indices.ndim:
            raise ValueError(f"expected indices of rank {data.ndim} and an axis of it, came {indices.ndim} and {axis}")
        axis %= data.ndim
        kept = [slice(None) if dim == axis else slice(size) for dim, size in enumerate(indices.shape)]
        return (np.take_along_axis(data[tuple(kept)], indices, axis),)


class CumSum(OpRun):
    """onnx's own wants a scalar axis; other runtimes take a vector of one as well."""

    op_domain = ""

    def _run(self, x: np.ndarray, axis: np.ndarray, exclusive: int = 0, reverse: int = 0) -> tuple[np.ndarray]:
        along = int(axis.reshape(()))
        total = np.cumsum(np.flip(x, along) if reverse else x, along, dtype=x.dtype)
        if exclusive:
            total = np.roll(total, 1, along)
            np.moveaxis(total, along, 0)[:1] = 0
        return (np.flip(total, along) if reverse else total,)


def failure(node: Node, feeds: Mapping[str, Any], error: Exception) -> SparsertError:
    """The error that a node failed when it ran: because of the caller's arrays, or of the file, or of sparsert."""
    shapes = ", ".join(f"{name} {getattr(array, 'shape', None)}" for name, array in feeds.items())
    # NumPy's error of a wrong axis is an IndexError too, but the axis is the model's
    blames_values = isinstance(error, IndexError) and not isinstance(error, np.exceptions.AxisError)
    kind = InputRangeError if blames_values else EngineError
    return kind(
        f"node {node.name or node.outputs[0]!r}: op {node.op!r} failed on inputs of shapes {shapes}: {error}. Either "
        "the model does not take arrays of these shapes and values, or it is malformed. If another runtime runs it on "
        "the same arrays, please report it."
    )


def _attribute(name: str, value: Any, kind: onnx.defs.OpSchema.AttrType) -> onnx.AttributeProto:
    if isinstance(value, onnx.AttributeProto):
        return value
    if isinstance(value, np.ndarray):
        is_tensor = kind == onnx.defs.OpSchema.AttrType.TENSOR
        value = numpy_helper.from_array(value, name) if is_tensor else value.tolist()
    elif isinstance(value, np.generic):
        value = value.item()
    # The type must be given: it cannot be told from an empty list.
    return helper.make_attribute(name, value, attr_type=kind.value)  # type: ignore[attr-defined]


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
    schema = schema_of(node, opsets)
    op, versions = node.op, dict(opsets)
    versions[schema.domain] = max(versions.get(schema.domain, 1), schema.since_version)
    if not schema.domain and (node.op, schema.since_version) in _SUCCESSORS:
        op, versions[""] = _SUCCESSORS[node.op, schema.since_version]
    if schema.deprecated and op == node.op:
        raise refusal(node, opsets, "the op was removed from the standard")
    check_node(node, opsets)

    given = [name for name in node.inputs if name]
    hidden = implicit_inputs(node)
    feed_names = list(dict.fromkeys([*given, *hidden]))
    result_names = [name for name in node.outputs if name]
    try:
        proto = helper.make_node(op, node.inputs, node.outputs, name=node.name, domain=schema.domain)
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
        model = helper.make_model(graph, opset_imports=imports)
        evaluator = ReferenceEvaluator(model, new_ops=[CumSum, GatherElements])
    except (NotImplementedError, RuntimeError, KeyError) as error:
        raise refusal(node, opsets, f"no reference operator: {error}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelFormatError(
            f"node {node.name or node.outputs[0]!r}: op {node.op!r} does not accept its attributes ({error}). The file "
            "is malformed; export it again."
        ) from error
    _log.info("node %r: op %s runs through the reference fallback, which is slow", node.name, node.op)
    positions = [index for index, name in enumerate([*node.inputs, *hidden]) if name]

    def run(arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        feeds = {name: arrays[index] for name, index in zip([*given, *hidden], positions, strict=True)}
        try:
            with np.errstate(all="ignore"):  # infinities and NaN go their way
                results = evaluator.run(None, feeds)
        except MemoryError:
            raise
        except Exception as error:  # whatever an operator of the onnx package raises on arrays that do not fit
            raise failure(node, feeds, error) from error
        return [np.ascontiguousarray(result) if np.ndim(result) else np.asarray(result) for result in results]

    return run
