"""Running the parts of a batch on threads, in order and with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from sparsert.errors import InputError

__all__ = ["OrderedPool", "workers_of"]

_T = TypeVar("_T")
_R = TypeVar("_R")


class OrderedPool:
    """``map`` on threads, in order, with few parts begun at a time. Safe to use from several threads.

    Parameters
    ----------
    executor : ThreadPoolExecutor, int or None
        A pool, a number of threads (less than 1 counts as 1), or None for as many threads as the engine has streams.
    streams : int
        Requests that the engine runs side by side.
    """

    def __init__(self, executor: ThreadPoolExecutor | int | None = None, streams: int = 1) -> None:
        self.workers = workers_of(executor, streams)
        if isinstance(executor, ThreadPoolExecutor):
            self._pool: ThreadPoolExecutor | None = executor
            return
        # Its threads start when they are first needed, so a process may still fork before that.
        self._pool = ThreadPoolExecutor(self.workers, "sparsert-pipeline") if self.workers > 1 else None

    def map(self, function: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
        """``map(function, items)``, no more than ``workers + 1`` items begun and not yet taken.

        A single item runs on the caller's own thread.
        """
        items = iter(items)
        first = list(islice(items, 2))
        if self._pool is None or len(first) < 2:
            yield from map(function, first)
            yield from map(function, items)
            return
        begun: deque[Future[_R]] = deque(self._pool.submit(function, item) for item in first)
        try:
            while begun:
                for item in islice(items, self.workers + 1 - len(begun)):
                    begun.append(self._pool.submit(function, item))
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()


def workers_of(executor: ThreadPoolExecutor | int | None, streams: int = 1) -> int:
    """Threads that an :class:`OrderedPool` has.

    Raises
    ------
    InputError
        ``executor`` is none of what it may be.
    """
    if isinstance(executor, ThreadPoolExecutor):
        return executor._max_workers
    if executor is not None and (isinstance(executor, bool) or not isinstance(executor, int)):
        raise InputError(
            f"Expected an int or ThreadPoolExecutor to run in async mode but got {executor} of type {type(executor)}"
        )
    return max(1, streams if executor is None else executor)
