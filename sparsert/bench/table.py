"""The table of a comparison, and its JSON export with every sample."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsert import __version__
from sparsert.bench.compare import Row
from sparsert.bench.machine import describe_machine, now
from sparsert.bench.markdown import markdown_table
from sparsert.bench.settings import SCENARIOS, Settings

__all__ = ["COMPARISON_KEYS", "ROW_KEYS", "comparison_export", "table_lines"]

COMPARISON_KEYS = {
    "command": "the command line, as a list",
    "date": "when the run ended, ISO 8601 with time zone",
    "machine": "cpu (model name), cores (usable physical), isa (kernel tier of sparsert), system, python, load_average",
    "sparsert_version": "version of sparsert that made the comparison",
    "batch_size": "items in a batch",
    "scenario": "singlestream, multistream or elastic",
    "num_cores": "threads of every engine in total",
    "cpus": "logical CPUs that every engine was bound to; empty for all",
    "thread_pinning": "core, numa or none",
    "num_streams": "batches in flight at the same time",
    "seconds_to_run": "measuring time asked for, for each engine",
    "rounds": "turns of each engine; each gets seconds_to_run / rounds",
    "rows": "one object for each engine, with the keys below; the first is what the others are compared with",
}
"""Keys of the JSON export of a comparison, with their meaning."""

ROW_KEYS = {
    "name": "ENGINE or ENGINE:LABEL",
    "engine": "name of the engine",
    "version": "version of the engine; null if it did not load",
    "orig_model_path": "model reference as given",
    "model_path": "ONNX file that it leads to",
    "input_shapes": "shape of each input, in graph order",
    "scheduler": "as the engine names it; None for an engine without",
    "fraction_of_supported_ops": "part of the graph that runs on the engine's own kernels; null if it does not tell",
    "error": "why the engine failed, or null",
    "load_seconds": "time to load and compile the model",
    "peak_rss_bytes": "highest resident memory of the engine's process, with its interpreter and the model",
    "benchmark_result": "statistics as in the export of one engine; null if it failed",
    "min": "shortest time of a batch, in ms",
    "median_items_per_sec": "batch size x num_streams / median time of a batch",
    "time_ratio": "median time of a batch over that of the first row: 2.0 took twice as long",
    "time_ratio_by_round": "the same within each round",
    "outputs_correlation": "smallest correlation of an output with the first row of the same model file; null there",
    "samples_ms": "for each round, begin (from the begin of the round) and duration of every batch, in ms",
}
"""Keys of one row, with their meaning."""

_HEADER = (
    "engine",
    "version",
    "model",
    "median ms",
    "min ms",
    "items/s",
    "ratio",
    "by round",
    "peak MB",
    "load s",
    "corr",
)


def comparison_export(rows: Sequence[Row], settings: Settings, rounds: int, command: Sequence[str]) -> dict[str, Any]:
    """Everything that a comparison found out, ready for JSON; keys as in `COMPARISON_KEYS` and `ROW_KEYS`."""
    return {
        "command": list(command),
        "date": now(),
        "machine": describe_machine(),
        "sparsert_version": __version__,
        "batch_size": settings.batch_size,
        "scenario": SCENARIOS[settings.scenario],
        "num_cores": settings.num_cores,
        "cpus": settings.cpus,
        "thread_pinning": settings.pinning,
        "num_streams": settings.num_streams,
        "seconds_to_run": settings.seconds,
        "rounds": rounds,
        "rows": [_row_export(row, rows, settings) for row in rows],
    }


def _row_export(row: Row, rows: Sequence[Row], settings: Settings) -> dict[str, Any]:
    result = None if row.error is not None else row.result(settings)
    first, own = rows[0], row.own_settings(settings)
    ratio = None
    by_round: list[float] = []
    if result is not None and first.error is None:
        ratio = result["median"] / first.result(settings)["median"]
        by_round = [_median_ms(a) / _median_ms(b) for a, b in zip(row.rounds, first.rounds, strict=True)]
    milliseconds = [(end - begin) * 1e3 for timings in row.rounds for begin, end in timings]
    return {
        "name": row.contestant.name,
        "engine": row.contestant.engine,
        "version": row.version,
        "orig_model_path": row.contestant.model,
        "model_path": row.model_path,
        "input_shapes": row.shapes,
        "scheduler": row.scheduler,
        "fraction_of_supported_ops": row.fraction_of_supported_ops,
        "error": None if row.error is None else str(row.error),
        "load_seconds": row.load_seconds,
        "peak_rss_bytes": row.peak_rss_bytes,
        "benchmark_result": result,
        "min": min(milliseconds, default=None),
        "median_items_per_sec": (None if result is None else own.batch_size * own.num_streams / result["median"] * 1e3),
        "time_ratio": ratio,
        "time_ratio_by_round": by_round,
        "outputs_correlation": _correlation(row, rows),
        "samples_ms": [_samples(timings) for timings in row.rounds],
    }


def _median_ms(timings: Sequence[tuple[float, float]]) -> float:
    return statistics.median((end - begin) * 1e3 for begin, end in timings)


def _samples(timings: Sequence[tuple[float, float]]) -> list[list[float]]:
    origin = min(begin for begin, _ in timings)
    return [[round((begin - origin) * 1e3, 4), round((end - begin) * 1e3, 4)] for begin, end in timings]


def _correlation(row: Row, rows: Sequence[Row]) -> float | None:
    same = [other for other in rows if other.model_path == row.model_path and other.outputs is not None]
    if row.outputs is None or not same or same[0] is row:
        return None
    reference = same[0].outputs or []
    if [output.shape for output in reference] != [output.shape for output in row.outputs]:
        return None
    found = []
    for ours, theirs in zip(row.outputs, reference, strict=True):
        a, b = ours.astype(np.float64).ravel(), theirs.astype(np.float64).ravel()
        if a.size < 2 or a.std() == 0 or b.std() == 0:
            found.append(1.0 if np.array_equal(a, b) else 0.0)
        else:
            found.append(float(np.corrcoef(a, b)[0, 1]))
    return min(found, default=None)


def table_lines(export: dict[str, Any]) -> list[str]:
    """The table of a comparison as Markdown, aligned, from its JSON export."""
    cells = [list(_HEADER)]
    notes = []
    for row in export["rows"]:
        head = [row["name"], row["version"] or "-", row["orig_model_path"]]
        if row["error"] is not None:
            cells.append([*head, "failed", *["-"] * 7])
            notes.append(f"failed: {row['error']}")
            continue
        by_round = row["time_ratio_by_round"]
        cells.append(
            [
                *head,
                f"{row['benchmark_result']['median']:.2f}",
                f"{row['min']:.2f}",
                f"{row['median_items_per_sec']:.2f}",
                "-" if row["time_ratio"] is None else f"{row['time_ratio']:.2f}",
                f"{min(by_round):.2f}-{max(by_round):.2f}" if by_round else "-",
                "-" if row["peak_rss_bytes"] is None else f"{row['peak_rss_bytes'] / 1e6:.0f}",
                f"{row['load_seconds']:.1f}",
                "-" if row["outputs_correlation"] is None else f"{row['outputs_correlation']:.5f}",
            ]
        )
    shapes = export["rows"][0]["input_shapes"]
    machine = export["machine"]
    caption = (
        f"Batch {export['batch_size']}, shapes {shapes}, {export['scenario']}, {export['num_streams']} stream(s), "
        f"{export['num_cores']} thread(s), pinning {export['thread_pinning']}, {export['rounds']} round(s); "
        f"{machine['cpu']}, {machine['isa']}, {export['date']}"
    )
    meaning = (
        "median and min: time of a batch. items/s: from the median. ratio: median over that of the first row. "
        "corr: outputs against the first row on the same model."
    )
    return [caption, "", *markdown_table(cells), "", meaning, *notes]
