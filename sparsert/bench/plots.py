"""Plots of rooflines and of the suite: one function a plot, each from plain values to a Matplotlib figure."""

from __future__ import annotations

import functools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsert.bench.roofline import Roofline
from sparsert.errors import EngineError, InputError

__all__ = [
    "ENGINE_NAMES",
    "PALETTE",
    "check_plot_path",
    "finish_figure",
    "latency_figure",
    "make_figure",
    "require_matplotlib",
    "roofline_figure",
    "save_figure",
    "sparsity_figure",
    "styled",
    "throughput_figure",
]

# Okabe and Ito's palette: told apart with any kind of colour vision, and in print.
_BLUE, _ORANGE, _GREEN, _VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
_PURPLE, _GREY = "#CC79A7", "#767676"
PALETTE = (_BLUE, _ORANGE, _GREEN, _PURPLE, _GREY, _VERMILION)

ENGINE_COLORS = {"sparsert": _BLUE, "deepsparse": _ORANGE, "openvino": _GREEN, "onnxruntime": _PURPLE}
ENGINE_MARKERS = {"sparsert": "o", "deepsparse": "s", "openvino": "^", "onnxruntime": "D"}
ENGINE_NAMES = {
    "sparsert": "sparsert",
    "deepsparse": "DeepSparse",
    "openvino": "OpenVINO",
    "onnxruntime": "ONNX Runtime",
}
_ARITHMETIC_COLORS = {"int8": _BLUE, "float": _GREEN}
_DASHES = ["-", "--", "-.", ":"]

_SIDES = [(11, 0), (-11, 0), (0, 12), (0, -12), (9, 9), (-9, 9), (9, -9), (-9, -9)]
_SIDES += [(2 * dx, 2 * dy) for dx, dy in _SIDES]
"""Places for a label around its point, the closest first; in typographic points, as `_ROOM`, the distance it needs."""
_ROOM = 10.0

_DPI = 120
_FORMATS = (".png", ".svg", ".pdf")
_CAPTION_COLUMNS = 150

_STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "svg.hashsalt": "sparsert",  # the same values give the same file
}


def check_plot_path(path: str | Path) -> None:
    """Fail before anything is measured if a plot could not be written there.

    Raises
    ------
    InputError
        The folder does not exist, or the ending is of no known format.
    EngineError
        Matplotlib is not installed.
    """
    place = Path(path)
    if place.suffix not in _FORMATS or not place.parent.is_dir():
        raise InputError(f"{path} cannot take a plot: expected {', '.join(_FORMATS)} in an existing directory.")
    require_matplotlib()


def require_matplotlib() -> Any:
    """Import Matplotlib.

    Raises
    ------
    EngineError
        It is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise EngineError(
            "Plots need Matplotlib, which is not installed. Run: python -m pip install 'sparsert[bench]'"
        ) from error
    return matplotlib


def styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Run a function that draws with the house style, and leave the caller's own alone."""

    @functools.wraps(draw)
    def styled(*arguments: Any, **options: Any) -> Any:
        with require_matplotlib().rc_context(_STYLE):
            return draw(*arguments, **options)

    return styled


