"""From timings to numbers: statistics, the report of one engine, and its JSON export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sparsert.errors import EngineError

__all__ = ["EXPORT_KEYS", "RESULT_KEYS", "Timings", "report_lines", "statistics"]

Timings = Sequence[tuple[float, float]]
"""Begin and end of every call, in seconds."""

_PERCENTILES = (25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9)

EXPORT_KEYS = {
    "engine": "name of the engine",
    "version": "version of the engine",
    "orig_model_path": "model reference as given",
    "model_path": "ONNX file that it leads to",
    "batch_size": "items in a batch",
    "input_shapes": "shape of each input, in graph order, as it ran",
    "num_cores": "threads of the engine in total",
    "scenario": "singlestream, multistream or elastic",
    "scheduler": "as the engine names it; None for an engine without",
    "seconds_to_run": "measuring time asked for",
    "num_streams": "batches in flight at the same time",
    "benchmark_result": "the keys below",
    "fraction_of_supported_ops": "part of the graph that runs on the engine's own kernels; null if it does not tell",
    "sequence_length": "-seq_len, if given",
    "input_ids_length": "-input_ids_len, if -seq_len is given",
}
"""Keys of the JSON export of one engine, with their meaning."""

RESULT_KEYS = {
    "scenario": "as above",
    "items_per_sec": "batch size x iterations / seconds_ran",
    "seconds_ran": "from the begin of the first batch to the end of the last; over several rounds, their sum",
    "iterations": "batches that were timed",
    "median": "of the time of a batch, in ms; with several streams this includes waiting for one another",
    "mean": "likewise",
    "std": "likewise (population standard deviation)",
    **{f"{q}%": f"{q}th percentile of the time of a batch, in ms" for q in _PERCENTILES},
}
"""Keys of ``benchmark_result``, with their meaning."""


def statistics(rounds: Sequence[Timings], batch_size: int, scenario: str) -> dict[str, Any]:
    """Summarise the timed batches of one engine.

    Parameters
    ----------
    rounds : sequence of timings
        Timings of each round; pauses between rounds do not count.
    batch_size : int
    scenario : str
        As the export names it.

    Returns
    -------
    dict
        The keys of `RESULT_KEYS`.

    Raises
    ------
    EngineError
        There are no timings.
    """
    rounds = [timings for timings in rounds if timings]
    if not rounds:
        raise EngineError("Generated no batch timings, try extending benchmark time with '--time'")
    milliseconds = np.array([(end - begin) * 1e3 for timings in rounds for begin, end in timings])
    seconds_ran = sum(max(end for _, end in timings) - min(begin for begin, _ in timings) for timings in rounds)
    return {
        "scenario": scenario,
        "items_per_sec": batch_size * len(milliseconds) / seconds_ran,
        "seconds_ran": seconds_ran,
        "iterations": len(milliseconds),
        "median": float(np.median(milliseconds)),
        "mean": float(np.mean(milliseconds)),
        "std": float(np.std(milliseconds)),
        **{f"{q}%": float(np.percentile(milliseconds, q)) for q in _PERCENTILES},
    }


def report_lines(export: dict[str, Any], scenario: str) -> list[str]:
    """The report of one engine, line by line as DeepSparse prints it; `scenario` as the command line takes it."""
    result = export["benchmark_result"]
    lines = [f"Original Model Path: {export['orig_model_path']}", f"Batch Size: {export['batch_size']}"]
    if "sequence_length" in export:
        lines.append(f"Sequence Length: {export['sequence_length']}")
        lines.append(f"Input IDs Length: {export['input_ids_length']}")
    return [
        *lines,
        f"Scenario: {scenario}",
        f"Throughput (items/sec): {result['items_per_sec']:.4f}",
        f"Latency Mean (ms/batch): {result['mean']:.4f}",
        f"Latency Median (ms/batch): {result['median']:.4f}",
        f"Latency Std (ms/batch): {result['std']:.4f}",
        f"Iterations: {result['iterations']}",
    ]
