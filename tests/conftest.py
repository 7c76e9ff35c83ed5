"""What every test shares: the reference material, a private model cache, and hypothesis without surprises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Deterministic, so that a red run can be repeated; no deadline, because the first example of a kernel compiles it.
settings.register_profile("sparsert", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("sparsert")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material beside the repository; tests that need it are skipped elsewhere."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the repository")
    return SHARED


@pytest.fixture
def models_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty model cache of this test alone; the user's own caches are out of sight."""
    home = tmp_path / "home"
    cache = tmp_path / "models"
    home.mkdir()
    cache.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SPARSERT_MODELS_PATH", str(cache))
    monkeypatch.delenv("SPARSEZOO_MODELS_PATH", raising=False)
    yield cache
