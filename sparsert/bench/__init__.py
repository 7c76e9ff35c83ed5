"""Benchmarks: one engine, or several interleaved, on the same model, arrays and cores.

``python -m sparsert.bench --help`` explains the command line and every figure it prints.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsert.bench.compare import DEFAULT_TIMEOUT, Row, run_rounds
from sparsert.bench.contestants import make_contestants
from sparsert.bench.settings import SCENARIOS, Settings, make_settings

__all__ = ["benchmark_model"]


def benchmark_model(
    model_path: str | Path | None = None,
    batch_size: int = 1,
    input_shapes: str = "",
    num_cores: int | None = None,
    scenario: str = "sync",
    time: float = 10,
    warmup_time: float = 2,
    num_streams: int | None = None,
    thread_pinning: str = "core",
    engine: str = "sparsert",
    sequence_length: int | None = None,
    input_ids_length: int = 1,
    python: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Any]:
    """Measure one engine on one model, in a process of its own.

    Parameters
    ----------
    model_path : str, Path or None
        Model reference; None for the default model.
    batch_size : int
    input_shapes : str
        As ``"[64,384]"``: one shape for all inputs or one for each.  The batch size replaces the leading dimension.
    num_cores : int, optional
        Threads; by default all physical cores that this process may use.
    scenario : str
        ``"sync"`` (one batch after the other), ``"async"`` or ``"elastic"`` (`num_streams` batches at the same time).
    time, warmup_time : float
        Seconds to measure, and to run before that.
    num_streams : int, optional
    thread_pinning : str
        ``"core"``, ``"numa"`` or ``"none"``.
    engine : str
        ``"sparsert"``, ``"onnxruntime"``, ``"deepsparse"`` or ``"openvino"``.
    sequence_length : int, optional
        Second dimension of the inputs, where `input_shapes` do not say it.
    input_ids_length : int
        Only recorded, and only beside a `sequence_length`.
    python : str, optional
        Interpreter that has the engine; by default this one.
    timeout : float
        Seconds that loading, or one batch, may take.
    progress : callable, optional
        Called with what is going on and the finished fraction.

    Returns
    -------
    dict
        The keys of ``sparsert.bench.results.EXPORT_KEYS``.

    Raises
    ------
    InputError, ModelError
        Arguments or a model that do not fit.
    EngineError
        The engine cannot be started or fails; the message holds its own.
    """
    settings = make_settings(
        batch_size, input_shapes, num_cores, scenario, time, warmup_time, num_streams, thread_pinning, sequence_length
    )
    model = "default" if model_path is None else str(model_path)
    (contestant,) = make_contestants([engine], model, {}, {} if python is None else {engine: python})
    (row,) = run_rounds([contestant], settings, rounds=1, timeout=timeout, progress=progress)
    return _export(row, settings, input_ids_length)


def _export(row: Row, settings: Settings, input_ids_length: int) -> dict[str, Any]:
    if row.error is not None:
        raise row.error
    export: dict[str, Any] = {
        "engine": row.contestant.engine,
        "version": row.version,
        "orig_model_path": row.contestant.model,
        "model_path": row.model_path,
        "batch_size": settings.batch_size,
        "input_shapes": row.shapes,
        "num_cores": settings.num_cores,
        "scenario": SCENARIOS[settings.scenario],
        "scheduler": row.scheduler,
        "seconds_to_run": settings.seconds,
        "num_streams": settings.num_streams,
        "benchmark_result": row.result(settings),
        "fraction_of_supported_ops": row.fraction_of_supported_ops,
    }
    if settings.sequence_length is not None:
        export["sequence_length"] = settings.sequence_length
        export["input_ids_length"] = input_ids_length
    return export
