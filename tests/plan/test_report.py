"""Tests of sparsert.plan.report."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sparsert.plan.report import Report, StepReport

STEPS = [
    StepReport(0, "Linear", "query", "spmm avx2", "csr", (64, 128), 0.9, 0.5, 2048, 819, sources=["a", "b", "c"]),
    StepReport(1, "Linear", "key", "gemm avx2", "dense", (64, 64), 0.0, 0.0, 4096, 4096, sources=["d", "e"]),
    StepReport(2, "Hardmax", "odd <node>", "onnx.reference", fallback=True, sources=["f"], note="no kernel"),
]


def test_summary() -> None:
    report = Report(STEPS, source_node_count=10, isa="avx2", model_path="model.onnx")
    # f of ten nodes needs the fallback; the four that no step names were folded away.
    assert report.fraction_of_supported_ops == 0.9
    assert [step.op for step in report.fallbacks] == ["Hardmax"]
    assert (report.total_bytes, report.total_macs_per_token) == (6144, 4915)
    assert report.sparsity == pytest.approx(0.9 * 8192 / 12288)
    assert len(report) == 3 and report[2] is list(report)[2]


def test_fraction_has_four_decimals_and_needs_no_nodes() -> None:
    assert Report(STEPS, source_node_count=3).fraction_of_supported_ops == 0.6667
    assert Report([]).fraction_of_supported_ops == 1.0
    assert Report([]).sparsity is None


def test_table_is_aligned() -> None:
    lines = str(Report(STEPS, 10, "avx2", "model.onnx")).split("\n")
    assert lines[0] == "model.onnx"
    header, rows = lines[1], lines[2:5]
    for name, cells in (
        ("kernel", ["spmm avx2", "gemm avx2", "onnx.reference (fallback)"]),
        ("weights", ["csr", "dense"]),
    ):
        column = header.index(name)
        for row, cell in zip(rows, cells, strict=False):
            assert row[column : column + len(cell)] == cell
    assert "64x128" in rows[0] and "90.0%" in rows[0] and "no kernel" in rows[2]
    assert any("fraction_of_supported_ops: 0.9" in line and "Hardmax" in line for line in lines[5:])


def test_json() -> None:
    report = Report([StepReport(0, "Linear", bytes=np.int64(7), sources=["a"])], 1, "avx2")
    data = json.loads(report.to_json())
    assert data["steps"][0]["bytes"] == 7 and data["total_bytes"] == 7
    assert set(json.loads(Report(STEPS, 10).to_json())["steps"][0]) == set(StepReport.__dataclass_fields__)


def test_html_escapes() -> None:
    text = Report(STEPS, 10)._repr_html_()
    assert "odd &lt;node&gt;" in text and "<node>" not in text and text.count("<tr") == 4
