"""What scripts/load_test measures: an engine in a process of its own, and servers under wrk; and whether they rest."""

from __future__ import annotations

import contextlib
import http.client
import json
import multiprocessing
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = [
    "MOST_IDLE_CORES",
    "MeasureError",
    "Participant",
    "Result",
    "Work",
    "client",
    "cpu_seconds",
    "engine",
    "rest",
    "server",
]

ROOT = Path(__file__).resolve().parents[1]

START_SECONDS = 300
"""Longest wait for a server or an engine to start; the first start on a machine compiles kernels."""

REST_SECONDS = 60
"""Longest wait for a participant to work off what wrk left behind."""

RAMP_SECONDS = 1
"""At the beginning of each load, not counted: no answer can come before the first batch is done."""

MOST_IDLE_CORES = 0.05
"""Cores that a participant may use at rest."""

Result = dict[str, Any]


class MeasureError(Exception):
    """A participant cannot be started or measured."""


@dataclass(frozen=True)
class Work:
    """What an endpoint is asked: its task and model with options, requests of its pipeline, and the same over HTTP."""

    task: str
    model: str
    options: dict[str, Any]
    requests: list[dict[str, Any]]
    bodies: list[dict[str, Any]]
    path: str


@dataclass
class Participant:
    """Something whose throughput is measured.

    ``measure(seconds, first, per_second)`` loads it with the questions from ``first`` on: fully, or, where it is a
    server, with so many a second.
    """

    name: str
    measure: Callable[[int, int, float | None], Result]
    processes: set[int]
    url: str | None = None
    ask: Callable[[], None] = lambda: None  # one question, until it is answered


def client(name: str, url: str, bodies: Path, clients: int) -> Participant:
    """A running server under so many connections; ``bodies`` has a question in JSON on each line."""

    def ask() -> None:
        with bodies.open("rb") as lines:
            request = urllib.request.Request(url, lines.readline(), {"Content-Type": "application/json"})
        with contextlib.suppress(OSError, http.client.HTTPException):
            urllib.request.urlopen(request, timeout=REST_SECONDS).close()

    def measure(seconds: int, first: int, per_second: float | None = None) -> Result:
        return _load(url, bodies, clients, seconds, first, per_second)

    return Participant(name, measure, _listeners(url), url, ask)


