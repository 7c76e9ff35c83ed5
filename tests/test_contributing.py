"""CONTRIBUTING.md names files, folders and commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PATH = re.compile(r"(?:sparsert|tests|scripts|docs)/[\w./]*")
BLOCKS = "\n".join(re.findall(r"^```bash\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
NAMED = sorted({path for code in re.findall(r"`([^`\n]+)`", TEXT) for path in PATH.findall(code)})


def test_what_is_named_exists() -> None:
    assert len(NAMED) > 40
    assert [path for path in NAMED if not (ROOT / path).exists() or path.endswith("/") != (ROOT / path).is_dir()] == []


def test_commands_run_what_exists() -> None:
    paths = PATH.findall(BLOCKS)
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("variable", sorted(set(re.findall(r"SPARSERT_\w+", TEXT))))
def test_variables_are_read(variable: str) -> None:
    assert any(f'"{variable}"' in path.read_text(encoding="utf-8") for path in (ROOT / "sparsert").glob("*.py"))


def test_links_lead_somewhere() -> None:
    for target, _, heading in re.findall(r"\]\(([^)#]*)(#?)([^)]*)\)", TEXT):
        document = ROOT / (target or "CONTRIBUTING.md")
        assert document.exists()
        headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}
        assert not heading or heading in anchors, f"{target}#{heading}"
