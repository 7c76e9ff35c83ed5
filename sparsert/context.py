"""Cores, streams and schedulers: the only place that knows threads.

A *stream* is one Python thread that owns a contiguous group of cores and a Numba team on them; it runs one request at a
time. An engine has a pool of streams of its own, or shares that of a :class:`Context`. Threads start with the first
request, never at import or construction, and end when the pool is no longer referenced.
"""

from __future__ import annotations

import atexit
import collections
import enum
import itertools
import logging
import operator
import os
import queue
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from sparsert import cpu
from sparsert.errors import EngineError, InputError, InputRangeError, InputTypeError

__all__ = [
    "Context",
    "Scheduler",
    "StreamPool",
    "parse_num_cores",
    "parse_num_streams",
    "parse_scheduler",
    "pinning_asked",
]

_log = logging.getLogger(__name__)


class Scheduler(enum.Enum):
    """How concurrent requests share the cores.

    ``single_stream`` (the default): one at a time, each on all cores. ``multi_stream``: the cores are divided among the
    streams, which run requests side by side. ``elastic``: the same for all engines that share a :class:`Context`.
    """

    default = "single_stream"
    single_stream = "single_stream"  # noqa: PIE796 - an alias on purpose: both names are DeepSparse's
    multi_stream = "multi_stream"
    elastic = "elastic"

    @staticmethod
    def from_str(key: str) -> Scheduler:
        """Parse a name or alias: sync, single, single_stream; async, multi, multi_stream; elastic; ``""`` (default)."""
        scheduler = _ALIASES.get(key.strip().lower())
        if scheduler is None:
            raise InputError(f"unsupported Scheduler: {key}")
        return scheduler


_ALIASES = {
    "": Scheduler.default,
    "default": Scheduler.default,
    "sync": Scheduler.single_stream,
    "single": Scheduler.single_stream,
    "single_stream": Scheduler.single_stream,
    "async": Scheduler.multi_stream,
    "multi": Scheduler.multi_stream,
    "multi_stream": Scheduler.multi_stream,
    "elastic": Scheduler.elastic,
}


def parse_scheduler(scheduler: Scheduler | str | None) -> Scheduler:
    """Return the scheduler that an argument names; None means the default."""
    if scheduler is None:
        return Scheduler.default
    if isinstance(scheduler, Scheduler):
        return scheduler
    if isinstance(scheduler, str):
        return Scheduler.from_str(scheduler)
    raise InputTypeError(f"unsupported type for scheduler: {scheduler} ({type(scheduler)})")


def _count(name: str, value: int | None) -> int | None:
    """Validate a number of cores or streams; None and 0 mean "choose"."""
    if value is None:
        return None
    try:
        count = operator.index(value)
    except TypeError:
        raise InputTypeError(f"{name} must be an integer or None, given {value!r} ({type(value)})") from None
    if count < 0:
        raise InputError(f"{name} must be greater than 0")
    if count > cpu.MOST_CORES:
        raise InputRangeError(f"{name} must be at most {cpu.MOST_CORES}; leave it None to use all cores")
    return count or None


def parse_num_cores(num_cores: int | None) -> int:
    """Return the number of cores to report: as asked, by the argument or the environment, or all that there are."""
    return _count("num_cores", num_cores) or cpu.default_cores()


def parse_num_streams(num_streams: int | None, num_cores: int, scheduler: Scheduler) -> int:
    """Return the number of streams: 1 for single_stream, by default one for every last-level cache otherwise."""
    asked = _count("num_streams", num_streams)
    if scheduler is Scheduler.single_stream:
        return 1
    most = min(num_cores, cpu.available_cores())
    if asked is None:
        return len(cpu.l3_groups(cpu.core_list()[:most])) or 1
    if asked > most:
        _log.warning("num_streams exceeds num_cores - capping to %d", most)
    return min(asked, most)


class _Job:
    """A call on its way to a stream and back."""

    __slots__ = ("args", "done", "error", "function", "result")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.function = function
        self.args = args
        self.result: Any = None
        self.error: BaseException | None = None
        # A bare lock wakes the caller sooner than an Event, which takes three locks and a Python-level loop.
        self.done = threading.Lock()
        self.done.acquire()


class _Stream:
    """The inbox and the cores of one stream; its thread starts with the first job."""

    __slots__ = ("cores", "inbox", "name", "thread", "threads")

    def __init__(self, name: str, threads: int, cores: list[int] | None) -> None:
        self.name = name
        self.threads = threads
        self.cores = cores
        self.inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None


