"""Statistics and report lines, against figures worked out by hand."""

from __future__ import annotations

import pytest

from sparsert.bench.results import EXPORT_KEYS, RESULT_KEYS, report_lines, statistics
from sparsert.errors import EngineError

# Batches of 1, 2 and 6 ms in the first round, of 3 ms in the second, with a pause between them that must not count.
ROUNDS = [[(0.0, 0.001), (0.001, 0.003), (0.004, 0.010)], [(100.0, 100.003)]]


def test_statistics_of_known_timings() -> None:
    result = statistics(ROUNDS, batch_size=4, scenario="singlestream")
    assert list(result) == list(RESULT_KEYS)
    assert result["scenario"] == "singlestream"
    assert result["iterations"] == 4
    assert result["seconds_ran"] == pytest.approx(0.013)
    assert result["items_per_sec"] == pytest.approx(16 / 0.013)
    assert result["mean"] == pytest.approx(3.0)
    assert result["median"] == result["50.0%"] == pytest.approx(2.5)
    assert result["std"] == pytest.approx((14 / 4) ** 0.5)  # population: deviations 2, 1, 3, 0
    assert result["25.0%"] == pytest.approx(1.75)
    assert result["75.0%"] == pytest.approx(3.75)


def test_overlapping_streams_count_the_window_once() -> None:
    result = statistics([[(0.0, 2.0), (0.5, 2.5), (2.0, 4.0)]], batch_size=1, scenario="multistream")
    assert result["seconds_ran"] == 4.0
    assert result["items_per_sec"] == 0.75
    assert result["median"] == 2000.0


def test_no_timings_are_an_error() -> None:
    with pytest.raises(EngineError, match="Generated no batch timings"):
        statistics([[], []], batch_size=1, scenario="singlestream")


def test_report_lines_are_those_of_deepsparse() -> None:
    result = {"items_per_sec": 7739.80239, "mean": 0.128, "median": 0.03404, "std": 0.72316, "iterations": 7740}
    export = {"orig_model_path": "b.onnx", "batch_size": 1, "benchmark_result": result}
    assert report_lines(export, "sync") == [
        "Original Model Path: b.onnx",
        "Batch Size: 1",
        "Scenario: sync",
        "Throughput (items/sec): 7739.8024",
        "Latency Mean (ms/batch): 0.1280",
        "Latency Median (ms/batch): 0.0340",
        "Latency Std (ms/batch): 0.7232",
        "Iterations: 7740",
    ]
    export |= {"sequence_length": 384, "input_ids_length": 1}
    assert report_lines(export, "sync")[2:4] == ["Sequence Length: 384", "Input IDs Length: 1"]


def test_export_keys_are_those_of_deepsparse() -> None:
    assert list(EXPORT_KEYS) == (
        "engine version orig_model_path model_path batch_size input_shapes num_cores scenario scheduler seconds_to_run "
        "num_streams benchmark_result fraction_of_supported_ops sequence_length input_ids_length"
    ).split(" ")
    assert list(RESULT_KEYS) == (
        "scenario items_per_sec seconds_ran iterations median mean std 25.0% 50.0% 75.0% 90.0% 95.0% 99.0% 99.9%"
    ).split(" ")
