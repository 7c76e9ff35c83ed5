"""The intermediate representation: a flat list of nodes over named values.

Two vocabularies share it. After loading, nodes are ONNX ops (``domain`` is the ONNX domain). After fusion, nodes of
domain ``sparsert`` carry one of the fused ops of :mod:`sparsert.ops` in ``node.fused``; whatever fused into
nothing is still an ONNX node and runs through the fallback.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

FUSED_DOMAIN = "sparsert"

Dim = int | str | None
"""One dimension: a number, a symbol such as ``"batch"``, or None where the file says nothing."""


@dataclass
class TensorInfo:
    """Name, dtype and shape of a graph input or output."""

    name: str
    dtype: np.dtype
    shape: tuple[Dim, ...]


@dataclass
class Node:
    """One operation. ``inputs`` may hold ``""`` for an absent optional input, as in ONNX."""

    op: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    domain: str = ""
    fused: Any = None
    """The fused op when ``domain == FUSED_DOMAIN``."""
    sources: list[str] = field(default_factory=list)
    """Names of the ONNX nodes that this one replaces (itself, if it was not fused)."""


@dataclass
class Graph:
    """A model: inputs, outputs, topologically sorted nodes and constant arrays, all keyed by value name."""

    name: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    nodes: list[Node]
    constants: dict[str, np.ndarray]
    opsets: dict[str, int]
    path: str = ""
    source_node_count: int = 0
    """Number of nodes in the file, before folding and fusing; the denominator of the supported fraction."""
    stated: dict[str, np.dtype] = field(default_factory=dict)
    """Inputs and outputs that are float16 or bfloat16 in the file, and float32 here."""

    def producers(self) -> dict[str, Node]:
        """Map every node output to the node that writes it."""
        return {out: node for node in self.nodes for out in node.outputs if out}
