"""Check that exports and documentation agree with the code.

- Every public module (no part of its name starts with an underscore) has ``__all__``, and every public function and
  class that it defines is in it. Of a package behind the public API (INTERNAL) that is asked of the package alone.
- Every name in an ``__all__`` exists, once.
- Every name that README.md and docs/ import from sparsert, or mention as ``sparsert.something``, exists.

Modules of ``sparsert.integrations`` are left out where the libraries that they are for are not installed.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INTERNAL = tuple(f"sparsert.{name}" for name in "bench fuse graph kernels ops plan server".split())
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
MENTION = re.compile(r"`(sparsert(?:\.\w+)+)(?:\([^`]*\))?`")


def module_name(path: Path) -> str:
    """Dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_public(name: str) -> bool:
    """No part of a dotted name starts with an underscore."""
    return not any(part.startswith("_") for part in name.split("."))


def check_module(path: Path) -> list[str]:
    """Complaints about one module's ``__all__``."""
    name = module_name(path)
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = {node.name for node in tree.body if isinstance(node, definitions) and not node.name.startswith("_")}
    if path.name == "__init__.py" and not tree.body[1:]:
        return []  # a docstring alone: a package with nothing of its own
    internal = name.startswith(tuple(f"{package}." for package in INTERNAL))
    try:
        exported = getattr(importlib.import_module(name), "__all__", None)
    except ImportError as error:
        return [] if is_without_its_library(name, error) else [f"{name}: cannot be imported: {error}"]
    if exported is None:
        return [] if internal else [f"{name}: no __all__"]
    complaints = [f"{name}: __all__ has {bad}, which does not exist" for bad in exported if not exists(name, bad)]
    if len(exported) != len(set(exported)):
        complaints.append(f"{name}: __all__ has duplicates")
    unlisted = sorted(defined - set(exported))
    if unlisted and not internal:
        complaints.append(f"{name}: public but not in __all__: {', '.join(unlisted)}")
    return complaints


def is_without_its_library(name: str, error: ImportError) -> bool:
    """Whether a module is an integration, and what it lacks is the library that it is for."""
    lacking = getattr(error.__cause__, "name", None) or ""
    return name.startswith("sparsert.integrations.") and lacking.partition(".")[0] not in ("", "sparsert")


def exists(module: str, attribute: str) -> bool:
    """Whether a module has an attribute of that name, also one that it imports on first use."""
    try:
        getattr(importlib.import_module(module), attribute)
    except (AttributeError, ImportError):
        return False
    return True


def resolves(dotted: str) -> bool:
    """Whether a dotted name leads to a module, an attribute of one, or a console script."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            target: object = importlib.import_module(".".join(parts[:length]))
            for part in parts[length:]:
                target = getattr(target, part)
        except ImportError as error:
            if is_without_its_library(dotted, error):
                return True
            continue
        except AttributeError:
            continue
        return True
    return f"{dotted} =" in (ROOT / "setup.cfg").read_text(encoding="utf-8")


def check_document(path: Path) -> list[str]:
    """Complaints about the names that a Markdown file uses."""
    text = path.read_text(encoding="utf-8")
    names = set(MENTION.findall(text))
    complaints = []
    for block in FENCE.findall(text):
        try:
            tree = ast.parse(block)
        except SyntaxError as error:
            complaints.append(f"{path.name}: a python block does not parse: {error}")
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "sparsert":
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names if alias.name.partition(".")[0] == "sparsert")
    return complaints + [f"{path.name}: {name} does not exist" for name in sorted(names) if not resolves(name)]


def main() -> int:
    """Check the package and its documents; return the exit status."""
    sys.path.insert(0, str(ROOT))
    modules = [path for path in sorted((ROOT / "sparsert").rglob("*.py")) if is_public(module_name(path))]
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    complaints = [complaint for path in modules for complaint in check_module(path)]
    complaints += [complaint for path in documents if path.exists() for complaint in check_document(path)]
    print(
        "\n".join(complaints) or f"exports: {len(modules)} modules, {len(documents)} documents agree", file=sys.stderr
    )
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
