"""An engine in a process of its own, started in any interpreter, that runs only when it is asked to."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsert.errors import EngineError

__all__ = ["EngineProcess"]

_log = logging.getLogger(__name__)

_WORKER = Path(__file__).with_name("worker.py")
_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_TICK_SECONDS = 0.5
_LOGGED_LINES = 20
# A native engine that dies prints what went wrong, then a stack of many lines: the first line with such a word tells.
_TELLING = re.compile(
    r"assert|error|exception|terminate|what\(\)|fatal|cannot|killed|out of memory|bad_alloc", re.IGNORECASE
)


class EngineProcess:
    """One engine, loaded in a worker process (see ``worker.py``).

    Between two commands the whole process group is stopped with SIGSTOP: a pool whose idle threads spin would otherwise
    take the cores from the engine that is being timed.

    Parameters
    ----------
    name : str
        For messages.
    python : str
        Interpreter that has the engine.
    log_path : path
        File that takes what the engine prints.
    """

    def __init__(self, name: str, python: str, log_path: Path) -> None:
        self.name = name
        self.peak_rss_bytes: int | None = None
        self._log_path = log_path
        self._stopped = False
        self._pending = b""
        try:
            with open(log_path, "wb") as log:
                self._process = subprocess.Popen(  # noqa: S603
                    [python, str(_WORKER)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise EngineError(f"{name}: cannot start the interpreter {python}: {error}. Check --python.") from error

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""
        return self._process.pid

    def load(self, job: dict[str, Any], inputs: Path, timeout: float) -> dict[str, Any]:
        """Load the engine; returns the worker's ``loaded`` reply. `job` holds the fields of ``EngineJob``."""
        package_root = str(_PACKAGE_ROOT) if job["engine"] == "sparsert" else None
        return self._command(timeout, command="load", job=job, inputs=str(inputs), package_root=package_root)

    def time(
        self, seconds: float, timeout: float, tick: Callable[[float], None] | None = None
    ) -> list[tuple[float, float]]:
        """Run batches for `seconds`, at least one a stream; returns begin and end of each, in seconds.

        `tick` is called now and then with the seconds that have passed.
        """
        reply = self._command(timeout + seconds, tick, command="time", seconds=seconds)
        return [(begin, end) for begin, end in reply["timings"]]

    def outputs(self, path: Path, timeout: float) -> None:
        """Run one batch and store its outputs."""
        self._command(timeout, command="outputs", path=str(path))

    def close(self) -> None:
        """End the process, whatever it is doing."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            # Closing flushes what a dead reader never took.
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _command(self, timeout: float, tick: Callable[[float], None] | None = None, **fields: Any) -> dict[str, Any]:
        if self._stopped:
            self._signal(signal.SIGCONT)
            self._stopped = False
        stdin = self._process.stdin
        try:
            stdin.write(json.dumps(fields).encode() + b"\n")  # type: ignore[union-attr]
            stdin.flush()  # type: ignore[union-attr]
            line = self._read_line(timeout, tick)
        except BrokenPipeError:
            line = b""
        if line is None:
            self.close()
            raise EngineError(f"{self.name}: no answer within {timeout:.0f} s. Allow more with --timeout.")
        if not line:
            raise EngineError(f"{self.name}: {self._cause_of_death()}")
        reply: dict[str, Any] = json.loads(line)
        if reply["event"] == "failed":
            self.close()
            message = " ".join(reply["message"].split())
            raise EngineError(f"{self.name}: {reply['error']}: {message}")
        self.peak_rss_bytes = reply["peak_rss_bytes"]
        self._signal(signal.SIGSTOP)
        self._stopped = True
        return reply

    def _read_line(self, timeout: float, tick: Callable[[float], None] | None) -> bytes | None:
        """One line of the worker's answers, ``b""`` when it has ended, None when the time is over."""
        pipe = self._process.stdout.fileno()  # type: ignore[union-attr]
        begin = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                passed = time.monotonic() - begin
                if passed > timeout:
                    return None
                if tick is not None:
                    tick(passed)
                if selector.select(min(_TICK_SECONDS, max(timeout - passed, 0.01))):
                    chunk = os.read(pipe, 1 << 16)
                    if not chunk:
                        return b""
                    self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _cause_of_death(self) -> str:
        # Its end of the pipe is closed; let it end by itself, so that the exit code is its own.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_TICK_SECONDS)
        self.close()
        code = self._process.returncode
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        lines = [line.strip() for line in self._log_path.read_text(errors="replace").splitlines() if line.strip()]
        _log.info("%s printed:\n%s", self.name, "\n".join(lines[:_LOGGED_LINES]))
        telling = [line for line in lines if _TELLING.search(line)] or lines[-1:]
        said = f" ({telling[0][:200]})" if telling else ""
        return f"the process died: {cause}{said}"