def make_figure(width: float, height: float, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure with a row of axes, in inches; no window system takes part."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False, **options)[0]


def finish_figure(figure: Any, title: str, caption: str) -> Any:
    """Title above, caption below; returns the figure."""
    columns = int(_CAPTION_COLUMNS * figure.get_figwidth() / 9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.supxlabel("\n".join(textwrap.wrap(caption, columns)), x=0.01, ha="left", fontsize=7.5, color="#555555")
    return figure


@styled
def save_figure(figure: Any, path: str | Path) -> Path:
    """Write a figure as PNG, SVG or PDF, by the ending of the path."""
    metadata = {"Date": None} if Path(path).suffix == ".svg" else None
    figure.savefig(path, metadata=metadata)
    return Path(path)


# -- roofline --------------------------------------------------------------------------------------------------------


@styled
def roofline_figure(roofline: Roofline, caption: str) -> Any:
    """Kernels as points under the roofs of one core; both axes logarithmic."""
    figure, (axes,) = make_figure(9, 5.0)
    limits, kernels = roofline.limits, roofline.kernels
    intensities = [1 / kernel.bytes_per_mac for kernel in kernels]
    top = max(rate.one for rate in limits.peaks.values())
    floor = min([top / 8, *(kernel.gmacs / 1.8 for kernel in kernels)])
    left, right = min([0.2, *(x / 1.6 for x in intensities)]), max([8.0, *(x * 2 for x in intensities)])
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(floor, top * 1.5))
    for (level, rate), dash in zip(limits.bandwidths.items(), _DASHES, strict=False):
        start = max(left, floor / rate.one)
        axes.plot([start, top / rate.one], [start * rate.one, top], color=_GREY, linestyle=dash, linewidth=1.2)
        axes.annotate(
            f"{level}  {rate.one:.0f} GB/s",
            (start * 1.06, start * 1.06 * rate.one),
            xytext=(0, 5),
            textcoords="offset points",
            fontsize=7.5,
            color="#444444",
            rotation=45,
            rotation_mode="anchor",
            transform_rotates_text=True,
        )
    fastest = max(rate.one for rate in limits.bandwidths.values())
    for kind, rate in limits.peaks.items():
        color = _ARITHMETIC_COLORS[kind]
        axes.plot([rate.one / fastest, right], [rate.one, rate.one], color=color, linewidth=1.4)
        axes.annotate(
            f"{kind}  {rate.one:.0f} GMAC/s",
            (right, rate.one),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=color,
        )
    for number, (kernel, x) in enumerate(zip(kernels, intensities, strict=True), 1):
        color = _ARITHMETIC_COLORS[kernel.arithmetic]
        label = f"{number}  {kernel.name}: {kernel.gmacs:.0f}, {kernel.share:.0%}"
        axes.plot([x], [kernel.gmacs], "o", color=color, markersize=7, label=label, markeredgecolor="white")
    axes.set_xlabel("useful multiply-accumulates for each byte moved between registers and L1")
    axes.set_ylabel("GMAC/s on one core")
    for axis in (axes.xaxis, axes.yaxis):
        _plain_ticks(axis)
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside right upper",
        fontsize=8,
        title="useful GMAC/s, share of limit",
        title_fontsize=8,
        handletextpad=0.2,
    )
    finish_figure(figure, "Kernels under the roofline of one core", caption)
    _number_points(figure, axes, list(zip(intensities, (kernel.gmacs for kernel in kernels), strict=True)))
    return figure


def _number_points(figure: Any, axes: Any, points: Sequence[tuple[float, float]]) -> None:
    """Write 1, 2, ... beside points, each on the side where it is farthest from what is there already."""
    figure.draw_without_rendering()  # fixes the layout, and with it the distances on paper
    taken = [tuple(axes.transData.transform(point)) for point in points]
    points_each = 72 / figure.dpi
    for number, point in enumerate(points, 1):
        x, y = axes.transData.transform(point)
        sides = [(dx / points_each, dy / points_each) for dx, dy in _SIDES]

        def room(side: tuple[float, float], x: float = x, y: float = y) -> float:
            nearest = min(math.hypot(x + side[0] - a, y + side[1] - b) for a, b in taken)
            return min(nearest, _ROOM / points_each)  # enough is enough: the first, closest place that has it

        dx, dy = max(sides, key=room)
        taken.append((x + dx, y + dy))
        axes.annotate(
            str(number),
            point,
            xytext=(dx * points_each, dy * points_each),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": _GREY, "linewidth": 0.5, "shrinkA": 5, "shrinkB": 3},
        )


# -- the suite -------------------------------------------------------------------------------------------------------


