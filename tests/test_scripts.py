"""The project's own checks find what they are for."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def load(name: str, monkeypatch: pytest.MonkeyPatch, root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", root)
    return module


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("@njit\ndef f(): ...", "does not state cache, nogil"),
        ("@numba.njit(cache=True)\ndef f(): ...", "does not state nogil"),
        ("g = njit(cache=True)(f)", "does not state nogil"),
        ("@njit(cache=True, nogil=True, fastmath=True)\ndef f(): ...", "fastmath=True"),
        ("F = dict(cache=True)\n@njit(**F)\ndef f(): ...", "does not state nogil"),
        ("@njit(cache=True, nogil=True)\ndef f(): ...", None),
        ("F = {'cache': True}\n@njit(nogil=True, **F)\ndef f(): ...", None),
        ("from sparsert.kernels.jit import jit\n@jit()\ndef f(): ...", None),
        ("from numba import jit\n@jit()\ndef f(): ...", "does not state cache, nogil"),
        ("@intrinsic\ndef f(): ...", None),
        ("@cfunc(signature, cache=True)\ndef f(): ...", None),
        ("@cfunc(signature)\ndef f(): ...", "does not state cache"),
    ],
)
def test_njit_flags(source: str, complaint: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = load("check_njit", monkeypatch, tmp_path)
    rules = json.loads((ROOT / "scripts" / "njit_flags.json").read_text())
    (tmp_path / "kernel.py").write_text(source)
    complaints = check.check_file(tmp_path / "kernel.py", rules)
    assert len(complaints) == (complaint is not None)
    assert all(str(complaint) in text for text in complaints)


def test_exports_of_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = load("check_exports", monkeypatch, ROOT)
    document = tmp_path / "page.md"
    document.write_text("`sparsert.zoo.resolve(x)`\n```python\nfrom sparsert.errors import ModelError\n```\n")
    assert check.check_document(document) == []
    document.write_text("`sparsert.zoo.nothing`\n```python\nfrom sparsert.errors import Mistake\n```\n")
    assert check.check_document(document) == [
        "page.md: sparsert.errors.Mistake does not exist",
        "page.md: sparsert.zoo.nothing does not exist",
    ]
    document.write_text("```python\nprint(\n```\n")
    assert "does not parse" in check.check_document(document)[0]


def package(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"__init__.py": "", **files}.items():
        path = root / "sparsert" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root / "sparsert"


@pytest.mark.parametrize(
    ("files", "circle"),
    [
        ({"a.py": "from sparsert import b", "b.py": "import sparsert.c", "c.py": "import os"}, ""),
        ({"a.py": "from sparsert import b", "b.py": "import sparsert.a"}, "sparsert.a sparsert.b"),
        (
            {"a.py": "from sparsert.b import x", "b.py": "def f():\n    from sparsert.a import y"},
            "sparsert.a sparsert.b",
        ),
        ({"a.py": "from .b import x", "b.py": "if TYPE_CHECKING:\n    from . import a"}, "sparsert.a sparsert.b"),
        # what a folder's __init__ imports is not asked for by those who name a module
        ({"g/__init__.py": "from sparsert.g import m", "g/m.py": "from sparsert.g.n import x", "g/n.py": ""}, ""),
        (
            {"g/__init__.py": "from sparsert.g import m", "g/m.py": "from sparsert.g import y"},
            "sparsert.g sparsert.g.m",
        ),
        # between folders, though no two files import each other
        (
            {"g/m.py": "", "g/n.py": "import sparsert.h.m", "h/m.py": "", "h/n.py": "from ..g import m"},
            "sparsert.g sparsert.h",
        ),
    ],
)
def test_circles_of_imports(
    files: dict[str, str], circle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = load("check_imports", monkeypatch, tmp_path)
    folders = {f"{name.split('/')[0]}/__init__.py": "" for name in files if "/" in name}
    places = check.imports(package(tmp_path, {**folders, **files}))
    complaints = check.circles(places)
    assert len(complaints) == bool(circle)
    for name in circle.split():
        assert f"{name} imports " in complaints[0]


def test_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = load("check_imports", monkeypatch, tmp_path)
    path = tmp_path / "long.py"
    body = 'def f():\n    """One.\n\n    Two.\n    """\n' + "    x = 1\n" * 79
    path.write_text(body)
    assert check.sizes(path) == []
    path.write_text(body + "    x = 1\n" + "\n" * 516)
    assert check.sizes(path) == [
        "long.py: 601 lines, at most 600: split it by subject",
        "long.py:1: f has 81 lines, at most 80: let it do one thing",
    ]


def test_lower_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = load("lower_bounds", monkeypatch, ROOT)
    text = "[options]\ninstall_requires =\n  # why\n  flask>=3.0\n  {}\n[options.extras_require]\nbench =\n  a-b>=1\n"
    assert bounds.lower_bounds(text.format("numba>=0.62")) == ["flask==3.0", "numba==0.62", "a-b==1"]
    with pytest.raises(ValueError, match="numba<1: expected name>=version"):
        bounds.lower_bounds(text.format("numba<1"))
    assert "numba==0.62" in bounds.lower_bounds((ROOT / "setup.cfg").read_text(encoding="utf-8"))


@pytest.mark.parametrize("newer", [True, False])
def test_the_oldest_environment_fails_cleanly(newer: bool, tmp_path: Path) -> None:
    """With newer Pythons alone it says so; where installing fails, no temporary file is left."""
    least = sys.version_info.minor - newer
    script = f"""
        set -euo pipefail
        . scripts/environment.sh
        _least={least}
        _candidates() {{ echo '{sys.executable}'; }}
        _install() {{ echo installing >&2; return 1; }}
        prepare_oldest_environment
    """
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    result = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    if newer:
        assert f"Install Python 3.{least}" in result.stderr and len(result.stderr.splitlines()) == 2
    else:
        assert result.stderr == "installing\n"
    assert list(tmp_path.iterdir()) == []
