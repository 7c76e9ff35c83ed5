"""An application in this process, and real servers in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask.testing import FlaskClient
from questions import QUESTION

from sparsert.server import create_app

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def make_client() -> Callable[..., FlaskClient]:
    """Make a client of an application in this process: ``make_client(endpoints=[...], limits={...})``."""

    def make(**config: Any) -> FlaskClient:
        config.setdefault("endpoints", [{"task": "question-answering"}])
        client = create_app(config).test_client()
        deadline = time.monotonic() + 120
        while client.get("/v2/health/ready").status_code != 200:
            assert time.monotonic() < deadline, "the endpoints do not become ready"
            time.sleep(0.05)
        return client

    return make


@pytest.fixture(scope="session")
def client(make_client: Callable[..., FlaskClient]) -> FlaskClient:
    """A client of an application with the default model at /predict."""
    return make_client()


class RunningServer:
    """A server that runs as a process, with its logs in a file."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.log = log

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def wait(self, route: str = "/v2/health/ready", timeout: float = 120.0) -> None:
        """Wait until a route answers 200."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(requests.RequestException):
                if requests.get(self.url + route, timeout=5).status_code == 200:
                    return
            time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def ask(self, route: str = "/predict", **fields: Any) -> requests.Response:
        """Send a question."""
        return requests.post(self.url + route, json=QUESTION | fields, timeout=60)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Start ``python -m sparsert.server`` with arguments, or the module ``command``, and wait until it is ready."""
    running: list[RunningServer] = []

    def start(*arguments: str, command: tuple[str, ...] = (), ready: bool = True) -> RunningServer:
        port = free_port()
        log = tmp_path / f"server-{port}.log"
        whole = [sys.executable, "-m", "sparsert.server", "--port", str(port), *arguments]
        if command:
            whole = [sys.executable, "-m", *command, "--bind", f"127.0.0.1:{port}", *arguments]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        with open(log, "wb") as stream:
            process = subprocess.Popen(whole, stdout=stream, stderr=stream, env=environment, cwd=tmp_path)
        server = RunningServer(process, port, log)
        running.append(server)
        if ready:
            server.wait()
        return server

    yield start
    for server in running:
        server.process.send_signal(signal.SIGTERM)
        try:
            server.process.wait(40)
        except subprocess.TimeoutExpired:
            server.process.kill()
            raise
