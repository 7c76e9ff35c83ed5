"""The notebooks run from top to bottom, and what they show is what comes out.

Cells tagged ``varies`` show times, scores or kernels, which depend on the CPU; the others are compared. After a change,
``jupyter nbconvert --to notebook --execute --inplace notebooks/*.ipynb`` renews the outputs.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))

# A folder of somebody's machine, in an output or in a traceback.
MACHINE_PATH = re.compile(r"/(home|root|Users|tmp|work|mnt|usr)/\w|[A-Z]:\\\\")


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def results(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """What a cell prints and gives; not what goes to stderr, such as that kernels are being compiled."""
    return [output for output in cell.outputs if output.output_type != "stream" or output.name == "stdout"]


def texts(cell: nbformat.NotebookNode) -> list[str]:
    return [output.text if output.output_type == "stream" else output.data["text/plain"] for output in results(cell)]


def test_there_are_five() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["1-", "2-", "3-", "4-", "5-"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_committed_outputs_are_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = code_cells(notebook)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    text = path.read_text(encoding="utf-8")
    assert len(text) < 250_000
    assert all(output.output_type != "error" for cell in code for output in cell.outputs)
    assert all(output.output_type != "stream" or output.name != "stderr" for cell in code for output in cell.outputs)
    images = re.compile(r'"image/png": "[^"]*"')
    assert not MACHINE_PATH.search(images.sub("", text))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path: Path, models_path: Path) -> None:
    if "matplotlib" in path.read_text(encoding="utf-8"):
        pytest.importorskip("matplotlib")
    committed, notebook = (nbformat.read(path, as_version=4) for _ in range(2))
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    for before, after in zip(code_cells(committed), code_cells(notebook), strict=True):
        if "varies" in before.metadata.get("tags", []):
            assert {output.output_type for output in results(after)} == {
                output.output_type for output in results(before)
            }
        else:
            assert texts(after) == texts(before)
