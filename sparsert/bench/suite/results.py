"""Results of the suite: what is kept of a row, verdicts, and merging of several runs in one file."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsert.bench.suite.rows import SQUAD_LENGTHS, Ask, Row
from sparsert.errors import InputError

__all__ = [
    "SUITE_KEYS",
    "SUITE_ROW_KEYS",
    "best_buckets",
    "judge",
    "load_results",
    "row_result",
    "save_results",
]

SUITE_KEYS = {
    "format": "1",
    "machine": "as in the export of a comparison; all rows come from one CPU model",
    "rows": "row name -> the keys below, in the order of the suite",
    "roofline": "as the export of --roofline, or absent",
}
"""Keys of ``results.json``, with their meaning."""

SUITE_ROW_KEYS = {
    "group": "rows of one group share a plot",
    "title": "the work",
    "quick": "whether it was measured with --quick",
    "comparison": "as the export of a comparison, with latency_ms in place of samples_ms, and file_bytes (size of the "
    "model file)",
    "latency_ms": "the time of every batch, or 200 quantiles of it where there are more, ascending",
    "skipped": "entries whose engine is not installed, with the reason",
    "error": "why the whole row failed, or null",
    "asks": "for each bar: what (words), asked, measured, by_round (lowest and highest), verdict (pass, short, or not "
    "measured)",
}
"""Keys of a row of ``results.json``, with their meaning."""

_FILE = "results.json"
_QUANTILES = 200


def row_result(
    row: Row, quick: bool, comparison: dict[str, Any] | None, skipped: Mapping[str, str], error: str | None
) -> dict[str, Any]:
    """What is kept of a row; ``comparison`` is a comparison's export or None."""
    if comparison is not None:
        for entry in comparison["rows"]:
            durations = sorted(duration for turn in entry.pop("samples_ms") for _, duration in turn)
            if len(durations) > _QUANTILES:
                durations = np.quantile(durations, np.linspace(0, 1, _QUANTILES)).tolist()
            entry["latency_ms"] = [round(duration, 4) for duration in durations]
            path = entry["model_path"]
            entry["file_bytes"] = os.path.getsize(path) if os.path.isfile(path) else None
            entry["model_path"] = os.path.basename(path)  # folders of one machine mean nothing to others
    return {
        "group": row.group,
        "title": row.title,
        "quick": quick,
        "comparison": comparison,
        "skipped": dict(skipped),
        "error": error,
        "asks": [],
    }


