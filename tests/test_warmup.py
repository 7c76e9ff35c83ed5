"""The command that compiles everything ahead of time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest

import sparsert
from sparsert import _team
from sparsert.kernels import cache
from sparsert.kernels.formats import streams
from sparsert.kernels.jit import TIER
from sparsert.kernels.loop import run as run_loop
from sparsert.warmup import main, warmup

ANSWER = """
from numba.core import event
with event.install_recorder("numba:compile") as recorder:
    from sparsert import Engine, Pipeline
    print(Pipeline.create("question-answering")(question="Who?", context="Ada wrote it.").answer)
    for weights in ("pruned90", "dense", "pruned90_quant_vnni", "dense_quant"):
        engine = Engine(f"synthetic:bert-tiny-{weights}", batch_size=2, input_shapes="[2,40]")
        engine(engine.generate_random_inputs())
compiled = [e.data["dispatcher"].py_func.__qualname__ for _, e in recorder.buffer if e.is_start]
assert not compiled, compiled
"""


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_LOCATOR_CLASSES"}
    environment = {**inherited, "PYTHONPATH": str(Path(sparsert.__file__).parents[1]), **environ}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_nothing_is_left_to_compile(tmp_path: Path, models_path: Path) -> None:
    cache = str(tmp_path / "cache")
    cold = run("-c", ANSWER, NUMBA_CACHE_DIR=str(tmp_path / "other"))
    assert "compiling kernels for" in cold.stderr, "what is not there in time is announced"
    warm = run("-m", "sparsert.warmup", NUMBA_CACHE_DIR=cache)
    assert warm.returncode == 0, warm.stderr
    assert f"tier       {TIER.name}" in warm.stdout
    assert cache in warm.stdout
    assert "[1/" in warm.stderr
    answer = run("-c", ANSWER, NUMBA_CACHE_DIR=cache)
    assert answer.returncode == 0, answer.stderr
    assert "compiling" not in answer.stderr


def test_a_second_time_compiles_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    warmup()
    steps: list[tuple[str, int, int]] = []
    done = warmup(lambda *step: steps.append(step))
    assert (done.compiled, done.isa) == (0, TIER.name)
    assert [step[1] for step in steps] == list(range(1, steps[0][2] + 1))
    assert main([]) == 0
    assert "nothing, all was there" in capsys.readouterr().out


def test_stale_kernels_of_all_folders_are_deleted() -> None:
    functions = (_team._pin_team, run_loop.run_regions, streams._sort_rows)
    folders = [folder for function in functions if (folder := cache.directory(function.py_func)) is not None]
    assert len(set(folders)) == 3, "Numba has a folder for each folder of sources"
    warmup()
    stale = [folder / f"old.kernel_{TIER.name}_0123456789ab-1.py311.nbi" for folder in folders]
    for path in stale:
        path.write_text("")
    done = warmup()
    assert not any(path.exists() for path in stale)
    assert done.removed == 3
    assert all(folder.is_relative_to(done.directory) for folder in folders)


LOCATORS = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator"}
"""No other place than the one that the variable names, as in a container without a home."""


@pytest.mark.skipif(not hasattr(numba.config, "CACHE_LOCATOR_CLASSES"), reason="this Numba cannot be kept to one place")
def test_no_folder_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    environ = {"NUMBA_CACHE_DIR": str(tmp_path / "file" / "cache"), **LOCATORS}
    finished = run("-m", "sparsert.warmup", **environ)
    assert finished.returncode == 1
    assert "NUMBA_CACHE_DIR" in finished.stderr
    assert finished.stdout == ""
    imported = run("-c", "import sparsert.kernels.jit", **environ)
    assert imported.returncode == 0, imported.stderr
    assert "every process compiles them again" in imported.stderr
