"""An application in this process, and real servers in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from running_server import RunningServer, free_port
from text_models import endpoints, make_models

import sparsert
from sparsert.server import create_app

ROOT = Path(sparsert.__file__).resolve().parents[1]


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


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each text task, by the names of their endpoints."""
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def texts_client(make_client: Callable[..., FlaskClient], models: dict[str, Path]) -> FlaskClient:
    """A client of an application that serves all of them."""
    return make_client(endpoints=endpoints(models))


@pytest.fixture(scope="session")
def texts_server(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server of them all, for tests that only ask it something."""
    folder = tmp_path_factory.mktemp("texts-server")
    (folder / "config.yaml").write_text(json.dumps({"num_workers": 1, "endpoints": endpoints(models)}))
    with _servers(folder) as start:
        yield start("--config-file", "config.yaml")


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Start servers of this test's own, see :func:`_servers`."""
    with _servers(tmp_path) as start:
        yield start


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with the default model, for tests that only ask it something."""
    with _servers(tmp_path_factory.mktemp("server")) as start:
        yield start("--task", "question-answering")


@contextlib.contextmanager
def _servers(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
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

    try:
        yield start
    finally:
        for server in running:
            server.process.send_signal(signal.SIGTERM)
            try:
                server.process.wait(60)
            except subprocess.TimeoutExpired:
                server.process.kill()
                raise
