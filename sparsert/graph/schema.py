"""What ONNX says of a node's op: how many inputs and outputs it has, and which attributes of which types."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.defs

from sparsert.errors import ModelFormatError, UnsupportedOpError
from sparsert.graph.ir import Node
from sparsert.graph.tensors import ELEMENT_TYPES

__all__ = ["DEFAULT_DOMAINS", "check_node", "opset_of", "refusal", "schema_of"]

# The spelling of the default domain that some exporters write out.
DEFAULT_DOMAINS = ("", "ai.onnx")

# Ops that ONNX Runtime had before they became standard: LayerNormalization stands in files of opset 14, and the others
# are what its own ones are written out in. Whatever the opset, they mean what their newest schema says.
_YOUNGER = frozenset({"Gelu", "LayerNormalization", "RMSNormalization"})

_Kind = onnx.defs.OpSchema.AttrType
_TYPES: dict[_Kind, Any] = {
    _Kind.FLOAT: numbers.Real,
    _Kind.INT: numbers.Integral,
    _Kind.STRING: (str, bytes),
    _Kind.TENSOR: (np.ndarray, onnx.TensorProto),
    _Kind.SPARSE_TENSOR: np.ndarray,
    _Kind.GRAPH: onnx.GraphProto,
    _Kind.TYPE_PROTO: onnx.TypeProto,
}
"""Python types of an attribute's value, or of its items."""
_LISTS = {
    _Kind.FLOATS: _Kind.FLOAT,
    _Kind.INTS: _Kind.INT,
    _Kind.STRINGS: _Kind.STRING,
    _Kind.TENSORS: _Kind.TENSOR,
    _Kind.SPARSE_TENSORS: _Kind.SPARSE_TENSOR,
    _Kind.GRAPHS: _Kind.GRAPH,
    _Kind.TYPE_PROTOS: _Kind.TYPE_PROTO,
}


def opset_of(node: Node, opsets: Mapping[str, int]) -> int | None:
    """The version of the node's domain that the file imports, or None."""
    if node.domain in DEFAULT_DOMAINS:
        return opsets.get("", opsets.get("ai.onnx"))
    return opsets.get(node.domain)


def schema_of(node: Node, opsets: Mapping[str, int]) -> onnx.defs.OpSchema:
    """The schema of the node's op in the opset that the file imports.

    Raises
    ------
    UnsupportedOpError
        The domain, op or version is unknown.
    """
    domain = "" if node.domain in DEFAULT_DOMAINS else node.domain
    opset = opset_of(node, opsets)
    if opset is None:
        raise refusal(node, opsets, "the file imports no version of the domain")
    try:
        return onnx.defs.get_schema(node.op, opset, domain)
    except onnx.defs.SchemaError:
        if domain == "" and node.op in _YOUNGER:
            return onnx.defs.get_schema(node.op)
        newest = onnx.defs.has(node.op, domain)
        raise refusal(node, opsets, "the op is not in this opset" if newest else "no such op is known") from None


def refusal(node: Node, opsets: Mapping[str, int], reason: str) -> UnsupportedOpError:
    """The error that nothing can run a node."""
    opset, domain = opset_of(node, opsets), node.domain or "ai.onnx"
    if domain.startswith("com.microsoft"):
        remedy = "The file was optimized for ONNX Runtime: use the one that it was made from, or export the model again"
    else:
        remedy = "Export the model again without this op, or update the onnx package"
    return UnsupportedOpError(
        f"node {_name(node)!r}: nothing can run op {node.op!r} of domain {domain!r}, opset "
        f"{'unstated' if opset is None else opset} ({reason}). Expected a fused op or a standard ONNX op known to onnx "
        f"{onnx.__version__}. {remedy}."
    )


def check_node(node: Node, opsets: Mapping[str, int]) -> None:
    """Refuse a node that its op's schema does not allow; an op that nobody knows is left to whoever runs it.

    Raises
    ------
    ModelFormatError
        Numbers of inputs or outputs, or an attribute's name, type or value, are not what the op allows.
    """
    try:
        schema = schema_of(node, opsets)
    except UnsupportedOpError:
        return
    _check_arity(node, schema)
    unknown = sorted(set(node.attributes) - set(schema.attributes))
    if unknown:
        raise _misfit(node, schema, f"has no attribute {unknown[0]!r}, expected only {sorted(schema.attributes)}")
    for name, spec in schema.attributes.items():
        if name in node.attributes:
            _check_type(node, schema, name, spec.type)
        elif spec.required:
            raise _misfit(node, schema, f"requires the attribute {name!r}, which is missing")
    _check_values(node, schema)


def _check_arity(node: Node, schema: onnx.defs.OpSchema) -> None:
    for what, names, formal, least, most in (
        ("inputs", node.inputs, schema.inputs, schema.min_input, schema.max_input),
        ("outputs", node.outputs, schema.outputs, schema.min_output, schema.max_output),
    ):
        if not least <= len(names) <= most:
            raise _misfit(node, schema, f"takes {least} to {most} {what}, and the node has {len(names)}")
        for name, parameter in zip(names, formal, strict=False):
            if not name and what == "inputs" and parameter.option == onnx.defs.OpSchema.FormalParameterOption.Single:
                raise _misfit(node, schema, f"requires the input {parameter.name!r}, which the node leaves out")
    if not any(node.outputs):
        raise _misfit(node, schema, "gives at least one output, and the node names none")


def _check_type(node: Node, schema: onnx.defs.OpSchema, name: str, kind: _Kind) -> None:
    value = node.attributes[name]
    if isinstance(value, onnx.AttributeProto):
        fits = value.type == kind.value  # type: ignore[attr-defined]  # an enum of pybind
    elif kind in _LISTS:
        items = value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value
        fits = isinstance(items, (list, tuple)) and all(isinstance(item, _TYPES[_LISTS[kind]]) for item in items)
    else:
        fits = isinstance(value, _TYPES[kind])
    if not fits:
        expected = kind.name  # type: ignore[attr-defined]
        raise _misfit(node, schema, f"takes {expected} as attribute {name!r}, came {_shown(value)}")


def _check_values(node: Node, schema: onnx.defs.OpSchema) -> None:
    """What the pages of the ops say of single values, as far as folding and fusing rely on it."""
    to, perm, approximate = (node.attributes.get(name) for name in ("to", "perm", "approximate"))
    if node.op == "Cast" and to not in ELEMENT_TYPES:
        raise _misfit(node, schema, f"takes a known data type as attribute 'to', came {to!r}")
    if node.op == "Transpose" and perm is not None and sorted(perm) != list(range(len(perm))):
        raise _misfit(node, schema, f"takes a permutation of axes as attribute 'perm', came {_shown(perm)}")
    if node.op == "Gelu" and approximate not in (None, "none", "tanh"):
        raise _misfit(node, schema, f"takes 'none' or 'tanh' as attribute 'approximate', came {approximate!r}")


def _misfit(node: Node, schema: onnx.defs.OpSchema, reason: str) -> ModelFormatError:
    return ModelFormatError(
        f"node {_name(node)!r}: op {node.op!r}, as it is since opset {schema.since_version}, {reason}. The file is "
        "malformed; export it again."
    )


def _name(node: Node) -> str:
    return node.name or next(filter(None, node.outputs), node.op)


def _shown(value: Any) -> str:
    return f"{value!r:.80}"
