"""The cache of compiled code: names that notice every change, and processes that fill it at the same time."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sparsert
from sparsert.kernels import cache, jit
from sparsert.kernels.formats.streams import _sort_rows
from sparsert.tiers import TIERS

KERNEL = """
import numpy as np
from sparsert.kernels.jit import TIER, jit
from sparsert.kernels.simd import micro_kernel

@micro_kernel(2)
def double(v, source, destination):
    value = v.load(v.pointer(source), v.i32, 4)
    v.store(v.builder.add(value, value), v.pointer(destination), 4)

@jit()
def run(source, destination):
    double(source, destination)

if __name__ == "__main__":
    x, y = np.arange(16, dtype=np.int32), np.zeros(16, np.int32)
    run(x.ctypes.data, y.ctypes.data)
    lanes = TIER.vector_bytes // 4
    assert (y[:lanes] == 2 * x[:lanes]).all() and not y[lanes:].any(), y
    print(sum(run.stats.cache_hits.values()), sum(run.stats.cache_misses.values()))
"""


def start(script: Path, cache: Path) -> subprocess.Popen[str]:
    environ = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(cache),
        "PYTHONPATH": str(Path(sparsert.__file__).parents[1]),
    }
    return subprocess.Popen([sys.executable, script], env=environ, stdout=subprocess.PIPE, text=True)


def test_processes_that_compile_at_once_do_no_harm(tmp_path: Path) -> None:
    script, cache = tmp_path / "kernel.py", tmp_path / "cache"
    script.write_text(KERNEL)
    together = [start(script, cache) for _ in range(2)]
    for process in together:
        process.communicate(timeout=120)
    assert [process.returncode for process in together] == [0, 0]
    after = start(script, cache)
    counts = after.communicate(timeout=120)[0]
    assert after.returncode == 0
    assert counts.split() == ["1", "0"], "what the two left is a complete entry"


def test_the_name_of_a_compiled_function_tells_tier_and_sources() -> None:
    name = _sort_rows.py_func.__qualname__
    tier = f"{jit.TIER.name}_portable" if jit.PORTABLE else jit.TIER.name
    assert name == f"_sort_rows_{tier}_{jit.FINGERPRINT}"


def test_the_fingerprint_follows_the_sources(tmp_path: Path) -> None:
    source = Path(jit.__file__)
    for name in ("jit.py", "embed.py"):
        (tmp_path / name).write_bytes(source.with_name(name).read_bytes())
    program = "import runpy, sys; print(runpy.run_path(sys.argv[1])['FINGERPRINT'])"
    environ = {**os.environ, "PYTHONPATH": str(source.parents[2])}

    def fingerprint() -> str:
        command = [sys.executable, "-c", program, str(tmp_path / "jit.py")]
        return subprocess.run(command, env=environ, check=True, capture_output=True, text=True).stdout

    before = fingerprint()
    assert fingerprint() == before
    (tmp_path / "embed.py").write_text((tmp_path / "embed.py").read_text() + "\n")
    assert fingerprint() != before


def test_stale_entries_are_those_of_other_sources(tmp_path: Path) -> None:
    ours, theirs = jit.FINGERPRINT, "0123456789ab"
    kept = [
        f"program._place_avx2_{ours}-72.py311.nbi",
        f"program._place_avx2_{ours}-72.py311.1.nbc",
        "program.somebody_else-72.py311.nbi",
        f"notes_avx2_{theirs}.txt",
        f"program._place_avx2_{theirs}-72.py311.nbi.tmp",
        "jit.cpython-311.pyc",
    ]
    stale = [
        f"program._place_avx2_{theirs}-72.py311.nbi",
        f"program._place_avx2_{theirs}-72.py311.1.nbc",
        f"pack.pack_avx512_vnni_portable_{theirs}-7.py310.12.nbc",
        *(f"pack.pack_{tier}_{theirs}-7.py313t.nbi" for tier in TIERS),
    ]
    for name in kept + stale:
        (tmp_path / name).write_text("")
    removed = cache.remove_stale(tmp_path, ours)
    assert {path.name for path in removed} == set(stale)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)
    suffixes = [path.suffix for path in removed]
    assert suffixes == sorted(suffixes, reverse=True), "an index before the data that it points to"


def test_real_entries_are_recognized_as_ours() -> None:
    folder = cache.directory(_sort_rows.py_func)
    assert folder is not None
    _sort_rows(np.zeros(3, np.int64), np.array([[0, 3]]), np.zeros(3, np.int64))
    assert any(cache._ENTRY.search(path.name) and jit.FINGERPRINT in path.name for path in folder.iterdir())


def test_the_fingerprint_sees_sources_in_folders_below(tmp_path: Path) -> None:
    (tmp_path / "simd").mkdir()
    kernel = tmp_path / "simd" / "kernel.py"
    kernel.write_text("SIZE = 1\n")
    before = jit._fingerprint(tmp_path)
    kernel.write_text("SIZE = 2\n")
    edited = jit._fingerprint(tmp_path)
    kernel.rename(tmp_path / "kernel.py")
    assert len({before, edited, jit._fingerprint(tmp_path)}) == 3


def test_the_fingerprint_follows_what_a_tier_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {name: dataclasses.replace(tier, registers=tier.registers + 1) for name, tier in TIERS.items()}
    monkeypatch.setattr(jit, "TIERS", changed)
    assert jit._fingerprint() != jit.FINGERPRINT
