"""Packed weights in a folder: the same program, mapped, shared and rebuilt."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.ops import Linear
from sparsert.plan import store, weights
from sparsert.plan.program import compile_graph
from sparsert.utils.model_path import model_to_path

mapped_files: list[str] = []


def run(model: str, ids: np.ndarray) -> list[np.ndarray]:
    graph = load_graph(model)
    program = compile_graph(fuse_graph(graph))
    feeds = {info.name: ids if info.name == "input_ids" else np.ones_like(ids) for info in graph.inputs}
    results = program.run(feeds, 1)
    if os.environ.get("SPARSERT_WEIGHTS"):
        mapped_files.append(Path("/proc/self/maps").read_text())  # while the program lives
    return [results[info.name].copy() for info in graph.outputs]


def test_stored_weights_give_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_to_path("default")
    ids = np.random.default_rng(0).integers(1000, 20000, (2, 40))
    expected = run(model, ids)
    monkeypatch.setenv("SPARSERT_WEIGHTS", str(tmp_path / "weights"))
    stored = run(model, ids)
    folders = {path.name for path in (tmp_path / "weights").iterdir()}
    assert len(folders) > 10 and not any(name.startswith("partial") for name in folders)

    # The second time nothing is packed: it comes from the folder.
    def refuse(matrix: np.ndarray) -> None:
        raise AssertionError("packed again")

    monkeypatch.setattr(
        "sparsert.plan.store.pack_linear",
        lambda op, wanted: refuse(op) if op.weight.nbytes > 1 << 16 else weights.pack_linear(op, wanted),
    )
    mapped = run(model, ids)
    for plain, first, second in zip(expected, stored, mapped, strict=True):
        np.testing.assert_array_equal(plain, first)
        np.testing.assert_array_equal(plain, second)
    assert f"{tmp_path}/weights/" in mapped_files[-1]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPARSERT_WEIGHTS", str(tmp_path / "file"))
    assert run(model_to_path("default"), np.full((1, 8), 2000))[0].shape == (1, 8)


def test_a_damaged_entry_is_packed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSERT_WEIGHTS", str(tmp_path))
    model, ids = model_to_path("default"), np.full((1, 8), 2000)
    expected = run(model, ids)
    for path in tmp_path.glob("*/plain.json"):
        path.write_text("{}")
    for result, wanted in zip(run(model, ids), expected, strict=True):
        np.testing.assert_array_equal(result, wanted)


def test_the_key_follows_every_source_of_the_packed_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(store.__file__).parents[1]
    names = {source.relative_to(package).as_posix() for source in store._SOURCES}
    assert names >= {"graph/quantization.py", "ops/linear.py", "ops/steps.py", "plan/store.py", "plan/weights.py"}
    op, keys = Linear(weight=np.ones((4, 4), np.float32)), set()
    for edited in (None, *store._SOURCES):
        sources = []
        for source in store._SOURCES:
            copy = tmp_path / source.name
            copy.write_bytes(source.read_bytes() + (b"\n" if source == edited else b""))
            sources.append(copy)
        monkeypatch.setattr(store, "_SOURCES", sources)
        store._packer.cache_clear()
        keys.add(store._key(op, None))
        monkeypatch.undo()
    store._packer.cache_clear()
    assert len(keys) == 1 + len(store._SOURCES)
