"""Real servers: Gunicorn, signals, several workers, slow clients."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from questions import ANSWER
from running_server import RunningServer

StartServer = Callable[..., RunningServer]


def test_command_line_answers_and_drains(start_server: StartServer) -> None:
    server = start_server("--task", "question-answering")
    # The founding document's example client, to the letter but for the port.
    url = f"{server.url}/predict"
    obj = {
        "question": "What is DeepSparse?",
        "context": "DeepSparse is sparsity-aware inference runtime offering GPU-class performance on CPUs and APIs to "
        "integrate ML into your application",
    }
    resp = requests.post(url=url, json=obj, timeout=60)
    assert resp.text.startswith('{"score":')
    assert resp.text.endswith(',"answer":"sparsity-aware inference runtime","start":14,"end":46}')
    assert f"sparsert is running on {server.url}" in server.log.read_text()
    assert server.ask("/v2/models/question_answering/infer").status_code == 200

    # Requests that are sent before SIGTERM are answered, however many wait, and however few threads there are.
    waiting = [_send(server, json.dumps(obj | {"context": obj["context"] * 4})) for _ in range(40)]
    server.process.send_signal(signal.SIGTERM)
    assert {_receive(client)[:15] for client in waiting} == {b"HTTP/1.1 200 OK"}
    assert server.process.wait(60) == 0


def test_broken_chunks_are_the_clients_fault(server: RunningServer) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=60) as client:
        client.sendall(head + b"zz\r\n{}\r\n0\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 400 ")
    assert server.ask().status_code == 200


def test_plain_gunicorn_serves_the_factory(start_server: StartServer, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("endpoints:\n  - task: question-answering\n    route: /ask\n")
    server = start_server("--threads", "4", 'sparsert.server:create_app("config.yaml")', command=("gunicorn",))
    assert server.ask("/ask").json()["answer"] == ANSWER["answer"]


def test_reload_and_killed_workers_lose_no_other_request(start_server: StartServer, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "num_workers: 2\nallow_endpoint_changes: true\nlimits: {deadline_s: 120}\n"
        "loggers: {python: , prometheus: {port: 0}}\n"
        "endpoints:\n  - task: question-answering\n"
    )
    server = start_server("--config-file", str(config), "--hot-reload-config")
    _wait_for(lambda: len(server.workers()) == 2)
    for _ in range(8):
        assert server.ask().status_code == 200
    text = requests.get(server.url + "/metrics", timeout=30).text
    assert re.search(r'sparsert_requests_total\{endpoint="question-answering-0",status="200"\} 8.0', text)
    assert (
        'sparsert_prediction_latency__total_inference_seconds_count{pipeline_name="question-answering-0"} 8.0' in text
    )
    records = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    answered = {record["request_id"] for record in records if record.get("path") == "/predict"}
    assert len(answered) == 8
    assert answered == {record["request_id"] for record in records if "values" in record}

    statuses: list[int] = []
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            statuses.append(server.ask().status_code)

    threads = [threading.Thread(target=keep_asking) for _ in range(4)]
    for thread in threads:
        thread.start()
    before = server.workers()
    config.write_text(config.read_text() + "    route: /ask\n  - task: qa\n    route: /predict\n")
    _wait_for(lambda: not set(before) & set(server.workers()) and len(server.workers()) == 2)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}
    assert server.ask("/ask").status_code == 200

    # A file at fault changes nothing.
    before = server.workers()
    config.write_text(config.read_text() + "    rout: /x\n")
    _wait_for(lambda: "unknown key; did you mean route?" in server.log.read_text())
    assert server.workers() == before
    assert server.ask("/ask").status_code == 200

    # An endpoint that one worker is told of is known to the other, and to one that comes later.
    endpoint = {"task": "question-answering", "route": "/late"}
    assert requests.post(server.url + "/endpoints", json=endpoint, timeout=120).json() is True
    _wait_for(lambda: all(server.ask("/late").status_code == 200 for _ in range(20)))

    os.kill(server.workers()[0], signal.SIGKILL)
    _wait_for(lambda: len(server.workers()) == 2 and server.workers() != before)
    assert all(server.ask("/late").status_code == 200 for _ in range(20))


def test_slow_clients_are_hung_up_on(start_server: StartServer, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("limits: {read_timeout_s: 1, max_queue: 2}\nendpoints:\n  - task: question-answering\n")
    server = start_server("--config-file", str(config))
    port = int(server.url.rpartition(":")[2])
    slow = []
    for number in range(40):  # more than the server has threads
        client = socket.create_connection(("127.0.0.1", port), timeout=30)
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
        client.sendall(head + (b"\r\n{" if number % 2 else b""))
        slow.append(client)
    assert server.ask().status_code == 200
    answers = [client.recv(4096) for client in slow]
    assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers[1::2])
    assert all(answer == b"" or answer.startswith(b"HTTP/1.1 4") for answer in answers[::2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("endpoints:\n  - task: qa\n    modle: x\n", "line 3: endpoints[0].modle: unknown key; did you mean model?"),
        ("endpoints:\n  - task: qa\n    kwargs:\n      sequence_length: 4096\n", "exceeds the 512 positions"),
        ("endpoints:\n  - task: qa\n    model: /nowhere/model\n", "/nowhere/model"),
    ],
)
def test_a_bad_configuration_does_not_start(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    arguments = ["--config-file", str(tmp_path / "config.yaml"), "--check"]
    process = subprocess.run(
        [sys.executable, "-m", "sparsert.server", *arguments], capture_output=True, text=True, timeout=120
    )
    assert process.returncode == 1
    assert message in process.stderr
    assert "Traceback" not in process.stderr


def _send(server: RunningServer, body: str) -> socket.socket:
    """Send a whole request over a connection of its own, and do not wait for the answer."""
    client = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=120)
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall((head + body).encode())
    return client


def _receive(client: socket.socket) -> bytes:
    data = client.recv(4096)
    client.close()
    return data


def _wait_for(condition: Callable[[], bool], timeout: float = 120.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