def _load(url: str, bodies: Path, clients: int, seconds: int, first: int, per_second: float | None) -> Result:
    """Run wrk; return good answers a second, latencies in milliseconds, errors, and wrk's own share of a core."""
    pause = 0.0
    if per_second is not None:
        pause = 1000.0 * clients / per_second
    duration = RAMP_SECONDS + seconds
    command = ["wrk", "--threads", "1", "--connections", str(clients), "--duration", str(duration), "--timeout", "60s"]
    command += ["--script", str(Path(__file__).with_name("load_test.lua")), url, "--"]
    command += [str(value) for value in (bodies, first, RAMP_SECONDS, seconds, pause)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=duration + 60)
    except subprocess.TimeoutExpired:
        raise MeasureError(f"wrk did not end within {duration + 60} s") from None
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    match = re.search(r"RESULT (\{.*\})", done.stdout)
    if match is None:
        raise MeasureError(f"wrk gave no result: {(done.stderr or done.stdout).strip()}")
    result = json.loads(match[1])
    if result["answers"] < 2:
        errors = {kind: count for kind, count in result["errors"].items() if count}
        raise MeasureError(f"{url} gave fewer than two good answers in {duration} s; errors: {errors or 'none'}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return result | {"per_second": result["answers"] / result["span"], "wrk_cores": used / duration}


@contextlib.contextmanager
def server(config: Path, cores: int | None, work: Work, limits: dict[str, int]) -> Iterator[str]:
    """A server of this checkout on a free port; gives the address to ask. ``config`` is where to write its YAML."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = {"task": work.task, "model": work.model, "kwargs": work.options}
    # JSON is YAML as well.
    config.write_text(json.dumps({"num_cores": cores, "limits": limits, "endpoints": [endpoint]}))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "sparsert.server", "--config-file", str(config), "--port", str(port)]
    process = subprocess.Popen([*command, "--log-level", "warning"], env=environment, stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_SECONDS
        while True:
            if process.poll() is not None:
                raise MeasureError(f"the server ended with status {process.returncode} instead of starting")
            if time.monotonic() > deadline:
                raise MeasureError(f"the server is not ready after {START_SECONDS} s")
            with contextlib.suppress(OSError), urllib.request.urlopen(url + "/v2/health/ready", timeout=5):
                break
            time.sleep(0.2)
        yield url + work.path
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


@contextlib.contextmanager
def engine(work: Work, cores: int | None) -> Iterator[Participant]:
    """An engine in a process of its own, which sleeps until it is told to run."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_engine, args=(theirs, work, cores), daemon=True)

    def answer(timeout: float) -> Result:
        try:
            if ours.poll(timeout):
                return ours.recv()
        except (EOFError, OSError):
            raise MeasureError("the engine's process has ended") from None
        raise MeasureError(f"the engine's process gave no answer within {timeout} s")

    def measure(seconds: int, first: int, per_second: float | None = None) -> Result:
        with contextlib.suppress(OSError):  # answer() says that it has ended
            ours.send((seconds, first))
        return answer(seconds + 60)

    process.start()
    theirs.close()
    try:
        answer(START_SECONDS)
        yield Participant("engine", measure, {int(process.pid or 0)})
    finally:
        ours.close()
        process.kill()


def _run_engine(orders: Connection, work: Work, cores: int | None) -> None:
    """In the engine's process: run prepared requests when told to, oldest first, in batches as large as a server's."""
    from sparsert import Context, Pipeline
    from sparsert.server.endpoints import _TOKENS_PER_CORE

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    context = Context(cores, 1)
    pipeline: Any = Pipeline.create(work.task, work.model, context=context, **work.options)
    prepared = pipeline.preprocess([pipeline.input_schema(**request) for request in work.requests])
    tokens = [pipeline.tokens(item) for item in prepared]
    budget = _TOKENS_PER_CORE * context.num_cores
    orders.send({})
    while True:
        try:
            seconds, index = orders.recv()
        except EOFError:
            return
        count, begin = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - begin) < seconds:
            batch: list[Any] = []
            used = 0
            while not batch or used + tokens[index] <= budget:
                batch.append(prepared[index])
                used += tokens[index]
                index = (index + 1) % len(prepared)
            list(pipeline.forward(batch))
            count += len(batch)
        orders.send({"per_second": count / elapsed, "answers": count})


def _listeners(url: str) -> set[int]:
    """The processes that hold the socket on which a server listens, as far as they may be seen: all its workers."""
    port = f":{urlsplit(url).port or 80:04X}"
    tables = [table for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if table.exists()]
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(port) and row[3] == "0A"}  # 0A: it listens
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link) in sockets:
                found.add(int(link.parts[2]))
    return found


def cpu_seconds(participant: Participant) -> float:
    """Processor time that a participant's processes have used so far."""
    ticks = 0
    for process in participant.processes:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # utime and stime, fields 14 and 15 in proc(5)
    return ticks / os.sysconf("SC_CLK_TCK")


def rest(participant: Participant) -> bool:
    """Wait until a participant is idle, and say whether it is: what wrk asked last is still being worked on."""
    deadline = time.monotonic() + REST_SECONDS
    participant.ask()  # its turn comes after all that; this helps also where the processes cannot be seen
    if participant.url:
        participant.processes = _listeners(participant.url)  # a worker may have been replaced
    while True:
        before = cpu_seconds(participant)
        time.sleep(0.2)
        if cpu_seconds(participant) - before <= 0.2 * MOST_IDLE_CORES:
            return True
        if time.monotonic() > deadline:
            return False
