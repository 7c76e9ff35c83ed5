"""The rows of the suite: who runs what, and what is asked of the result."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from sparsert.errors import InputError

__all__ = ["SPARSITIES", "SQUAD_LENGTHS", "Ask", "Entry", "Row", "select_rows", "suite_rows"]

SPARSITIES = (0, 50, 60, 70, 80, 90, 95, 97)
_QUICK_SPARSITIES = (0, 70, 90, 97)

# fmt: off
SQUAD_LENGTHS = (
    103, 106, 108, 111, 118, 122, 124, 125, 127, 129, 130, 132, 134, 135, 138, 140, 142, 143, 144, 145, 146, 147, 148,
    149, 149, 150, 151, 152, 153, 153, 155, 156, 157, 159, 162, 164, 168, 170, 172, 175, 177, 179, 182, 186, 189, 194,
    197, 198, 201, 206, 209, 212, 217, 225, 231, 238, 243, 249, 253, 265, 275, 299, 327, 380,
)  # fmt: on
"""Tokens of 64 typical pairs of question and context: the 64 quantiles, at 1/128, 3/128, ..., of four articles of the
SQuAD 1.1 development set (Amazon rainforest, Black Death, Packet switching, Warsaw; 644 questions, 175 tokens on
average) with BERT's uncased tokenizer, cut at 384. Lengths alone decide the speed, so nobody needs the texts."""

BUCKETS = (128, 192, 256, 320, 384)


@dataclass(frozen=True)
class Entry:
    """One contestant of a row: ``ENGINE`` or ``ENGINE:LABEL``, its model, and settings of its own."""

    name: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    """Arguments of ``make_settings`` that replace the row's."""
    ragged: bool = False


@dataclass(frozen=True)
class Ask:
    """What a row must reach.

    Attributes
    ----------
    kind : str
        ``"faster"``: times faster than ``against``. ``"same"``: the same, at least ``bar`` times what row ``row``
        reaches. ``"throughput"``: items/s over those of ``against``. ``"buckets"``: faster than the best choice of
        buckets among the ``deepsparse:TOKENS`` entries. ``"load"``: seconds to load, at most. ``"memory"``: highest
        resident memory over the size of the file, at most.
    bar : float
    against : str
        Name of an entry.
    entry : str
        The entry that is asked; the first by default.
    row : str
        For ``"same"``.
    """

    kind: str
    bar: float
    against: str = ""
    entry: str = ""
    row: str = ""


@dataclass(frozen=True)
class Row:
    """One row of the suite; the first entry is what the others are compared with. The title leaves the shape out."""

    name: str
    group: str
    title: str
    entries: tuple[Entry, ...]
    asks: tuple[Ask, ...]
    settings: dict[str, Any]
    """Arguments of ``make_settings``."""
    rounds: int

    def estimated_seconds(self) -> float:
        """What the row takes at least: measuring, warm-up, and a guess for loading."""
        each = self.settings["seconds"] + self.settings["warmup_seconds"]
        return len(self.entries) * each + sum(_LOAD_SECONDS[e.name.partition(":")[0]] for e in self.entries)


_LOAD_SECONDS = {"sparsert": 4.0, "deepsparse": 30.0, "openvino": 8.0, "onnxruntime": 6.0}
_BASE = "synthetic:bert-base-"
_LAYERS = "synthetic:bert-base-2-layers-"
_TOLERANCE = 0.97
""""Not slower" allows 3 %: what the ratio of an engine to itself moves by from run to run."""


def suite_rows(quick: bool = False) -> list[Row]:
    """All rows, in order; ``quick`` takes small batches, short turns and fewer points of the curve."""
    rows = [*_batch_rows(), *_latency_rows(), *_one_core_rows(), _streams_row(), *_curve_rows(quick), _ragged_row()]
    rows.append(_load_row())
    return [_quick(row) for row in rows] if quick else rows


def select_rows(rows: list[Row], names: str | None) -> list[Row]:
    """The rows that a comma-separated list names, by row or group; all without one.

    Raises
    ------
    InputError
        A name of nothing.
    """
    if names is None:
        return rows
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = {row.name for row in rows} | {row.group for row in rows} | {"roofline"}
    for name in wanted:
        if name not in known:
            listed = ", ".join(["roofline", *dict.fromkeys(row.group for row in rows), *(row.name for row in rows)])
            raise InputError(f"--rows: there is no row or group {name!r}. Groups and rows are: {listed}")
    return [row for row in rows if row.name in wanted or row.group in wanted]


