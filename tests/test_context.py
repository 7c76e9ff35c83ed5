"""Tests of sparsert.context: schedulers, streams, pinning, threads and forks."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest

from sparsert import Context, Scheduler, context, cpu
from sparsert.context import StreamPool, parse_num_cores, parse_num_streams, parse_scheduler
from sparsert.errors import EngineError, InputError, InputRangeError, InputTypeError

CORES = cpu.available_cores()
KERNEL = """
import numba, numpy as np

@numba.njit(parallel=True, nogil=True)
def square(x):
    out = np.empty_like(x)
    for i in numba.prange(x.size):
        out[i] = x[i] * x[i]
    return out
"""
exec(KERNEL)  # one text for this process and for those that the tests start
square = globals()["square"]


def run_python(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a program with the kernel above in an interpreter of its own."""
    return subprocess.run(
        [sys.executable, "-c", KERNEL + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, **environ},
        check=False,
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, Scheduler.default),
        ("", Scheduler.default),
        ("sync", Scheduler.single_stream),
        ("single", Scheduler.single_stream),
        ("single_stream", Scheduler.single_stream),
        ("async", Scheduler.multi_stream),
        ("multi", Scheduler.multi_stream),
        ("multi_stream", Scheduler.multi_stream),
        ("elastic", Scheduler.elastic),
        (Scheduler.elastic, Scheduler.elastic),
    ],
)
def test_scheduler_names(given: Scheduler | str | None, expected: Scheduler) -> None:
    assert parse_scheduler(given) is expected


@pytest.mark.parametrize("name", ["foo", "el", "last", "stream"])
def test_unknown_scheduler(name: str) -> None:
    with pytest.raises(ValueError, match=f"^unsupported Scheduler: {name}$") as caught:
        parse_scheduler(name)
    assert isinstance(caught.value, InputError)


def test_scheduler_of_wrong_type() -> None:
    with pytest.raises(ValueError) as caught:
        parse_scheduler(3)  # type: ignore[arg-type]
    assert str(caught.value) == "unsupported type for scheduler: 3 (<class 'int'>)"
    assert isinstance(caught.value, InputTypeError)


def test_single_stream_is_the_default() -> None:
    assert Scheduler.single_stream is Scheduler.default
    assert repr(Scheduler.single_stream) == "<Scheduler.default: 'single_stream'>"
    assert str(Scheduler.single_stream) == "Scheduler.default"


def test_num_cores() -> None:
    assert parse_num_cores(None) == parse_num_cores(0) == cpu.default_cores()
    assert parse_num_cores(100) == 100
    with pytest.raises(ValueError, match="^num_cores must be greater than 0$"):
        parse_num_cores(-1)
    with pytest.raises(InputTypeError, match="num_cores must be an integer"):
        parse_num_cores("two")  # type: ignore[arg-type]


def test_num_cores_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5,2")
    assert (parse_num_cores(None), parse_num_cores(3), Context().num_cores) == (5, 3, 5)
    monkeypatch.setenv("SPARSERT_NUM_THREADS", "4")
    assert (parse_num_cores(0), parse_num_cores(3), Context().num_cores) == (4, 3, 4)
    monkeypatch.setenv("SPARSERT_NUM_THREADS", "none")
    with pytest.raises(EngineError, match="SPARSERT_NUM_THREADS='none'"):
        parse_num_cores(None)
    assert parse_num_cores(3) == 3


@pytest.mark.parametrize("count", [10_000, 2**63, 2**70, 10**5000], ids=lambda count: f"{count.bit_length()} bits")
def test_numbers_that_no_machine_has(count: int) -> None:
    with pytest.raises(InputRangeError, match="num_cores must be at most 9999"):
        Context(count)
    with pytest.raises(InputRangeError, match="num_streams must be at most 9999"):
        Context(1, count)


