"""Several engines, interleaved: A B C A B C ..., each in its own process, one of them running at a time."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sparsert import zoo
from sparsert.bench.contestants import Contestant
from sparsert.bench.engines import EngineJob
from sparsert.bench.process import EngineProcess
from sparsert.bench.results import statistics
from sparsert.bench.settings import SCENARIOS, ModelInputs, Settings, describe_inputs
from sparsert.errors import EngineError, InputError
from sparsert.utils import override_onnx_input_shapes

__all__ = ["DEFAULT_ROUNDS", "DEFAULT_TIMEOUT", "Row", "run_rounds"]

_log = logging.getLogger(__name__)

DEFAULT_ROUNDS = 5
DEFAULT_TIMEOUT = 1800.0
"""Seconds that one load or one batch may take: DeepSparse compiles BERT-base for half a minute on slow machines."""

# Engines that cannot be told another shape than the one the file fixes.
_NEED_MATCHING_FILE = ("onnxruntime",)
# Engines that write to the file that they are given.
_NEED_COPY = ("deepsparse",)

Progress = Callable[[str, float], None]
"""Called with what is going on and the finished fraction of the whole run."""


@dataclass
class Row:
    """What one contestant did."""

    contestant: Contestant
    model_path: str = ""
    shapes: list[list[int]] = field(default_factory=list)
    version: str | None = None
    scheduler: str = "None"
    fraction_of_supported_ops: float | None = None
    load_seconds: float | None = None
    peak_rss_bytes: int | None = None
    rounds: list[list[tuple[float, float]]] = field(default_factory=list)
    outputs: list[np.ndarray] | None = None
    error: EngineError | None = None

    def own_settings(self, settings: Settings) -> Settings:
        """The settings of this contestant in a comparison with ``settings``."""
        return self.contestant.settings or settings

    def result(self, settings: Settings) -> dict[str, Any]:
        """The statistics of all rounds."""
        own = self.own_settings(settings)
        return statistics(self.rounds, own.batch_size, SCENARIOS[own.scenario])


def run_rounds(
    contestants: Sequence[Contestant],
    settings: Settings,
    rounds: int = DEFAULT_ROUNDS,
    timeout: float = DEFAULT_TIMEOUT,
    progress: Progress | None = None,
) -> list[Row]:
    """Load every contestant, then time them in turn, `rounds` times.

    All get the same arrays: those made for the first contestant's model, or the first with the same shapes where
    contestants have settings of their own.  An engine that fails keeps its row, with the error; the others go on.

    Returns
    -------
    list of Row
        In the order of `contestants`.

    Raises
    ------
    ModelError, InputError
        A model that cannot be found or read, or shapes or inputs that do not fit.
    """
    if rounds < 1:
        raise InputError(f"rounds must be 1 or more, given {rounds}")
    rows = [Row(contestant) for contestant in contestants]
    report = _Progress(progress, len(rows), rounds, settings)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sparsert-bench-")))
        inputs, jobs = _prepare(rows, settings, folder, stack)
        workers: dict[int, EngineProcess] = {}
        _log.info(
            "Pinning: %s, CPUs %s, %d threads; stopped engines are suspended",
            settings.pinning,
            settings.cpus or "all",
            settings.num_cores,
        )
        for index, (row, job) in enumerate(zip(rows, jobs, strict=True)):
            with _keeping_errors(row):
                report.say(f"loading {row.contestant.name}")
                worker = EngineProcess(row.contestant.name, row.contestant.python, folder / f"{index}.log")
                stack.callback(worker.close)
                loaded = worker.load(job, inputs[index], timeout)
                row.version, row.scheduler = loaded["version"], loaded["scheduler"]
                row.fraction_of_supported_ops = loaded["fraction_of_supported_ops"]
                row.load_seconds = loaded["load_seconds"]
                report.say(f"warming up {row.contestant.name}")
                row.outputs = _warm_up(worker, settings.warmup_seconds, folder / f"{index}.npz", timeout)
                row.peak_rss_bytes = worker.peak_rss_bytes
                workers[index] = worker
            report.step(settings.warmup_seconds)
        _log.info(
            "Starting '%s' performance measurements for %g seconds", SCENARIOS[settings.scenario], settings.seconds
        )
        for number in range(rounds):
            for index, row in enumerate(rows):
                if row.error is not None:
                    continue
                with _keeping_errors(row):
                    label = f"round {number + 1}/{rounds}: {row.contestant.name}"
                    tick = report.ticker(label)
                    row.rounds.append(workers[index].time(settings.seconds / rounds, timeout, tick))
                    row.peak_rss_bytes = workers[index].peak_rss_bytes
                report.step(settings.seconds / rounds)
    return rows


def _prepare(
    rows: Sequence[Row], settings: Settings, folder: Path, stack: contextlib.ExitStack
) -> tuple[list[Path], list[dict[str, Any]]]:
    """Resolve models, store the common arrays, and describe each engine's job: the files of arrays, and the jobs."""
    first: dict[tuple[Any, ...], tuple[Path, ModelInputs, Path]] = {}
    stored, jobs = [], []
    for row in rows:
        own = row.own_settings(settings)
        path = zoo.resolve(row.contestant.model, purpose="benchmark").onnx
        inputs = describe_inputs(path, own)
        row.model_path, row.shapes = str(path), inputs.shapes
        key = (own.batch_size, own.input_shapes, own.sequence_length)
        if key not in first:
            arrays = folder / f"inputs-{len(first)}.npz"
            np.savez(arrays, **{f"input_{i}": a for i, a in enumerate(inputs.arrays(path, own.lengths))})  # type: ignore[arg-type]
            first[key] = path, inputs, arrays
        reference, expected, arrays = first[key]
        if (inputs.names, inputs.dtypes, inputs.shapes) != (expected.names, expected.dtypes, expected.shapes):
            raise InputError(
                f"{path} does not take the same arrays as {reference}: expected {_signature(expected)}, "
                f"came {_signature(inputs)}. Compare models with the same inputs, in the same order."
            )
        stored.append(arrays)
        jobs.append(_job(row, path, inputs, own, stack))
    return stored, jobs