def _batch_rows() -> list[Row]:
    settings = {"batch_size": 64, "input_shapes": "[64,384]", "seconds": 30.0, "warmup_seconds": 0.0}

    def row(name: str, title: str, model: str, others: tuple[Entry, ...], *asks: Ask) -> Row:
        entries = (Entry("sparsert", _BASE + model), Entry("deepsparse", _BASE + model), *others)
        return Row(f"batch64-{name}", "batch64", title, entries, asks, settings, 3)

    return [
        row(
            "unstructured90",
            "90 % unstructured int8",
            "pruned90_quant",
            (Entry("onnxruntime:dense float", f"{_BASE}dense"), Entry("openvino:QDQ", f"{_BASE}pruned90_qdq")),
            Ask("faster", 2.0, "deepsparse"),
            Ask("faster", 14.0, "onnxruntime:dense float"),
            Ask("faster", 3.0, "openvino:QDQ"),
        ),
        row("block90", "90 % 4-block int8", "pruned90_quant_vnni", (), Ask("faster", 1.8, "deepsparse")),
        row("block80", "80 % 4-block int8", "pruned80_quant_vnni", (), Ask("faster", 1.0, "deepsparse")),
        row("float90", "90 % unstructured float", "pruned90", (), Ask("faster", 1.0, "deepsparse")),
        row("dense-float", "dense float", "dense", (), Ask("faster", 1.0, "deepsparse")),
        row(
            "dense-int8",
            "dense int8",
            "dense_quant",
            (Entry("openvino:QDQ", f"{_BASE}dense_qdq"),),
            Ask("faster", 1.0, "deepsparse"),
            Ask("faster", _TOLERANCE, "openvino:QDQ"),
        ),
    ]


def _latency_rows() -> list[Row]:
    rows = []
    model = f"{_BASE}pruned90_quant"
    for tokens in (128, 384):
        entries: tuple[Entry, ...] = (
            Entry("sparsert", model),
            Entry("deepsparse", model),
            Entry("onnxruntime:dense float", f"{_BASE}dense"),
            Entry("openvino:QDQ", f"{_BASE}pruned90_qdq"),
        )
        settings = {"batch_size": 1, "input_shapes": f"[1,{tokens}]", "seconds": 20.0, "warmup_seconds": 1.0}
        title = "BERT-base, 90 % int8"
        rows.append(
            Row(f"latency-{tokens}", "latency", title, entries, (Ask("faster", 1.8, "deepsparse"),), settings, 5)
        )
    entries = tuple(Entry(engine, "default") for engine in ("sparsert", "onnxruntime", "deepsparse"))
    asks = (Ask("faster", 1.5, "onnxruntime"), Ask("faster", 1.5, "deepsparse"))
    settings = {"batch_size": 1, "input_shapes": "[1,32]", "seconds": 15.0, "warmup_seconds": 1.0}
    rows.append(Row("latency-minilm", "latency", "MiniLM (shipped), int8", entries, asks, settings, 5))
    return rows


def _one_core_rows() -> list[Row]:
    rows = []
    model = f"{_BASE}pruned90_quant"
    entries = (Entry("sparsert", model), Entry("deepsparse", model))
    for name, batch, tokens, reference in (
        ("onecore-batch", 16, 384, "batch64-unstructured90"),
        ("onecore-128", 1, 128, "latency-128"),
        ("onecore-384", 1, 384, "latency-384"),
    ):
        settings = {"batch_size": batch, "input_shapes": f"[{batch},{tokens}]", "num_cores": 1}
        settings |= {"seconds": 20.0, "warmup_seconds": 0.5}
        asks = (Ask("same", 0.9, "deepsparse", row=reference),)
        rows.append(Row(name, "onecore", "one core, 90 % int8", entries, asks, settings, 3))
    return rows


