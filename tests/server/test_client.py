"""sparsert.client, against a real server and against one that refuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer

import pytest
from questions import ANSWER, CONTEXT, QUESTION
from running_server import RunningServer

from sparsert.client import Client, ServerError
from sparsert.errors import InputError


def test_it_asks_a_server(server: RunningServer) -> None:
    with Client(server.url) as client:
        assert client.ready()
        for model in (None, "question_answering"):
            answer = client.ask(QUESTION["question"], CONTEXT, model)
            assert {key: answer[key] for key in ANSWER} == ANSWER
        with pytest.raises(ServerError, match="Not Found") as error:
            client.ask("a", "b", "nothing")
        assert error.value.status == 404
        with pytest.raises(ServerError, match=r"body\.question"):
            client.post("/predict", {"context": "a"})


@pytest.fixture
def refusing() -> Iterator[HTTPServer]:
    """A server that gives the answers in ``script``, one after another, and closes the connection for None."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            server.asked.append(self.headers.get("Authorization"))
            answer = server.script.pop(0)
            if answer is None:
                self.close_connection = True
                return
            status, headers = answer
            self.send_response(status)
            for name, value in ({"Content-Length": "2"} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.script, server.asked = [], []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def client_of(server: HTTPServer, **options: object) -> Client:
    return Client(f"http://127.0.0.1:{server.server_port}", **options)


def test_it_waits_as_long_as_the_server_says(refusing: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    refusing.script = [(429, {"Retry-After": "7"}), (503, {"Retry-After": "2"}), None, (200, {})]
    assert client_of(refusing, api_key="secret").post("/predict", {}) == {}
    assert waits[:2] == [7, 2]
    assert 0 < waits[2] <= 2
    assert refusing.asked == ["Bearer secret"] * 4


def test_it_gives_up(refusing: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    refusing.script = [(503, {})] * 3
    with pytest.raises(ServerError) as error:
        client_of(refusing, retries=2).post("/predict", {})
    assert (error.value.status, refusing.script) == (503, [])
    refusing.script = [(429, {"Retry-After": "3600"}), (200, {})]
    with pytest.raises(ServerError):
        client_of(refusing).post("/predict", {})
    refusing.script = [(422, {}), (200, {})]
    with pytest.raises(ServerError):
        client_of(refusing).post("/predict", {})
    refusing.script = [None] * 2
    with pytest.raises(ServerError, match="no answer after 2 tries"):
        client_of(refusing, retries=1).post("/predict", {})


def test_addresses() -> None:
    for url in ("127.0.0.1:5543", "ftp://host", "http://"):
        with pytest.raises(InputError):
            Client(url)
    assert not Client("http://127.0.0.1:9", timeout=1).ready()
