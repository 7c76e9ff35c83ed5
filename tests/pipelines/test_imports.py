"""Code of one's own that cannot be imported is an error of who names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsert.errors import InputError
from sparsert.pipelines import Pipeline
from sparsert.pipelines.imports import load_module


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
        ("import nothing_like_this", "ModuleNotFoundError: No module named 'nothing_like_this'"),
    ],
)
def test_what_fails_as_it_is_imported_is_named(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "broken_code.py"
    path.write_text(text)
    for _ in range(2):  # a module that failed is not there the second time
        with pytest.raises(InputError, match=f"{path} cannot be imported: {message}"):
            Pipeline.create(f"import:{path}")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match="broken_code"):
        load_module("broken_code")