class _Shared:
    """What a pool's threads hold on to. It does not refer to the pool, so that the pool can be collected."""

    def __init__(self, streams: list[_Stream]) -> None:
        self.streams = streams
        self.lock = threading.Lock()
        # Last in, first out: a lone caller keeps meeting the stream whose caches are warm.
        self.idle = streams[::-1]
        self.pending: collections.deque[_Job] = collections.deque()

    def stop(self) -> None:
        """Tell every thread to end after its current job. Safe in a finalizer: SimpleQueue.put is re-entrant."""
        for stream in self.streams:
            stream.inbox.put(None)


def _serve(stream: _Stream, shared: _Shared) -> None:
    """The thread of a stream: prepare its team, then run one job after another."""
    from sparsert import _team

    ready = False
    job = stream.inbox.get()
    while job is not None:
        try:
            if not ready:
                _team.prepare(stream.threads, stream.cores)
                ready = True
            with _team.parallel_guard():
                job.result = job.function(stream.threads, *job.args)
        except BaseException as error:  # handed to the caller, who raises it
            job.error = error
        done, job = job.done, None
        with shared.lock:
            if shared.pending:
                job = shared.pending.popleft()
            else:
                shared.idle.append(stream)
        done.release()
        del done
        if job is None:
            job = stream.inbox.get()


_pools: weakref.WeakSet[StreamPool] = weakref.WeakSet()
_pools_lock = threading.Lock()
_hooks_installed = False
_inherited_openmp = False


def _install_hooks() -> None:
    """Register the fork and exit hooks, once, with the first pool."""
    global _hooks_installed
    if not _hooks_installed:
        _hooks_installed = True
        atexit.register(_stop_all)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_after_fork)


def _stop_all() -> None:
    """End the threads before the interpreter takes their modules away."""
    pools = list(_pools)
    for pool in pools:
        pool._shared.stop()
    for pool in pools:
        for stream in pool._shared.streams:
            if stream.thread is not None:
                stream.thread.join(timeout=1.0)


def _after_fork() -> None:
    """Threads do not survive a fork: give every pool of the child fresh streams."""
    global _inherited_openmp, _pools_lock
    from sparsert import _team

    _pools_lock = threading.Lock()
    _inherited_openmp = _inherited_openmp or _team.inherited_gnu_openmp()
    for pool in list(_pools):
        pool._restart()


def pinning_asked(environ: Mapping[str, str] | None = None) -> bool | None:
    """What ``SPARSERT_PIN``, or else ``NM_BIND_THREADS_TO_CORES``, says about pinning; None if nothing."""
    environ = os.environ if environ is None else environ
    for name in ("SPARSERT_PIN", "NM_BIND_THREADS_TO_CORES"):
        value = environ.get(name, "").strip().lower()
        if value:
            return value not in ("0", "false", "no", "off")
    return None


def _choose_cores(count: int) -> list[int]:
    """Choose the cores to pin ``count`` threads to: one for each, or none at all.

    Without being asked, only threads that take every core of the affinity mask are pinned, and not under a CPU quota
    below it. Otherwise other processes are meant to run on the rest of the cores, and none knows which the others
    chose: two processes of one core each would both sit on the first one.
    """
    asked = pinning_asked()
    cores = cpu.core_list()
    takes_all = count >= len(cores) == cpu.available_cores()
    if not hasattr(os, "sched_setaffinity") or not (takes_all if asked is None else asked):
        return []
    if count > len(cores):
        cores = cpu.thread_list()
    if count > len(cores):
        return []
    # neighbours that the fewest live pools of this process use
    usage = collections.Counter(core for pool in list(_pools) for core in pool.cores)
    starts = range(len(cores) - count + 1)
    start = min(starts, key=lambda first: sum(usage[core] for core in cores[first : first + count]))
    return cores[start : start + count]