def test_num_streams(caplog: pytest.LogCaptureFixture) -> None:
    assert parse_num_streams(7, 8, Scheduler.single_stream) == 1
    assert parse_num_streams(1, CORES, Scheduler.multi_stream) == 1
    assert 1 <= parse_num_streams(None, CORES, Scheduler.elastic) <= CORES
    assert not caplog.records
    assert parse_num_streams(CORES + 1, CORES, Scheduler.multi_stream) == CORES
    assert caplog.messages == [f"num_streams exceeds num_cores - capping to {CORES}"]
    with pytest.raises(ValueError, match="^num_streams must be greater than 0$"):
        parse_num_streams(-1, CORES, Scheduler.single_stream)


def test_context() -> None:
    shared = Context(1, 1)
    assert (shared.num_cores, shared.num_streams, shared.scheduler) == (1, 1, Scheduler.elastic)
    assert repr(shared) == "Context(num_cores=1, num_streams=1, scheduler=Scheduler.elastic)"
    assert isinstance(shared.value, StreamPool)
    assert Context(100).num_cores == 100
    with pytest.raises(ValueError, match="^num_cores must be greater than 0$"):
        Context(-1)


@pytest.mark.parametrize(("cores", "streams", "expected"), [(8, 3, [2, 3, 3]), (4, 4, [1, 1, 1, 1]), (5, 1, [5])])
def test_cores_are_divided_among_streams(cores: int, streams: int, expected: list[int]) -> None:
    pool = StreamPool(cores, streams)
    assert pool.threads == [min(count, numba.config.NUMBA_NUM_THREADS) for count in expected]


def test_threads_start_with_the_first_request_and_end_with_the_pool() -> None:
    pool = StreamPool(1, 1)
    assert pool._shared.streams[0].thread is None
    thread = pool.run(lambda threads: threading.current_thread())
    assert thread.is_alive() and thread.daemon and thread is not threading.current_thread()
    assert pool.run(lambda threads: threading.current_thread()) is thread
    del pool
    gc.collect()
    thread.join(timeout=5)
    assert not thread.is_alive()


def test_exceptions_reach_the_caller_with_their_traceback() -> None:
    def explode(threads: int, word: str) -> None:
        raise KeyError(word)

    pool = StreamPool(1, 1)
    with pytest.raises(KeyError, match="boom") as caught:
        pool.run(explode, "boom")
    assert "explode" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert pool.run(lambda threads: "alive") == "alive"


def test_single_stream_runs_one_request_at_a_time_in_order() -> None:
    pool = StreamPool(1, 1)
    release, order, running, most = threading.Event(), [], [0], [0]

    def request(threads: int, number: int) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        if number == 0:
            release.wait(timeout=30)
        order.append(number)
        running[0] -= 1

    callers = []
    for number in range(6):
        callers.append(threading.Thread(target=pool.run, args=(request, number)))
        callers[-1].start()
        # The next one must not overtake: wait until this one is running or in line.
        deadline = time.monotonic() + 30
        while running[0] + len(pool._shared.pending) < number + 1 and time.monotonic() < deadline:
            time.sleep(0.001)
    release.set()
    for caller in callers:
        caller.join(timeout=30)
    assert order == list(range(6))
    assert most == [1]


def test_streams_run_side_by_side() -> None:
    pool = StreamPool(2, 2)
    barrier = threading.Barrier(2, timeout=30)
    with ThreadPoolExecutor(2) as callers:
        # Passes only if both requests are inside at the same time.
        arrived = [future.result() for future in [callers.submit(pool.run, lambda t: barrier.wait()) for _ in range(2)]]
    assert sorted(arrived) == [0, 1]


def test_a_lone_caller_keeps_its_stream() -> None:
    pool = StreamPool(4, 4)
    assert len({pool.run(lambda threads: threading.get_ident()) for _ in range(20)}) == 1


