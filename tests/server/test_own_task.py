"""A task that the user registers is served as those of the package are, though nothing in the package knows it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from flask.testing import FlaskClient
from running_server import RunningServer
from tokenizers import Tokenizer

import sparsert
from sparsert.pipelines import Pipeline

OWN = Path(__file__).with_name("own_task.py")
MODEL = Path(sparsert.__file__).parent / "models" / "minilm-l6-squad-pruned60_quant"
TEXTS = ["Ada keeps bees in Turin.", "In 1995 they founded a society.", "Bob repairs radios."]

CONFIG = """\
num_workers: 1
num_cores: 1
loggers: {python: {}}
endpoints:
  - task: import:own_task.py
    name: own
    route: /beginnings
    kwargs: {capitals: true}
    data_logging:
      predefined: [{func: beginnings}]
      pipeline_inputs.texts: [{func: np.size}]
limits:
  max_request_tokens: 100
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The pipeline in this process, on ONNX Runtime."""
    pytest.importorskip("onnxruntime")
    return Pipeline.create(f"import:{OWN}", capitals=True, engine_type="onnxruntime")


def token_count(texts: list[str]) -> int:
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.no_padding()
    return sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)


def test_a_task_of_ones_own_is_served_over_http(
    start_server: Callable[..., RunningServer], own: Any, tmp_path: Path
) -> None:
    (tmp_path / "own_task.py").write_text(OWN.read_text())
    (tmp_path / "config.yaml").write_text(CONFIG)
    served = start_server("--config-file", "config.yaml")
    requests_of = [TEXTS[:count] for count in (1, 2, 3)] * 4
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(lambda texts: requests.post(f"{served.url}/beginnings", json={"texts": texts}).json(), requests_of)
        )
    for texts, answer in zip(requests_of, answers, strict=True):
        expected = own(texts=texts)
        assert answer["words"] == expected.words == [word.upper() for word in expected.words]
        # another engine: int8 activations may round to a neighbour
        np.testing.assert_allclose(answer["scores"], expected.scores, atol=1.0)

    # Its own count of tokens is what metrics add up and limits go by.
    metrics = requests.get(f"{served.url}/metrics").text
    total = sum(token_count(texts) for texts in requests_of)
    assert f'sparsert_tokens_total{{endpoint="own"}} {total}.0' in metrics
    refused = requests.post(f"{served.url}/beginnings", json={"texts": TEXTS * 7})
    assert token_count(TEXTS * 7) > 100
    assert (refused.status_code, f"takes {token_count(TEXTS * 7)} tokens" in refused.json()["error"]) == (413, True)

    # Its log has its own functions, and the times of the stages.
    lines = [json.loads(line) for line in served.log.read_text().splitlines() if '"sparsert.metrics"' in line]
    assert sorted(line["values"]["pipeline_outputs__words_found"] for line in lines) == sorted(map(len, requests_of))
    assert all(line["values"]["prediction_latency/engine_forward_seconds"] > 0 for line in lines)

    # What it refuses, its schema refuses, and what nobody foresaw are the client's faults.
    for content in ({"texts": ["Ada.", ""]}, {"texts": []}, {"text": "Ada."}, {"texts": ["\ud800"]}):
        assert requests.post(f"{served.url}/beginnings", json=content).status_code == 422
    assert str(tmp_path) not in requests.get(f"{served.url}/config").text


@pytest.fixture(scope="module")
def client(make_client: Callable[..., FlaskClient]) -> FlaskClient:
    return make_client(
        endpoints=[
            {"task": f"import:{OWN}", "name": "own", "route": "/beginnings", "kwargs": {"capitals": True}},
            {"task": "last_words", "name": "last"},
            {"task": "qa"},
        ]
    )


def test_it_is_described_by_its_schemas(client: FlaskClient, own: Any) -> None:
    document = client.get("/openapi.json").get_json()
    body = document["paths"]["/beginnings"]["post"]["requestBody"]["content"]["application/json"]
    assert body["example"] == own.example
    assert client.post("/beginnings", json=body["example"]).status_code == 200
    schema = document["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
    assert (schema["required"], schema["properties"]["texts"]["type"]) == (["texts"], "array")
    models = [client.get(f"/v2/models/{name}").get_json() for name in ("own", "last", "qa-0")]
    assert [model["task"] for model in models] == ["beginnings", "last_words", "qa"]
    assert [item["name"] for item in models[0]["outputs"]] == ["words", "scores"]
    # One without an example has none to show.
    infer = document["paths"]["/v2/models/last/infer"]["post"]["requestBody"]["content"]["application/json"]
    assert "examples" not in infer


def test_a_task_derived_from_it_is_one_of_its_own(client: FlaskClient) -> None:
    answer = client.post("/v2/models/last/infer", json={"texts": TEXTS}).get_json()
    assert answer["words"] == ["."] * 3
    question = {"question": "Who keeps bees?", "context": TEXTS[0]}
    assert client.post("/v2/models/qa-0/infer", json=question).get_json()["answer"] == "Ada"


def test_a_module_may_register_it_too(make_client: Callable[..., FlaskClient]) -> None:
    """As in a Gunicorn of one's own: what has been imported is served by its name alone."""
    Pipeline.create(f"import:{OWN}")
    client = make_client(endpoints=[{"task": "first-words", "route": "/words"}])
    assert client.post("/words", json={"texts": TEXTS[:1]}).get_json()["words"]
    assert "own_task" not in sys.modules


PICKY = """
from typing import Any

from pydantic import BaseModel

from sparsert import Pipeline
from sparsert.errors import InputError

TASK = "picky"


class Words(BaseModel):
    row: tuple[Any, ...] = ()
    bag: frozenset[Any] = frozenset()


class Count(BaseModel):
    words: int


@Pipeline.register(TASK, default_model_path="default")
class Picky(Pipeline):
    input_schema = Words
    output_schema = Count

    def preprocess(self, inputs):
        for item in inputs:
            if not item.row:
                raise InputError("a row has no words")
        return [item.row for item in inputs]

    def forward(self, prepared):
        return prepared

    def postprocess(self, prepared, outputs):
        return [Count(words=len(row)) for row in outputs]
"""


def test_what_a_task_refuses_is_the_clients_fault(make_client: Callable[..., FlaskClient], tmp_path: Path) -> None:
    (tmp_path / "picky.py").write_text(PICKY)
    client = make_client(endpoints=[{"task": f"import:{tmp_path}/picky.py", "route": "/picky"}])
    assert client.post("/picky", json={"row": ["a", "b"], "bag": ["c"]}).get_json() == {"words": 2}
    response = client.post("/picky", json={"row": []})
    assert (response.status_code, "a row has no words" in response.text) == (422, True)
    # Whatever the strings of a request are in.
    for content in ({"row": ["\ud800"]}, {"row": ["a"], "bag": ["\ud800"]}, {"row": [{"a": ["\ud800"]}]}):
        assert client.post("/picky", json=content).status_code == 422