@styled
def throughput_figure(groups: Mapping[str, Sequence[tuple[str, str, float]]], caption: str, title: str) -> Any:
    """Bars of items/s.

    Parameters
    ----------
    groups : mapping
        Title of a group -> its bars as (engine, label, items/s), in the order from the top.
    caption, title : str
    """
    bars = sum(len(group) for group in groups.values())
    figure, (axes,) = make_figure(9, 1.5 + 0.24 * bars + 0.22 * len(groups))
    position, ticks, labels = 0.0, [], []
    highest = max((value for group in groups.values() for _, _, value in group), default=1.0)
    for name, group in groups.items():
        axes.text(0, position - 0.05, name, fontsize=9, fontweight="bold", va="center")
        position += 0.85
        for engine, label, value in group:
            axes.barh(position, value, height=0.78, color=ENGINE_COLORS.get(engine, _GREY))
            axes.text(value + highest * 0.008, position, _number(value), va="center", fontsize=8)
            ticks.append(position)
            labels.append(label)
            position += 0.9
        position += 0.35
    axes.set_yticks(ticks, labels)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set(ylim=(position - 0.4, -0.6), xlim=(0, highest * 1.1))
    axes.set_xlabel("items (sequences) per second; longer is faster")
    return finish_figure(figure, title, caption)


@styled
def latency_figure(panels: Mapping[str, Sequence[tuple[str, str, Sequence[float]]]], caption: str, title: str) -> Any:
    """Empirical distribution of the time of a batch: one panel a workload, one curve an engine.

    Parameters
    ----------
    panels : mapping
        Title of a panel -> its curves as (engine, label, milliseconds of every batch).
    caption, title : str
    """
    figure, axes = make_figure(9, 4.1, max(1, len(panels)), sharey=True)
    for panel, (name, curves) in zip(axes, panels.items(), strict=False):
        for engine, label, samples in curves:
            ordered = sorted(samples)
            shares = [100 * (i + 1) / len(ordered) for i in range(len(ordered))]
            median = ordered[len(ordered) // 2]
            panel.step(
                [ordered[0], *ordered],
                [0, *shares],
                where="post",
                color=ENGINE_COLORS.get(engine, _GREY),
                linewidth=1.8,
                linestyle="-" if ":" not in label else "--",
                label=f"{label}: {_number(median)} ms",
            )
        panel.set_title(name)
        panel.set_xscale("log")
        panel.set_xlabel("time of a batch, ms")
        _plain_ticks(panel.xaxis)
        panel.legend(loc="upper left", bbox_to_anchor=(0, -0.2), fontsize=8, title="median", title_fontsize=8)
    axes[0].set(ylim=(0, 100), ylabel="batches finished within that time, %")
    return finish_figure(figure, title, caption)


@styled
def sparsity_figure(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], caption: str, title: str) -> Any:
    """Cost against sparsity: one panel a pattern of zeros, one line an engine.

    Parameters
    ----------
    panels : mapping
        Title of a panel -> engine -> its points as (sparsity in percent, time over that of sparsert's dense kernel).
    caption, title : str
    """
    figure, axes = make_figure(9, 4.2, max(1, len(panels)), sharey=True)
    for panel, (name, lines) in zip(axes, panels.items(), strict=False):
        panel.axhline(1.0, color=_GREY, linestyle="--", linewidth=1.2, label="sparsert's dense kernel")
        for engine, points in lines.items():
            ordered = sorted(points)
            panel.plot(
                [x for x, _ in ordered],
                [y for _, y in ordered],
                color=ENGINE_COLORS.get(engine, _GREY),
                marker=ENGINE_MARKERS.get(engine, "o"),
                markersize=4.5,
                linewidth=2.2 if engine == "sparsert" else 1.5,
                label=ENGINE_NAMES.get(engine, engine),
            )
        panel.set_title(name)
        panel.set_xlabel("weights that are zero, %")
        panel.set_xticks([0, 20, 40, 50, 60, 70, 80, 90, 97])
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("time, sparsert's dense kernel = 1")
    axes[0].legend(loc="lower left", fontsize=8)
    return finish_figure(figure, title, caption)


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _plain_ticks(axis: Any) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
