"""What the model says: loading, folding and fusing an ONNX graph."""

from __future__ import annotations

from sparsert.graph.load import load_graph

__all__ = ["load_graph"]
