"""The timing loop."""

from __future__ import annotations

import threading
import time

import pytest

from sparsert.bench.runner import time_batches


def test_one_call_at_least() -> None:
    calls = []
    timings = time_batches(lambda: calls.append(1), num_streams=1, seconds=0)
    assert len(timings) == len(calls) == 1


def test_timings_cover_every_call_in_order() -> None:
    calls = []

    def run() -> None:
        calls.append(threading.get_ident())
        time.sleep(0.002)

    timings = time_batches(run, num_streams=1, seconds=0.05)
    assert len(timings) == len(calls)
    assert set(calls) == {threading.get_ident()}  # a single stream is the caller itself
    assert all(end - begin >= 0.002 for begin, end in timings)
    assert all(end <= begin for (_, end), (begin, _) in zip(timings, timings[1:], strict=False))
    # Calls begin as long as the time is not over, and the last one is finished.
    assert timings[-1][0] - timings[0][0] < 0.05 <= timings[-1][1] - timings[0][0]


def test_streams_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=10)
    timings = time_batches(meeting.wait, num_streams=3, seconds=0)  # would break the barrier if they took turns
    assert len(timings) == 3
    assert [end for _, end in timings] == sorted(end for _, end in timings)


@pytest.mark.parametrize("num_streams", [1, 2])
def test_an_exception_reaches_the_caller(num_streams: int) -> None:
    def run() -> None:
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        time_batches(run, num_streams, seconds=5)
