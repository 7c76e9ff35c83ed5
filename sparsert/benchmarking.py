"""Timings of an engine, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["BatchBenchmarkResult", "BenchmarkResults"]


@dataclass(frozen=True)
class BatchBenchmarkResult:
    """One timed batch. Times are seconds of a monotonic clock."""

    time_start: float
    time_end: float
    batch_size: int
    inputs: Sequence[np.ndarray] | None = None
    outputs: Sequence[np.ndarray] | None = None
    extras: Any = None
    """Anything that the caller wants to keep with the batch."""

    @property
    def time_elapsed(self) -> float:
        """Seconds that the batch took."""
        return self.time_end - self.time_start

    @property
    def batches_per_second(self) -> float:
        """Reciprocal of the time."""
        return 1.0 / self.time_elapsed

    @property
    def items_per_second(self) -> float:
        """Items of the batch over its time."""
        return self.batch_size / self.time_elapsed

    @property
    def ms_per_batch(self) -> float:
        """Milliseconds that the batch took."""
        return self.time_elapsed * 1000.0

    @property
    def ms_per_item(self) -> float:
        """Milliseconds for one item."""
        return self.ms_per_batch / self.batch_size

    def __repr__(self) -> str:
        rates = ("batches_per_second", "items_per_second", "ms_per_batch", "ms_per_item")
        values = {"time_start": self.time_start, "time_end": self.time_end, "size": self.batch_size}
        return f"{type(self).__name__}({values | {name: getattr(self, name) for name in rates}})"

    def __str__(self) -> str:
        return f"{type(self).__name__}(ms_per_batch={self.ms_per_batch}, items_per_second={self.items_per_second})"


class BenchmarkResults:
    """The timed batches of a benchmark; iterates over, and indexes, :class:`BatchBenchmarkResult`."""

    def __init__(self) -> None:
        self._results: list[BatchBenchmarkResult] = []

    def __len__(self) -> int:
        return len(self._results)

    def __getitem__(self, index: int) -> BatchBenchmarkResult:
        return self._results[index]

    def __iter__(self) -> Iterator[BatchBenchmarkResult]:
        return iter(self._results)

    def append_batch(
        self,
        time_start: float,
        time_end: float,
        batch_size: int,
        inputs: Sequence[np.ndarray] | None = None,
        outputs: Sequence[np.ndarray] | None = None,
        extras: Any = None,
    ) -> None:
        """Add one timed batch."""
        self._results.append(BatchBenchmarkResult(time_start, time_end, batch_size, inputs, outputs, extras))

    @property
    def results(self) -> list[BatchBenchmarkResult]:
        """All batches."""
        return self._results

    @property
    def num_batches(self) -> int:
        """Number of batches."""
        return len(self._results)

    @property
    def num_items(self) -> int:
        """Number of items of all batches."""
        return sum(self.batch_sizes)

    @property
    def batch_times(self) -> list[float]:
        """Seconds of each batch."""
        return [result.time_elapsed for result in self._results]

    @property
    def batch_sizes(self) -> list[int]:
        """Items of each batch."""
        return [result.batch_size for result in self._results]

    @property
    def batch_times_mean(self) -> float:
        """Mean seconds of a batch."""
        return float(np.mean(self.batch_times))

    @property
    def batch_times_median(self) -> float:
        """Median seconds of a batch."""
        return float(np.median(self.batch_times))

    @property
    def batch_times_std(self) -> float:
        """Population standard deviation of the seconds of a batch."""
        return float(np.std(self.batch_times))

    @property
    def batches_per_second(self) -> float:
        """Batches over their summed time."""
        return self.num_batches / sum(self.batch_times)

    @property
    def items_per_second(self) -> float:
        """Items over the summed time."""
        return self.num_items / sum(self.batch_times)

    @property
    def ms_per_batch(self) -> float:
        """Mean milliseconds of a batch."""
        return sum(self.batch_times) * 1000.0 / self.num_batches

    @property
    def ms_per_item(self) -> float:
        """Mean milliseconds of an item."""
        return sum(self.batch_times) * 1000.0 / self.num_items

    @property
    def inputs(self) -> list[Sequence[np.ndarray] | None]:
        """Inputs of each batch, None where they were not kept."""
        return [result.inputs for result in self._results]

    @property
    def outputs(self) -> list[Sequence[np.ndarray] | None]:
        """Outputs of each batch, None where they were not kept."""
        return [result.outputs for result in self._results]

    def _summary(self) -> dict[str, float]:
        names = ("items_per_second", "ms_per_batch", "batch_times_mean", "batch_times_median", "batch_times_std")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._summary()})"

    def __str__(self) -> str:
        lines = [f"\t{key}: {value}" for key, value in self._summary().items()]
        return "\n".join([f"{type(self).__name__}:", *lines])
