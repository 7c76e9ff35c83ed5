"""What the model says: loading, checking and folding an ONNX graph."""

from __future__ import annotations

from sparsert.graph.load import load_graph, load_interface

__all__ = ["load_graph", "load_interface"]