def _streams_row() -> Row:
    model = f"{_BASE}pruned90_quant"
    two = {"scenario": "async", "num_streams": 2, "num_cores": 2}
    entries = (
        Entry("sparsert:1 stream", model, {"num_cores": 1}),
        Entry("sparsert:2 streams", model, two),
        Entry("deepsparse:2 streams", model, two),
    )
    settings = {"batch_size": 1, "input_shapes": "[1,128]", "seconds": 15.0, "warmup_seconds": 1.0}
    asks = (Ask("throughput", 1.8, "sparsert:1 stream", entry="sparsert:2 streams"),)
    return Row("streams", "streams", "2 streams on 2 cores against 1 on 1", entries, asks, settings, 5)


def _curve_rows(quick: bool) -> list[Row]:
    rows = []
    for pattern, suffix, title in (("unstructured", "", "unstructured"), ("block", "_vnni", "4-block")):
        for percent in _QUICK_SPARSITIES if quick else SPARSITIES:
            if percent == 0 and suffix:
                continue  # the same point on both curves
            form = f"pruned{percent}" if percent else "dense"
            entries = [
                Entry("sparsert", f"{_LAYERS}{form}_quant{suffix}"),
                Entry("deepsparse", f"{_LAYERS}{form}_quant{suffix}"),
                Entry("openvino:QDQ", f"{_LAYERS}{form}_qdq{suffix}"),
                Entry("onnxruntime:QDQ", f"{_LAYERS}{form}_qdq{suffix}"),
            ]
            asks = []
            if percent:
                entries.insert(1, Entry("sparsert:dense", f"{_LAYERS}dense_quant"))
                asks.append(Ask("faster", _TOLERANCE, "sparsert:dense"))
            if percent >= 70:
                asks += [Ask("faster", 1.0, name) for name in ("deepsparse", "openvino:QDQ", "onnxruntime:QDQ")]
            settings = {"batch_size": 16, "input_shapes": "[16,128]", "seconds": 4.0, "warmup_seconds": 0.5}
            name = f"curve-{pattern}-{percent}" if percent else "curve-0"
            where = f"{percent} % {title} int8" if percent else "dense int8"
            title_row = f"{where}, 2 layers"
            rows.append(Row(name, "curve", title_row, tuple(entries), tuple(asks), settings, 3))
    return rows


def _ragged_row() -> Row:
    model = f"{_BASE}pruned90_quant"
    lengths = {"lengths": SQUAD_LENGTHS}
    entries = [
        Entry("sparsert:ragged", model, lengths, ragged=True),
        Entry("sparsert:padded", model, lengths),
        *(
            Entry(f"deepsparse:{tokens}", model, {"input_shapes": f"[64,{tokens}]"})
            for tokens in BUCKETS
        ),
    ]
    settings = {"batch_size": 64, "input_shapes": "[64,384]", "seconds": 24.0, "warmup_seconds": 0.0}
    asks = (Ask("faster", 1.8, "sparsert:padded"), Ask("buckets", 3.5))
    return Row("ragged", "ragged", "pairs of SQuAD's lengths", tuple(entries), asks, settings, 3)


def _load_row() -> Row:
    model = f"{_BASE}pruned90_quant"
    entries = (Entry("sparsert", model), Entry("sparsert:again", model), Entry("deepsparse", model))
    settings = {"batch_size": 1, "input_shapes": "[1,128]", "seconds": 0.5, "warmup_seconds": 0.0}
    asks = (Ask("load", 2.0, entry="sparsert:again"), Ask("memory", 2.5, entry="sparsert:again"))
    return Row("load", "load", "construct BERT-base, 90 % int8, warm kernel cache", entries, asks, settings, 1)


def _quick(row: Row) -> Row:
    def smaller(settings: dict[str, Any]) -> dict[str, Any]:
        changed = dict(settings)
        if changed.get("lengths"):
            changed["lengths"] = changed["lengths"][4::8]
        if "input_shapes" in changed:
            tokens = changed["input_shapes"].partition(",")[2]
            changed["input_shapes"] = f"[{min(row.settings['batch_size'], 8)},{tokens}"
        return changed

    settings = smaller(row.settings)
    settings["batch_size"] = min(row.settings["batch_size"], 8)
    settings["seconds"] = min(row.settings["seconds"], 2.0)
    settings["warmup_seconds"] = min(row.settings["warmup_seconds"], 0.2)
    entries = tuple(replace(entry, settings=smaller(entry.settings)) for entry in row.entries)
    return replace(row, entries=entries, settings=settings, rounds=min(row.rounds, 2))
