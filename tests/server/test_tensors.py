"""The Open Inference Protocol's tensor form, by hand and with a client library that others wrote."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from pydantic import BaseModel
from questions import ANSWER, CONTEXT, QUESTION
from running_server import RunningServer
from text_models import endpoints

from sparsert.server.errors import SchemaError
from sparsert.server.tensors import TensorRequest, write_response

INFER = "/v2/models/question-answering-0/infer"


def tensor(name: str, *values: str) -> dict[str, Any]:
    return {"name": name, "datatype": "BYTES", "shape": [len(values)], "data": list(values)}


def test_a_batch_in_json(client: FlaskClient) -> None:
    inputs = [tensor("question", QUESTION["question"], "What does it offer?"), tensor("context", CONTEXT, CONTEXT)]
    content = client.post(INFER, json={"id": "7", "inputs": inputs}).get_json()
    assert (content["model_name"], content["id"]) == ("question-answering-0", "7")
    outputs = {item["name"]: item for item in content["outputs"]}
    assert {name: item["datatype"] for name, item in outputs.items()} == {
        "score": "FP64",
        "answer": "BYTES",
        "start": "INT64",
        "end": "INT64",
    }
    assert all(item["shape"] == [2] for item in outputs.values())
    for row, question in enumerate((QUESTION["question"], "What does it offer?")):
        plain = client.post("/predict", json={"question": question, "context": CONTEXT}).get_json()
        answer = {name: item["data"][row] for name, item in outputs.items()}
        # Sums of a batch run in another order than those of one question, so the last digits may differ.
        assert answer.pop("score") == pytest.approx(plain.pop("score"), rel=1e-4)
        assert answer == plain


def test_data_may_be_nested_and_outputs_chosen(client: FlaskClient) -> None:
    inputs = [
        {"name": "question", "datatype": "BYTES", "shape": [1, 1], "data": [[QUESTION["question"]]]},
        {"name": "context", "datatype": "BYTES", "shape": [1, 1], "data": [[CONTEXT]]},
    ]
    content = client.post(INFER, json={"inputs": inputs, "outputs": [{"name": "answer"}]}).get_json()
    assert content["outputs"] == [{"name": "answer", "datatype": "BYTES", "shape": [1], "data": [ANSWER["answer"]]}]


def test_binary_tensors(client: FlaskClient) -> None:
    def binary(name: str, value: str) -> tuple[dict[str, Any], bytes]:
        data = struct.pack("<I", len(value.encode())) + value.encode()
        head = {"name": name, "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(data)}}
        return head, data

    question, context = binary("question", QUESTION["question"]), binary("context", CONTEXT)
    head = json.dumps({"inputs": [question[0], context[0]], "parameters": {"binary_data_output": True}}).encode()
    response = client.post(
        INFER, data=head + question[1] + context[1], headers={"Inference-Header-Content-Length": str(len(head))}
    )
    length = int(response.headers["Inference-Header-Content-Length"])
    outputs = json.loads(response.data[:length])["outputs"]
    sizes = [item["parameters"]["binary_data_size"] for item in outputs]
    assert sizes == [8, 4 + len(ANSWER["answer"]), 8, 8]
    tail = response.data[length:]
    assert tail[12 : 12 + len(ANSWER["answer"])].decode() == ANSWER["answer"]
    assert struct.unpack("<qq", tail[-16:]) == (ANSWER["start"], ANSWER["end"])


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"inputs": []}, ["inputs"]),
        ({"inputs": [tensor("question", "a")]}, ["inputs"]),
        ({"inputs": [tensor("question", "a"), tensor("context", "b", "c")]}, ["inputs"]),
        ({"inputs": [tensor("question", "a"), tensor("question", "b")]}, ["inputs", 1, "name"]),
        ({"inputs": [tensor("text", "a")]}, ["inputs", 0, "name"]),
        ({"inputs": [tensor("question", "a") | {"datatype": "FP32"}]}, ["inputs", 0, "datatype"]),
        ({"inputs": [tensor("question", "a") | {"shape": [2]}]}, ["inputs", 0, "data"]),
        ({"inputs": [tensor("question", "a") | {"shape": [10**30]}]}, ["inputs", 0, "shape"]),
        ({"inputs": [tensor("question", "a") | {"shape": [-1, -1]}]}, ["inputs", 0, "shape"]),
        ({"inputs": [tensor("question", "a") | {"shape": ["1"]}]}, ["inputs", 0, "shape"]),
        ({"inputs": [tensor("question", "a") | {"data": [["a"]]}]}, ["inputs", 0, "data"]),
        ({"inputs": [tensor("question", "a") | {"data": "a"}]}, ["inputs", 0, "data"]),
        ({"inputs": ["a"]}, ["inputs", 0]),
        ({"id": 7}, ["id"]),
        ({"outputs": [{"name": "logits"}]}, ["outputs", 0, "name"]),
        ({"outputs": [{"name": "answer"}, {"name": "answer"}]}, ["outputs", 1, "name"]),
        ({"parameters": 3}, ["parameters"]),
        ({"inputs": [tensor("question", "a"), tensor("context", 1)]}, ["context"]),
        (
            {"inputs": [tensor("question", "a") | {"parameters": {"binary_data_size": 10**9}}]},
            ["inputs", 0, "parameters", "binary_data_size"],
        ),
    ],
)
def test_what_does_not_fit_is_named(client: FlaskClient, change: dict[str, Any], place: list[str | int]) -> None:
    whole = {"inputs": [tensor("question", "a"), tensor("context", "b")]} | change
    response = client.post(INFER, json=whole)
    assert response.status_code == 422
    assert response.get_json()["detail"][0]["loc"] == ["body", *place]


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 40, "100000"])
def test_a_bad_header_length(client: FlaskClient, length: str) -> None:
    response = client.post(INFER, data=b"{}", headers={"Inference-Header-Content-Length": length})
    assert response.status_code == 422


def test_too_many_rows(make_client: Callable[..., FlaskClient]) -> None:
    client = make_client(limits={"max_rows": 2})
    inputs = [tensor("question", *"abc"), tensor("context", *"abc")]
    assert client.post(INFER, json={"inputs": inputs}).status_code == 422


@pytest.mark.parametrize("binary", [False, True])
def test_tritons_client(server: RunningServer, binary: bool) -> None:
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("question_answering")
    assert client.get_server_metadata()["name"] == "sparsert"
    metadata = client.get_model_metadata("question_answering")
    inputs = []
    for item in metadata["inputs"]:
        inputs.append(triton.InferInput(item["name"], [2], item["datatype"]))
        inputs[-1].set_data_from_numpy(np.array([QUESTION[item["name"]]] * 2, dtype=object), binary_data=binary)
    outputs = [triton.InferRequestedOutput(item["name"], binary_data=binary) for item in metadata["outputs"]]
    result = client.infer("question_answering", inputs, outputs=outputs)
    assert [str(item) if isinstance(item, str) else item.decode() for item in result.as_numpy("answer")] == [
        ANSWER["answer"]
    ] * 2
    assert result.as_numpy("start").tolist() == [ANSWER["start"]] * 2
    with pytest.raises(triton.InferenceServerException, match="inputs"):
        client.infer("question_answering", inputs[:1])
    client.close()


def test_vectors_are_tensors(texts_client: FlaskClient) -> None:
    texts = ["Ada keeps bees.", "", "Bob repairs old radios " * 20]
    metadata = texts_client.get("/v2/models/embedder").get_json()
    assert metadata["inputs"] == [{"name": "inputs", "datatype": "BYTES", "shape": [-1]}]
    assert metadata["outputs"] == [{"name": "embeddings", "datatype": "FP32", "shape": [-1, -1]}]
    path, body = "/v2/models/embedder/infer", {"inputs": [tensor("inputs", *texts)]}
    plain = texts_client.post(path, json={"inputs": texts}).get_json()["embeddings"]
    (output,) = texts_client.post(path, json=body).get_json()["outputs"]
    assert (output["datatype"], output["shape"]) == ("FP32", [3, 24])
    np.testing.assert_allclose(np.array(output["data"]).reshape(3, 24), plain, atol=1e-6)
    response = texts_client.post(path, json=body | {"parameters": {"binary_data_output": True}})
    head = int(response.headers["Inference-Header-Content-Length"])
    (described,) = json.loads(response.data[:head])["outputs"]
    assert described["parameters"] == {"binary_data_size": 3 * 24 * 4} and described["shape"] == [3, 24]
    values = np.frombuffer(response.data[head:], dtype="<f4").reshape(3, 24)
    np.testing.assert_array_equal(values, np.array(output["data"], dtype=np.float32).reshape(3, 24))


@pytest.mark.parametrize(
    ("endpoint", "name"), [("classifier", "sequences"), ("tagger", "inputs"), ("zero-shot", "sequences")]
)
def test_answers_of_text_tasks_as_tensors(texts_client: FlaskClient, endpoint: str, name: str) -> None:
    """The same as of a request each; what a list holds travels as JSON."""
    texts, path = ["Ada keeps bees.", "a b"], f"/v2/models/{endpoint}/infer"
    labels = {"labels": "nature, sport"} if endpoint == "zero-shot" else {}
    columns = [tensor(name, *texts), *(tensor(field, value, value) for field, value in labels.items())]
    outputs = texts_client.post(path, json={"inputs": columns}).get_json()["outputs"]
    for row, text in enumerate(texts):
        plain = texts_client.post(path, json={name: text} | labels).get_json()
        for output in outputs:
            value = output["data"][row]
            value = value if output["name"] == name else json.loads(value)
            assert rounded(value) == rounded(plain[output["name"]])


def rounded(value: Any) -> Any:
    """A value with its floats to four digits: those of a batch are summed in another order than those of one text."""
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def test_a_field_named_inputs_is_no_tensor(texts_client: FlaskClient) -> None:
    path = "/v2/models/tagger/infer"
    for inputs in ("Ada", ["Ada"], ["Ada", "Bob"]):
        assert len(texts_client.post(path, json={"inputs": inputs}).get_json()["predictions"]) in (1, 2)
    response = texts_client.post(path, json={"inputs": [{"datatype": "BYTES"}]})
    assert response.get_json()["detail"][0]["loc"] == ["body", "inputs", 0, "name"]


def test_vectors_of_tokens_are_no_tensor(make_client: Callable[..., FlaskClient], models: dict[str, Path]) -> None:
    client = make_client(endpoints=endpoints(models, "embedder", pooling="none"))
    response = client.post("/v2/models/embedder/infer", json={"inputs": [tensor("inputs", "a b", "c")]})
    assert response.status_code == 422 and "one for each token" in response.get_json()["error"]


class Entities(BaseModel):
    """Outputs of which no tensor can hold the first two."""

    names: list[str]
    scores: list[float]
    total: int | None = None


def test_what_no_tensor_can_hold_travels_as_json() -> None:
    request = TensorRequest(None, [], ["names", "scores", "total"], frozenset({"scores"}))
    answers = [Entities(names=["Ada", "\u00e9t\u00e9"], scores=[0.5], total=1), Entities(names=[], scores=[], total=2)]
    response = write_response(request, "own", answers)
    head = int(response.headers["Inference-Header-Content-Length"])
    names, scores, total = json.loads(response.data[:head])["outputs"]
    assert [item["datatype"] for item in (names, scores, total)] == ["BYTES", "BYTES", "INT64"]
    assert ([json.loads(value) for value in names["data"]], total["data"]) == ([["Ada", "\u00e9t\u00e9"], []], [1, 2])
    (length,) = struct.unpack_from("<I", response.data, head)
    assert json.loads(response.data[head + 4 : head + 4 + length]) == [0.5]


class Found(BaseModel):
    """An output that may be missing, in either of a tensor's forms."""

    name: str | None = None
    total: int | None = None


@pytest.mark.parametrize("name", ["name", "total"])
def test_what_is_missing_is_null_and_no_bytes(name: str) -> None:
    answers = [Found(name="Ada", total=1), Found()]
    (output,) = write_response(TensorRequest(None, [], [name], frozenset()), "own", answers).get_json()["outputs"]
    assert output["data"] == [getattr(answers[0], name), None]
    with pytest.raises(SchemaError) as refused:
        write_response(TensorRequest(None, [], [name], frozenset({name})), "own", answers)
    assert refused.value.status == 422 and name in refused.value.detail[0]["msg"]