def test_parallel_kernels_from_many_threads_and_pools() -> None:
    pools = [StreamPool(CORES, 1), StreamPool(CORES, CORES), Context(1).value, Context(None, 1).value]

    def request(number: int) -> bool:
        x = np.arange(number, number + 1000.0)
        pool = pools[number % len(pools)]
        return bool((pool.run(lambda threads, x: square(x), x) == x**2).all())

    with ThreadPoolExecutor(8) as callers:
        assert all(callers.map(request, range(400)))


def test_stream_sets_its_number_of_threads() -> None:
    for cores in range(1, CORES + 1):
        pool = StreamPool(cores, 1)
        assert pool.run(lambda threads: (threads, numba.get_num_threads())) == (cores, cores)


linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pinning is for Linux")


@linux
def test_streams_are_pinned_and_callers_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSERT_PIN", "1")
    mine = os.sched_getaffinity(0)
    pool = StreamPool(CORES, CORES)
    assert sorted(pool.cores) == sorted(cpu.core_list()[:CORES])
    barrier = threading.Barrier(CORES, timeout=30)

    def request(threads: int) -> set[int]:
        barrier.wait()
        return os.sched_getaffinity(0)

    with ThreadPoolExecutor(CORES) as callers:
        masks = [future.result() for future in [callers.submit(pool.run, request) for _ in range(CORES)]]
    assert sorted(core for mask in masks for core in mask) == sorted(pool.cores)
    assert os.sched_getaffinity(0) == mine


@linux
@pytest.mark.skipif(CORES < 2, reason="needs two cores")
def test_every_thread_of_a_team_has_its_own_core() -> None:
    code = """
    import os
    from sparsert.context import StreamPool
    pool = StreamPool(2, 1)
    pool.run(lambda threads: square(np.ones(100)))
    assert numba.threading_layer() == "omp"
    masks = [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")]
    single = sorted(core for mask in masks if len(mask) == 1 for core in mask)
    print(single == sorted(pool.cores), len(pool.cores))
    """
    if not _has_omp():
        pytest.skip("needs the OpenMP layer")
    done = run_python(code, SPARSERT_PIN="1")
    assert done.stdout.split() == ["True", "2"], done.stderr


def _has_omp() -> bool:
    try:
        from numba.np.ufunc import omppool  # noqa: F401
    except ImportError:
        return False
    return True


@linux
@pytest.mark.parametrize("name", ["SPARSERT_PIN", "NM_BIND_THREADS_TO_CORES"])
def test_pinning_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "0")
    pool = StreamPool(1, 1)
    assert pool.cores == []
    assert pool.run(lambda threads: os.sched_getaffinity(0)) == os.sched_getaffinity(0)


@linux
@pytest.mark.skipif(CORES < 2, reason="needs two cores")
def test_pools_prefer_cores_that_no_other_pool_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSERT_PIN", "1")
    monkeypatch.setattr(context, "_pools", weakref.WeakSet())
    first = StreamPool(1, 1)
    second = StreamPool(1, 1)
    assert first.cores != second.cores


PLACES = """
import os, sys
from sparsert.context import StreamPool
pool = StreamPool(int(sys.argv[1]), 1)
print(pool.run(lambda threads: sorted(os.sched_getaffinity(0))), flush=True)
sys.stdin.read()
"""


