"""Draw the pictures of docs/design.md: a tile, products, the regions of a layer, units of work. Needs Matplotlib.

``python scripts/draw_design.py`` writes them into docs/, ``--output FOLDER`` elsewhere. The same Matplotlib writes the
same bytes; letters are paths, so that a picture looks alike everywhere.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path as Outline

DOCS = Path(__file__).resolve().parents[1] / "docs"

INK, SOFT, FAINT, PAPER = "#222222", "#666666", "#c8c8c8", "#ffffff"
BLUE, ORANGE, GREEN, VIOLET = "#a9cbe8", "#f6c99b", "#b5dcb0", "#d2c1e6"
"""Sequences, channels or threads: what a picture tells apart."""
DEEP_BLUE, DEEP_ORANGE = "#2f6fa8", "#c2701c"

_STYLE = {
    "font.family": "DejaVu Sans",
    "svg.fonttype": "path",
    "svg.hashsalt": "sparsert",
    "path.simplify": False,
}


class Sheet:
    """A page of ``width`` times ``height`` hundredths of an inch; y goes down."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width / 100, height / 100), facecolor=PAPER)
        self._axes = self.figure.add_axes((0, 0, 1, 1))
        self._axes.set(xlim=(0, width), ylim=(height, 0))
        self._axes.set_axis_off()

    def box(
        self, x: float, y: float, width: float, height: float, color: str = PAPER, text: str = "", **how: Any
    ) -> None:
        """A rectangle, perhaps with a text in its middle; ``how`` is Matplotlib's, ``size`` the text's."""
        size, ink = how.pop("size", 8), how.pop("ink", INK)
        options = {"facecolor": color, "edgecolor": INK, "linewidth": 0.6} | how
        self._axes.add_patch(Rectangle((x, y), width, height, **options))
        if text:
            self.text(x + width / 2, y + height / 2, text, size, ha="center", va="center", color=ink)

    def round(self, x: float, y: float, width: float, height: float, color: str, text: str = "", **how: Any) -> None:
        """A box with round corners."""
        size, ink = how.pop("size", 8), how.pop("ink", INK)
        options = {"facecolor": color, "edgecolor": INK, "linewidth": 0.6} | how
        shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=4", **options)
        self._axes.add_patch(shape)
        if text:
            self.text(x + width / 2, y + height / 2, text, size, ha="center", va="center", color=ink)

    def stripes(self, x: float, y: float, width: float, height: float, count: int, colors: Sequence[str]) -> None:
        """A box of ``count`` cells side by side whose colors take turns."""
        step = width / count
        for turn, color in enumerate(colors):
            cells = [
                Outline.unit_rectangle().vertices * (step, height) + (x + cell * step, y)
                for cell in range(turn, count, len(colors))
            ]
            outline = Outline.make_compound_path(*(Outline(cell, closed=True) for cell in cells))
            self._axes.add_patch(PathPatch(outline, facecolor=color, linewidth=0))
        self.box(x, y, width, height, "none")

    def text(self, x: float, y: float, text: str, size: float = 8, **how: Any) -> None:
        """A text from its left end, on its base line."""
        self._axes.text(x, y, text, fontsize=size, **({"color": INK} | how))

    def title(self, x: float, y: float, text: str) -> None:
        """The heading of a part."""
        self.text(x, y, text, 9.5, fontweight="bold")

    def line(self, xs: Sequence[float], ys: Sequence[float], **how: Any) -> None:
        """A line through points."""
        self._axes.plot(xs, ys, **({"color": INK, "linewidth": 0.8, "solid_capstyle": "butt"} | how))

    def arrow(self, x: float, y: float, to_x: float, to_y: float, **how: Any) -> None:
        """An arrow from one point to another."""
        options = {"arrowstyle": "-|>", "mutation_scale": 8, "color": INK, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
        self._axes.add_patch(FancyArrowPatch((x, y), (to_x, to_y), **(options | how)))

    def span(self, x: float, to_x: float, y: float, text: str, up: bool = False) -> None:
        """A bracket below (or above) something, with a text in the middle."""
        tick = 5 if up else -5
        self.line([x, x, to_x, to_x], [y + tick, y, y, y + tick], color=SOFT)
        self.text((x + to_x) / 2, y + (-5 if up else 14), text, 8, ha="center", color=SOFT)


# -- a tile

TILE = 32
LENGTHS = {"A": 45, "B": 40, "C": 23, "D": 9}
COLORS = dict(zip(LENGTHS, (BLUE, ORANGE, GREEN, VIOLET), strict=True))
CHANNELS = (BLUE, ORANGE, GREEN, VIOLET)


def pieces_of(lengths: dict[str, int]) -> list[tuple[str, int, int, int]]:
    """(sequence, tile, first lane, stop lane) of what every tile holds of sequences end to end."""
    pieces, lane = [], 0
    for name, length in lengths.items():
        stop = lane + length
        while lane < stop:
            tile = lane // TILE
            end = min(stop, (tile + 1) * TILE)
            pieces.append((name, tile, lane - tile * TILE, end - tile * TILE))
            lane = end
    return pieces


def draw_tile() -> Sheet:
    """Tokens along the lanes, sequences end to end, and the forms of a value."""
    sheet = Sheet(1000, 398)
    _sequences(sheet, 20, 22)
    _one_tile(sheet, 20, 158)
    _forms(sheet, 455, 158)
    return sheet


def _sequences(sheet: Sheet, left: float, top: float) -> None:
    lane, gap = 7.2, 12.0
    width = TILE * lane
    sheet.title(left, top, "Sequences lie end to end in tiles; none is padded")
    place = [left + tile * (width + gap) for tile in range(4)]
    bar = top + 34
    for tile in range(4):
        sheet.box(place[tile], bar, width, 26, "#f4f4f4")
        sheet.text(place[tile] + width / 2, bar - 6, f"tile {tile}", 8, ha="center", color=SOFT)
    seen = dict.fromkeys(LENGTHS, 0)
    for name, tile, first, stop in pieces_of(LENGTHS):
        begin, seen[name] = seen[name], seen[name] + stop - first
        text = f"{name} {begin}–{seen[name] - 1}"
        sheet.box(place[tile] + first * lane, bar, (stop - first) * lane, 26, COLORS[name], text)
    sheet.text(place[3] + 26.5 * lane, bar + 16, "empty", 7, ha="center", color=SOFT)
    sheet.span(place[1] + 13 * lane, place[1] + width, bar + 34, "a piece: what a tile holds of one sequence")
    sheet.text(
        place[3] + width,
        bar + 48,
        "a chunk: whole sequences, in tiles that go through the network together",
        8,
        ha="right",
        color=SOFT,
    )
    sheet.span(place[0], place[3] + width, bar + 60, "")


def _one_tile(sheet: Sheet, left: float, top: float) -> None:
    cell, rows = 10.0, 12
    sheet.title(left, top, "A tile is [channel][token]")
    x, y = left + 70, top + 40
    sheet.text(
        x + TILE * cell / 2, y - 8, "32 tokens (64 with AVX-512): the lanes of a vector", 8, ha="center", color=SOFT
    )
    picked = {2: BLUE, 5: ORANGE, 6: GREEN, 10: VIOLET}
    bottom, right, border = y + rows * cell, x + TILE * cell, x + 13 * cell
    sheet.box(x, y, border - x, bottom - y, "#e3eef7")
    sheet.box(border, y, right - border, bottom - y, "#fcefe0")
    for row, color in picked.items():
        sheet.box(x, y + row * cell, right - x, cell, color, linewidth=0)
        sheet.text(x - 6, y + row * cell + 8.5, f"k = {row}", 7, ha="right")
    for column in range(1, TILE):
        sheet.line([x + column * cell] * 2, [y, bottom], linewidth=0.25, color="#999999")
    for row in range(1, rows):
        sheet.line([x, right], [y + row * cell] * 2, linewidth=0.25, color="#999999")
    sheet.line([border] * 2, [y, bottom], linewidth=1.6)
    sheet.text(left + 2, y + rows * cell / 2, "channels", 8, rotation=90, va="center", color=SOFT)
    sheet.span(x, border, bottom + 8, "piece of A")
    sheet.span(border, right, bottom + 8, "piece of B")
    sheet.text(left, bottom + 44, "A weight w[n][k] is one number times row k, a contiguous vector.", 8)


def _forms(sheet: Sheet, left: float, top: float) -> None:
    sheet.title(left, top, "Forms of a value in memory; each reader gets the one that it wants")
    y, cell = top + 42, 21.0
    start = left + 84
    for channel in range(4):
        x = start + 112 * channel
        sheet.box(x, top + 16, 12, 12, CHANNELS[channel])
        sheet.text(x + 17, top + 26, f"channel {channel}", 8)
    forms: tuple[tuple[str, str, list[tuple[int, str]], int], ...] = (
        (
            "rows",
            "uint8 [K][T]",
            [(0, f"t{t}") for t in range(10)] + [(-1, "…")] + [(1, f"t{t}") for t in range(10)],
            1,
        ),
        ("quads", "uint8 [K/4][T][4]", [(k, f"t{t}") for t in range(5) for k in range(4)] + [(-1, "…")], 1),
        ("floats", "float32 [K][T]", [(0, f"t{t}") for t in range(4)] + [(-1, "…")], 4),
    )
    notes = (
        "what unstructured weights read: any row by itself",
        "four channels of a token side by side, as a dot product of four bytes takes them",
        "residuals, LayerNorm, float models: four vectors a row",
    )
    for number, ((name, kind, cells, width), note) in enumerate(zip(forms, notes, strict=True)):
        line = y + 64 * number
        sheet.text(left, line + 11, name, 8.5, fontweight="bold")
        sheet.text(left, line + 22, kind, 5.8, color=SOFT)
        x = start
        for channel, text in cells:
            if channel < 0:
                sheet.text(x + 10, line + 13, text, 8, ha="center")
                x += 20
                continue
            sheet.box(x, line, cell * width, 20, CHANNELS[channel], text, size=6.5, linewidth=0.4)
            x += cell * width
        sheet.text(start, line + 34, note, 7.5, color=SOFT)
    sheet.text(
        start,
        y + 186,
        "Attention's K and V are signed: signed_quads and signed_rows, the same less 128.",
        7.5,
        color=SOFT,
    )


# -- products


def draw_products() -> Sheet:
    """What the accumulators of unstructured weights and of blocks read of a tile."""
    sheet = Sheet(1000, 176)
    _unstructured(sheet, 20, 22)
    _blocks(sheet, 560, 22)
    return sheet


def _quad_bars(sheet: Sheet, x: float, y: float, width: float, step: float) -> None:
    """Four vectors of quads, one below the other."""
    for vector in range(4):
        sheet.stripes(x, y + vector * step, width, 16, 32, CHANNELS)


def _products(sheet: Sheet, x: float, y: float, step: float, weights: Sequence[str]) -> None:
    """Four quad vectors times four weights, into four vectors of sums."""
    sheet.text(x + 38, y - 12, "times", 7.5, ha="center", color=SOFT)
    for vector in range(4):
        line = y + vector * step
        for place, (text, color) in enumerate(zip(weights, CHANNELS, strict=True)):
            sheet.box(x + 20 * place, line, 20, 16, color, text, size=5.8, linewidth=0.4)
        sheet.arrow(x + 82, line + 8, x + 105, line + 8)
        sheet.box(x + 106, line, 64, 16, "#eeeeee", "int32 sums", size=6.8)
    sheet.text(x + 92, y - 12, "dot4", 7.5, ha="center", color=SOFT)


def _unstructured(sheet: Sheet, left: float, top: float) -> None:
    sheet.title(left, top, "Unstructured weights read rows, four nonzeros at a time")
    step, y = 26.0, top + 44
    for number, (k, color) in enumerate(zip((2, 5, 6, 10), CHANNELS, strict=True)):
        sheet.text(left + 2, y + number * step + 11, f"row {k}", 7.5)
        sheet.box(left + 42, y + number * step, 104, 16, color)
    sheet.text(left + 94, y - 12, "four vectors of 32 bytes", 7.5, ha="center", color=SOFT)
    sheet.arrow(left + 152, y + 47, left + 190, y + 47)
    sheet.text(left + 171, y + 24, "eight\nshuffles", 7, ha="center", color=SOFT)
    _quad_bars(sheet, left + 196, y, 110, step)
    sheet.text(left + 251, y - 12, "interleaved in registers", 7.5, ha="center", color=SOFT)
    _products(sheet, left + 318, y, step, ("w2", "w5", "w6", "w10"))


def _blocks(sheet: Sheet, left: float, top: float) -> None:
    sheet.title(left, top, "Blocks of four adjacent weights read quads")
    step, y = 26.0, top + 44
    _quad_bars(sheet, left + 40, y, 150, step)
    sheet.text(left + 115, y - 12, "four vectors, as they lie: no shuffle", 7.5, ha="center", color=SOFT)
    sheet.text(left + 36, y + 51, "4 to 7", 7.5, ha="right")
    sheet.text(left + 36, y + 39, "rows", 7.5, ha="right")
    _products(sheet, left + 206, y, step, ("w4", "w5", "w6", "w7"))


# -- regions

STEPS = (
    ("linear", "Q", ("dequantize", "quads")),
    ("linear", "K", ("dequantize", "signed_quads")),
    ("linear", "V", ("dequantize", "signed_rows")),
    ("byte_sums", "of Q and K", ()),
    ("attention", "", ("dequantize", "rows")),
    ("linear", "768 → 768", ("dequantize", "add", "floats")),
    ("rows", "layer_norm", ("rows", "floats")),
    ("linear", "768 → 3072", ("dequantize", "gelu", "rows")),
    ("linear", "3072 → 768", ("dequantize", "add", "floats")),
    ("rows", "layer_norm", ("rows", "floats")),
)
"""Opcode, what it is, and stages of each step of a layer."""

MANY_TILES = ((0, 4, "bands"), (4, 5, "shares"), (5, 10, "bands"))
ONE_TILE = ((0, 5, "strips"), (5, 6, "strips"), (6, 7, "bands"), (7, 8, "strips"), (8, 9, "strips"), (9, 10, "bands"))
"""First and last step and kind of the regions, for two threads."""

_TOP, _STEP = 78.0, 42.0
_SINKS = ("rows", "quads", "signed_rows", "signed_quads", "floats")


def draw_regions() -> Sheet:
    """The steps of a layer, and how they are divided for many tiles and for one."""
    sheet = Sheet(1000, 560)
    sheet.title(20, 24, "64 tiles, two threads")
    sheet.title(300, 24, "The steps of a BERT layer, int8 and unstructured")
    sheet.title(736, 24, "One tile, two threads")
    sheet.text(300, 42, "with their stages: what changes the rows, then a sink for every form wanted", 7.5, color=SOFT)
    for index, (opcode, what, stages) in enumerate(STEPS):
        y = _TOP + index * _STEP
        sheet.round(300, y + 4, 400, _STEP - 8, "#f4f4f4", linewidth=0.5)
        sheet.text(310, y + 25, opcode, 8.5, fontweight="bold")
        sheet.text(392, y + 25, what, 8)
        x = 474.0
        for stage in stages:
            width = 14 + 5.4 * len(stage)
            sheet.round(x, y + 11, width, 20, GREEN if stage in _SINKS else "#fff3c4", stage, size=7.5)
            x += width + 6
    for y in (_TOP, _TOP + 10 * _STEP + 7):
        sheet.arrow(500, y - 11, 500, y + 3, color=SOFT)
    sheet.text(510, _TOP - 4, "the layer before", 7.5, color=SOFT)
    sheet.text(510, _TOP + 10 * _STEP + 9, "the next layer", 7.5, color=SOFT)
    _many_tiles(sheet)
    _one_tile_regions(sheet)
    sheet.round(20, 528, 14, 14, BLUE)
    sheet.text(39, 539, "thread 0", 8)
    sheet.round(104, 528, 14, 14, ORANGE)
    sheet.text(123, 539, "thread 1", 8)
    sheet.line([190, 226], [535, 535], color=_RED, linewidth=2)
    sheet.text(233, 539, "barrier: threads wait for each other", 8)
    sheet.text(980, 539, "an arrow is a unit: it runs all steps of its region, one after the other", 8, ha="right")
    return sheet


_RED = "#c0392b"


def _units(sheet: Sheet, x: float, first: int, stop: int, colors: Sequence[str], open_end: bool = False) -> None:
    """Units of a region side by side, each an arrow down through its steps."""
    y, end = _TOP + first * _STEP + 3, _TOP + stop * _STEP - 3
    width = 160 / len(colors)
    for number, color in enumerate(colors):
        left = x + number * width
        sheet.box(left, y, width, end - y, color, edgecolor=PAPER, linewidth=1.2)
        if color != _IDLE:
            sheet.arrow(left + width / 2, y + 4, left + width / 2, end + (7 if open_end else -3))


_IDLE = "#eeeeee"


def _barriers(sheet: Sheet, x: float, regions: Sequence[tuple[int, int, str]]) -> None:
    for _, stop, _ in regions[:-1]:
        sheet.line([x - 4, x + 164], [_TOP + stop * _STEP] * 2, color=_RED, linewidth=2)


def _labels(sheet: Sheet, x: float, step: float, kind: str, *lines: str) -> None:
    """The kind of a region, and what its units are, beside the middle of ``step``."""
    y = _TOP + step * _STEP + 25 - 5.5 * len(lines)
    sheet.text(x, y, kind, 8.5, fontweight="bold")
    for number, line in enumerate(lines, 1):
        sheet.text(x, y + 11.5 * number, line, 7, color=SOFT)


def _many_tiles(sheet: Sheet) -> None:
    x, halves = 112.0, [BLUE] * 4 + [ORANGE] * 4
    sheet.text(x, _TOP - 24, "tiles", 7.5, color=SOFT)
    sheet.arrow(x + 24, _TOP - 27, x + 160, _TOP - 27, color=SOFT, linewidth=0.6)
    for first, stop, _ in MANY_TILES:
        _units(sheet, x, first, stop, halves, open_end=stop == len(STEPS))
    _barriers(sheet, x, MANY_TILES)
    _labels(sheet, 20, 1.5, "bands", "a unit is a band", "of neighbouring", "tiles")
    _labels(sheet, 20, 4, "shares", "of all tiles' heads:", "keys may lie in", "other tiles")
    _labels(sheet, 20, 7, "bands", "activations of a", "band stay in the", "core's caches")
    _labels(sheet, 20, 9, "", "goes on with Q, K", "and V of the next")


def _one_tile_regions(sheet: Sheet) -> None:
    x = 736.0
    sheet.text(x, _TOP - 24, "rows", 7.5, color=SOFT)
    sheet.arrow(x + 26, _TOP - 27, x + 160, _TOP - 27, color=SOFT, linewidth=0.6)
    for first, stop, kind in ONE_TILE:
        _units(sheet, x, first, stop, [BLUE, ORANGE if kind == "strips" else _IDLE])
    _barriers(sheet, x, ONE_TILE)
    _labels(
        sheet,
        902,
        2,
        "strips",
        "a unit is a strip",
        "of every matrix'",
        "rows, and then",
        "the heads that it",
        "computed itself",
    )
    _labels(sheet, 902, 5, "strips", "read the rows of", "all heads")
    _labels(sheet, 902, 6, "bands", "one unit: the sums", "go over all rows")
    _labels(sheet, 902, 7, "strips")
    _labels(sheet, 902, 8, "strips")
    _labels(sheet, 902, 9, "bands")


# -- units


def draw_units() -> Sheet:
    """Queues and helping, a band and its panels, and shares of attention."""
    sheet = Sheet(1000, 384)
    _queues(sheet, 20, 22)
    _band(sheet, 520, 22)
    _shares(sheet, 20, 254)
    return sheet


def _queues(sheet: Sheet, left: float, top: float) -> None:
    sheet.title(left, top, "Every thread has a queue of neighbouring units, and helps")
    done, ours, theirs = "#eeeeee", BLUE, ORANGE
    states = [
        ("thread 0", [(0, done, "done"), (1, ours, "runs"), (2, theirs, "runs"), (3, PAPER, "")]),
        ("thread 1", [(4, done, "done"), (5, done, "done"), (6, done, "done"), (7, done, "done")]),
    ]
    for number, (thread, units) in enumerate(states):
        y = top + 40 + 104 * number
        sheet.round(left, y, 76, 40, BLUE if number == 0 else ORANGE, thread, size=8.5)
        sheet.text(left + 92, y - 7, f"queue of {thread}", 7.5, color=SOFT)
        for place, (unit, color, state) in enumerate(units):
            x = left + 92 + 84 * place
            sheet.box(x, y, 78, 40, color)
            ink = SOFT if color == done else INK
            sheet.text(x + 39, y + (18 if state else 24), f"unit {unit}", 8, ha="center", color=ink)
            sheet.text(x + 39, y + 32, state, 7, ha="center", color=SOFT)
    sheet.arrow(left + 38, top + 142, left + 300, top + 82, connectionstyle="arc3,rad=-0.12", color=DEEP_ORANGE)
    sheet.text(left + 214, top + 122, "takes the next one: an atomic addition", 7.5, color=DEEP_ORANGE)


def _band(sheet: Sheet, left: float, top: float) -> None:
    sheet.title(left, top, "A unit of a band reads each panel of weights once")
    y, panels = top + 40, 5
    sheet.text(left + 60, y - 7, "weights of a step", 7.5, ha="center", color=SOFT)
    for panel in range(panels):
        color = "#fff3c4" if panel == 1 else PAPER
        sheet.box(left, y + 26 * panel, 120, 26, color, f"panel {panel}", size=7.5)
    sheet.text(left + 60, y + 26 * panels + 13, "each of some blocks of rows", 7.5, ha="center", color=SOFT)
    for tile in range(4):
        x = left + 206 + 64 * tile
        sheet.text(x + 28, y - 7, f"tile {8 + tile}", 7.5, ha="center", color=SOFT)
        sheet.box(x, y, 56, 26 * panels, BLUE if tile < 2 else "#e3eef7")
        sheet.text(x + 28, y + 70, "L1" if tile == 1 else "", 8, ha="center")
    sheet.span(left + 206, left + 454, y + 26 * panels + 8, "a band: up to four tiles")
    sheet.arrow(left + 124, y + 39, left + 200, y + 39, linewidth=1.6)
    sheet.text(left + 162, y + 32, "first", 7.5, ha="center", color=SOFT)
    sheet.text(left + 162, y + 52, "all its tiles,", 7.5, ha="center", color=SOFT)
    sheet.text(left + 162, y + 64, "then the next", 7.5, ha="center", color=SOFT)
    sheet.text(left + 162, y + 76, "panel", 7.5, ha="center", color=SOFT)


HEADS, SHARES = 4, 8
OVERHEAD = 16
"""What a piece costs besides its keys, in keys."""


def work_of(lengths: dict[str, int]) -> list[int]:
    """Work of one head of attention in every tile: the keys of each piece's sequence, and the overhead."""
    pieces = pieces_of(lengths)
    tiles = max(tile for _, tile, _, _ in pieces) + 1
    return [sum(lengths[name] + OVERHEAD for name, at, _, _ in pieces if at == tile) for tile in range(tiles)]


def _shares(sheet: Sheet, left: float, top: float) -> None:
    sheet.title(left, top, "Shares of attention are even in keys, not in tiles")
    sheet.text(
        left + 372,
        top,
        "the sequences of the first picture; 4 heads; 4 shares a thread here, 8 in truth",
        7.5,
        color=SOFT,
    )
    works = work_of(LENGTHS)
    total, width, y = sum(works) * HEADS, 960.0, top + 66
    scale = width / total
    colors = ("#a9cbe8", "#d3e4f3", "#a9cbe8", "#d3e4f3", "#f6c99b", "#fbe4cc", "#f6c99b", "#fbe4cc")
    for share in range(SHARES):
        x = left + share * width / SHARES
        sheet.box(x, y - 40, width / SHARES, 20, colors[share], f"share {share}", size=7.5)
    before = 0
    for tile, work in enumerate(works):
        names = "".join(name for name, at, _, _ in pieces_of(LENGTHS) if at == tile)
        for head in range(HEADS):
            begin = before + head * work
            share = begin * SHARES // total
            sheet.box(left + begin * scale, y, work * scale, 34, colors[share], f"head {head}", size=6.5, linewidth=0.4)
        x = left + before * scale
        sheet.box(x, y, work * HEADS * scale, 34, "none", linewidth=1.4)
        keys = " + ".join(f"{LENGTHS[name]} of {name}" for name in names)
        sheet.text(x + work * HEADS * scale / 2, y + 49, f"tile {tile}: keys {keys}", 7.5, ha="center", color=SOFT)
        before += work * HEADS
    for share in range(1, SHARES):
        x = left + share * width / SHARES
        sheet.line([x, x], [y - 20, y], color=SOFT, linewidth=0.6, linestyle="--")


DRAWINGS: dict[str, Callable[[], Sheet]] = {
    "tile": draw_tile,
    "products": draw_products,
    "regions": draw_regions,
    "units": draw_units,
}


def svg(sheet: Sheet) -> str:
    """A sheet as SVG, with short names of letters, which are most of it."""
    text = io.StringIO()
    sheet.figure.savefig(text, format="svg", metadata={"Date": None})
    lines = text.getvalue().replace("DejaVuSans-Bold-", "b").replace("DejaVuSans-", "n").splitlines()
    return "".join(f"{line.strip()}\n" for line in lines)


def main() -> None:
    """Write all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=DOCS, metavar="FOLDER", help="default: docs")
    parser.add_argument("--format", choices=["svg", "png"], default="svg")
    options = parser.parse_args()
    with rc_context(_STYLE):
        for name, draw in DRAWINGS.items():
            path = options.output / f"{name}.{options.format}"
            if options.format == "svg":
                path.write_text(svg(draw()), encoding="utf-8")
            else:
                draw().figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
