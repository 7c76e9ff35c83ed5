"""Check the shape of the code: no circle of imports, no file over 600 lines, no function over 80 without its docstring.

Circles are looked for between files, and between the rooms right under ``sparsert/``: a folder with all its files, or a
file. Every import of a sparsert module counts, also one for type checkers alone and one inside a function: the latter
may put off the loading of something heavy, and not hide that two modules need each other. What a package's
``__init__.py`` imports counts for those who import from the package, and not for those who name one of its modules.
"""

from __future__ import annotations

import ast
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 600, 80
Places = dict[str, dict[str, str]]
"""Importer -> what it imports -> where it does that, as ``file:line``."""


def module_name(path: Path) -> str:
    """Dotted name of a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str:
    """What lies right under the package and holds a module."""
    return ".".join(module.split(".")[:2])


def imported(tree: ast.Module, module: str, is_package: bool, modules: set[str]) -> Iterator[tuple[str, int]]:
    """The package's modules that a file imports at any place, and the lines."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{source}.{alias.name}" for alias in node.names]
            names = [name if name in modules else source for name in names]
        for name in names:
            if name in modules and name != module:
                yield name, node.lineno


def imports(package: Path) -> Places:
    """All imports between the files of the package."""
    paths = {module_name(path): path for path in sorted(package.rglob("*.py"))}
    places: Places = {name: {} for name in paths}
    for name, path in paths.items():
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        for target, line in imported(tree, name, path.name == "__init__.py", set(paths)):
            places[name].setdefault(target, f"{path.relative_to(ROOT)}:{line}")
    return places


def between_rooms(places: Places) -> Places:
    """The imports that lead from one room to another, each with the first place."""
    found: Places = {}
    for name, targets in places.items():
        for target, place in targets.items():
            if room(name) != room(target):
                found.setdefault(room(name), {}).setdefault(room(target), place)
    return found


def shortest_way(places: Places, start: str, end: str) -> list[str]:
    """Modules from ``start`` to ``end``, both included; empty if there is no way."""
    before = {start: start}
    queue = deque([start])
    while queue:
        name = queue.popleft()
        if name == end:
            way = [end]
            while way[-1] != start:
                way.append(before[way[-1]])
            return way[::-1]
        for target in places.get(name, {}):
            if target not in before:
                before[target] = name
                queue.append(target)
    return []


def circles(places: Places) -> list[str]:
    """A complaint for every circle between files or rooms."""
    return list(dict.fromkeys(circles_of(places) + circles_of(between_rooms(places))))


def circles_of(places: Places) -> list[str]:
    """A complaint for every circle of a graph, where each import is told once."""
    complaints, told = [], set()
    for name, targets in places.items():
        for target in targets:
            way = [name, *shortest_way(places, target, name)]
            steps = list(zip(way, way[1:], strict=False))
            if steps and not told.intersection(steps):
                told.update(steps)
                links = [f"{one} imports {other} ({places[one][other]})" for one, other in steps]
                complaints.append("a circle: " + ", ".join(links))
    return complaints


def sizes(path: Path) -> list[str]:
    """Complaints about the length of a file and of its functions."""
    text = path.read_text(encoding="utf-8")
    name, lines = path.relative_to(ROOT), len(text.splitlines())
    complaints = [f"{name}: {lines} lines, at most {MOST_LINES}: split it by subject"] if lines > MOST_LINES else []
    for node in ast.walk(ast.parse(text, str(path))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                length -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            if length > MOST_LINES_OF_A_FUNCTION:
                most = f"at most {MOST_LINES_OF_A_FUNCTION}"
                complaints.append(f"{name}:{node.lineno}: {node.name} has {length} lines, {most}: let it do one thing")
    return complaints


def main() -> int:
    """Check the package, the tests and the scripts; return the exit status."""
    places = imports(ROOT / "sparsert")
    files = [path for folder in ("sparsert", "tests", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
    complaints = circles(places)
    complaints += [complaint for path in files for complaint in sizes(path)]
    print("\n".join(complaints) or f"imports: {len(places)} modules without a circle", file=sys.stderr)
    return bool(complaints)


if __name__ == "__main__":
    sys.exit(main())
