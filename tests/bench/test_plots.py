"""Plots: every value is drawn, axes have labels and units, files are valid and small."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.figure
import numpy as np
import pytest
from test_roofline import LIMITS, MACHINE, ROOFLINE

from sparsert.bench import plots
from sparsert.bench.machine import caption
from sparsert.bench.roofline import KernelPoint, Roofline
from sparsert.errors import EngineError, InputError

CAPTION = caption(MACHINE, "2026-01-02T03:04:05+00:00", {"sparsert": "1.0", "DeepSparse": "1.8.0"})
PNG = b"\x89PNG\r\n\x1a\n"


def throughput() -> Any:
    groups = {
        "90 % int8": [("sparsert", "sparsert", 9.0), ("deepsparse", "DeepSparse", 4.5)],
        "dense": [("openvino", "OpenVINO, QDQ", 1.5)],
    }
    return plots.throughput_figure(groups, CAPTION, "Throughput")


def latency() -> Any:
    curves = [("sparsert", "sparsert", [3.0, 1.0, 2.0]), ("deepsparse", "DeepSparse", [4.0])]
    return plots.latency_figure({"1 x 128": curves, "1 x 384": curves[:1]}, CAPTION, "Latency")


def sparsity() -> Any:
    lines = {"sparsert": [(90.0, 0.2), (0.0, 1.0)], "deepsparse": [(0.0, 1.5), (90.0, 0.5)]}
    return plots.sparsity_figure({"unstructured": lines, "blocks": lines}, CAPTION, "Cost")


def roofline() -> Any:
    return plots.roofline_figure(ROOFLINE, CAPTION)


FIGURES = {"throughput": throughput, "latency": latency, "sparsity": sparsity, "roofline": roofline}


def texts(figure: Any) -> set[str]:
    return {text.get_text() for text in figure.findobj(matplotlib.text.Text)}


@pytest.mark.parametrize("name", FIGURES)
def test_labels_title_and_caption(name: str) -> None:
    figure = FIGURES[name]()
    assert figure.get_suptitle()
    assert figure.get_supxlabel().replace("\n", " ") == CAPTION
    assert "2 cores of Test CPU (avx2), sparsert 1.0, DeepSparse 1.8.0, 2026-01-02" in CAPTION
    for axes in figure.axes:
        assert axes.get_xlabel()
        shares_y = any(axes.get_shared_y_axes().joined(axes, other) for other in figure.axes if other is not axes)
        assert axes.get_ylabel() or shares_y or name == "throughput"  # bars have a label each


@pytest.mark.parametrize(("name", "ending"), [*((name, ".png") for name in FIGURES), ("roofline", ".svg")])
def test_files_are_valid_and_small(name: str, ending: str, tmp_path: Path) -> None:
    path = plots.save_figure(FIGURES[name](), tmp_path / (name + ending))
    content = path.read_bytes()
    assert len(content) < 200_000
    if ending == ".png":
        assert content.startswith(PNG)
    else:
        assert ElementTree.fromstring(content).tag.endswith("svg")


def test_bars_are_as_long_as_their_values() -> None:
    (axes,) = throughput().axes
    assert [patch.get_width() for patch in axes.patches] == [9.0, 4.5, 1.5]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sparsert", "DeepSparse", "OpenVINO, QDQ"]
    colors = [patch.get_facecolor() for patch in axes.patches]
    assert len(set(colors)) == 3
    assert {"9.00", "4.50", "1.50", "90 % int8", "dense"} <= texts(axes.figure)


def test_latencies_are_distribution_functions() -> None:
    first, second = latency().axes
    line = first.lines[0]
    np.testing.assert_allclose(line.get_xdata(), [1.0, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(line.get_ydata(), [0.0, 100 / 3, 200 / 3, 100.0])
    labels = [text.get_text() for text in first.get_legend().get_texts()]
    assert labels == ["sparsert: 2.00 ms", "DeepSparse: 4.00 ms"]
    assert (first.get_title("left"), second.get_title("left")) == ("1 x 128", "1 x 384")


def test_sparsity_is_drawn_from_left_to_right() -> None:
    axes = sparsity().axes[0]
    dense, ours, theirs = axes.lines
    np.testing.assert_allclose(dense.get_ydata(), 1.0)
    np.testing.assert_allclose(ours.get_xydata(), [(0.0, 1.0), (90.0, 0.2)])
    np.testing.assert_allclose(theirs.get_xydata(), [(0.0, 1.5), (90.0, 0.5)])
    assert axes.get_ylim()[0] == 0.0
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["sparsert's dense kernel", "sparsert", "DeepSparse"]


def test_every_kernel_lies_at_its_place() -> None:
    kernels = [
        KernelPoint(f"kernel {i}", kind, 0.9, (768, 768), 10.0 + i, 0.5 + i, "L1", 100.0, kind)
        for i, kind in enumerate(["int8", "float"] * 6)
    ]
    figure = plots.roofline_figure(Roofline(MACHINE, "", LIMITS, kernels), CAPTION)
    (axes,) = figure.axes
    points = {tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "o"}
    assert points == {(1 / kernel.bytes_per_mac, kernel.gmacs) for kernel in kernels}
    drawn = texts(figure)
    assert {str(number) for number in range(1, 13)} <= drawn
    assert {"L1  120 GB/s", "memory  10 GB/s", "int8  100 GMAC/s", "1  kernel 0: 10, 10%"} <= drawn
    horizontal, vertical = axes.get_xlim(), axes.get_ylim()
    assert all(horizontal[0] < x < horizontal[1] and vertical[0] < y < vertical[1] for x, y in points)


def test_the_callers_own_style_is_left_alone() -> None:
    before = {name: matplotlib.rcParams[name] for name in plots._STYLE}
    throughput()
    assert {name: matplotlib.rcParams[name] for name in plots._STYLE} == before
    assert before != plots._STYLE


def test_paths_are_checked(tmp_path: Path) -> None:
    plots.check_plot_path(tmp_path / "a.svg")
    for wrong in (tmp_path / "a.gif", tmp_path / "no" / "a.png", tmp_path / "a"):
        with pytest.raises(InputError, match="cannot take a plot"):
            plots.check_plot_path(wrong)


def test_a_missing_matplotlib_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for needs in (plots.require_matplotlib, roofline, lambda: plots.check_plot_path(tmp_path / "a.png")):
        with pytest.raises(EngineError, match=r"pip install 'sparsert\[bench\]'"):
            needs()
