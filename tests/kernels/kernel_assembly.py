"""Assembly of the hot kernels for CPUs that need not be this one's, and the loops in it."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import sparsert


@functools.cache
def emitted(tier: str) -> dict[str, str]:
    """Assembly by kernel for the CPU of a tier, by ``emit_for.py``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "SPARSERT_"))}
    environment = {**inherited, "PYTHONPATH": str(Path(sparsert.__file__).parents[1])}
    command = [sys.executable, str(Path(__file__).with_name("emit_for.py")), tier]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, f"{tier}: {finished.stderr[-2000:]}"
    texts: dict[str, str] = json.loads(finished.stdout)
    return texts


_COMMENT = re.compile(r"//|#(?!-?[0-9])")  # of ARM, where # stands before constants; and of x86

_JUMP = re.compile(r"(?:j\w+|b|b\.\w+|cbn?z\s+\w+,)\s+(\.?L\w+)")


def innermost_loops(text: str) -> list[list[str]]:
    """Bodies of the loops that contain no other loop, found by their backward jumps."""
    lines = [_COMMENT.split(line)[0].strip().removeprefix("{vex}").lstrip() for line in text.splitlines()]
    labels = {line[:-1]: place for place, line in enumerate(lines) if re.fullmatch(r"\.?L\w+:", line)}
    spans = set()
    for place, line in enumerate(lines):
        jump = _JUMP.match(line)
        if jump and labels.get(jump[1], place) < place:
            spans.add((labels[jump[1]], place))
    inner = [a for a in spans if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    return [[x for x in lines[a + 1 : b + 1] if x and not x.startswith(".")] for a, b in sorted(inner)]


def hot_loops(text: str, instruction: str) -> list[list[str]]:
    """Innermost loops that consist of products: one of them per output, unrolled or not."""
    loops = [body for body in innermost_loops(text) if any(line.startswith(instruction) for line in body)]
    assert loops, f"no loop with {instruction}"
    return loops
