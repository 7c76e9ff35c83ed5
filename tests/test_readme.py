"""The README's Python examples run, each in a namespace of its own, as a reader would paste them.

Their ``path/to/...`` are small models of the tests.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from text_models import make_models

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [(TEXT[: match.start()].count("\n") + 2, match[1]) for match in FENCE.finditer(TEXT)]
CODE = [code for _, code in BLOCKS]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real folders for those that the examples name."""
    models = make_models(tmp_path_factory.mktemp("models"))
    named = {"cross-encoder": "ranker", "nli-model": "zero-shot"}
    return {f"path/to/{name}": models[named.get(name, name)] for name in re.findall(r"path/to/([\w-]+)", "".join(CODE))}


@pytest.mark.parametrize(("line", "code"), [pytest.param(*block, id=f"line-{block[0]}") for block in BLOCKS])
def test_example_runs(
    line: int, code: str, paths: dict[str, Path], capsys: pytest.CaptureFixture[str], models_path: Path
) -> None:
    for name, folder in paths.items():
        code = code.replace(f'"{name}"', repr(str(folder)))
    exec(compile("\n" * (line - 1) + code, "README.md", "exec"), {"__name__": "readme"})
    assert "print(" not in code or capsys.readouterr().out.strip()


def test_it_shows_engine_pipeline_and_benchmark() -> None:
    assert len(BLOCKS) >= 4
    for heading in ("Two commands", "Engine", "Pipeline", "Benchmark"):
        assert f"\n## {heading}\n" in TEXT


@pytest.mark.parametrize("document", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []
