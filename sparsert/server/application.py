"""Gunicorn around the Flask application: workers on their own cores, slow clients, metrics of all workers, reload."""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers.gthread import ThreadWorker

from sparsert.errors import InputError, SparsertError
from sparsert.server.config import EndpointConfig, ServerConfig, load_config
from sparsert.server.logs import logging_config
from sparsert.server.workers import core_groups, default_workers, free_slot, place_worker

__all__ = ["ServerApplication", "Worker", "check_endpoints"]

_log = logging.getLogger(__name__)

# Threads beyond the queue, so that probes and metrics are answered while the queue is full.
_SPARE_THREADS = 32

_POLL_SECONDS = 0.5

_MOST_LOADING_SECONDS = 300
"""After this the old workers go, ready or not."""


class Worker(ThreadWorker):  # type: ignore[misc]
    """A threaded worker that does not wait forever for slow clients, and that leaves no accepted connection behind."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.slot = 0
        self.has_siblings = False
        self.loaded = mmap.mmap(-1, 1)  # a byte shared with the master; no lock that a killed worker could keep
        self.flask: Any = None
        self._reading: dict[int, tuple[float, Any]] = {}

    def load_wsgi(self) -> None:
        """Make the application, and tell it how to say that a request has been read."""
        super().load_wsgi()
        self.flask = application = self.wsgi  # type: ignore[has-type]
        self._changes = self.app.changes.stamp()
        self.flask.extensions["sparsert"].registry.changed = self._publish

        def wsgi(environ: dict[str, Any], start_response: Any) -> Any:
            environ["sparsert.received"] = lambda: self._reading.pop(threading.get_ident(), None)
            return application(environ, start_response)

        self.wsgi = wsgi

    def run(self) -> None:
        """Serve until told to stop; then answer what was accepted.

        A worker that comes to others lets them have the requests until it is ready. One that is alone takes requests at
        once, so that probes get an answer and clients wait in its queue rather than in the kernel's.
        """
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        for endpoint in self.flask.extensions["sparsert"].registry.endpoints if self.flask else ():
            while self.has_siblings and self.alive and not endpoint.loaded.wait(0.5):
                self.notify()
        self.loaded[0] = 1
        super().run()
        if self.flask is not None:
            self.flask.extensions["sparsert"].registry.close()

    def handle(self, conn: Any) -> Any:
        """Read a request and answer it; the client's time to send it runs from here."""
        self._reading[threading.get_ident()] = (time.monotonic(), conn)
        try:
            return super().handle(conn)
        finally:
            self._reading.pop(threading.get_ident(), None)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop gracefully; say so to whoever asks whether this worker is ready."""
        if self.flask is not None:
            self.flask.extensions["sparsert"].registry.draining = True
        super().handle_exit(sig, frame)

    def set_accept_enabled(self, enabled: bool) -> None:
        """When stopping, first take what the kernel has accepted: those clients believe that they are connected."""
        if not enabled and not self.alive:
            for listener in self.sockets:
                before = -1
                while self.nr_conns != before:  # accept() returns without a connection when there is none
                    before = self.nr_conns
                    self.accept(listener)
        super().set_accept_enabled(enabled)

    def _publish(self, endpoints: list[EndpointConfig]) -> None:
        """Tell the other workers, and those to come, which endpoints there are."""
        self._changes = self.app.changes.write(endpoints)

    def _follow(self) -> None:
        """Take over the endpoints that another worker has changed."""
        stamp = self.app.changes.stamp()
        if stamp is not None and stamp != self._changes and self.flask is not None:
            self._changes = stamp
            registry = self.flask.extensions["sparsert"].registry
            try:
                registry.change(self.app.changes.read(), tell=False)
            except SparsertError as error:
                _log.error("another worker's endpoints cannot be taken over: %s", error)

    def _watch(self) -> None:
        """Follow the other workers, and stop reading from clients that take too long to send a request."""
        limit = self.app.config.limits.read_timeout_s
        while True:
            time.sleep(min(_POLL_SECONDS, limit / 4))
            self._follow()
            for thread, (since, conn) in list(self._reading.items()):
                if time.monotonic() - since > limit and self._reading.pop(thread, None) is not None:
                    # As if the client had closed its side: writing still works, so it may get its 408.
                    with contextlib.suppress(OSError):
                        conn.sock.shutdown(socket.SHUT_RD)


class _Changes:
    """A file with the endpoints as they were last changed at run time; none before that."""

    def __init__(self) -> None:
        self.path: Path | None = None

    def stamp(self) -> tuple[int, int] | None:
        """What changes whenever the file does; None if there is none."""
        return None if self.path is None else _stamp(self.path)

    def write(self, endpoints: Sequence[EndpointConfig]) -> tuple[int, int] | None:
        """Replace the file in one step; returns its stamp."""
        if self.path is None:
            return None
        partial = self.path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps([item.model_dump(mode="json") for item in endpoints]))
        stamp = _stamp(partial)
        partial.replace(self.path)
        return stamp

    def read(self) -> list[EndpointConfig]:
        """The endpoints in the file."""
        content = json.loads(self.path.read_text()) if self.path is not None else []
        return [EndpointConfig.model_validate(item) for item in content]

    def forget(self) -> None:
        """Go back to the configuration's endpoints."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class _Arbiter(Arbiter):  # type: ignore[misc]
    """Gunicorn's master, which on reload keeps the old workers until the new ones are loaded."""

    _replacing = False

    def reload(self) -> None:
        """Replace the workers, unless the configuration is at fault."""
        if self.app.read_again():
            self._replacing = True
            super().reload()

    def manage_workers(self) -> None:
        """Spawn or stop workers as needed."""
        if self._replacing:
            self._replacing = False
            until = time.monotonic() + _MOST_LOADING_SECONDS
            for worker in sorted(self.WORKERS.values(), key=lambda worker: -worker.age)[: self.num_workers]:
                while not worker.loaded[0] and time.monotonic() < until and _is_alive(worker.pid):
                    time.sleep(0.1)
        super().manage_workers()


def _is_alive(pid: int) -> bool:
    """Whether a child runs; one that has ended and was not collected yet does not."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


class ServerApplication(BaseApplication):  # type: ignore[misc]
    """A server as a Gunicorn application.

    Parameters
    ----------
    config : ServerConfig
        What to serve.
    path : Path, optional
        The file that ``config`` came from; SIGHUP reads it again.
    overrides : mapping, optional
        Keys that the command line puts in place of the file's.
    host, port
        Where to listen.
    log_level : str
        Level of the logs.
    hot_reload : bool
        Whether to reload whenever the file changes.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        path: Path | None = None,
        overrides: Mapping[str, Any] | None = None,
        host: str = "127.0.0.1",
        port: int = 5543,
        log_level: str = "info",
        hot_reload: bool = False,
    ) -> None:
        self.config = config
        self._path = path
        self._overrides = dict(overrides or {})
        self._host = host
        self._port = port
        self._log_level = {"warn": "warning", "fatal": "critical"}.get(log_level, log_level)
        self._hot_reload = hot_reload
        self._directory: Path | None = None
        self.changes = _Changes()
        super().__init__()

    def load_config(self) -> None:
        """Translate the configuration into Gunicorn's settings."""
        config = self.config
        bind = [f"{self._host}:{self._port}"]
        if config.loggers.prometheus is not None:
            bind.append(f"{self._host}:{config.loggers.prometheus.port}")
        threads = config.limits.max_queue + _SPARE_THREADS
        settings = {
            "bind": bind,
            "workers": config.num_workers or default_workers(config.num_cores),
            "worker_class": Worker,
            "threads": threads,
            "worker_connections": threads + 1000,
            "keepalive": 30,
            "timeout": 60,
            "graceful_timeout": config.limits.drain_s,
            "proc_name": "sparsert.server",
            "logconfig_dict": logging_config(self._log_level),
            "loglevel": self._log_level,
            "control_socket_disable": True,
            "pre_fork": self._choose_slot,
            "post_fork": self._prepare_worker,
            "child_exit": _forget_worker,
            "when_ready": self._announce,
            "on_exit": self._clean,
        }
        if os.path.isdir("/dev/shm"):
            settings["worker_tmp_dir"] = "/dev/shm"  # a heart beat must not wait for a disk
        for name, value in settings.items():
            if name in self.cfg.settings:  # older Gunicorns have no control socket
                self.cfg.set(name, value)

    def load(self) -> Any:
        """The Flask application; called in each worker."""
        from sparsert.server.app import create_app

        overrides = {"endpoints": self.changes.read()} if self.changes.stamp() else {}
        return create_app(load_config(self.config, overrides))

    def run(self) -> None:
        """Serve until a signal says otherwise."""
        self._directory = Path(tempfile.mkdtemp(prefix="sparsert-server-"))
        self.changes.path = self._directory / "endpoints.json"
        if self.cfg.workers > 1:
            os.environ.setdefault("SPARSERT_WEIGHTS", str(self._directory / "weights"))
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            metrics = self._directory / "metrics"
            metrics.mkdir()
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
        _Arbiter(self).run()

    def read_again(self) -> bool:
        """Read the file again and load its models; if something is at fault, say what, and that all stays as it was."""
        try:
            if self._path is not None:
                config = load_config(self._path, self._overrides)
                check_endpoints(config)
                self.config = config
            self.changes.forget()
        except (SparsertError, OSError) as error:
            _log.error("the configuration stays as it was: %s", error)
            return False
        return True

    def _choose_slot(self, arbiter: Any, worker: Worker) -> None:
        worker.has_siblings = bool(arbiter.WORKERS)
        worker.slot = free_slot([other.slot for other in arbiter.WORKERS.values()], self.cfg.workers)

    def _prepare_worker(self, arbiter: Any, worker: Worker) -> None:
        groups = core_groups(self.cfg.workers, self.config.num_cores)
        place_worker(groups, worker.slot, self.config.engine_thread_pinning)

    def _announce(self, arbiter: Any) -> None:
        addresses = " and ".join(f"http://{self._host}:{listener.getsockname()[1]}" for listener in arbiter.LISTENERS)
        sys.stdout.write(f"sparsert is running on {addresses} (Press CTRL+C to quit); try it there, or see /docs\n")
        sys.stdout.flush()
        if self._hot_reload and self._path is not None:
            threading.Thread(target=_watch, args=(self._path,), name="watch", daemon=True).start()

    def _clean(self, arbiter: Any) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)


def _forget_worker(arbiter: Any, worker: Any) -> None:
    """Drop the gauges of a worker that is gone."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)


def _watch(path: Path) -> None:
    """Send SIGHUP to this process whenever a file changes."""
    seen = _stamp(path)
    while True:
        time.sleep(_POLL_SECONDS)
        stamp = _stamp(path)
        if stamp is not None and stamp != seen:
            seen = stamp
            _log.info("%s has changed", path.name)
            os.kill(os.getpid(), signal.SIGHUP)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None  # being replaced
    return status.st_mtime_ns, status.st_size


def check_endpoints(config: ServerConfig) -> None:
    """Load every endpoint once, in a process of its own, since a process that has run kernels must not fork workers.

    Raises
    ------
    InputError
        One cannot be loaded.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        message = "the check was interrupted"
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            os.close(reader)
            message = _load_all(config)
        except BaseException as error:
            message = f"{type(error).__name__}: {error}"
        finally:
            os.write(writer, b"done " + message.encode()[:4000])
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        answer = stream.read().decode(errors="replace")
    with contextlib.suppress(ChildProcessError):  # Gunicorn may have collected it
        os.waitpid(child, 0)
    if not answer:
        raise InputError("the check of the endpoints was killed, perhaps for lack of memory")
    if answer != "done ":
        raise InputError(answer.removeprefix("done "))


def _load_all(config: ServerConfig) -> str:
    """Load all endpoints; return what went wrong, or nothing."""
    from sparsert.server.endpoints import Registry
    from sparsert.server.metrics import Metrics

    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    logging.getLogger("sparsert.server").setLevel(logging.CRITICAL)
    registry = Registry(config, Metrics())
    registry.start(wait=True)
    return "; ".join(f"endpoint {item.name}: {item.failure}" for item in registry.endpoints if item.failure)
