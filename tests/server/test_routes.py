"""Every route, over the application in this process."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from questions import ANSWER, CONTEXT, QUESTION

from sparsert import Pipeline


def test_first_request_of_the_founding_document(client: FlaskClient) -> None:
    response = client.post("/predict", json=QUESTION)
    assert response.status_code == 200
    assert list(response.get_json()) == ["score", "answer", "start", "end"]
    assert {key: response.get_json()[key] for key in ANSWER} == ANSWER


def test_second_request_of_the_founding_document(make_client: Callable[..., FlaskClient]) -> None:
    kwargs = {"sequence_length": 24, "max_question_length": 8, "doc_stride": 4}
    client = make_client(endpoints=[{"task": "question-answering", "kwargs": kwargs}])
    context = "I have been trying to accelerate my inference workloads. DeepSparse is a CPU runtime that helps me."
    answer = client.post("/predict", json={"question": "What is DeepSparse?", "context": context}).get_json()
    assert "CPU runtime" in answer["answer"]
    assert context[answer["start"] : answer["end"]] == answer["answer"]
    expected = Pipeline.create("question-answering", **kwargs)(question="What is DeepSparse?", context=context)
    assert answer == expected.model_dump()


@pytest.mark.parametrize("route", ["/predict", "/v2/models/question-answering-0/infer", "/v2/models/predict/infer"])
def test_both_generations_of_routes(client: FlaskClient, route: str) -> None:
    assert client.post(route, json=QUESTION).get_json()["answer"] == ANSWER["answer"]


def test_names_and_routes_as_models(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client(
        endpoints=[
            {"task": "qa", "route": "/a/b"},
            {"task": "qa", "name": "c.d", "route": "/c"},
            {"task": "qa", "name": "infer"},
        ]
    )
    assert client.get("/v2/models/infer").get_json()["name"] == "infer"
    assert client.get("/v2/models/infer/ready").get_json()["name"] == "infer"
    for route in ("/a/b", "/a/b/", "/v2/models/a/b/infer", "/v2/models/a%2Fb/infer"):
        assert client.post(route, json=QUESTION).get_json()["answer"] == ANSWER["answer"]
    for route in ("/v2/models/c%2Ed", "/v2/models/c.d/versions/1", "/v2/models/c"):
        assert client.get(route).get_json()["name"] == "c.d"
        assert client.get(f"{route}/ready").status_code == 200
        assert client.post(f"{route}/infer", json=QUESTION).status_code == 200
    assert client.get("/v2/models/a/b/infer").status_code == 405
    assert client.post("/v2/models/a/b/ready").status_code == 405
    for route in ("/v2/models/c.d/versions/2", "/v2/models/a", "/v2/models/a/b/c"):
        assert client.get(route).status_code == 404


@pytest.mark.parametrize("route", ["/ping", "/health", "/healthcheck", "/status"])
def test_old_health_routes_say_true(client: FlaskClient, route: str) -> None:
    assert client.get(route).get_json() is True


@pytest.mark.parametrize("route", ["/v2/health/live", "/v2/health/ready", "/v2/models/question-answering-0/ready"])
def test_v2_health_routes_say_ok(client: FlaskClient, route: str) -> None:
    assert client.get(route).get_json()["status"] == "OK"


def test_metadata(client: FlaskClient) -> None:
    content = client.get("/v2/models/question-answering-0").get_json()
    assert content["model_path"] == "default"
    assert [item["name"] for item in content["inputs"]] == ["question", "context"]
    assert client.get("/v2").get_json()["name"] == "sparsert"


def test_config_has_all_defaults_and_no_path(make_client: Callable[..., FlaskClient], tmp_path: Any) -> None:
    key = tmp_path / "key"
    key.write_text("a-long-secret")
    client = make_client(api_key_file=str(key))
    content = client.get("/config", headers={"X-API-Key": "a-long-secret"}).get_json()
    assert content["endpoints"][0]["batch_size"] == 1
    assert content["limits"]["max_queue"] == 256
    assert str(tmp_path) not in json.dumps(content)


def test_extra_fields_are_ignored(client: FlaskClient) -> None:
    assert client.post("/predict", json=QUESTION | {"temperature": 1}).status_code == 200


@pytest.mark.parametrize("context", ["", "   ", "\u200b", "𝔘nicode 🙂 text"])
def test_odd_contexts_are_answered(client: FlaskClient, context: str) -> None:
    answer = client.post("/predict", json={"question": "What?", "context": context}).get_json()
    assert answer["answer"] == context[answer["start"] : answer["end"]]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b'{"question": "a", "question": "b", "context": "c"}', 400),
        (b'{"question": NaN}', 400),
        (b'{"question": 1e999}', 400),
        (b"9" * 5000, 400),
        (b"[" * 100_000, 400),
        (b"[]", 422),
        (b'"text"', 422),
        (b"null", 422),
    ],
)
def test_bodies_that_are_no_request(client: FlaskClient, body: bytes, status: int) -> None:
    response = client.post("/predict", data=body, content_type="application/json")
    assert response.status_code == status
    assert {"detail", "error", "request_id"} == set(response.get_json())


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"context": 1}, ["body", "context"]),
        ({"question": None}, ["body", "question"]),
        ({"question": ["a"]}, ["body", "question"]),
        ({"question": "\ud800"}, ["body", "question"]),
    ],
)
def test_a_field_that_does_not_fit_is_named(client: FlaskClient, fields: dict[str, Any], place: list[str]) -> None:
    response = client.post("/predict", data=json.dumps(QUESTION | fields), content_type="application/json")
    assert response.status_code == 422
    assert response.get_json()["detail"][0]["loc"] == place


def test_a_missing_field_is_named(client: FlaskClient) -> None:
    response = client.post("/predict", json={"question": "a"})
    assert response.status_code == 422
    assert response.get_json()["detail"] == [{"loc": ["body", "context"], "msg": "Field required", "type": "missing"}]


def test_a_question_without_room_for_its_context(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client(endpoints=[{"task": "qa", "kwargs": {"sequence_length": 12, "max_question_length": 12}}])
    response = client.post("/predict", json={"question": "word " * 30, "context": CONTEXT})
    assert response.status_code == 422
    assert "shorten the question" in response.get_json()["error"]


def test_other_types_than_json(client: FlaskClient) -> None:
    assert client.post("/predict", data="question=a", content_type="text/plain").status_code == 415
    assert client.post("/predict", data=json.dumps(QUESTION)).status_code == 200  # without a type


def test_too_large_a_body(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client(limits={"max_body_bytes": 2000})
    assert client.post("/predict", json=QUESTION | {"context": "a" * 2000}).status_code == 413
    assert client.post("/predict", json=QUESTION).status_code == 200


def test_too_many_tokens(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client(limits={"max_request_tokens": 200, "max_batch_tokens": 50})
    response = client.post("/predict", json=QUESTION | {"context": CONTEXT + " and so on" * 100})
    assert response.status_code == 413
    assert "200 are allowed" in response.get_json()["error"]
    # Larger than a batch is not too large.
    response = client.post("/predict", json=QUESTION | {"context": CONTEXT + " and so on" * 20})
    assert response.status_code == 200


def test_unknown_routes_models_and_methods(client: FlaskClient) -> None:
    assert client.get("/nothing").status_code == 404
    assert client.post("/v2/models/nothing/infer", json=QUESTION).status_code == 404
    assert client.get("/v2/models/nothing/ready").status_code == 404
    response = client.get("/predict")
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")
    assert client.delete("/predict").status_code == 405
    assert client.head("/predict").status_code == 405
    response = client.options("/predict")
    assert (response.status_code, response.headers["Allow"]) == (204, "OPTIONS, POST")
    assert client.put("/v2/models/question-answering-0/infer").status_code == 405


def test_request_ids_are_kept_if_harmless(client: FlaskClient) -> None:
    assert client.get("/ping", headers={"X-Request-ID": "job-17.a"}).headers["X-Request-ID"] == "job-17.a"
    for given in ("a b", "x" * 65, '"quoted"', "ä"):
        assert re.fullmatch(
            r"[0-9a-f]{32}", client.get("/ping", headers={"X-Request-ID": given}).headers["X-Request-ID"]
        )


def test_an_error_inside_shows_nothing(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("/secret/path/model.onnx broke")

    endpoint = client.application.extensions["sparsert"].registry.endpoints[0]
    monkeypatch.setattr(endpoint, "answer", fail)
    response = client.post("/predict", json=QUESTION)
    assert response.status_code == 500
    assert "secret" not in response.text
    assert "Traceback" not in response.text


def test_api_key(make_client: Callable[..., FlaskClient], tmp_path: Any) -> None:
    key = tmp_path / "key"
    key.write_text("a-long-secret\n")
    client = make_client(api_key_file=str(key))
    for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer \xff"}):
        assert client.post("/predict", json=QUESTION, headers=headers).status_code == 401
        assert client.get("/metrics", headers=headers).status_code == 401
    for headers in ({"X-API-Key": "a-long-secret"}, {"Authorization": "bearer a-long-secret"}):
        assert client.post("/predict", json=QUESTION, headers=headers).status_code == 200
    for route in ("/", "/docs/", "/ping", "/openapi.json", "/static/page.js"):
        assert client.get(route).status_code == 200


def test_cors_is_off_unless_configured(client: FlaskClient, make_client: Callable[..., FlaskClient]) -> None:
    headers = {"Origin": "https://example.org"}
    assert "Access-Control-Allow-Origin" not in client.post("/predict", json=QUESTION, headers=headers).headers
    open_client = make_client(cors_origins=["https://example.org"])
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,x-stainless-os"}
    preflight = open_client.options("/predict", headers=headers | wanted)
    assert (preflight.status_code, preflight.headers["Access-Control-Allow-Headers"]) == (
        204,
        "content-type,x-stainless-os",
    )
    response = open_client.post("/predict", json=QUESTION, headers=headers)
    assert response.headers["Access-Control-Allow-Origin"] == "https://example.org"
    other = open_client.post("/predict", json=QUESTION, headers={"Origin": "https://example.com"})
    assert "Access-Control-Allow-Origin" not in other.headers
    assert other.headers["Vary"] == response.headers["Vary"] == "Origin"
    anyone = make_client(cors_origins=["*"]).get("/ping", headers={"Origin": "https://example.com"})
    assert anyone.headers["Access-Control-Allow-Origin"] == "https://example.com"


def test_sagemaker_routes(make_client: Callable[..., FlaskClient], client: FlaskClient) -> None:
    sagemaker = make_client(integration="sagemaker")
    assert sagemaker.post("/invocations", json=QUESTION).get_json()["answer"] == ANSWER["answer"]
    assert sagemaker.get("/ping").get_json()["status"] == "OK"
    assert client.post("/invocations", json=QUESTION).status_code == 404


def test_several_answers(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client(endpoints=[{"task": "qa", "kwargs": {"top_k": 3}}])
    answers = client.post("/predict", json=QUESTION).get_json()
    assert [answer["score"] for answer in answers] == sorted((answer["score"] for answer in answers), reverse=True)
    assert len(answers) == 3
    tensors = {"inputs": [{"name": n, "datatype": "BYTES", "shape": [1], "data": [v]} for n, v in QUESTION.items()]}
    assert client.post("/v2/models/qa-0/infer", json=tensors).status_code == 422


def test_metrics_count_requests(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client()
    for _ in range(3):
        client.post("/predict", json=QUESTION)
    client.post("/predict", json={})
    text = client.get("/metrics").text
    assert 'sparsert_requests_total{endpoint="question-answering-0",status="200"} 3.0' in text
    assert 'sparsert_requests_total{endpoint="question-answering-0",status="422"} 1.0' in text
    assert 'sparsert_errors_total{endpoint="question-answering-0",reason="SchemaError"} 1.0' in text
    # Four requests, of which one was refused before any work: its quick answer is no latency of the model's.
    assert 'sparsert_request_seconds_count{endpoint="question-answering-0"} 3.0' in text
    assert 'sparsert_batch_size_count{endpoint="question-answering-0"} 3.0' in text
    assert 'sparsert_queue_depth{endpoint="question-answering-0"} 0.0' in text
    tokens = re.search(r'sparsert_tokens_total\{endpoint="question-answering-0"\} (\d+)', text)
    assert tokens and int(tokens[1]) % 3 == 0 and int(tokens[1]) > 60
