"""Files of the tests' generator, tiny and made once, and models that are written and loaded."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from fusion_checks import make_bert

from sparsert.graph import load_graph
from sparsert.graph.ir import Graph

__all__ = ["make_bert"]


@pytest.fixture
def load(tmp_path: Path) -> Callable[[onnx.ModelProto | bytes], Graph]:
    """Write a model or bytes to a file and load it."""

    def write_and_load(model: onnx.ModelProto | bytes) -> Graph:
        path = tmp_path / "model.onnx"
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
        return load_graph(path)

    return write_and_load
