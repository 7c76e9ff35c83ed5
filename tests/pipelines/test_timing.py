"""Times of stages: on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sparsert.errors import InputError
from sparsert.pipelines import Pipeline, timing
from sparsert.pipelines.timing import StageTimer, TimerManager


class Clock:
    """Time passes by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(timing, "time", found)
    return found


def test_an_inner_stage_interrupts_the_outer_one(clock: Clock) -> None:
    timer = StageTimer()
    clock.now += 1
    with timer.stage("pre_process"):
        clock.now += 2
    with timer.stage("post_process"):
        clock.now += 4
        with timer.stage("engine_forward"):
            clock.now += 8
        clock.now += 16
        with timer.stage("engine_forward"):
            clock.now += 32
    timer.finish()
    assert timer.times == {"pre_process": 2, "engine_forward": 40, "post_process": 20, "total_inference": 63}


def test_a_stage_that_raises_is_closed(clock: Clock) -> None:
    timer = StageTimer()
    with pytest.raises(KeyError), timer.stage("pre_process"):
        clock.now += 1
        raise KeyError
    clock.now += 5
    with timer.stage("post_process"):
        clock.now += 2
    assert (timer.times["pre_process"], timer.times["post_process"]) == (1, 2)


def test_the_manager_keeps_the_latest_call_or_all(clock: Clock) -> None:
    for multi in (False, True):
        manager = TimerManager(multi)
        assert (manager.times, manager.all_times, manager.latest) == ({}, {}, None)
        for seconds in (1, 3):
            timer = StageTimer()
            with timer.stage("pre_process"):
                clock.now += seconds
            timer.finish()
            manager.add(timer)
        assert manager.all_times["pre_process"] == ([1, 3] if multi else [3])
        assert manager.times["total_inference"] == (2 if multi else 3)
        assert manager.latest is not None
        assert manager.latest["pre_process"] == 3
        manager.clear()
        assert manager.times == {}


def test_a_pipeline_times_its_calls(toy_model: Callable[..., Path]) -> None:
    pipeline = Pipeline.create("qa", toy_model({"p": 3}, {"p": 3}), num_cores=1, sequence_length=16, benchmark=True)
    pipeline(question="z", context="a p")
    pipeline(question=["z", "z"], context="a p " * 30)
    with pytest.raises(InputError):
        pipeline(question="a " * 50, context="a p")
    times = pipeline.timer_manager.all_times
    assert [len(seconds) for seconds in times.values()] == [2, 2, 2, 2]  # none of the call that failed
    for pre, engine, post, total in zip(*times.values(), strict=True):
        assert min(pre, engine, post) > 0
        assert pre + engine + post <= total