def _divide(total: int, parts: int) -> list[range]:
    """Split ``range(total)`` into contiguous parts whose lengths differ by one at most."""
    return [range(part * total // parts, (part + 1) * total // parts) for part in range(parts)]


class StreamPool:
    """Streams over a set of cores, and the queue in front of them.

    Parameters
    ----------
    num_cores
        Cores to divide; more than the machine has is allowed.
    num_streams
        Streams to divide them among.

    Attributes
    ----------
    cores : list of int
        The logical CPUs that the pool's threads are pinned to; empty when they are not.
    """

    def __init__(self, num_cores: int, num_streams: int) -> None:
        from sparsert import _team

        self.num_cores = num_cores
        self.num_streams = num_streams
        most = _team.max_threads()
        self._threads = [max(1, min(len(part), most)) for part in _divide(num_cores, num_streams)]
        with _pools_lock:
            _install_hooks()
            self.cores = _choose_cores(sum(self._threads))
            _pools.add(self)
        self._restart()

    def _restart(self) -> None:
        streams = []
        cores = iter(self.cores)
        for index, threads in enumerate(self._threads):
            own = list(itertools.islice(cores, threads)) or None
            streams.append(_Stream(f"sparsert-stream-{index}", threads, own))
        self._shared = _Shared(streams)
        # Threads end with the pool; at exit _stop_all waits for them instead.
        weakref.finalize(self, self._shared.stop).atexit = False

    @property
    def threads(self) -> list[int]:
        """Kernel threads of every stream."""
        return list(self._threads)

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call ``function(threads, *args)`` in a stream and return its result; wait in line if all are busy.

        Raises
        ------
        EngineError
            The process was forked from one that had run parallel kernels, or no thread could be started.
        Exception
            Whatever ``function`` raises, with its traceback.
        """
        if _inherited_openmp:
            raise EngineError(
                "this process was forked from one that had already run kernels on GNU OpenMP, whose threads do not "
                "survive a fork. Build engines after the fork (for Gunicorn: without --preload), use the 'spawn' start "
                "method of multiprocessing, or set NUMBA_THREADING_LAYER=workqueue before the first engine."
            )
        shared = self._shared
        job = _Job(function, args)
        with shared.lock:
            stream = shared.idle.pop() if shared.idle else None
            if stream is None:
                shared.pending.append(job)
        if stream is not None:
            if stream.thread is None:
                self._start(stream, shared)
            stream.inbox.put(job)
        job.done.acquire()
        error = job.error
        if error is None:
            return job.result
        try:
            raise error
        finally:
            # The traceback refers to this frame, which must not refer back to it.
            del error, job

    @staticmethod
    def _start(stream: _Stream, shared: _Shared) -> None:
        stream.thread = threading.Thread(target=_serve, args=(stream, shared), name=stream.name, daemon=True)
        try:
            stream.thread.start()
        except RuntimeError as error:
            stream.thread = None
            with shared.lock:
                shared.idle.append(stream)
            raise EngineError(
                f"cannot start the thread of {stream.name}: {error}. Raise the limit on threads."
            ) from error


class Context:
    """Cores and streams that several engines share, scheduled elastically: any free stream takes the next request.

    Parameters
    ----------
    num_cores : int, optional
        Physical cores to use; by default the number that ``SPARSERT_NUM_THREADS`` says, else ``OMP_NUM_THREADS``, else
        all that the affinity mask and the CPU quota allow. Not capped: more threads than ``NUMBA_NUM_THREADS`` are not
        started, but the number is reported as asked.
    num_streams : int, optional
        Requests to run side by side; by default one for every last-level cache.

    Notes
    -----
    On Linux the threads are pinned, one to a core, if they take all cores of the affinity mask and no CPU quota allows
    less than that; the caller's thread never is. With fewer threads than cores the system places them, since other
    processes may be on any core. ``SPARSERT_PIN=1`` (or ``NM_BIND_THREADS_TO_CORES=1``) pins in any case, to cores that
    the fewest other pools of this process use, and 0 never. To pin several processes side by side, give each an
    affinity mask of its own (``taskset``).
    """

    def __init__(self, num_cores: int | None = None, num_streams: int | None = None) -> None:
        cores = parse_num_cores(num_cores)
        self._pool = StreamPool(cores, parse_num_streams(num_streams, cores, Scheduler.elastic))

    @property
    def value(self) -> StreamPool:
        """The pool of streams."""
        return self._pool

    @property
    def num_cores(self) -> int:
        """Number of cores, as asked."""
        return self._pool.num_cores

    @property
    def num_streams(self) -> int:
        """Number of streams."""
        return self._pool.num_streams

    @property
    def scheduler(self) -> Scheduler:
        """Always :attr:`Scheduler.elastic`."""
        return Scheduler.elastic

    def __repr__(self) -> str:
        return f"Context(num_cores={self.num_cores}, num_streams={self.num_streams}, scheduler={self.scheduler})"
