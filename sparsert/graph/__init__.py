"""What the model says: loading, folding and fusing an ONNX graph."""

from __future__ import annotations

from sparsert.graph.fuse import fuse_graph
from sparsert.graph.load import load_graph

__all__ = ["fuse_graph", "load_graph"]
