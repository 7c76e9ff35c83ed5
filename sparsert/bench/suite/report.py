"""The suite's results as Markdown and plots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsert import __version__
from sparsert.bench import plots
from sparsert.bench.machine import caption
from sparsert.bench.markdown import markdown_table
from sparsert.bench.roofline import Roofline, roofline_lines

__all__ = ["report_lines", "write_report"]

_GROUPS = {
    "batch64": "Throughput",
    "latency": "Latency",
    "onecore": "One core",
    "streams": "Streams",
    "curve": "Cost against sparsity",
    "ragged": "Padding that is never computed",
    "load": "Construction",
}


def write_report(results: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``results.md`` and every plot that the results suffice for; returns the files."""
    drawn = [plots.save_figure(figure, folder / f"{name}.png") for name, figure in _figures(results)]
    page = folder / "results.md"
    page.write_text("\n".join(report_lines(results, [path.name for path in drawn])) + "\n", encoding="utf-8")
    return [page, *drawn]


def report_lines(results: dict[str, Any], images: list[str] | None = None) -> list[str]:
    """The page, line by line."""
    rows = results["rows"]
    date = max((row["comparison"]["date"] for row in rows.values() if row["comparison"]), default="")
    lines = ["# Results", "", caption(results["machine"], date, _versions(rows.values())) + ".", ""]
    lines += [
        "Engines take turns in processes of their own, on the same arrays and pinned cores. A ratio is the median time "
        "of a batch of the other engine over that of the first; by round: its lowest and highest value.",
        "",
    ]
    asks = [["row", "work", "what", "asked", "measured", "by round", "verdict"]]
    for name, row in rows.items():
        for ask in row["asks"]:
            work = _work(row) + (" (quick)" if row["quick"] else "")
            asks.append([name, work, ask["what"], ask["asked"], *_ask_cells(ask)])
    if len(asks) > 1:
        passed = sum(line[-1] == "pass" for line in asks)
        lines += [f"## Asked and measured: {passed} of {len(asks) - 1} pass", "", *markdown_table(asks), ""]
    lines += [f"![{name.removesuffix('.png')}]({name})" for name in images or []] + [""] * bool(images)
    for group, title in _GROUPS.items():
        members = {name: row for name, row in rows.items() if row["group"] == group}
        if members:
            lines += [f"## {title}", "", *_group_lines(members), ""]
    if "roofline" in results:
        lines += ["## Roofline", "", *roofline_lines(Roofline.from_dict(results["roofline"])), ""]
    return lines[:-1]


def _ask_cells(ask: dict[str, Any]) -> list[str]:
    measured = "-" if ask["measured"] is None else f"{ask['measured']:.2f}"
    by_round = "-" if ask["by_round"] is None else "-".join(f"{value:.2f}" for value in ask["by_round"])
    return [measured, by_round, ask["verdict"]]


def _group_lines(rows: dict[str, dict[str, Any]]) -> list[str]:
    cells = [["row", "engine", "version", "model", "items/s", "median ms", "ratio", "by round", "peak MB", "load s"]]
    notes = []
    for name, row in rows.items():
        if row["error"] is not None:
            notes.append(f"- {name}: failed: {row['error']}")
        notes += [f"- {name}: {entry}: skipped, {reason}" for entry, reason in row["skipped"].items()]
        for entry in row["comparison"]["rows"] if row["comparison"] else []:
            first = entry is row["comparison"]["rows"][0]
            if entry["error"] is not None:
                notes.append(f"- {name}: {entry['name']}: failed: {entry['error']}")
                continue
            by_round, peak = entry["time_ratio_by_round"], entry["peak_rss_bytes"]
            cells.append(
                [
                    name,
                    entry["name"],
                    entry["version"],
                    entry["orig_model_path"].removeprefix("synthetic:"),
                    f"{entry['benchmark_result']['items_per_sec']:.2f}",
                    f"{entry['benchmark_result']['median']:.2f}",
                    "-" if entry["time_ratio"] is None else f"{entry['time_ratio']:.2f}",
                    f"{min(by_round):.2f}-{max(by_round):.2f}" if by_round and not first else "-",
                    "-" if peak is None else f"{peak / 1e6:.0f}",
                    f"{entry['load_seconds']:.1f}",
                ]
            )
    return [*markdown_table(cells), *([""] if notes else []), *notes]


