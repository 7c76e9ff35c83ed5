"""Where the time of a call goes: seconds of each stage, per call and over calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = ["ENGINE_FORWARD", "POST_PROCESS", "PRE_PROCESS", "STAGES", "TOTAL_INFERENCE", "StageTimer", "TimerManager"]

PRE_PROCESS = "pre_process"
ENGINE_FORWARD = "engine_forward"
POST_PROCESS = "post_process"
TOTAL_INFERENCE = "total_inference"
STAGES = (PRE_PROCESS, ENGINE_FORWARD, POST_PROCESS, TOTAL_INFERENCE)


class StageTimer:
    """Seconds that one call spent in each stage. Belongs to one thread.

    A stage that begins inside another interrupts it, so the stages but the total add up; a stage that comes again adds
    to what it had.
    """

    def __init__(self) -> None:
        self.times = dict.fromkeys(STAGES, 0.0)
        self._running: list[str] = []
        self._since = time.perf_counter()
        self._begin = self._since

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of this block as stage ``name``."""
        self._switch()
        self._running.append(name)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def add(self, times: Mapping[str, float]) -> None:
        """Count what another timer measured of the same call as well; not its total."""
        for name, seconds in times.items():
            self.times[name] += seconds

    def finish(self) -> None:
        """Note the total."""
        self.times[TOTAL_INFERENCE] = time.perf_counter() - self._begin

    def _switch(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.times[self._running[-1]] += now - self._since
        self._since = now


class TimerManager:
    """Seconds of the stages of finished calls; a call that raises leaves no trace. Safe to use from several threads.

    Parameters
    ----------
    multi : bool
        Keep all calls; otherwise the latest one only.
    """

    def __init__(self, multi: bool = False) -> None:
        self.multi = multi
        self._calls: list[dict[str, float]] = []
        self._lock = threading.Lock()

    def add(self, timer: StageTimer) -> None:
        """Keep the times of a call that is finished."""
        with self._lock:
            if not self.multi:
                self._calls.clear()
            self._calls.append(dict(timer.times))

    def clear(self) -> None:
        """Forget all calls."""
        with self._lock:
            self._calls.clear()

    @property
    def latest(self) -> dict[str, float] | None:
        """Seconds of each stage of the latest call, or None."""
        with self._lock:
            return dict(self._calls[-1]) if self._calls else None

    @property
    def all_times(self) -> dict[str, list[float]]:
        """Seconds of each stage, one for each call; empty before the first."""
        with self._lock:
            return {stage: [call[stage] for call in self._calls] for stage in STAGES} if self._calls else {}

    @property
    def times(self) -> dict[str, float]:
        """Mean seconds of each stage over the calls; empty before the first."""
        return {stage: sum(seconds) / len(seconds) for stage, seconds in self.all_times.items()}
