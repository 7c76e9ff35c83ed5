"""Positions that count what is no padding: against the twin, in exporters' spellings, and what only looks alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fusion_checks import DATA, onnxruntime_outputs
from naive import counted_positions
from onnx import TensorProto, helper
from small_models import save

from sparsert import Engine
from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.ops import run_fused
from sparsert.ops.counted_positions import CountedPositions

INT64 = TensorProto.INT64
IDS = np.array([[5, 7, 1, 9, 1, 1], [1, 1, 4, 0, 6, 2], [1, 1, 1, 1, 1, 1]])
TABLE = np.arange(64, dtype=np.float32).reshape(16, 4)


def spelled(path: Path, **change: str | int) -> Path:
    """A table of positions, looked up as RoBERTa does, or with something else at one place."""
    said = {"compare": "Equal", "pad": 1, "offset": 1, "kept": "kept", "reverse": 0, "axis": 1} | change
    nodes = [
        helper.make_node(str(said["compare"]), ["ids", "pad"], ["is_pad"]),
        helper.make_node("Not", ["is_pad"], ["is_kept"]),
        helper.make_node("Cast", ["is_kept"], ["kept"], to=TensorProto.INT32),
        helper.make_node("CumSum", ["kept", "axis"], ["count"], reverse=said["reverse"]),
        helper.make_node("Add", ["count", "none"], ["past"]),
        helper.make_node("Mul", ["past", str(said["kept"])], ["masked"]),
        helper.make_node("Cast", ["masked"], ["wide"], to=INT64),
        helper.make_node("Add", ["wide", "offset"], ["positions"]),
        helper.make_node("Gather", ["table", "positions"], ["y"]),
    ]
    constants = {"pad": np.int64(said["pad"]), "axis": np.int64(said["axis"]), "offset": np.int64(said["offset"])}
    constants = {key: np.array(value) for key, value in constants.items()} | {"none": np.array(0, np.int32)}
    constants |= {"table": TABLE, "twice": np.array(2, np.int32)}
    dims = ["batch", "sequence"]
    return save(path, nodes, [("ids", INT64, dims)], [("y", TensorProto.FLOAT, [*dims, 4])], constants)


def ops_of(path: Path) -> list[object]:
    return [node.fused for node in fuse_graph(load_graph(path)).nodes if isinstance(node.fused, CountedPositions)]


@pytest.mark.parametrize(("pad", "offset"), [(1, 1), (0, 3)])
def test_the_spelling_of_roberta(pad: int, offset: int, tmp_path: Path) -> None:
    path = spelled(tmp_path / "m.onnx", pad=pad, offset=offset)
    assert ops_of(path) == [CountedPositions(pad=pad, padding=offset, first=offset + 1)]
    engine = Engine(path, batch_size=None)
    want = onnxruntime_outputs(path, {"ids": IDS})["y"]
    np.testing.assert_array_equal(engine.run([IDS])[0], want)
    lengths = np.array([6, 2, 4])
    short = [row[:length] for row, length in zip(IDS, lengths, strict=True)]
    assert engine.supports_ragged
    (got,) = engine.run_ragged([np.concatenate(short)], lengths)
    alone = [onnxruntime_outputs(path, {"ids": ids[None]})["y"][0] for ids in short]
    np.testing.assert_array_equal(got, np.concatenate(alone))
    assert engine.report().fallbacks == []


@pytest.mark.parametrize(
    "change", [{"compare": "Less"}, {"kept": "twice"}, {"kept": "past"}, {"reverse": 1}, {"axis": 0}]
)
def test_what_looks_alike_stays(change: dict[str, str | int], tmp_path: Path) -> None:
    path = spelled(tmp_path / "m.onnx", **change)
    assert ops_of(path) == []
    ids = np.array([[5, 0, 1, 9], [1, 0, 4, 0], [0, 2, 1, 1]])
    got = Engine(path, batch_size=None).run([ids])[0]
    np.testing.assert_array_equal(got, onnxruntime_outputs(path, {"ids": ids})["y"])


@pytest.mark.parametrize("name", ["roberta-cls-eager-script17", "roberta-qa-sdpa-dynamo18"])
def test_files_of_exporters_leave_nothing(name: str) -> None:
    path = DATA / f"{name}.onnx"
    assert ops_of(path) == [CountedPositions(pad=1, padding=1, first=2)]
    assert Engine(path, batch_size=None).fraction_of_supported_ops == 1.0


def test_twin() -> None:
    for op in (CountedPositions(1, 1, 2), CountedPositions(0, 5, 0)):
        (got,) = run_fused(op, [IDS])
        np.testing.assert_array_equal(got, counted_positions(op, IDS))
        assert got.dtype == np.int64
