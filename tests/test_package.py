"""Tests of the package's top level: what it exports, and what importing it costs."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import sparsert
from sparsert import errors


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


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    drawn = {}
    ancestors: list[str] = []
    for prefix, name, also in re.findall(r"^    ([ │├└─]*)(\w+)(?: +\(also ([\w, ]+)\))?", errors.__doc__ or "", re.M):
        ancestors = [*ancestors[: len(prefix) // 4], name]
        bases = ancestors[-2:-1] or ["Exception"]
        drawn[name] = [*bases, *(also.split(", ") if also else [])]
    assert drawn == {name: [base.__name__ for base in getattr(errors, name).__bases__] for name in errors.__all__}


def test_integrations_are_imported_on_demand() -> None:
    code = (
        "import sys, sparsert.pipelines, sparsert.integrations; print([m for m in sys.modules if 'integrations.' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "library", "wanted"),
    [
        ("haystack", "haystack", "pip install 'sparsert[haystack]'"),
        ("langchain", "langchain_core", "pip install 'sparsert[langchain]'"),
        ("llama_index", "llama_index", "pip install 'sparsert[llama-index]'"),
        ("sentence_transformers", "sentence_transformers", "pip install sentence-transformers"),
    ],
)
def test_an_integration_says_what_it_needs(module: str, library: str, wanted: str) -> None:
    code = f"import sys; sys.modules[{library!r}] = None; import sparsert.integrations.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip().splitlines()[-1].startswith("ImportError") and wanted in done.stderr