def load_results(folder: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """The results that are in a folder, or empty ones for ``machine``.

    Raises
    ------
    InputError
        The file is not one of ours, or comes from another CPU.
    """
    path = folder / _FILE
    if not path.exists():
        return {"format": 1, "machine": machine, "rows": {}}
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        theirs = results["machine"]["cpu"], results["machine"]["isa"], results["format"], len(results["rows"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no results of a suite ({error}). Give another --output.") from error
    if theirs[:3] != (machine["cpu"], machine["isa"], 1):
        raise InputError(
            f"{path} has results of another machine: {theirs[0]} ({theirs[1]}), this one is {machine['cpu']} "
            f"({machine['isa']}). Give another --output."
        )
    return results


def save_results(results: dict[str, Any], folder: Path) -> None:
    """Write ``results.json`` in one step: a run that is stopped leaves a whole file."""
    temporary = folder / f".{_FILE}.part"
    temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / _FILE)


def judge(row: Row, results: dict[str, Any]) -> list[dict[str, Any]]:
    """Verdicts on the asks of a row, by what ``results`` hold of it (and of the row that it refers to)."""
    entries = _entries(results, row.name)
    verdicts = []
    for ask in row.asks:
        values = _measure(ask, row, entries, results)
        what, asked = _words(ask, row)
        verdict: dict[str, Any] = {"what": what, "asked": asked, "measured": None, "by_round": None}
        if values is None:
            verdict["verdict"] = "not measured"
        else:
            measured, by_round, bar = values
            verdict["measured"], verdict["by_round"] = measured, by_round
            at_most = ask.kind in ("load", "memory")
            verdict["verdict"] = "pass" if (measured <= bar if at_most else measured >= bar) else "short"
            if ask.kind == "same":
                verdict["asked"] = f">= {bar:.2f}"
        verdicts.append(verdict)
    return verdicts


def _entries(results: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    comparison = results["rows"].get(name, {}).get("comparison")
    rows = comparison["rows"] if comparison else []
    return {entry["name"]: entry for entry in rows if entry["error"] is None}


def _words(ask: Ask, row: Row) -> tuple[str, str]:
    first, asked = row.entries[0].name, f">= {ask.bar:g}"
    if ask.kind == "faster" and ask.bar < 1:
        return f"{first} not slower than {ask.against}", f">= {ask.bar:g}"
    if ask.kind == "faster":
        return f"{first} against {ask.against}", f"> {ask.bar:g}" if ask.bar == 1 else asked
    if ask.kind == "same":
        return f"{first} against {ask.against}, as with all cores", f">= {ask.bar:g} of {ask.row}"
    if ask.kind == "throughput":
        return f"items/s of {ask.entry} against {ask.against}", asked
    if ask.kind == "buckets":
        return f"{first} against DeepSparse with its best buckets", asked
    if ask.kind == "load":
        return "seconds to construct", f"<= {ask.bar:g} s"
    return "highest memory over size of the file", f"<= {ask.bar:g}"


def _measure(
    ask: Ask, row: Row, entries: dict[str, dict[str, Any]], results: dict[str, Any]
) -> tuple[float, list[float] | None, float] | None:
    """Measured value, its range over the rounds, and the bar; None where something is missing."""
    own = entries.get(ask.entry or row.entries[0].name)
    other = entries.get(ask.against)
    if own is None or (ask.against and other is None):
        return None
    if ask.kind == "load":
        return own["load_seconds"], None, ask.bar
    if ask.kind == "memory":
        return own["peak_rss_bytes"] / own["file_bytes"], None, ask.bar
    if ask.kind == "buckets":
        return _against_buckets(own, entries, ask.bar)
    assert other is not None
    if ask.kind == "throughput":
        rates = [entry["benchmark_result"]["items_per_sec"] for entry in (own, other)]
        return rates[0] / rates[1], None, ask.bar
    by_round = [min(other["time_ratio_by_round"]), max(other["time_ratio_by_round"])]
    bar = ask.bar
    if ask.kind == "same":
        reference = _entries(results, ask.row).get(ask.against)
        if reference is None:
            return None
        bar *= reference["time_ratio"]
    return other["time_ratio"], by_round, bar


def _against_buckets(
    own: dict[str, Any], entries: dict[str, dict[str, Any]], bar: float
) -> tuple[float, list[float] | None, float] | None:
    times = {
        int(name.partition(":")[2]): entry["benchmark_result"]["median"] / entry["input_shapes"][0][0]
        for name, entry in entries.items()
        if name.startswith("deepsparse:")
    }
    if max(SQUAD_LENGTHS) > max(times, default=0):
        return None
    batch = own["input_shapes"][0][0]
    _, best = best_buckets(times, SQUAD_LENGTHS)
    return best / (own["benchmark_result"]["median"] / batch), None, bar


def best_buckets(times: Mapping[int, float], lengths: Sequence[int]) -> tuple[tuple[int, ...], float]:
    """The buckets with the least mean time of a sequence, and that time.

    Every sequence goes to the shortest bucket that takes it, in batches that are always full; no pipeline does better.

    Parameters
    ----------
    times : mapping
        Tokens of a bucket -> time of one sequence in a full batch of it.
    lengths : sequence of int
        Tokens of the sequences.
    """
    sizes = sorted(times)
    longest = max(lengths)
    best: tuple[tuple[int, ...], float] = ((), float("inf"))
    for count in range(1, len(sizes) + 1):
        for chosen in itertools.combinations(sizes, count):
            if chosen[-1] < longest:
                continue
            total = sum(times[next(size for size in chosen if length <= size)] for length in lengths)
            if total / len(lengths) < best[1]:
                best = chosen, total / len(lengths)
    return best
