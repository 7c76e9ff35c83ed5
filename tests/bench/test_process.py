"""Worker processes: real ones with ONNX Runtime, and a stand-in where an engine has to misbehave."""

from __future__ import annotations

import ast
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import sparsert.bench
from sparsert.bench.process import EngineProcess
from sparsert.errors import EngineError

TIMEOUT = 120.0
SHAPE = (2, 6)


def job(model: Path, engine: str = "onnxruntime", **changes: Any) -> dict[str, Any]:
    return {
        "engine": engine,
        "model": str(model),
        "batch_size": SHAPE[0],
        "input_names": ["input_ids", "attention_mask"],
        "input_shapes": [list(SHAPE)] * 2,
        "free_dimensions": {"batch": SHAPE[0], "sequence": SHAPE[1]},
        "num_cores": 1,
        "cpus": [],
        "pinning": "none",
        "scenario": "sync",
        "num_streams": 1,
        **changes,
    }


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "inputs.npz"
    np.savez(path, input_0=np.arange(12).reshape(SHAPE), input_1=np.ones(SHAPE, np.int64))
    return path


@contextlib.contextmanager
def worker(tmp_path: Path, python: str = sys.executable) -> Iterator[EngineProcess]:
    process = EngineProcess("it", python, tmp_path / "log")
    try:
        yield process
    finally:
        process.close()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_times_and_outputs_are_those_of_the_engine(tiny_model: Path, inputs: Path, tmp_path: Path) -> None:
    with worker(tmp_path) as process:
        loaded = process.load(job(tiny_model), inputs, TIMEOUT)
        assert loaded["version"] == onnxruntime.__version__
        assert loaded["load_seconds"] > 0
        begin = time.perf_counter()
        timings = process.time(0.2, TIMEOUT)
        assert 0.2 <= timings[-1][1] - timings[0][0] <= time.perf_counter() - begin
        process.outputs(tmp_path / "outputs.npz", TIMEOUT)
        assert process.peak_rss_bytes is not None
        assert process.peak_rss_bytes > 20e6  # an interpreter with numpy and ONNX Runtime is never smaller
    session = onnxruntime.InferenceSession(str(tiny_model), providers=["CPUExecutionProvider"])
    with np.load(inputs) as arrays, np.load(tmp_path / "outputs.npz") as outputs:
        expected = session.run(None, {"input_ids": arrays["input_0"], "attention_mask": arrays["input_1"]})
        np.testing.assert_array_equal(outputs["output_0"], expected[0])


def test_streams_call_at_the_same_time(tiny_model: Path, inputs: Path, tmp_path: Path) -> None:
    with worker(tmp_path) as process:
        process.load(job(tiny_model, scenario="async", num_streams=3), inputs, TIMEOUT)
        timings = process.time(0.1, TIMEOUT)
        assert len(timings) >= 3


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_pinned_to_the_cpus_of_the_job(tiny_model: Path, inputs: Path, tmp_path: Path) -> None:
    one = [max(os.sched_getaffinity(0))]
    with worker(tmp_path) as process:
        process.load(job(tiny_model, cpus=one, pinning="core"), inputs, TIMEOUT)
        assert os.sched_getaffinity(process.pid) == set(one)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_spinning_threads_rest_between_commands(
    tiny_model: Path, inputs: Path, tmp_path: Path, stand_in: Callable[..., str]
) -> None:
    spin = "threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()"
    model = tmp_path / "copy.onnx"
    model.write_bytes(tiny_model.read_bytes())
    with worker(tmp_path, stand_in(at_load=spin)) as process:
        process.load(job(model, "deepsparse"), inputs, TIMEOUT)
        deadline = time.monotonic() + 10
        while state(process.pid) != "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        before = cpu_seconds(process.pid)
        time.sleep(0.3)
        assert cpu_seconds(process.pid) == before
        assert process.time(0.1, TIMEOUT)  # and go on when asked
        assert cpu_seconds(process.pid) > before


