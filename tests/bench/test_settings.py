"""Settings, their defaults and their errors, and the shapes that follow from them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsert import cpu
from sparsert.bench.contestants import make_contestants, parse_assignments
from sparsert.bench.settings import DEFAULT_SEQUENCE_LENGTH, describe_inputs, make_settings
from sparsert.errors import InputError, InputRangeError, InputShapeError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be greater than 0, given 0"),
        ({"num_cores": -1}, "num_cores must be greater than 0"),
        ({"num_streams": -2}, "num_streams must be greater than 0"),
        ({"scenario": "parallel"}, "scenario must be one of sync, async, elastic, given 'parallel'"),
        ({"pinning": "socket"}, "thread_pinning must be one of none, core, numa"),
        ({"seconds": 0}, "Generated no batch timings, try extending benchmark time with '--time'"),
        ({"seconds": float("nan")}, "Generated no batch timings"),
        ({"warmup_seconds": -1}, "warmup_time must be 0 or more"),
        ({"sequence_length": 0}, "sequence_length must be greater than 0"),
        ({"input_shapes": "1,8"}, "Can't parse input shapes parameter: 1,8"),
    ],
)
def test_bad_settings(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_settings(**arguments)
    assert message in str(caught.value)


def test_defaults_follow_the_machine() -> None:
    settings = make_settings()
    assert settings.num_cores == cpu.default_cores()
    assert settings.cpus == cpu.thread_list()[: settings.num_cores]
    assert settings.num_streams == 1
    assert make_settings(pinning="none").cpus == []


def test_default_cores_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSERT_NUM_THREADS", "1")
    assert make_settings().num_cores == 1
    assert make_settings(num_cores=2).num_cores == 2


@pytest.mark.parametrize(("cores", "streams"), [(1, 1), (2, 1), (4, 2), (7, 3)])
def test_default_streams_are_half_the_cores(cores: int, streams: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert make_settings(scenario="async", num_cores=cores).num_streams == streams
    assert "requires tuning" in caplog.text


def test_sync_has_one_stream() -> None:
    assert make_settings(scenario="sync", num_streams=5).num_streams == 1
    assert make_settings(scenario="elastic", num_streams=5).num_streams == 5


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, [1, DEFAULT_SEQUENCE_LENGTH]),
        ({"batch_size": 3, "sequence_length": 7}, [3, 7]),
        ({"batch_size": 3, "input_shapes": "[3,9]"}, [3, 9]),
        ({"batch_size": 2, "input_shapes": "[5,9],[5,9]"}, [2, 9]),  # the batch size wins
        ({"input_shapes": "[1,9]", "sequence_length": 7}, [1, 9]),  # explicit shapes win over the sequence length
    ],
)
def test_shapes_of_an_open_model(tiny_model: Path, arguments: dict[str, Any], shape: list[int]) -> None:
    inputs = describe_inputs(tiny_model, make_settings(**arguments))
    assert inputs.names == ["input_ids", "attention_mask"]
    assert inputs.shapes == [shape, shape]
    assert inputs.free_dimensions == {"batch": shape[0], "sequence": shape[1]}
    assert not inputs.fixed_otherwise


def test_shapes_of_a_fixed_model(fixed_model: Path) -> None:
    own = describe_inputs(fixed_model, make_settings())
    assert own.shapes == [[1, 6], [1, 6]]
    assert own.free_dimensions == {}
    assert not own.fixed_otherwise
    larger = describe_inputs(fixed_model, make_settings(batch_size=4))
    assert larger.shapes == [[4, 6], [4, 6]]
    assert larger.fixed_otherwise


@pytest.mark.parametrize("shapes", ["[1,8,8]", "[1,8],[1,8],[1,8]"])
def test_shapes_that_do_not_fit(tiny_model: Path, shapes: str) -> None:
    with pytest.raises(InputShapeError):
        describe_inputs(tiny_model, make_settings(input_shapes=shapes))


def test_arrays_are_ids_and_ones_and_always_the_same(tiny_model: Path) -> None:
    inputs = describe_inputs(tiny_model, make_settings(batch_size=4, sequence_length=64))
    ids, mask = inputs.arrays(tiny_model)
    assert ids.shape == mask.shape == (4, 64)
    assert ids.min() >= 0
    assert ids.max() < 50
    assert len(np.unique(ids)) > 25
    assert (mask == 1).all()
    again, _ = inputs.arrays(tiny_model)
    np.testing.assert_array_equal(ids, again)


def test_contestants_get_models_and_interpreters_by_name_or_engine(tmp_path: Path) -> None:
    pythons = []
    for name in ("a", "b"):
        python = tmp_path / name
        python.write_text("#!/bin/sh\n")
        python.chmod(0o755)
        pythons.append(str(python))
    names = ["sparsert", "onnxruntime", "onnxruntime:dense"]
    contestants = make_contestants(
        names,
        "sparse.onnx",
        parse_assignments(["onnxruntime:dense=dense.onnx"], "--model-for"),
        parse_assignments([f"onnxruntime={pythons[0]}", f"onnxruntime:dense={pythons[1]}"], "--python"),
    )
    assert [contestant.name for contestant in contestants] == names
    assert [contestant.engine for contestant in contestants] == ["sparsert", "onnxruntime", "onnxruntime"]
    assert [contestant.model for contestant in contestants] == ["sparse.onnx", "sparse.onnx", "dense.onnx"]
    assert [contestant.python for contestant in contestants[1:]] == pythons


@pytest.mark.parametrize(
    ("names", "models", "pythons", "message"),
    [
        (["foo"], {}, {}, "Invalid engine choice 'foo'"),
        ([""], {}, {}, "Invalid engine choice ''"),
        (["sparsert", "sparsert"], {}, {}, "takes part twice"),
        (["sparsert"], {"onnxruntime": "a.onnx"}, {}, "--model-for names 'onnxruntime'"),
        (["sparsert"], {}, {"sparsert:x": "python"}, "--python names 'sparsert:x'"),
        (["sparsert"], {}, {"sparsert": "/no/such/python"}, "no interpreter at /no/such/python"),
    ],
)
def test_bad_contestants(names: list[str], models: dict[str, str], pythons: dict[str, str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_contestants(names, "m.onnx", models, pythons)
    assert message in str(caught.value)


def test_an_unknown_engine_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="Invalid engine choice 'foo'") as caught:
        make_contestants(["foo"], "m.onnx", {}, {})
    assert isinstance(caught.value, InputRangeError)


@pytest.mark.parametrize("options", [["name"], ["=x"], ["name="], ["a=1", "a=2"]])
def test_bad_assignments(options: list[str]) -> None:
    with pytest.raises(InputError, match="--python"):
        parse_assignments(options, "--python")