def _entries(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The engines of a row that were measured."""
    for entry in row["comparison"]["rows"] if row["comparison"] else []:
        if entry["error"] is None:
            yield entry


def _versions(rows: Any) -> dict[str, str]:
    """Engines and their versions, sparsert first."""
    found = {entry["engine"]: entry["version"] for row in rows for entry in _entries(row)}
    ordered = [engine for engine in plots.ENGINE_NAMES if engine in found]
    return {plots.ENGINE_NAMES[engine]: found[engine] for engine in ordered} or {"sparsert": __version__}


def _label(name: str) -> str:
    engine, _, label = name.partition(":")
    return plots.ENGINE_NAMES[engine] + (f", {label}" if label else "")


def _figures(results: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    machine = results["machine"]
    groups = {group: [row for row in results["rows"].values() if row["group"] == group] for group in _GROUPS}

    def under(rows: list[dict[str, Any]]) -> str:
        date = max(row["comparison"]["date"] for row in rows if row["comparison"])
        rounds = max(row["comparison"]["rounds"] for row in rows if row["comparison"])
        return f"{caption(machine, date, _versions(rows))}. Medians of {rounds} interleaved rounds, pinned threads."

    throughput = {
        row["title"]: [(e["engine"], _label(e["name"]), e["median_items_per_sec"]) for e in _entries(row)]
        for row in groups["batch64"]
    }
    if any(throughput.values()):
        shape = _shape(groups["batch64"])
        title = f"Throughput: BERT-base, batch {shape[0]} x {shape[1]} tokens"
        yield "throughput", plots.throughput_figure(throughput, under(groups["batch64"]), title)
    latency = {
        _work(row): [(e["engine"], _label(e["name"]), e["latency_ms"]) for e in _entries(row)]
        for row in groups["latency"]
    }
    if any(latency.values()):
        text = under(groups["latency"])
        yield "latency", plots.latency_figure({k: v for k, v in latency.items() if v}, text, "Latency of one sequence")
    curve = _curve(results["rows"])
    if any(len(points) > 1 for lines in curve.values() for points in lines.values()):
        shape = _shape(groups["curve"])
        title = f"Cost against sparsity: two BERT-base layers, int8, batch {shape[0]} x {shape[1]}"
        yield "sparsity", plots.sparsity_figure(curve, under(groups["curve"]), title)
    if "roofline" in results:
        roofline = Roofline.from_dict(results["roofline"])
        yield "roofline", plots.roofline_figure(roofline, caption(roofline.machine, roofline.date) + ".")


def _shape(rows: list[dict[str, Any]]) -> list[int]:
    """Batch and tokens of the first row that was measured."""
    shape: list[int] = next(entry["input_shapes"][0] for row in rows for entry in _entries(row))
    return shape


def _work(row: dict[str, Any]) -> str:
    shapes = [entry["input_shapes"][0] for entry in _entries(row)]
    return row["title"] + (f", {shapes[0][0]} x {shapes[0][1]}" if shapes else "")


def _curve(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Pattern -> engine -> (sparsity in percent, time over that of sparsert's dense kernel in the same rounds).

    Rows run minutes apart, and a machine's speed drifts; the ratio within a row does not.
    """
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for pattern, title in (("unstructured", "unstructured zeros"), ("block", "zeros in blocks of 4")):
        lines: dict[str, list[tuple[float, float]]] = {}
        for name, row in rows.items():
            if name != "curve-0" and not name.startswith(f"curve-{pattern}-"):
                continue
            entries = {entry["name"]: entry for entry in _entries(row)}
            dense = entries.pop("sparsert:dense", entries.get("sparsert") if name == "curve-0" else None)
            if dense is None:
                continue
            for entry in entries.values():
                relative = entry["benchmark_result"]["median"] / dense["benchmark_result"]["median"]
                lines.setdefault(entry["engine"], []).append((float(name.rpartition("-")[2]), relative))
        if any(len(points) > 1 for points in lines.values()):
            panels[title] = {engine: lines[engine] for engine in plots.ENGINE_NAMES if engine in lines}
    return panels
