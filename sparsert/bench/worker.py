"""A process that holds one engine and runs it on command: one JSON object a line on stdin, one reply a line on stdout.

It is started as a script, by path, in whatever interpreter has the engine, and must run there with nothing but numpy
(Python 3.8 or later): it loads ``engines.py`` and ``runner.py`` from beside itself, and imports sparsert only to
measure sparsert.

Commands, with their replies (every reply also holds ``peak_rss_bytes``):

- ``{"command": "load", "job": EngineJob fields, "inputs": npz path, "package_root": path or null}``
  -> ``{"event": "loaded", "version", "scheduler", "fraction_of_supported_ops", "load_seconds"}``
- ``{"command": "time", "seconds": float}`` -> ``{"event": "timed", "timings": [[begin, end], ...]}``, in seconds
- ``{"command": "outputs", "path": npz path}`` -> ``{"event": "outputs"}``; the arrays are named ``output_0``, ...
- end of stdin ends the process.

Any exception becomes ``{"event": "failed", "error": type, "message": text}``, and the process ends.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _sibling(name: str) -> Any:
    """Import a module that lies beside this file, without its package."""
    module_name = f"_sparsert_bench_{name}"
    spec = importlib.util.spec_from_file_location(module_name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def _die_with_parent() -> None:
    """Ask the kernel to end this process with its parent: a stopped worker cannot notice that by itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _private_stdout() -> TextIO:
    """Keep stdout for replies; whatever an engine's native code prints there goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _peak_rss_bytes() -> int | None:
    """Highest resident size since this program was started.

    ``ru_maxrss`` would not do: it survives exec and so begins at the size of the parent.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


def _pin(job: Any) -> None:
    if job.cpus and job.pinning != "none" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job.cpus)


class _Worker:
    """The loaded engine and its arrays between two commands."""

    def __init__(self) -> None:
        self._engines = _sibling("engines")
        self._runner = _sibling("runner")
        self._job: Any = None
        self._loaded: Any = None
        self._arrays: list[Any] = []

    def load(self, job: dict[str, Any], inputs: str, package_root: str | None) -> dict[str, Any]:
        self._job = self._engines.EngineJob(**job)
        _pin(self._job)
        if package_root is not None:
            sys.path.insert(0, package_root)
        import numpy

        with numpy.load(inputs) as stored:
            self._arrays = [numpy.ascontiguousarray(stored[f"input_{i}"]) for i in range(len(stored.files))]
        begin = time.perf_counter()
        self._loaded = self._engines.load_engine(self._job)
        return {
            "event": "loaded",
            "load_seconds": time.perf_counter() - begin,
            "version": self._loaded.version,
            "scheduler": self._loaded.scheduler,
            "fraction_of_supported_ops": self._loaded.fraction_of_supported_ops,
        }

    def time(self, seconds: float) -> dict[str, Any]:
        timings = self._runner.time_batches(lambda: self._loaded.run(self._arrays), self._job.num_streams, seconds)
        return {"event": "timed", "timings": timings}

    def outputs(self, path: str) -> dict[str, Any]:
        import numpy

        outputs = self._loaded.run(self._arrays)
        named: dict[str, Any] = {f"output_{i}": numpy.asarray(output) for i, output in enumerate(outputs)}
        numpy.savez(path, **named)
        return {"event": "outputs"}


def main() -> int:
    """Serve commands until stdin ends."""
    _die_with_parent()
    replies = _private_stdout()
    worker = _Worker()
    commands: dict[str, Callable[..., dict[str, Any]]] = {
        "load": worker.load,
        "time": worker.time,
        "outputs": worker.outputs,
    }
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            reply = commands[arguments.pop("command")](**arguments)
        except Exception as error:
            failure = {"event": "failed", "error": type(error).__name__, "message": str(error)}
            replies.write(json.dumps(failure) + "\n")
            return 1
        reply["peak_rss_bytes"] = _peak_rss_bytes()
        replies.write(json.dumps(reply) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
