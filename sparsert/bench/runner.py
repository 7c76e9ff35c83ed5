"""The timing loop: call one function from one or more streams until the time is over.

Like ``engines.py`` this file runs inside other interpreters, so it imports only the standard library.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["time_batches"]


def time_batches(run: Callable[[], Any], num_streams: int, seconds: float) -> list[tuple[float, float]]:
    """Call `run` from `num_streams` threads at once until `seconds` have passed; calls that have begun are finished.

    Parameters
    ----------
    run : callable
        Runs one batch.
    num_streams : int
        Calls in flight at the same time.  With 1 the calling thread does the work itself, so that an engine which uses
        its caller as a worker keeps the core it is pinned to.
    seconds : float
        Each stream begins calls as long as less time than this has passed, and at least one.

    Returns
    -------
    list of (float, float)
        Begin and end of every call, in seconds of ``time.perf_counter``, in order of their ends.

    Raises
    ------
    Exception
        The first exception that a call raised, after all streams have ended.
    """
    if num_streams == 1:
        return _loop(run, seconds)
    timings: list[tuple[float, float]] = []
    errors: list[BaseException] = []
    barrier = threading.Barrier(num_streams)

    def stream() -> None:
        barrier.wait()
        try:
            timings.extend(_loop(run, seconds))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=stream, name=f"bench-stream-{i}") for i in range(num_streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sorted(timings, key=lambda timing: timing[1])


def _loop(run: Callable[[], Any], seconds: float) -> list[tuple[float, float]]:
    timings = []
    begin = start = time.perf_counter()
    while True:
        run()
        end = time.perf_counter()
        timings.append((begin, end))
        if end - start >= seconds:
            return timings
        begin = end  # the same reading of the clock, so that no time lies between calls
