"""Tests of sparsert.server.workers: how the cores of a machine are divided among worker processes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sparsert import cpu
from sparsert.server.workers import core_groups, default_workers, place_worker

CORES = len(cpu.core_list())

# In a process of its own, as a worker is: what place_worker does to it, and what a pool takes by default.
WORKER = """
import os, sys
from sparsert.context import Context
from sparsert.server.workers import core_groups, place_worker
workers, cores, slot, pinning = (value if value.isalpha() else int(value) for value in sys.argv[1:])
place_worker(core_groups(workers, cores or None), slot, pinning)
print(sorted(os.sched_getaffinity(0)), Context(num_streams=1).value.threads, Context(num_streams=1).value.cores)
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="binding is for Linux")


def place(workers: int, cores: int, slot: int, pinning: str, **environ: str) -> str:
    """Affinity mask, threads and pinned cores of a worker."""
    names = ("SPARSERT_PIN", "NM_BIND_THREADS_TO_CORES", "SPARSERT_NUM_THREADS", "OMP_NUM_THREADS")
    plain = {name: value for name, value in os.environ.items() if name not in names}
    arguments = [str(value) for value in (workers, cores, slot, pinning)]
    done = subprocess.run(
        [sys.executable, "-c", WORKER, *arguments],
        env={**plain, **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(CORES != cpu.available_cores() or CORES < 2, reason="needs two cores without a quota")
def test_workers_that_take_all_cores_are_bound_to_their_own() -> None:
    groups = core_groups(CORES)
    assert sorted(logical for group in groups for logical in group) == sorted(cpu.thread_list())
    for slot, core in enumerate(cpu.core_list()[:2]):
        mask = sorted(groups[slot])
        assert core in mask
        assert place(CORES, 0, slot, "core") == f"{mask} [1] [{core}]"
        assert place(CORES, 0, slot, "numa") == f"{mask} [1] []"
        assert place(CORES, 0, slot, "none") == f"{sorted(cpu.thread_list())} [1] []"


@pytest.mark.skipif(CORES < 2, reason="needs two cores")
def test_workers_that_leave_cores_to_others_are_not_bound() -> None:
    everywhere = sorted(cpu.thread_list())
    for pinning in ("core", "numa", "none"):
        assert place(1, 1, 0, pinning) == f"{everywhere} [1] []"
    assert place(1, 0, 0, "core", SPARSERT_NUM_THREADS="1") == f"{everywhere} [1] []"
    assert place(1, 1, 0, "core", SPARSERT_PIN="1") == f"{sorted(core_groups(1, 1)[0])} [1] [{cpu.core_list()[0]}]"


def test_the_environment_bounds_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSERT_NUM_THREADS", "1")
    assert default_workers() == 1
    assert core_groups(2) == core_groups(2, 1)
    assert core_groups(1, CORES) == [cpu.thread_list()] or cpu.available_cores() < CORES


def test_place_worker_tells_engines_how_many_cores_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSERT_NUM_THREADS", "7")
    monkeypatch.setenv("SPARSERT_PIN", "1")
    place_worker([cpu.thread_list()], 0, "none")
    assert cpu.default_cores() == CORES
    assert os.environ["SPARSERT_PIN"] == "0"
