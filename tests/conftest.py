"""What every test shares: a private model cache, real questions, and hypothesis without surprises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Deterministic, so that a red run can be repeated; no deadline, because the first example of a kernel compiles it.
settings.register_profile("sparsert", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("sparsert")


@pytest.fixture(scope="session")
def squad_sample() -> Path:
    """A file of 54 questions on 21 paragraphs of SQuAD's development set; see tests/data/README.md."""
    return Path(__file__).parent / "data" / "squad-sample.json"


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
