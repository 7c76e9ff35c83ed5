"""What an analysis found: its layers, their kinds and totals, as values, table, JSON and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from dataclasses import dataclass
from typing import Any

from sparsert.bench.markdown import markdown_table

__all__ = ["ANALYSIS_KEYS", "KINDS", "LAYER_KEYS", "Analysis", "KindSummary", "LayerAnalysis"]

KINDS = ("Linear", "Attention", "Normalization", "Embeddings", "Other", "Fallback")

LAYER_KEYS = {
    "index": "position in the order of execution",
    "name": "name of the first ONNX node that the layer stands for",
    "op": "what was fused into one step",
    "kind": ", ".join(KINDS),
    "kernel": "what runs it",
    "weight_format": "unstructured, pairs, blocks, sparse (float) or dense; empty without weights",
    "shape": "of the weight, (in_features, out_features)",
    "sparsity": "part of the weights that is zero; null without weights",
    "block_sparsity": "part of the blocks of 4 along the input features that is zero",
    "milliseconds": "median time for the whole batch",
    "share": "part of the sum of all layers",
    "macs": "useful (nonzero) multiply-accumulates for the whole batch; 0 where there are none to speak of",
    "gmacs": "macs per second / 1e9; null where macs is 0",
    "limit": "GMAC/s that the roofline of the machine allows this layer; null where it was not measured",
    "share_of_limit": "gmacs / limit",
    "nodes": "ONNX nodes that the layer stands for; of several layers for the same nodes, the last one counts them",
}
"""Keys of a layer, with their meaning."""

ANALYSIS_KEYS = {
    "model_path": "ONNX file",
    "batch_size": "leading dimension of the inputs",
    "input_shapes": "shape of each input, in graph order",
    "num_cores": "threads",
    "isa": "kernel tier",
    "version": "version of sparsert",
    "machine": "as in the export of sparsert.bench --compare",
    "date": "ISO 8601 with time zone",
    "iterations": "runs behind each median",
    "whole_milliseconds": "median time of a run as a whole",
    "sum_milliseconds": "sum of the layers; a run as a whole keeps a tile's values in the caches from layer to layer, "
    "and has what Python does around them besides",
    "items_per_second": "batch size over the time of the whole",
    "kinds": "for each kind of layer: kind, layers, milliseconds, share, gmacs, share_of_limit",
    "layers": "one object a layer, with the keys below",
}
"""Keys of the JSON export, with their meaning."""


@dataclass(frozen=True)
class LayerAnalysis:
    """One step of the compiled model; ``LAYER_KEYS`` defines the fields."""

    index: int
    name: str
    op: str
    kind: str
    kernel: str
    weight_format: str
    shape: tuple[int, ...]
    sparsity: float | None
    block_sparsity: float | None
    milliseconds: float
    share: float
    macs: int
    limit: float | None
    nodes: int

    @property
    def gmacs(self) -> float | None:
        """Useful GMAC/s, or None for a layer without multiply-accumulates."""
        return self.macs / self.milliseconds / 1e6 if self.macs and self.milliseconds else None

    @property
    def share_of_limit(self) -> float | None:
        """Part of the machine's limit that is reached, or None where it is not known."""
        return None if self.gmacs is None or not self.limit else self.gmacs / self.limit


@dataclass(frozen=True)
class KindSummary:
    """All layers of one kind."""

    kind: str
    layers: int
    milliseconds: float
    share: float
    gmacs: float | None
    share_of_limit: float | None


