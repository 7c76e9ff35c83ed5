"""Check that every Numba-compiled function states its flags.

A flag left to its default is a decision that nobody sees: ``cache`` decides whether users compile at every start,
``nogil`` whether two streams can run at once, ``fastmath`` whether NaN propagates. The rules, with exceptions and their
reasons, are in ``scripts/njit_flags.json``; a flag may also come from a dictionary that is unpacked (``**FLAGS``), if
the same module assigns it as a literal.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DECORATORS = {"njit", "jit", "vectorize", "guvectorize", "stencil", "cfunc"}
NOT_FLAGS = {"cfunc": {"nogil"}}
"""A C function never takes the GIL, so it has no such flag."""


def decorator_name(node: ast.expr) -> str:
    """``njit`` for ``@njit``, ``@njit(...)`` and ``@numba.njit(...)``."""
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def literal_dicts(tree: ast.Module) -> dict[str, dict[str, object]]:
    """Module-level names that are assigned a literal dictionary, as ``{...}`` or ``dict(...)``."""
    found: dict[str, dict[str, object]] = {}
    for statement in tree.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        value = getattr(statement, "value", None)
        if not isinstance(target, ast.Name):
            continue
        try:
            if isinstance(value, ast.Call) and decorator_name(value) == "dict":
                found[target.id] = {k.arg: ast.literal_eval(k.value) for k in value.keywords if k.arg}
            elif isinstance(value, ast.Dict):
                found[target.id] = ast.literal_eval(value)
        except ValueError:
            continue  # not a literal
    return found


def imported_wrappers(tree: ast.Module, wrappers: dict[str, str]) -> set[str]:
    """Local names of the project's own decorators that state the flags for all who use them."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if f"{node.module}.{alias.name}" in wrappers
    }


def flags_of(decorator: ast.expr, dicts: dict[str, dict[str, object]]) -> dict[str, object]:
    """Keyword flags of a decorator, with unpacked dictionaries; a value that is no literal counts as stated."""
    flags: dict[str, object] = {}
    for keyword in decorator.keywords if isinstance(decorator, ast.Call) else []:
        if keyword.arg is None:
            flags.update(dicts.get(keyword.value.id, {}) if isinstance(keyword.value, ast.Name) else {})
        else:
            flags[keyword.arg] = keyword.value.value if isinstance(keyword.value, ast.Constant) else ...
    return flags


def check_file(path: Path, rules: dict) -> list[str]:
    """Complaints about one file."""
    name = path.relative_to(ROOT).as_posix()
    tree = ast.parse(path.read_text(encoding="utf-8"), name)
    dicts = literal_dicts(tree)
    exempt = rules["exempt"].get(name, {})
    checked = DECORATORS - imported_wrappers(tree, rules["wrappers"])
    complaints = []
    for node in ast.walk(tree):
        # Compiled functions are decorated, or made by a call: njit(cache=True, nogil=True)(body).
        candidates: list[tuple[str, ast.expr]] = []
        if isinstance(node, ast.FunctionDef):
            candidates = [(node.name, decorator) for decorator in node.decorator_list]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Call):
            candidates = [("a function made by a call", node.func)]
        for function, decorator in candidates:
            if decorator_name(decorator) not in checked:
                continue
            flags = flags_of(decorator, dicts)
            required = set(rules["required"]) - NOT_FLAGS.get(decorator_name(decorator), set())
            missing = sorted(flag for flag in required if flag not in flags and flag not in exempt)
            if missing:
                complaints.append(f"{name}:{decorator.lineno}: {function} does not state {', '.join(missing)}")
            if flags.get("fastmath") is True and "fastmath" not in exempt:
                complaints.append(f"{name}:{decorator.lineno}: {function} has fastmath=True, which drops NaN")
    return complaints


def main() -> int:
    """Check the package; return the exit status."""
    rules = json.loads((ROOT / "scripts" / "njit_flags.json").read_text(encoding="utf-8"))
    stale = [f"{name} is exempt but does not exist" for name in rules["exempt"] if not (ROOT / name).exists()]
    files = sorted((ROOT / "sparsert").rglob("*.py"))
    complaints = stale + [complaint for path in files for complaint in check_file(path, rules)]
    print("\n".join(complaints) or f"njit flags: {len(files)} files are in order", file=sys.stderr)
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
