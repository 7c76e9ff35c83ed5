"""Loading ONNX files whose tensors lie in other files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from load_models import build, external_tensor, linear, relu_of
from onnx import numpy_helper

from sparsert.errors import ModelFormatError, ModelNotFoundError
from sparsert.graph import load_graph
from sparsert.graph.ir import Graph


def test_external_data_roundtrip(tmp_path: Path) -> None:
    model = linear()
    expected = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    path = tmp_path / "sub" / "model.onnx"
    path.parent.mkdir()
    onnx.save_model(model, str(path), save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert os.path.getsize(path) < os.path.getsize(tmp_path / "sub" / "weights.bin")
    graph = load_graph(str(path))
    for name, array in expected.items():
        np.testing.assert_array_equal(graph.constants[name], array)


def test_external_data_relative_to_a_bare_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save_model(linear(), str(tmp_path / "m.onnx"), save_as_external_data=True, location="w.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    assert graph_names(load_graph("m.onnx")) == ["b", "w"]


def graph_names(graph: Graph) -> list[str]:
    return sorted(graph.constants)


def test_external_data_in_a_cache_of_links(tmp_path: Path) -> None:
    """Download caches keep blobs in one folder and a snapshot of links beside it."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    onnx.save_model(linear(), str(blobs / "m"), save_as_external_data=True, location="w.bin", size_threshold=0)
    (blobs / "w.bin").rename(blobs / "d")
    (snapshot / "model.onnx").symlink_to(blobs / "m")
    (snapshot / "w.bin").symlink_to(blobs / "d")
    assert graph_names(load_graph(snapshot / "model.onnx")) == ["b", "w"]


@pytest.fixture
def load_external(load: Callable, tmp_path: Path) -> Callable[..., Graph]:
    """Load a model whose initializer ``c`` (4 float32) points to external data with the given entries."""
    (tmp_path / "data.bin").write_bytes(np.arange(8, dtype=np.float32).tobytes())

    def load_with(location: str, **entries: Any) -> Graph:
        tensor = external_tensor(numpy_helper.from_array(np.zeros(4, np.float32), "c"), location, **entries)
        return load(build([relu_of("x")], [tensor]))

    return load_with


@pytest.mark.parametrize(("offset", "first"), [(None, 0), (0, 0), (16, 4)])
@pytest.mark.parametrize("length", [None, 16])
def test_external_offset_and_length(
    load_external: Callable, offset: int | None, length: int | None, first: int
) -> None:
    graph = load_external("data.bin", offset=offset, length=length)
    np.testing.assert_array_equal(graph.constants["c"], np.arange(first, first + 4, dtype=np.float32))


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": 17},
        {"offset": 32},
        {"offset": 1 << 62},
        {"offset": 1 << 80},
        {"offset": -16},
        {"offset": "1_6"},
        {"offset": "9" * 5000},
        {"length": 15},
        {"length": 17},
        {"length": 1 << 62},
        {"length": -1},
        {"length": "sixteen"},
    ],
)
def test_external_data_shorter_or_longer_than_claimed(load_external: Callable, entries: dict[str, Any]) -> None:
    with pytest.raises(ModelFormatError, match=r"model\.onnx: initializer 'c': expected .*came|the file has"):
        load_external("data.bin", **entries)


@pytest.mark.parametrize(
    "location", ["", "/etc/passwd", "../data.bin", "a/../../data.bin", "C:\\data.bin", "..\\d", "\\d"]
)
def test_external_location_outside_the_directory(load_external: Callable, location: str) -> None:
    with pytest.raises(ModelFormatError, match="initializer 'c'.*external data"):
        load_external(location)


def test_external_link_that_leaves_the_directory(load_external: Callable, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "secret").write_bytes(bytes(16))
    (tmp_path / "link").symlink_to(outside / "secret")
    (tmp_path / "folder").symlink_to(outside)
    for location in ("link", "folder/secret"):
        with pytest.raises(ModelFormatError, match="initializer 'c'.*link that leaves"):
            load_external(location)


def test_external_data_missing(load_external: Callable) -> None:
    with pytest.raises(ModelNotFoundError, match=r"model\.onnx: initializer 'c'.*'none\.bin'"):
        load_external("none.bin")


def test_external_data_that_is_no_regular_file(load_external: Callable, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # opening it would block for ever
    for location in ("folder", "pipe", "."):
        with pytest.raises(ModelFormatError, match="initializer 'c'"):
            load_external(location)
