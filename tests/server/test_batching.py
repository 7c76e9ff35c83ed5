"""The batcher and the admission counter, with functions in place of a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sparsert.server.batching import Admission, Batcher
from sparsert.server.errors import DeadlineError, NotReadyError, QueueFullError


class Model:
    """Doubles numbers, remembers its batches, and can be held."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()

    def run(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.go.wait()
        if any(item < 0 for item in items):
            raise ValueError("negative")
        return [2 * item for item in items]

    @staticmethod
    def finish(items: list[int], outputs: Sequence[int]) -> Sequence[int]:
        return outputs


def make(model: Model, **options: Any) -> Batcher:
    return Batcher(model.run, model.finish, **({"max_tokens": 100, "max_delay": 0.0} | options))


def ask(batcher: Batcher, item: int, tokens: int = 10, seconds: float = 20.0) -> int:
    (result,) = batcher.submit([(item, tokens)], time.monotonic() + seconds)
    return result


def wait_for_queue(batcher: Batcher, length: int) -> None:
    while len(batcher._queue) != length:
        time.sleep(0.001)


def gathered(model: Model, batcher: Batcher, pool: ThreadPoolExecutor, sizes: list[int]) -> list[list[int]]:
    """Batches made of items 1, 2, ... of the given tokens that all wait while a first one runs."""
    model.go.clear()
    first = pool.submit(ask, batcher, 0)
    while not model.batches:
        time.sleep(0.001)
    others = []
    for number, tokens in enumerate(sizes, 1):
        others.append(pool.submit(ask, batcher, number, tokens))
        wait_for_queue(batcher, number)
    model.go.set()
    assert first.result() == 0
    assert [other.result() for other in others] == [2 * number for number in range(1, len(sizes) + 1)]
    return model.batches[1:]


def test_waiting_items_run_together_in_order() -> None:
    model = Model()
    batcher = make(model)
    with ThreadPoolExecutor(8) as pool:
        assert gathered(model, batcher, pool, [10] * 5) == [[1, 2, 3, 4, 5]]
    batcher.close()


def test_the_budget_of_tokens_splits_batches() -> None:
    model = Model()
    batcher = make(model)
    with ThreadPoolExecutor(8) as pool:
        assert gathered(model, batcher, pool, [60, 30, 30, 50, 20]) == [[1, 2], [3, 4, 5]]
    batcher.close()


def test_an_item_beyond_the_budget_runs_alone() -> None:
    model = Model()
    batcher = make(model)
    with ThreadPoolExecutor(8) as pool:
        assert gathered(model, batcher, pool, [10, 5000, 10]) == [[1], [2], [3]]
    batcher.close()


def test_a_request_of_many_items_does_not_hold_up_others() -> None:
    model, lengths = Model(), [0]
    batcher = make(model, observe_queue=lengths.append)

    def wait(length: int) -> None:
        while lengths[-1] != length:
            time.sleep(0.001)

    with ThreadPoolExecutor(8) as pool:
        model.go.clear()
        first = pool.submit(ask, batcher, 0)
        while not model.batches:
            time.sleep(0.001)
        many = []
        for number in (1, 2):
            items = [(100 * number + k, 10) for k in range(30)]
            many.append(pool.submit(batcher.submit, items, time.monotonic() + 20))
            wait(30 * number)
        small = []
        for number in (1, 2):
            small.append(pool.submit(ask, batcher, number, 20))
            wait(60 + number)
        model.go.set()
        assert [first.result(), *(answer.result() for answer in small)] == [0, 2, 4]
        assert sorted(answer.result()[-1] for answer in many) == [258, 458]
    # Half a batch for each of the large ones, which would fill six, and then the small ones.
    assert {item // 100 for item in model.batches[1]} == {1, 2}
    assert model.batches[2][:2] == [1, 2]
    assert [len(batch) for batch in model.batches] == [1, 10, 8, 10, 10, 10, 10, 4]
    batcher.close()


@pytest.mark.parametrize("budget", [1, 5])
def test_items_beyond_the_budget_of_one_request_run_one_by_one(budget: int) -> None:
    model = Model()
    batcher = make(model, max_tokens=budget)
    assert batcher.submit([(1, 10), (2, 10), (3, 10)], time.monotonic() + 20) == [2, 4, 6]
    assert model.batches == [[1], [2], [3]]
    batcher.close()


def test_an_idle_batcher_waits_for_company_but_not_when_full() -> None:
    model = Model()
    batcher = make(model, max_delay=30.0)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, batcher, number, 50) for number in range(2)]
        assert sorted(answer.result(timeout=20) for answer in answers) == [0, 2]
    assert len(model.batches) == 1
    batcher.close()


def test_one_bad_item_fails_alone() -> None:
    model = Model()
    batcher = make(model)
    with ThreadPoolExecutor(8) as pool:
        model.go.clear()
        first = pool.submit(ask, batcher, 0)
        while not model.batches:
            time.sleep(0.001)
        others = [pool.submit(ask, batcher, number) for number in (1, -1, 2)]
        wait_for_queue(batcher, 3)
        model.go.set()
        assert (first.result(), others[0].result(), others[2].result()) == (0, 2, 4)
        with pytest.raises(ValueError, match="negative"):
            others[1].result()
    assert ask(batcher, 4) == 8
    batcher.close()


def test_an_expired_item_is_not_run() -> None:
    model = Model()
    batcher = make(model)
    with ThreadPoolExecutor(2) as pool:
        model.go.clear()
        first = pool.submit(ask, batcher, 0)
        while not model.batches:
            time.sleep(0.001)
        with pytest.raises(DeadlineError):
            ask(batcher, 1, seconds=0.05)
        model.go.set()
        first.result()
        assert ask(batcher, 2) == 4
    assert model.batches == [[0], [2]]
    batcher.close()


def test_closing_runs_what_waits_and_refuses_what_comes() -> None:
    model = Model()
    batcher = make(model)
    with ThreadPoolExecutor(4) as pool:
        model.go.clear()
        answers = [pool.submit(ask, batcher, 0)]
        while not model.batches:
            time.sleep(0.001)
        answers.append(pool.submit(ask, batcher, 1))
        wait_for_queue(batcher, 1)
        closing = pool.submit(batcher.close)
        while not batcher._closed:
            time.sleep(0.001)
        with pytest.raises(NotReadyError):
            ask(batcher, 2)
        model.go.set()
        closing.result()
        assert [answer.result() for answer in answers] == [0, 2]


def test_results_belong_to_their_askers() -> None:
    model = Model()
    batcher = make(model, max_tokens=70)
    with ThreadPoolExecutor(32) as pool:
        numbers = list(range(500))
        assert list(pool.map(lambda number: ask(batcher, number), numbers)) == [2 * number for number in numbers]
    batcher.close()


def test_observers_see_every_item() -> None:
    model, seen, lengths = Model(), [], []
    batcher = make(model, observe=lambda *batch: seen.append(batch), observe_queue=lengths.append)
    assert batcher.submit([(1, 10), (2, 20)], time.monotonic() + 20) == [2, 4]
    batcher.close()
    assert [batch[:2] for batch in seen] == [(2, 30)]
    assert lengths == [2, 0]


def test_admission_refuses_beyond_its_limit() -> None:
    admission = Admission(2)
    with admission.enter(), admission.enter():
        with pytest.raises(QueueFullError) as refused, admission.enter():
            pass
        assert refused.value.status == 429
        assert 1 <= int(refused.value.headers["Retry-After"]) <= 30
    with admission.enter(5):  # more than the limit, but alone
        assert admission.inside == 5
    assert admission.inside == 0
