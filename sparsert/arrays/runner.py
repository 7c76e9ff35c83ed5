"""The function that runs one ONNX node on arrays: by an operator of this package, else by a reference operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx.helper

from sparsert.arrays.registry import Form, Unhandled, build
from sparsert.errors import SparsertError
from sparsert.graph.evaluate import Runner, failure, make_runner
from sparsert.graph.ir import Node
from sparsert.graph.reads import implicit_inputs
from sparsert.graph.schema import DEFAULT_DOMAINS, check_node, schema_of

__all__ = ["form_of", "make_array_runner"]


def form_of(node: Node, opsets: Mapping[str, int]) -> Form:
    """What is known of a node before it runs, its attributes completed by their defaults."""
    schema = schema_of(node, opsets)
    attributes: dict[str, Any] = {
        name: onnx.helper.get_attribute_value(spec.default_value)
        for name, spec in schema.attributes.items()
        if spec.default_value.type
    }
    attributes.update(node.attributes)
    texts = {name: value.decode() for name, value in attributes.items() if isinstance(value, bytes)}
    lists = {name: value.tolist() for name, value in attributes.items() if _is_list(schema, name, value)}
    wanted = max((index + 1 for index, name in enumerate(node.outputs) if name), default=0)
    return Form(node.op, schema.since_version, {**attributes, **texts, **lists}, tuple(map(bool, node.inputs)), wanted)


def _is_list(schema: onnx.defs.OpSchema, name: str, value: Any) -> bool:
    return isinstance(value, np.ndarray) and schema.attributes[name].type != onnx.defs.OpSchema.AttrType.TENSOR


def make_array_runner(node: Node, opsets: Mapping[str, int]) -> tuple[Runner, bool]:
    """Build the function that runs ``node``, as :func:`sparsert.graph.evaluate.make_runner` does.

    Returns
    -------
    run : Runner
        Its results may be views of its arguments. Infinities and NaN go their way, so callers run it under
        ``np.errstate(all="ignore")``.
    own : bool
        Whether an operator of this package runs it; False if a reference operator does.

    Raises
    ------
    UnsupportedOpError, ModelFormatError
        As make_runner raises them.
    """
    compute = None
    if node.domain in DEFAULT_DOMAINS and not implicit_inputs(node):
        check_node(node, opsets)
        compute = build(form_of(node, opsets))
    if compute is None:
        return make_runner(node, opsets), False
    chosen = [index for index, name in enumerate(node.outputs) if name]
    reference: list[Runner] = []

    def run(arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
        try:
            results = compute(*arrays)
        except Unhandled:
            reference[:] = reference or [make_runner(node, opsets)]
            return reference[0](arrays)
        except (SparsertError, MemoryError):
            raise
        except Exception as error:  # whatever NumPy raises on arrays that do not fit
            raise failure(node, dict(zip(node.inputs, arrays, strict=True)), error) from error
        if type(results) is np.ndarray:
            return [results]
        if not isinstance(results, tuple):
            return [np.asarray(results)]  # a number of NumPy's
        return [np.asarray(results[index]) for index in chosen]

    return run, True
