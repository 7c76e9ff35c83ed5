"""scripts/load_test: what it refuses, how it compares, and that it counts what a server counts itself."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest
import requests
from text_models import SENTENCES

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/load_test as a module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = SourceFileLoader("load_test", str(SCRIPTS / "load_test"))
    spec = importlib.util.spec_from_loader("load_test", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--url", "http://example.com/predict"], "on this machine"),
        (["--peer-url", "http://10.0.0.1/predict"], "on this machine"),
        (["--seconds", "1000"], "--seconds must be 1 to 120"),
        (["--rate", "1.5"], "--rate must be between 0 and 1"),
        (["--url", "http://127.0.0.1:1/predict", "--one-by-one"], "started here"),
        (["--embed", "folder", "--doc-stride", "32"], "of questions"),
    ],
)
def test_bad_arguments(
    script: ModuleType, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        script.parse(["dev.json", *arguments])
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err


def test_ratios_are_taken_within_rounds(script: ModuleType) -> None:
    rounds = [
        {"a": {"per_second": 10.0}, "b": {"per_second": 5.0}},
        {"a": {"per_second": 30.0}, "b": {"per_second": 10.0}},
        {"a": {"per_second": 40.0}, "b": {"per_second": 10.0}},
        {"a": {"error": "broken"}, "b": {"per_second": 1.0}},
    ]
    assert script.ratio(rounds, "a", "b") == {"median": 3.0, "least": 2.0, "most": 4.0, "best": 4.0}
    assert script.ratio(rounds[3:], "a", "b") is None
    assert script.summary(rounds, "a")["failed_rounds"] == 1


@pytest.mark.slow
def test_engine_and_server_embed_the_same_texts(script: ModuleType, squad_sample: Path, tmp_path: Path) -> None:
    arguments = script.parse([str(squad_sample), "--embed", str(SENTENCES), "--questions", "5", "--cores", "1"])
    work = script.read_work(arguments)
    assert [body["input"] for body in work.bodies] == [request["inputs"] for request in work.requests]
    assert len(work.bodies) == 5
    participants = script.load_participants
    with participants.engine(work, 1) as engine:
        assert engine.measure(1, 0)["answers"] > 0
    with participants.server(tmp_path / "config.yaml", 1, work, {}) as url:
        answer = requests.post(url, json=work.bodies[0], timeout=60).json()
    assert answer["data"][0]["embedding"]


class Bursts(ThreadingHTTPServer):
    """Answers all that wait at once, every half second, as a server whose event loop is blocked does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.answers: list[float] = []
        self.gate = threading.Condition()
        self.bursts = 0
        threading.Thread(target=self._open, daemon=True).start()

    def _open(self) -> None:
        while True:
            time.sleep(0.5)
            with self.gate:
                self.bursts += 1
                self.gate.notify_all()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Bursts

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.gate:
            burst = self.server.bursts
            self.server.gate.wait_for(lambda: self.server.bursts > burst)
            self.server.answers.append(time.monotonic())
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def bursts() -> Iterator[Bursts]:
    """A running server of bursts."""
    with Bursts() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_answers_in_bursts_are_counted_right(script: ModuleType, bursts: Bursts, tmp_path: Path) -> None:
    bodies = tmp_path / "bodies"
    bodies.write_text('{"question": "a", "context": "b"}\n' * 3)
    url = f"http://127.0.0.1:{bursts.server_address[1]}/predict"
    result = script.load_participants.client("bursts", url, bodies, 8).measure(2, 0, None)
    # The server's own count between its first burst and its last one; a busy machine may delay a few answers.
    first, last = bursts.answers[0] + 0.1, bursts.answers[-1]
    counted = sum(time > first for time in bursts.answers) / (last - first + 0.1)
    assert result["per_second"] == pytest.approx(counted, rel=0.3)
    assert not any(result["errors"].values())
