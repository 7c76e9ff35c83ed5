"""Micro-batching: requests that arrive together run together.

Waiting requests are taken oldest first, up to a budget of tokens, and run as one batch. A request of many items gives
way to the others each time that it has had half a batch. While a batch runs, the next ones gather by themselves, so a
busy server never waits; an idle one waits ``max_delay`` at most for company. Two threads take turns, so that one runs
the next batch while the other finishes the last one.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sparsert.server.errors import DeadlineError, NotReadyError, QueueFullError

__all__ = ["Admission", "Batcher"]

_log = logging.getLogger(__name__)


class Admission:
    """Counts the questions inside a worker and refuses those beyond a limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.inside = 0
        self._lock = threading.Lock()
        self._seconds = 0.0  # that a question stays inside, smoothed

    @contextlib.contextmanager
    def enter(self, count: int = 1) -> Iterator[None]:
        """Be inside with so many questions; an empty worker takes any number.

        Raises
        ------
        QueueFullError
            There is no room.
        """
        with self._lock:
            if self.inside and self.inside + count > self.limit:
                # Whoever comes back after the time that a question takes finds a queue that has moved on.
                raise QueueFullError(self.limit, min(30, max(1, math.ceil(self._seconds))))
            self.inside += count
        start = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self.inside -= count
                self._seconds += 0.1 * (time.monotonic() - start - self._seconds)


class _Job:
    __slots__ = ("arrival", "deadline", "done", "error", "item", "result", "tokens")

    def __init__(self, item: Any, tokens: int, deadline: float) -> None:
        self.item = item
        self.tokens = tokens
        self.arrival = time.monotonic()
        self.deadline = deadline
        self.result: Any = None
        self.error: Exception | None = None
        # A bare lock wakes the waiting thread sooner than an Event.
        self.done = threading.Lock()
        self.done.acquire()


class Batcher:
    """Gathers items from many threads and runs them in batches, one batch at a time.

    Parameters
    ----------
    run : callable
        Takes a list of items and returns what ``finish`` wants.
    finish : callable
        Takes the items and what ``run`` returned, and returns a result for each item, in order. If one of the two
        raises for a batch of several, each item is run on its own, so that one bad item fails alone.
    max_tokens : int
        Tokens of a batch. An item with more runs as a batch of its own.
    max_delay : float
        Seconds that an item may wait for company while nothing runs.
    observe : callable, optional
        Called with (items, tokens, seconds) after each batch, and with the queue's length by ``observe_queue``.
    """

    def __init__(
        self,
        run: Callable[[list[Any]], Any],
        finish: Callable[[list[Any], Any], Sequence[Any]],
        *,
        max_tokens: int,
        max_delay: float,
        name: str = "batcher",
        observe: Callable[[int, int, float], None] | None = None,
        observe_queue: Callable[[int], None] | None = None,
    ) -> None:
        self._run = run
        self._finish = finish
        self._max_tokens = max_tokens
        self._max_delay = max_delay
        self._observe = observe or (lambda items, tokens, seconds: None)
        self._observe_queue = observe_queue or (lambda length: None)
        self._queue: deque[deque[_Job]] = deque()  # one for each call of submit, none of them empty
        self._waiting = 0
        self._tokens = 0
        self._changed = threading.Condition(threading.Lock())
        self._closed = False
        self._running = threading.Lock()
        self._threads = [threading.Thread(target=self._serve, name=f"{name}-{i}", daemon=True) for i in range(2)]
        for thread in self._threads:
            thread.start()

    def submit(self, items: Sequence[tuple[Any, int]], deadline: float) -> list[Any]:
        """Run (item, tokens) pairs, at least one, and return their results; call from any thread.

        Parameters
        ----------
        deadline : float
            When to give up, on the clock of ``time.monotonic``.

        Raises
        ------
        DeadlineError
            The results did not come in time.
        Exception
            Whatever ``run`` raises for one of the items.
        """
        jobs = [_Job(item, tokens, deadline) for item, tokens in items]
        with self._changed:
            if self._closed:
                raise NotReadyError("the endpoint is shutting down")
            # The dispatcher needs to wake for the first item, and for the one that fills the budget.
            wake = not self._queue
            self._queue.append(deque(jobs))
            self._waiting += len(jobs)
            self._tokens += sum(job.tokens for job in jobs)
            self._observe_queue(self._waiting)
            if wake or self._tokens >= self._max_tokens:
                self._changed.notify()
        for job in jobs:
            if not job.done.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise DeadlineError()
            if job.error is not None:
                raise job.error
        return [job.result for job in jobs]

    def close(self, timeout: float = 10.0) -> None:
        """Run what waits, refuse what comes, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout)

    def _serve(self) -> None:
        while True:
            with self._running:
                batch = self._next_batch()
                if batch is None:
                    return
                outcome = self._run_batch(batch)
            self._finish_batch(batch, *outcome)
            del batch, outcome

    def _next_batch(self) -> list[_Job] | None:
        """Wait for work and take a batch of it; None once closed and empty."""
        with self._changed:
            while not self._queue:
                if self._closed:
                    return None
                self._changed.wait()
            until = self._queue[0][0].arrival + self._max_delay
            while not self._closed and self._tokens < self._max_tokens:
                remaining = until - time.monotonic()
                if remaining <= 0:
                    break
                self._changed.wait(remaining)
            batch = self._take_batch()
            self._observe_queue(self._waiting)
        return batch

    def _take_batch(self) -> list[_Job]:
        """Take what fits into a batch: of each request up to half a batch in turn, so that none holds up the others."""
        batch: list[_Job] = []
        tokens = 0
        now = time.monotonic()
        while self._queue:
            jobs = self._queue.popleft()
            share = tokens + max(1, self._max_tokens // 2)
            while jobs and tokens < share and (not batch or tokens + jobs[0].tokens <= self._max_tokens):
                job = jobs.popleft()
                self._waiting -= 1
                self._tokens -= job.tokens
                if job.deadline > now:  # else nobody waits for it any more
                    batch.append(job)
                    tokens += job.tokens
            if jobs and tokens < share:  # the next one does not fit
                self._queue.appendleft(jobs)
                break
            if jobs:
                self._queue.append(jobs)
        return batch

    def _run_batch(self, batch: list[_Job]) -> tuple[Any, Exception | None]:
        if not batch:
            return None, None
        start = time.monotonic()
        try:
            return self._run([job.item for job in batch]), None
        except Exception as error:
            return None, error
        finally:
            self._observe(len(batch), sum(job.tokens for job in batch), time.monotonic() - start)

    def _finish_batch(self, batch: list[_Job], outputs: Any, error: Exception | None) -> None:
        """Hand the results to those who wait for them."""
        if batch and error is None:
            try:
                results = self._finish([job.item for job in batch], outputs)
                for job, result in zip(batch, results, strict=True):
                    job.result = result
            except Exception as raised:
                error = raised
        if error is not None and len(batch) > 1:
            _log.warning("a batch of %d failed, its requests run one by one: %s", len(batch), error)
            # Not one at a time with the other thread: that one holds the lock while it waits for work.
            for job in batch:
                self._finish_batch([job], *self._run_batch([job]))
            return
        for job in batch:
            job.error = error
            job.done.release()
