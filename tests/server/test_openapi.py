"""The OpenAPI document: complete, true, and offline."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from running_server import RunningServer


def test_every_endpoint_is_described(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client(
        endpoints=[
            {"task": "qa", "name": "a", "route": "/ask"},
            *({"task": "qa", "name": n} for n in ("b", "a.b", "a-b")),
        ],
        allow_endpoint_changes=True,
    )
    content = client.get("/openapi.json").get_json()
    assert content["openapi"] == "3.1.0"
    assert {"/ask", "/v2/models/a/infer", "/v2/models/b/infer", "/endpoints", "/metrics"} <= set(content["paths"])
    names = [operation["operationId"] for item in content["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))
    for path, operations in content["paths"].items():
        if "get" in operations:
            assert client.get(path).status_code == 200
    example = content["paths"]["/ask"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert client.post("/ask", json=example).status_code == 200


def test_what_can_be_asked_of_text_tasks_is_described(texts_client: FlaskClient) -> None:
    paths = texts_client.get("/openapi.json").get_json()["paths"]
    asked = [path for path, operations in paths.items() if "get" in operations]
    assert {"/info", "/v1/models"} <= set(asked)
    assert [texts_client.get(path).status_code for path in asked] == [200] * len(asked)


@pytest.mark.parametrize("page", ["/docs/", "/"])
def test_pages_load_nothing_from_elsewhere(client: FlaskClient, page: str) -> None:
    text = client.get(page).text
    sources = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert sources and all(source.startswith("/") for source in sources)
    for source in sources:
        assert client.get(source).status_code == 200
    assert "default-src 'self'" in client.get(page).headers["Content-Security-Policy"]


def test_endpoints_change_at_run_time(
    make_client: Callable[..., FlaskClient], client: FlaskClient, tmp_path: Path
) -> None:
    endpoint: dict[str, Any] = {"task": "qa", "name": "second", "route": "/second"}
    question = {"question": "Who?", "context": "Ada."}
    assert client.post("/endpoints", json=endpoint).status_code == 403
    open_client = make_client(allow_endpoint_changes=True)
    assert open_client.post("/endpoints", json=endpoint).get_json() is True
    assert open_client.post("/second", json=question).status_code == 200
    assert "/second" in open_client.get("/openapi.json").get_json()["paths"]
    assert open_client.post("/endpoints", json=endpoint).status_code == 409
    bad = endpoint | {"name": "bad", "route": "/bad", "model": "/nowhere"}
    assert open_client.post("/endpoints", json=bad).status_code == 422
    assert open_client.post("/endpoints", json=endpoint | {"route": "/metrics"}).status_code == 422
    code = endpoint | {"name": "code", "route": "/code", "data_logging": {"pipeline_inputs": [{"func": "a.py:run"}]}}
    assert open_client.post("/endpoints", json=code).status_code == 422
    trace = tmp_path / "trace"
    (tmp_path / "own.py").write_text(f"open({str(trace)!r}, 'w').close()\nTASK = 'qa'\n")
    code = endpoint | {"name": "own", "route": "/own", "task": f"import:{tmp_path}/own.py"}
    assert open_client.post("/endpoints", json=code).status_code == 422
    assert not trace.exists()
    assert open_client.delete("/endpoints", json={"route": "/nothing"}).status_code == 404
    assert open_client.delete("/endpoints", json={}).status_code == 422
    assert open_client.delete("/endpoints", json=endpoint).get_json() is True
    assert open_client.post("/second", json=question).status_code == 404
    assert open_client.post("/predict", json=question).status_code == 200


def test_changes_at_once_all_happen(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client(allow_endpoint_changes=True)

    def add(number: int) -> int:
        endpoint = {"task": "qa", "route": f"/added-{number}"}
        return client.application.test_client().post("/endpoints", json=endpoint).status_code

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(add, range(3))) == [200] * 3
    assert {f"/added-{number}" for number in range(3)} <= set(client.get("/openapi.json").get_json()["paths"])


# What no schema can say: that a tensor has as many elements as its shape says, how many numbers a vector has, which
# prompts and models there are, that a text has a token, what surrogates are.
REFUSALS = """\
[[operations]]
include-path-regex = "{paths}"
checks.positive_data_acceptance.expected-statuses = ["2xx", {statuses}]
"""


def fuzz(server: RunningServer, folder: Path, refusals: dict[str, str]) -> None:
    """Let schemathesis ask a server what its own document allows, and what it does not."""
    pytest.importorskip("schemathesis")
    text = "".join(REFUSALS.format(paths=paths, statuses=statuses) for paths, statuses in refusals.items())
    (folder / "schemathesis.toml").write_text(text)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    options = ["--max-examples", "30", "--workers", "1", "--seed", "1"]
    result = subprocess.run([*command, *options], capture_output=True, text=True, timeout=600, cwd=folder)
    assert result.returncode == 0, result.stdout[-20_000:] + result.stderr[-2000:]


@pytest.mark.slow
def test_schemathesis_finds_nothing(start_server: Callable[..., RunningServer], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("endpoints:\n  - task: question-answering\n")
    fuzz(start_server("--config-file", "config.yaml"), tmp_path, {"^/v2/models/.*/infer$": '"422"'})


@pytest.mark.slow
def test_schemathesis_finds_nothing_in_text_tasks(texts_server: RunningServer, tmp_path: Path) -> None:
    fuzz(
        texts_server,
        tmp_path,
        {
            "^/v2/models/.*/infer$": '"422"',
            "^/v1/": '"400", "404"',
            "^/(embed|rerank|predict|tokenize|similarity)": '"422"',
        },
    )