def _signature(inputs: ModelInputs) -> str:
    parts = zip(inputs.names, inputs.dtypes, inputs.shapes, strict=True)
    return ", ".join(f"{name} {dtype} {shape}" for name, dtype, shape in parts)


def _job(row: Row, path: Path, inputs: ModelInputs, settings: Settings, stack: contextlib.ExitStack) -> dict[str, Any]:
    engine = row.contestant.engine
    file = str(path)
    if engine in _NEED_COPY or (engine in _NEED_MATCHING_FILE and inputs.fixed_otherwise):
        file = stack.enter_context(override_onnx_input_shapes(path, inputs.shapes))
    job = EngineJob(
        engine=engine,
        model=os.path.abspath(file),
        batch_size=settings.batch_size,
        input_names=inputs.names,
        input_shapes=inputs.shapes,
        free_dimensions=inputs.free_dimensions,
        num_cores=settings.num_cores,
        cpus=settings.cpus,
        pinning=settings.pinning,
        scenario=settings.scenario,
        num_streams=settings.num_streams,
        ragged=row.contestant.ragged,
    )
    return vars(job)


def _warm_up(worker: EngineProcess, seconds: float, path: Path, timeout: float) -> list[np.ndarray]:
    """Run batches for `seconds`, the first of which gives the outputs that are returned."""
    begin = time.monotonic()
    worker.outputs(path, timeout)
    left = seconds - (time.monotonic() - begin)
    if left > 0:
        worker.time(left, timeout)
    with np.load(path) as stored:
        return [stored[f"output_{i}"] for i in range(len(stored.files))]


@contextlib.contextmanager
def _keeping_errors(row: Row) -> Iterator[None]:
    try:
        yield
    except EngineError as error:
        _log.warning("%s", error)
        row.error = error


class _Progress:
    """Turns steps of known length into a fraction of the whole."""

    def __init__(self, show: Progress | None, rows: int, rounds: int, settings: Settings) -> None:
        self._show = show
        self._total = rows * (settings.warmup_seconds + settings.seconds)
        self._round_seconds = settings.seconds / rounds
        self._done = 0.0

    def say(self, label: str, extra: float = 0.0) -> None:
        if self._show is not None:
            self._show(label, min(1.0, (self._done + extra) / self._total))

    def step(self, seconds: float) -> None:
        self._done += seconds

    def ticker(self, label: str) -> Callable[[float], None]:
        return lambda passed: self.say(label, min(passed, self._round_seconds))
