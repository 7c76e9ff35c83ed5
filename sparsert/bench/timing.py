"""Best-of-many timing of short compiled functions, on one core or on several at once."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

__all__ = ["Team", "alone", "best_seconds"]

_CALL_SECONDS = 2e-3
"""Length of one timed call: long beside the clock and the start of a thread, short beside a time slice of the system,
so that some calls run undisturbed even on a busy machine."""

_FEWEST_CALLS = 5


class Team:
    """Threads pinned one by one to ``cores``, which run the same work at the same time."""

    def __init__(self, cores: Sequence[int]) -> None:
        self._waiting = list(cores)
        self._barrier = threading.Barrier(len(cores))
        self._size = len(cores)
        self._pool = ThreadPoolExecutor(len(cores), "bench-core", self._pin)

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __len__(self) -> int:
        return self._size

    def _pin(self) -> None:
        core = self._waiting.pop()
        if hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):  # a core that was taken away meanwhile: measured unpinned
                os.sched_setaffinity(0, {core})

    def seconds(self, work: Callable[[int], object]) -> float:
        """Run ``work(member)`` once on every core; seconds from the first begin to the last end."""

        def member(index: int) -> tuple[float, float]:
            self._barrier.wait()
            begin = time.perf_counter()
            work(index)
            return begin, time.perf_counter()

        times = [future.result() for future in [self._pool.submit(member, index) for index in range(self._size)]]
        return max(end for _, end in times) - min(begin for begin, _ in times)


def _rounds(work: Callable[[int, int], object], rounds: int, member: int) -> object:
    return work(member, rounds)


def alone(run: Callable[[int], object]) -> Callable[[int, int], object]:
    """Work for :func:`best_seconds` of ``run(rounds)``, the same on every core."""
    return lambda member, rounds: run(rounds)


def best_seconds(team: Team, work: Callable[[int, int], object], budget: float) -> float:
    """Shortest seconds that one round of ``work(member, rounds)`` takes on all cores of the team.

    ``work`` must release the GIL. The number of rounds is chosen so that a call takes a few milliseconds; calls are
    repeated for ``budget`` seconds, and the fastest counts: a neighbour can only make one slower.
    """
    rounds, best, calls = 1, float("inf"), 0
    team.seconds(lambda member: work(member, 1))  # compiles, and warms the caches
    deadline = time.perf_counter() + budget
    while calls < _FEWEST_CALLS or time.perf_counter() < deadline:
        taken = team.seconds(functools.partial(_rounds, work, rounds))
        best, calls = min(best, taken / rounds), calls + 1
        # judged by the best call, since a disturbed one says nothing about the length of the work
        if best * rounds < _CALL_SECONDS / 2:
            rounds, best, calls = math.ceil(min(_CALL_SECONDS / best, 16 * rounds)), float("inf"), 0
    return best
