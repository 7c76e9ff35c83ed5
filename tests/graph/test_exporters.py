"""Files made on the spot by torch's exporters, every family, head, attention and exporter; needs torch and is slow.

tests/graph/test_fuse.py runs the same checks on the few that are committed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from fusion_checks import LAYERS, check_transformer
from make_exports import ALL_FORMS, export

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("form", ALL_FORMS)
def test_export_fuses(form: str, tmp_path: Path) -> None:
    for module in ("torch", "transformers", "onnxscript"):
        pytest.importorskip(module)
    path = tmp_path / f"{form}.onnx"
    export(form, path)
    linears = 6 * LAYERS + (2 if "-cls-" in form else 1)
    check_transformer(path, linears=linears, int8=False)