@dataclass(frozen=True)
class Analysis:
    """A model's time, layer by layer; ``ANALYSIS_KEYS`` defines the fields. ``str()`` is the printed report."""

    model_path: str
    batch_size: int
    input_shapes: list[list[int]]
    num_cores: int
    isa: str
    version: str
    machine: dict[str, Any]
    date: str
    iterations: int
    whole_milliseconds: float
    layers: list[LayerAnalysis]

    @property
    def sum_milliseconds(self) -> float:
        """Sum of the layers' times."""
        return sum(layer.milliseconds for layer in self.layers)

    @property
    def items_per_second(self) -> float:
        """Items of a batch over the time of a whole run."""
        return self.batch_size / self.whole_milliseconds * 1e3

    @property
    def kinds(self) -> list[KindSummary]:
        """Totals of every kind of layer that occurs, in the order of `KINDS`."""
        summaries = []
        for kind in KINDS:
            layers = [layer for layer in self.layers if layer.kind == kind]
            if layers:
                summaries.append(_summarize(kind, layers))
        return summaries

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the keys of `ANALYSIS_KEYS`."""
        layers = []
        for layer in self.layers:
            values = dataclasses.asdict(layer) | {"gmacs": layer.gmacs, "share_of_limit": layer.share_of_limit}
            layers.append({key: values[key] for key in LAYER_KEYS} | {"shape": list(layer.shape)})
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        own |= {"sum_milliseconds": self.sum_milliseconds, "items_per_second": self.items_per_second}
        own |= {"kinds": [dataclasses.asdict(kind) for kind in self.kinds], "layers": layers}
        return {key: own[key] for key in ANALYSIS_KEYS}

    def to_json(self, indent: int | None = 2) -> str:
        """:meth:`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=indent)

    def to_csv(self) -> str:
        """The layers as CSV, with the keys of `LAYER_KEYS` as header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(LAYER_KEYS), lineterminator="\n")
        writer.writeheader()
        for layer in self.to_dict()["layers"]:
            writer.writerow(layer | {"shape": "x".join(map(str, layer["shape"]))})
        return text.getvalue()

    def summary_lines(self) -> list[str]:
        """Totals, as Markdown."""
        cells = [["kind", "layers", "ms", "share of time", "GMAC/s", "share of limit"]]
        for kind in self.kinds:
            rates = [_number(kind.gmacs), _percent(kind.share_of_limit)]
            cells.append([kind.kind, str(kind.layers), f"{kind.milliseconds:.3f}", _percent(kind.share), *rates])
        return [
            *markdown_table(cells),
            "",
            f"Sum of the layers: {self.sum_milliseconds:.3f} ms; a run as a whole: {self.whole_milliseconds:.3f} ms",
            "(a run as a whole keeps a tile's values in the caches from layer to layer, and has Python's part besides)",
            f"Items per second: {self.items_per_second:.2f}",
            f"Batch size: {self.batch_size}, shapes {self.input_shapes}",
            f"Number of threads: {self.num_cores}",
        ]

    def layer_lines(self) -> list[str]:
        """Every layer, as Markdown."""
        head = ["#", "name", "op", "kernel", "weights", "shape", "sparsity", "ms", "share", "GMAC/s", "of limit"]
        cells = [head]
        for layer in self.layers:
            cells.append(
                [
                    str(layer.index),
                    layer.name if len(layer.name) <= 36 else "…" + layer.name[-35:],
                    layer.op,
                    layer.kernel,
                    layer.weight_format,
                    "x".join(map(str, layer.shape)),
                    _percent(layer.sparsity),
                    f"{layer.milliseconds:.3f}",
                    _percent(layer.share),
                    _number(layer.gmacs),
                    _percent(layer.share_of_limit),
                ]
            )
        return markdown_table(cells)

    def __str__(self) -> str:
        return "\n".join([f"Analyzing model: {self.model_path}", "", *self.layer_lines(), "", *self.summary_lines()])


def _summarize(kind: str, layers: list[LayerAnalysis]) -> KindSummary:
    milliseconds = sum(layer.milliseconds for layer in layers)
    counted = [layer for layer in layers if layer.gmacs is not None]
    gmacs = share = None
    if counted:
        seconds = sum(layer.milliseconds for layer in counted) / 1e3
        gmacs = sum(layer.macs for layer in counted) / seconds / 1e9
        if all(layer.limit for layer in counted):
            share = sum(layer.macs / (layer.limit or 1.0) for layer in counted) / seconds / 1e9
    return KindSummary(kind, len(layers), milliseconds, sum(layer.share for layer in layers), gmacs, share)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"