def masks_of_two_processes(num_cores: int, **environ: str) -> list[str]:
    """CPUs of the stream of one pool in each of two processes that live at the same time."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    plain = {name: value for name, value in os.environ.items() if name not in ("SPARSERT_PIN", "OMP_NUM_THREADS")}
    processes = [
        subprocess.Popen([sys.executable, "-c", PLACES, str(num_cores)], env={**plain, **environ}, **pipes)
        for _ in range(2)
    ]
    try:
        return [process.stdout.readline().strip() for process in processes]
    finally:
        for process in processes:
            process.communicate(timeout=60)


@linux
@pytest.mark.skipif(CORES < 2, reason="needs two cores")
def test_two_processes_of_one_core_do_not_share_it() -> None:
    everywhere = str(sorted(os.sched_getaffinity(0)))
    assert masks_of_two_processes(1) == [everywhere] * 2
    # Two cores asked for, but a single thread started.
    assert masks_of_two_processes(2, NUMBA_NUM_THREADS="1") == [everywhere] * 2


@linux
def test_only_pools_of_all_cores_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPARSERT_PIN", "NM_BIND_THREADS_TO_CORES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(context, "_pools", weakref.WeakSet())
    monkeypatch.setattr(cpu, "core_list", lambda: [2, 3, 6])
    monkeypatch.setattr(cpu, "thread_list", lambda: [2, 3, 6, 4, 5, 7])
    monkeypatch.setattr(cpu, "available_cores", lambda: 3)
    assert [context._choose_cores(count) for count in (1, 2, 3)] == [[], [], [2, 3, 6]]
    assert [context._choose_cores(count) for count in (6, 7)] == [[2, 3, 6, 4, 5, 7], []]
    monkeypatch.setattr(cpu, "available_cores", lambda: 2)  # a quota: the cores belong to others as well
    assert [context._choose_cores(count) for count in (1, 2, 3)] == [[], [], []]
    monkeypatch.setenv("NM_BIND_THREADS_TO_CORES", "1")
    assert [context._choose_cores(count) for count in (1, 2, 3)] == [[2], [2, 3], [2, 3, 6]]
    monkeypatch.setenv("SPARSERT_PIN", "0")
    assert [context._choose_cores(count) for count in (1, 2, 3)] == [[], [], []]


def test_workqueue_layer_survives_concurrent_requests() -> None:
    code = """
    from concurrent.futures import ThreadPoolExecutor
    from sparsert.context import StreamPool
    pools = [StreamPool(2, 2), StreamPool(1, 1)]
    def request(number):
        x = np.arange(number, number + 500.0)
        return (pools[number % 2].run(lambda threads, x: square(x), x) == x * x).all()
    with ThreadPoolExecutor(8) as callers:
        print(all(callers.map(request, range(200))), numba.threading_layer())
    """
    done = run_python(code, NUMBA_THREADING_LAYER="workqueue")
    assert (done.returncode, done.stdout.split()) == (0, ["True", "workqueue"]), done.stderr


def test_missing_threading_layer() -> None:
    code = """
    from sparsert import EngineError
    from sparsert.context import StreamPool
    try:
        StreamPool(1, 1).run(lambda threads: None)
    except EngineError as error:
        print("Unset NUMBA_THREADING_LAYER" in str(error))
    """
    done = run_python(code, NUMBA_THREADING_LAYER="nonsense")
    assert done.stdout.split() == ["True"], done.stderr


FORK = """
import os, sys
from sparsert import EngineError
from sparsert.context import StreamPool

def request(pool):
    return pool.run(lambda threads: float(square(np.full(10, 3.0)).sum()))

pool = StreamPool(1, 1)
if {ran}:
    request(pool)
child = os.fork()
if child == 0:
    try:
        print(request(pool), request(StreamPool(1, 1)))
    except EngineError as error:
        print(type(error).__name__, "Build engines after the fork" in str(error))
    sys.stdout.flush()
    os._exit(0)
print("child", os.waitpid(child, 0)[1])
print("parent", request(pool))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("ran", [False, True])
def test_fork(ran: bool) -> None:
    done = run_python(FORK.format(ran=ran))
    refused = ran and sys.platform.startswith("linux") and _has_omp()
    expected = ["EngineError True" if refused else "90.0 90.0", "child 0", "parent 90.0"]
    assert done.stdout.splitlines() == expected, done.stderr


def test_requests_after_an_interrupt() -> None:
    pool = StreamPool(1, 1)
    with pytest.raises(SystemExit):
        pool.run(lambda threads: sys.exit(3))
    assert pool.run(lambda threads: 7) == 7
