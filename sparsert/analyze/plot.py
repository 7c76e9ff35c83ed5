"""The plot of an analysis: time of every layer in order, and the share of each kind."""

from __future__ import annotations

import os
from typing import Any

from sparsert.analyze.result import KINDS, Analysis
from sparsert.bench.machine import caption
from sparsert.bench.plots import PALETTE, finish_figure, make_figure, styled

__all__ = ["analysis_figure"]

_COLORS = dict(zip(KINDS, PALETTE, strict=True))


@styled
def analysis_figure(analysis: Analysis) -> Any:
    """A Matplotlib figure: one bar a layer, in the order of execution, and totals by kind."""
    figure, (layers, kinds) = make_figure(9, 4.2, 2, width_ratios=[3, 1.1])
    for kind in analysis.kinds:
        members = [layer for layer in analysis.layers if layer.kind == kind.kind]
        layers.bar(
            [layer.index for layer in members],
            [layer.milliseconds for layer in members],
            width=1.0 if len(analysis.layers) > 60 else 0.85,
            color=_COLORS[kind.kind],
            label=kind.kind,
        )
    layers.set_title("every layer, in the order of execution")
    layers.set_xlabel("layer")
    layers.set_ylabel("time for the batch, ms")
    layers.grid(False, axis="x")
    layers.set_xlim(-0.8, len(analysis.layers) - 0.2)
    totals = analysis.kinds[::-1]
    names = [kind.kind for kind in totals]
    kinds.barh(names, [100 * kind.share for kind in totals], color=[_COLORS[name] for name in names], height=0.7)
    for position, kind in enumerate(totals):
        limit = "" if kind.share_of_limit is None else f", {kind.share_of_limit:.0%} of limit"
        inside = kind.share > 0.5
        kinds.annotate(
            f"{kind.share:.0%}{limit}",
            (100 * kind.share, position),
            xytext=(-4 if inside else 4, 0),
            textcoords="offset points",
            fontsize=7.5,
            va="center",
            ha="right" if inside else "left",
            color="white" if inside else "black",
        )
    kinds.set_title("share of the time")
    kinds.set_xlabel("%")
    kinds.set_xlim(0, 100)
    kinds.grid(False, axis="y")
    model = os.path.basename(os.path.dirname(analysis.model_path)) or os.path.basename(analysis.model_path)
    shape = " x ".join(map(str, analysis.input_shapes[0]))
    title = f"Where the time goes: {model}, {shape}, {analysis.whole_milliseconds:.1f} ms"
    text = caption(analysis.machine, analysis.date, {"sparsert": analysis.version})
    return finish_figure(figure, title, f"{text}. Medians of {analysis.iterations} runs, {analysis.num_cores} threads.")
