"""The notebooks run from top to bottom, and what they show is what comes out."""

from __future__ import annotations

from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_committed_outputs_are_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    text = path.read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert "/home/" not in text
    assert "/root/" not in text
    assert all(output.output_type != "stream" or output.name != "stderr" for cell in code for output in cell.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path: Path, models_path: Path) -> None:
    committed, notebook = (nbformat.read(path, as_version=4) for _ in range(2))
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    for before, after in zip(committed.cells, notebook.cells, strict=True):
        if before.cell_type == "code" and "report" not in before.source:  # kernels and bytes depend on the CPU
            assert _texts(after) == _texts(before)


def _texts(cell: nbformat.NotebookNode) -> list[str]:
    return [output.data["text/plain"] for output in cell.outputs if output.output_type == "execute_result"]


def test_there_is_one() -> None:
    assert NOTEBOOKS
