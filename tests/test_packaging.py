"""What setup.cfg promises: commands that exist, data that is packed, declared dependencies, a small package."""

from __future__ import annotations

import ast
import configparser
import importlib
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sparsert"
CONFIG = configparser.ConfigParser(interpolation=None)
CONFIG.read(ROOT / "setup.cfg", encoding="utf-8")


EXTRAS = CONFIG["options.extras_require"]


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


@pytest.mark.parametrize("command", lines(CONFIG["options.entry_points"]["console_scripts"]))
def test_console_script_exists(command: str) -> None:
    name, target = (part.strip() for part in command.split("="))
    module, function = target.split(":")
    assert name.startswith("sparsert.")
    assert callable(getattr(importlib.import_module(module), function))


def test_package_data_is_packed_and_small() -> None:
    patterns = lines(CONFIG["options.package_data"]["sparsert"])
    packed = {path for pattern in patterns for path in PACKAGE.glob(pattern) if path.is_file()}
    data = {
        path
        for path in PACKAGE.rglob("*")
        if path.is_file()
        and path.suffix != ".py"
        and not any(part[0] in "._" for part in path.relative_to(PACKAGE).parts)
    }
    assert data == packed
    assert sum(path.stat().st_size for path in packed) < 40e6


def names(requirements: str) -> set[str]:
    return {re.split(r"[<>=\[; ]", line)[0].lower() for line in lines(requirements)}


def test_every_import_is_declared() -> None:
    """Third-party modules that the package imports come from install_requires, or from what these always bring."""
    required = names(CONFIG["options"]["install_requires"])
    brought = {
        "numba": {"llvmlite"},
        "onnx": {"google"},
        "transformers": {"huggingface_hub"},
        "flask": {"werkzeug"},
        "pydantic": {"pydantic_core"},
    }
    allowed = {{"pyyaml": "yaml"}.get(name, name.replace("-", "_")) for name in required} | {"sparsert"}
    allowed |= {module for name in required for module in brought.get(name, ())}
    # imported when asked for: engines to compare with, plots, tensors and Parquet
    optional = names(EXTRAS["bench"]) | {"openvino", "deepsparse", "torch", "pyarrow"}
    # the libraries that integrations are for
    optional |= {"haystack", "langchain_core", "llama_index", "sentence_transformers"}
    foreign: dict[str, str] = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module or ""]
            for name in modules:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names | allowed | optional:
                    foreign[top] = str(path.relative_to(ROOT))
    assert foreign == {}


def test_extras_that_are_named_exist() -> None:
    """``[server]`` holds nothing more, so that DeepSparse's users can type what they are used to."""
    assert names(EXTRAS["server"]) == set()
    assert names(EXTRAS["bench"]) < names(EXTRAS["dev"])
    named = {}
    for path in [ROOT / "README.md", ROOT / "Dockerfile", *ROOT.glob("docs/*.md"), *PACKAGE.rglob("*.py")]:
        for extra in re.findall(r"(?:sparsert|\.)\[([a-z-]+)\]", path.read_text(encoding="utf-8")):
            named[extra] = path.name
    assert {extra: path for extra, path in named.items() if extra not in EXTRAS} == {}


def test_every_package_has_an_init() -> None:
    """setuptools' find: skips a folder without one, and its modules would be missing from the wheel."""
    folders = {path.parent for path in PACKAGE.rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_python_versions_agree() -> None:
    """README names the oldest; which is the newest, Numba's wheels decide alone."""
    oldest = CONFIG["options"]["python_requires"].removeprefix(">=")
    assert re.findall(r"Python :: (3\.\d+)", CONFIG["metadata"]["classifiers"])[0] == oldest
    assert f"Python {oldest} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f'python_version = "{oldest}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r"3, 1\d|python3\.1\d", (ROOT / "scripts" / "environment.sh").read_text(encoding="utf-8")) is None
