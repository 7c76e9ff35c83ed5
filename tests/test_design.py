"""The pictures of docs/design.md are those that their script draws, and show what the code does."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.kernels.table import PIECE, TILE_META, UNITS
from sparsert.ops.steps import Step
from sparsert.plan import compile_graph, layout
from sparsert.plan.layout import Layout, Packing
from sparsert.plan.parts import SegmentPart
from sparsert.plan.regions import Division, find_regions
from sparsert.zoo import resolve

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "draw_design.py"
FIRST = 2
"""Steps before the first layer: embeddings and their LayerNorm."""


@pytest.fixture(scope="module")
def drawings() -> ModuleType:
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("draw_design", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    graph = load_graph(resolve("synthetic:bert-tiny-pruned90_quant", purpose="engine").onnx)
    (part,) = (part for part in compile_graph(fuse_graph(graph)).parts if isinstance(part, SegmentPart))
    return list(part.segment.steps)


# -- the files


def texts(svg: str) -> list[str]:
    return re.findall(r"<!-- (.*?) -->", svg)


def test_the_script_makes_the_committed_files(drawings: ModuleType, tmp_path: Path) -> None:
    subprocess.run([sys.executable, SCRIPT, "--output", tmp_path], check=True, timeout=300)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(f"{name}.svg" for name in drawings.DRAWINGS) and len(names) == 4
    for name in names:
        made, committed = ((folder / name).read_text(encoding="utf-8") for folder in (tmp_path, ROOT / "docs"))
        assert len(committed) < 150_000
        assert texts(made) == texts(committed)
        # the numbers and outlines are another Matplotlib's own business
        if re.findall(r"Matplotlib v\S+", made) == re.findall(r"Matplotlib v\S+", committed):
            assert made == committed, f"docs/{name} is not what scripts/draw_design.py draws; run it"


def test_the_document_shows_them(drawings: ModuleType) -> None:
    document = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"!\[[^]]+\]\((\w+)\.svg\)", document)) == sorted(drawings.DRAWINGS)


def test_texts_do_not_overlap_and_stay_on_the_page(drawings: ModuleType) -> None:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with rc_context(drawings._STYLE):
        for draw in drawings.DRAWINGS.values():
            figure = draw().figure
            renderer = FigureCanvasAgg(figure).get_renderer()
            found: list[tuple[str, Any]] = [
                (text.get_text(), text.get_window_extent(renderer)) for text in figure.axes[0].texts if text.get_text()
            ]
            for number, (text, extent) in enumerate(found):
                assert extent.x0 >= 0 and extent.x1 <= figure.bbox.x1 and extent.y0 >= 0, text
                for other, second in found[:number]:
                    width = min(extent.x1, second.x1) - max(extent.x0, second.x0)
                    height = min(extent.y1, second.y1) - max(extent.y0, second.y0)
                    # the boxes of lines of one paragraph touch
                    assert width <= 0 or height <= 2, (text, other)


# -- what they show


def test_steps_and_stages_of_a_layer(drawings: ModuleType, steps: list[Step]) -> None:
    for (opcode, what, stages), step in zip(drawings.STEPS, steps[FIRST:], strict=False):
        found = tuple(name for stage in step.stages for name in stage.name.split("+"))
        assert (step.opcode, found) == (opcode, stages)
        assert step.source in ("", what)


@pytest.mark.parametrize(("picture", "tiles"), [("MANY_TILES", 64), ("ONE_TILE", 1)])
def test_regions_of_a_layer(picture: str, tiles: int, drawings: ModuleType, steps: list[Step]) -> None:
    # weights that fit the cache: with larger ones a band has several tiles
    regions = find_regions(steps, Division.of(tiles, threads=2, weight_bytes=1))
    stop = len(drawings.STEPS)
    found = []
    for region in regions:
        first, last = max(region.first - FIRST, 0), min(region.stop - FIRST, stop)
        if first < last:
            found.append((first, last, UNITS._fields[region.units]))
    assert tuple(found) == getattr(drawings, picture)


def test_pieces_of_sequences_end_to_end(drawings: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "TILE", drawings.TILE)
    found = Layout.of(list(drawings.LENGTHS.values()), Packing(threads=2))
    tiles = np.repeat(np.arange(found.tiles), found.meta[:, TILE_META.piece_count])
    names = list(drawings.LENGTHS)
    pieces = [
        (names[piece[PIECE.sequence]], tile, piece[PIECE.first_lane], piece[PIECE.stop_lane])
        for tile, piece in zip(tiles, found.pieces, strict=True)
    ]
    assert pieces == drawings.pieces_of(drawings.LENGTHS)
    assert found.chunks == [(0, 4)]
    assert drawings.work_of(drawings.LENGTHS) == found.meta[:, TILE_META.work].tolist()
