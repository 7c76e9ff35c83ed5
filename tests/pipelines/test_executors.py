"""Parts of a batch on threads: in order, few at a time, failures included."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparsert import Context
from sparsert.pipelines import Pipeline
from sparsert.pipelines.executors import OrderedPool


@pytest.mark.parametrize("executor", [None, 0, 1, 3, ThreadPoolExecutor(2)])
@pytest.mark.parametrize("count", [0, 1, 2, 17])
def test_results_come_in_order(executor: ThreadPoolExecutor | int | None, count: int) -> None:
    assert list(OrderedPool(executor).map(lambda value: value * 2, range(count))) == [
        2 * value for value in range(count)
    ]


def test_parts_run_side_by_side_and_few_are_begun() -> None:
    begun: list[int] = []
    barrier = threading.Barrier(3, timeout=60)

    def source() -> Iterator[int]:
        for value in range(12):
            begun.append(value)
            yield value

    def meet(value: int) -> int:
        barrier.wait()  # passes only where three run at once
        return value

    pool = OrderedPool(3)
    for taken, value in enumerate(pool.map(meet, source())):
        assert value == taken
        assert len(begun) <= taken + pool.workers + 1


def test_an_error_ends_the_run() -> None:
    def fail(value: int) -> int:
        if value == 2:
            raise KeyError(value)
        return value

    for executor in (None, 2):
        run = OrderedPool(executor).map(fail, range(1000))
        assert [next(run), next(run)] == [0, 1]
        with pytest.raises(KeyError):
            next(run)


def test_as_many_threads_as_streams_by_default(toy_model: Callable[..., Path]) -> None:
    assert OrderedPool(None, streams=4).workers == 4
    assert OrderedPool(2, streams=4).workers == 2
    model = toy_model({"q": 5}, {"q": 5})
    context = "a b c d e " * 300 + "q"
    alone = Pipeline.create("qa", model, num_cores=1, batch_size=4)
    expected = alone(question=["z", "y"], context=context)
    shared = Pipeline.create("qa", model, batch_size=4, context=Context(num_cores=2, num_streams=2))
    pool = ThreadPoolExecutor(3)
    for pipeline in (shared, Pipeline.create("qa", model, num_cores=1, batch_size=4, executor=pool)):
        assert pipeline(question=["z", "y"], context=context) == expected
    assert expected[0].answer == "q"
