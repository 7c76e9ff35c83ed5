"""The tests of this directory and of ragged batches once more, in every tier that is not this process's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsert import cpu
from sparsert.kernels.jit import TIER

# LLVM gets a CPU without the instructions that a tier must not contain, and so refuses them. The features have to be
# emptied as well: Numba adds the host's to any CPU name but "generic".
ENVIRONMENTS = {
    "generic": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""},
    "avx2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""},
    "avx512_vnni": {} if cpu.cpu_vnni() else {"SPARSERT_PORTABLE": "1"},
}


def runnable(tier: str) -> bool:
    return tier != "avx2" or cpu.cpu_avx2_compatible()


@pytest.mark.slow
@pytest.mark.parametrize("tier", cpu.TIERS)
def test_the_kernels_pass_in_every_tier(tier: str, tmp_path: Path) -> None:
    if tier == TIER:
        pytest.skip("this process has run it")
    if not runnable(tier):
        pytest.skip("the host lacks its instructions")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "PYTEST_"))}
    # Its own cache: entries for another CPU are of no use to anybody else.
    environment |= {"SPARSERT_ISA": tier, "NUMBA_CACHE_DIR": str(tmp_path), **ENVIRONMENTS[tier]}
    here = Path(__file__).parent
    folders = [str(here), str(here.parent / "plan" / "test_ragged.py")]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *folders]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-2000:]
