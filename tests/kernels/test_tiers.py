"""The tests of this directory and of ragged batches once more, in every tier that is not this process's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsert.cpu import ARCHITECTURE, host_features
from sparsert.kernels.jit import TIER
from sparsert.tiers import TIERS, Tier

IMPLIED = {"neon_i8mm": "tiles are those of neon_dot, products those of avx_vnni"}
"""Tiers whose stand-ins are made of what those of others have."""


def environment_of(tier: Tier) -> dict[str, str] | None:
    """Variables under which a process runs a tier's kernels, or None where the host cannot."""
    if host_features().issuperset(tier.features):
        if tier.architecture != ARCHITECTURE:  # portable IR that any CPU runs
            return {"SPARSERT_ISA": tier.name}
        # LLVM gets a CPU without the instructions that a tier must not contain, and so refuses them. The features have
        # to be emptied as well: Numba adds the host's to any CPU name but "generic".
        return {"SPARSERT_ISA": tier.name, "NUMBA_CPU_NAME": tier.cpu, "NUMBA_CPU_FEATURES": ""}
    return {"SPARSERT_ISA": tier.name, "SPARSERT_PORTABLE": "1"} if tier.portable else None


@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS.values(), ids=TIERS)
def test_the_kernels_pass_in_every_tier(tier: Tier, tmp_path: Path) -> None:
    if tier == TIER:
        pytest.skip("this process has run it")
    chosen = environment_of(tier)
    if chosen is None:
        pytest.skip("the host lacks its instructions")
    if "SPARSERT_PORTABLE" in chosen and tier.name in IMPLIED:
        pytest.skip(IMPLIED[tier.name])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "PYTEST_"))}
    # Its own cache: entries for another CPU are of no use to anybody else.
    environment |= {"NUMBA_CACHE_DIR": str(tmp_path), **chosen}
    here = Path(__file__).parent
    folders = [str(here), str(here.parent / "plan" / "test_ragged.py")]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *folders]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert finished.returncode == 0, finished.stdout[-4000:] + finished.stderr[-2000:]