def test_what_an_engine_prints_is_no_answer(
    tiny_model: Path, inputs: Path, tmp_path: Path, stand_in: Callable[..., str]
) -> None:
    model = tmp_path / "copy.onnx"
    model.write_bytes(tiny_model.read_bytes())
    with worker(tmp_path, stand_in()) as process:
        loaded = process.load(job(model, "deepsparse"), inputs, TIMEOUT)
    assert (loaded["version"], loaded["fraction_of_supported_ops"]) == ("0.0.test", 0.5)
    assert "an engine that prints to stdout" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("at_load", "at_run", "message"),
    [
        ("raise ValueError('two\\nlines')", "pass", r"it: ValueError: two lines$"),
        ("os.abort()", "pass", r"it: the process died: killed by SIGABRT"),
        ("os._exit(3)", "pass", r"it: the process died: exit code 3 \(an engine that prints to stdout\)$"),
        (
            "(os.write(2, b'banner: 1 GB\\nAssertion at planner.hpp:120\\n 1# frame\\n'), os.abort())",
            "pass",
            r"it: the process died: killed by SIGABRT \(Assertion at planner.hpp:120\)",
        ),
        ("pass", "self.calls < 3 or os.abort()", r"it: the process died: killed by SIGABRT"),
        ("pass", "raise RuntimeError('bad id')", r"it: RuntimeError: bad id$"),
    ],
)
def test_failures_say_why(
    tiny_model: Path,
    inputs: Path,
    tmp_path: Path,
    stand_in: Callable[..., str],
    at_load: str,
    at_run: str,
    message: str,
) -> None:
    model = tmp_path / "copy.onnx"
    model.write_bytes(tiny_model.read_bytes())
    with worker(tmp_path, stand_in(at_load, at_run)) as process, pytest.raises(EngineError, match=message):
        process.load(job(model, "deepsparse"), inputs, TIMEOUT)
        process.time(30, TIMEOUT)


def test_an_engine_that_hangs_has_failed(
    tiny_model: Path, inputs: Path, tmp_path: Path, stand_in: Callable[..., str]
) -> None:
    model = tmp_path / "copy.onnx"
    model.write_bytes(tiny_model.read_bytes())
    with worker(tmp_path, stand_in(at_load="time.sleep(600)")) as process:
        with pytest.raises(EngineError, match=r"it: no answer within 1 s. Allow more with --timeout"):
            process.load(job(model, "deepsparse"), inputs, 1)


def test_a_missing_engine_is_named(tiny_model: Path, inputs: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')  # without site-packages
    bare.chmod(0o755)
    with worker(tmp_path, str(bare)) as process, pytest.raises(EngineError, match="it: ModuleNotFoundError: No module"):
        process.load(job(tiny_model), inputs, TIMEOUT)


def test_a_killed_worker_is_an_error_not_a_hang(tiny_model: Path, inputs: Path, tmp_path: Path) -> None:
    with worker(tmp_path) as process:
        process.load(job(tiny_model), inputs, TIMEOUT)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="killed by SIGKILL"):
            process.time(1, TIMEOUT)


def test_an_interpreter_that_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot start the interpreter"):
        EngineProcess("it", str(tmp_path / "nothing"), tmp_path / "log")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_a_suspended_worker_dies_with_its_parent(tiny_model: Path, inputs: Path, tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from sparsert.bench.process import EngineProcess\n"
        f"p = EngineProcess('it', sys.executable, Path({str(tmp_path / 'log')!r}))\n"
        f"p.load({job(tiny_model)!r}, Path({str(inputs)!r}), 60)\n"
        "print(p.pid, flush=True); os._exit(0)"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    pid = int(finished.stdout)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and state(pid) != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists() or state(pid) == "Z"


@pytest.mark.parametrize("name", ["worker.py", "engines.py", "runner.py"])
def test_files_of_the_worker_need_nothing_of_ours(name: str) -> None:
    """They run in interpreters without sparsert and its dependencies; only functions may import more."""
    tree = ast.parse((Path(sparsert.bench.__file__).parent / name).read_text())
    for node in tree.body:
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        else:
            continue
        assert {module.partition(".")[0] for module in modules} <= sys.stdlib_module_names
