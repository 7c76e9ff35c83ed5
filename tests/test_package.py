"""Tests of the package's top level: what it exports, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sparsert


def test_every_export_exists() -> None:
    for name in sparsert.__all__:
        assert getattr(sparsert, name) is not None
    assert set(sparsert.__all__) <= set(dir(sparsert))
    assert sparsert.Engine.__module__ == "sparsert.engine"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sparsert.nothing


def test_import_is_lazy() -> None:
    code = "import sys, sparsert; print([m for m in ('numpy', 'numba', 'onnx', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
