"""The command line and the Python API, end to end with ONNX Runtime."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from sparsert.bench import benchmark_model
from sparsert.bench.__main__ import main
from sparsert.bench.cli import make_parser
from sparsert.bench.progress import ProgressBar
from sparsert.bench.results import EXPORT_KEYS, RESULT_KEYS
from sparsert.bench.table import COMPARISON_KEYS, ROW_KEYS
from sparsert.errors import EngineError

FLAGS = ["-e", "onnxruntime", "-ncores", "1", "-t", "0.2", "-w", "0", "-pin", "none"]
OPTIONAL_KEYS = {"sequence_length", "input_ids_length"}


def test_report_and_export_of_one_engine(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.json"
    assert main([str(tiny_model), "-b", "3", "-i", "[3,7]", "-x", str(target), *FLAGS]) == 0
    lines = capsys.readouterr().out.splitlines()
    export = json.loads(target.read_text())
    result = export["benchmark_result"]
    assert lines == [
        f"Original Model Path: {tiny_model}",
        "Batch Size: 3",
        "Scenario: sync",
        f"Throughput (items/sec): {result['items_per_sec']:.4f}",
        f"Latency Mean (ms/batch): {result['mean']:.4f}",
        f"Latency Median (ms/batch): {result['median']:.4f}",
        f"Latency Std (ms/batch): {result['std']:.4f}",
        f"Iterations: {result['iterations']}",
    ]
    assert set(export) == set(EXPORT_KEYS) - OPTIONAL_KEYS
    assert list(result) == list(RESULT_KEYS)
    assert (export["engine"], export["version"]) == ("onnxruntime", onnxruntime.__version__)
    assert export["input_shapes"] == [[3, 7], [3, 7]]
    assert (export["scenario"], export["scheduler"], export["num_streams"]) == ("singlestream", "None", 1)


def test_sequence_length_and_streams(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.json"
    arguments = ["-seq_len", "5", "-input_ids_len", "5", "-s", "async", "-nstreams", "2", "-x", str(target)]
    assert main([str(tiny_model), *arguments, *FLAGS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:5] == ["Sequence Length: 5", "Input IDs Length: 5", "Scenario: async"]
    export = json.loads(target.read_text())
    assert list(export) == list(EXPORT_KEYS)
    assert export["input_shapes"] == [[1, 5], [1, 5]]
    assert (export["scenario"], export["num_streams"]) == ("multistream", 2)


def test_comparison(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.json"
    arguments = ["--compare", "onnxruntime:again", "--rounds", "2", "-seq_len", "4", "-x", str(target)]
    assert main([str(tiny_model), *arguments, *FLAGS]) == 0
    captured = capsys.readouterr()
    assert re.search(r"^\| onnxruntime +\| ", captured.out, re.MULTILINE)
    assert re.search(r"^\| onnxruntime:again +\| .* 1\.00000 \|$", captured.out, re.MULTILINE)
    export = json.loads(target.read_text())
    assert list(export) == list(COMPARISON_KEYS)
    assert [list(row) for row in export["rows"]] == [list(ROW_KEYS)] * 2
    assert [len(row["samples_ms"]) for row in export["rows"]] == [2, 2]
    assert export["command"][:3] == ["python", "-m", "sparsert.bench"]


def test_logs_go_to_stderr(tiny_model: Path) -> None:
    command = [sys.executable, "-m", "sparsert.bench", str(tiny_model), "-seq_len", "4", *FLAGS]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert finished.stdout.startswith("Original Model Path: ")
    assert len(finished.stdout.splitlines()) == 10
    assert "Generating input 'input_ids'" in finished.stderr
    assert "Starting 'singlestream' performance measurements" in finished.stderr
    assert "\x1b" not in finished.stderr  # no bar where there is no terminal
    quiet = subprocess.run([*command, "-q"], capture_output=True, text=True, timeout=120, check=True)
    assert " INFO " not in quiet.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-e", "foo"], "Invalid engine choice 'foo'"),
        (["-t", "0"], "Generated no batch timings, try extending benchmark time with '--time'"),
        (["-i", "abc"], "Can't parse input shapes parameter: abc"),
        (["-b", "0"], "batch_size must be greater than 0"),
        (["-x", "/no/such/folder/out.json"], "--export_path"),
        (["--model-for", "onnxruntime=x.onnx"], "--model-for belongs to --compare"),
        (["--python", "onnxruntime"], "--python expects NAME=VALUE"),
        (["--compare", "bar"], "Invalid engine choice 'bar'"),
        (["--compare", "onnxruntime"], "takes part twice"),
    ],
)
def test_bad_arguments(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([str(tiny_model), *FLAGS, *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_a_missing_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "no.onnx"), *FLAGS]) == 1
    assert "no.onnx" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["-s", "parallel"], ["-pin", "socket"], ["-b", "many"], ["--no-such-flag"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help_defines_every_key() -> None:
    text = make_parser().format_help()
    for keys in (EXPORT_KEYS, RESULT_KEYS, COMPARISON_KEYS, ROW_KEYS):
        for key, meaning in keys.items():
            assert re.search(rf"^  {re.escape(key)} +{re.escape(meaning)}$", text, re.MULTILINE), key


def test_api_returns_the_export(tiny_model: Path) -> None:
    export = benchmark_model(
        tiny_model, batch_size=2, time=0.1, warmup_time=0.1, num_cores=1, engine="onnxruntime", thread_pinning="none"
    )
    assert set(export) == set(EXPORT_KEYS) - OPTIONAL_KEYS
    assert export["batch_size"] == 2
    assert export["benchmark_result"]["iterations"] >= 1


def test_api_raises_what_the_engine_said(tmp_path: Path, tiny_model: Path) -> None:
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    with pytest.raises(EngineError, match="onnxruntime: ModuleNotFoundError"):
        benchmark_model(tiny_model, time=0.1, engine="onnxruntime", python=str(bare))


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar_on_a_terminal_only() -> None:
    for stream, shown in ((_Terminal(), True), (io.StringIO(), False)):
        with ProgressBar(stream) as bar:
            bar.show("round 1/2: onnxruntime", 0.5)
        assert ("[############............]  50% round 1/2: onnxruntime" in stream.getvalue()) == shown
        assert stream.getvalue() == "" or stream.getvalue().endswith("\r\x1b[K")  # cleared
