"""Reading YAML so that what is wrong can be told with its line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sparsert.errors import InputError

__all__ = ["dotted", "line_of", "read_yaml"]

_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[Any, ...], int]]:
    """Content of a YAML file, and the line of each of its keys and items by their path.

    Raises
    ------
    InputError
        It is no YAML, holds something else than a mapping, a key twice, or itself.
    FileNotFoundError
        There is no such file.
    """
    lines: dict[tuple[Any, ...], int] = {}
    problems: list[str] = []
    try:
        text = path.read_text(encoding="utf-8")
        _note_lines(yaml.compose(text, Loader=yaml.SafeLoader), (), lines, problems, ())
        content = None if problems else yaml.safe_load(text)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no configuration file {path}") from None
    except RecursionError:
        raise InputError(f"{path} is not a readable YAML file: it is nested too deeply") from None
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or the 99th of a month
        raise InputError(f"{path} is not a readable YAML file: {error}") from None
    if problems:
        raise InputError("\n".join(f"{path}, {problem}" for problem in problems))
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a mapping with the key endpoints, got {type(content).__name__}")
    return content, lines


def _note_lines(
    node: yaml.Node | None,
    path: tuple[Any, ...],
    lines: dict[tuple[Any, ...], int],
    problems: list[str],
    around: tuple[yaml.Node, ...],
) -> None:
    """Add the lines of all that is in a node, which is inside of the nodes ``around``."""
    if node is None:
        return
    if any(node is other for other in around):  # an alias of what it is in
        problems.append(f"line {node.start_mark.line + 1}: {dotted(path)}: contains itself")
        return
    inside = (*around, node)
    if isinstance(node, yaml.MappingNode):
        merged: list[yaml.Node] = []
        own: dict[Any, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                problems.append(
                    ": ".join(part for part in (f"line {line}", dotted(path), "a key must be a name") if part)
                )
                continue
            here = (*path, key.value)
            if key.value in own:
                problems.append(f"line {line}: {dotted(here)}: given twice, first in line {own[key.value]}")
            lines[here] = own[key.value] = line
            if key.tag == _MERGE:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            else:
                _note_lines(value, here, lines, problems, inside)
        for other in merged:
            others: dict[tuple[Any, ...], int] = {}
            _note_lines(other, path, others, problems, inside)
            for here, line in others.items():
                if here[len(path)] not in own:
                    lines.setdefault(here, line)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            here = (*path, index)
            lines[here] = value.start_mark.line + 1
            _note_lines(value, here, lines, problems, inside)


def line_of(path: tuple[Any, ...], lines: Mapping[tuple[Any, ...], int]) -> int | None:
    """Line of a key, or of the nearest thing around it."""
    return next((lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in lines), None)


def dotted(path: tuple[Any, ...]) -> str:
    """A path as one writes it, such as ``endpoints[0].kwargs``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
