"""The routes of text-embeddings-inference: its published contract, the pipelines' numbers, and the hub's client."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from running_server import RunningServer
from text_models import endpoints
from tokenizers import Tokenizer

from sparsert import __version__
from sparsert.pipelines import Pipeline

LONG = "bees " * 60
PAIR = ["Who keeps bees?", "Ada keeps bees in Turin."]

HEADERS = {
    "x-compute-type",
    "x-compute-time",
    "x-compute-characters",
    "x-compute-tokens",
    "x-total-time",
    "x-tokenization-time",
    "x-queue-time",
    "x-inference-time",
}

# Of docs/openapi.json in huggingface/text-embeddings-inference: a route, an example of its request with all its fields
# at their defaults, and what the answer is made of, where a list has one element and a dict the required keys.
NUMBER, TEXT = float, str
TRUNCATION = {"truncate": False, "truncation_direction": "Right"}
CONTRACT: dict[str, tuple[dict[str, Any], Any]] = {
    "/embed": (
        {"inputs": "test", "normalize": True, "prompt_name": None, "dimensions": None} | TRUNCATION,
        [[NUMBER]],
    ),
    "/embed_all": ({"inputs": "test", "prompt_name": None} | TRUNCATION, [[[NUMBER]]]),
    "/rerank": (
        {
            "query": "What is Deep Learning?",
            "texts": ["Deep Learning is ..."],
            "raw_scores": False,
            "return_text": False,
        }
        | TRUNCATION,
        [{"index": int, "score": NUMBER}],
    ),
    "/predict": (
        {"inputs": "What is Deep Learning?", "raw_scores": False} | TRUNCATION,
        [{"label": TEXT, "score": NUMBER}],
    ),
    "/similarity": (
        {
            "inputs": {"source_sentence": "What is Deep Learning?", "sentences": ["What is Machine Learning?"]},
            "parameters": {"prompt_name": None} | TRUNCATION,
        },
        [NUMBER],
    ),
    "/tokenize": (
        {"inputs": "test", "add_special_tokens": True, "prompt_name": None},
        [[{"id": int, "text": TEXT, "special": bool, "start": None, "stop": None}]],
    ),
    "/decode": ({"ids": [0, 1, 2], "skip_special_tokens": True}, [TEXT]),
    "/v1/embeddings": (
        {"input": "test", "model": None, "user": None, "encoding_format": "float", "dimensions": None},
        {
            "object": TEXT,
            "data": [{"object": TEXT, "embedding": [NUMBER], "index": int}],
            "model": TEXT,
            "usage": {"prompt_tokens": int, "total_tokens": int},
        },
    ),
}
ERROR_TYPES = {"Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"}
INFO = {
    "model_id": TEXT,
    "model_dtype": TEXT,
    "served_model_name": TEXT,
    "model_type": {"embedding": {"pooling": TEXT}},
    "max_concurrent_requests": int,
    "max_input_length": int,
    "max_batch_tokens": int,
    "max_client_batch_size": int,
    "auto_truncate": bool,
    "tokenization_workers": int,
    "version": TEXT,
}


def check_form(value: Any, form: Any) -> None:
    """Compare an answer with a form of ``CONTRACT``; a None there may be anything."""
    if isinstance(form, list):
        assert isinstance(value, list) and value
        for item in value:
            check_form(item, form[0])
    elif isinstance(form, dict):
        assert isinstance(value, dict) and set(form) <= set(value)
        for name in form:
            check_form(value[name], form[name])
    elif form is not None:
        assert isinstance(value, (int, float) if form is float else form)


@pytest.mark.parametrize("path", CONTRACT)
def test_the_published_contract(texts_client: FlaskClient, path: str) -> None:
    body, form = CONTRACT[path]
    response = texts_client.post(path, json=body)
    assert response.status_code == 200, response.text
    check_form(response.get_json(), form)
    required = {name: body[name] for name in ("inputs", "query", "texts", "ids", "input") if name in body}
    short = texts_client.post(path, json=required)
    assert short.get_json() == response.get_json()
    if path not in ("/tokenize", "/decode", "/v1/embeddings"):
        assert set(response.headers.keys()) >= HEADERS
        assert response.headers["x-compute-type"] == "cpu"
        assert all(int(response.headers[name]) >= 0 for name in HEADERS - {"x-compute-type"})
        assert int(response.headers["x-compute-tokens"]) > 0


def test_characters_and_tokens_are_counted(texts_client: FlaskClient, models: dict[str, Path]) -> None:
    texts = ["\U0001f41d bees", ""]
    headers = texts_client.post("/embed", json={"inputs": texts}).headers
    tokenizer = Tokenizer.from_file(str(models["embedder"] / "tokenizer.json"))
    assert int(headers["x-compute-tokens"]) == sum(len(tokenizer.encode(text).ids) for text in texts)
    assert int(headers["x-compute-characters"]) == 6


# ---- embeddings ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embed(models: dict[str, Path]) -> Any:
    return Pipeline.create("embeddings", models["embedder"], num_cores=1, return_numpy=True)


@pytest.mark.parametrize(
    ("fields", "own"),
    [
        ({}, {"normalize": True}),
        ({"normalize": False}, {"normalize": False}),
        ({"dimensions": 5}, {"normalize": True, "truncate_dim": 5}),
        ({"prompt_name": "query"}, {"normalize": True, "prompt_name": "query"}),
        ({"truncate": True, "truncation_direction": "right"}, {"normalize": True}),
    ],
)
def test_vectors_of_the_pipeline(
    texts_client: FlaskClient, embed: Any, fields: dict[str, Any], own: dict[str, Any]
) -> None:
    texts = [*PAIR, LONG, ""]
    found = texts_client.post("/embed", json={"inputs": texts} | fields).get_json()
    np.testing.assert_allclose(found, embed(inputs=texts, **own).vectors, atol=1e-6)


def test_vectors_of_tokens(texts_client: FlaskClient, embed: Any) -> None:
    found = texts_client.post("/embed_all", json={"inputs": PAIR}).get_json()
    for ours, expected in zip(found, embed(inputs=PAIR, pooling="none").vectors, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_similarity(texts_client: FlaskClient, embed: Any) -> None:
    sentences = [*PAIR, LONG]
    body = {"inputs": {"source_sentence": PAIR[0], "sentences": sentences}, "parameters": {"prompt_name": "query"}}
    source, *others = embed(inputs=[PAIR[0], *sentences], prompt_name="query", normalize=True).vectors
    expected = [float(other @ source) for other in others]
    assert texts_client.post("/similarity", json=body).get_json() == pytest.approx(expected, abs=1e-6)


# ---- rankings and labels ---------------------------------------------------------------------------------------------


def test_ranking(texts_client: FlaskClient, models: dict[str, Path]) -> None:
    texts = [PAIR[1], LONG, ""]
    expected = Pipeline.create("text-ranking", models["ranker"], num_cores=1)(
        query=PAIR[0], documents=texts, raw_scores=True
    ).results
    body = {"query": PAIR[0], "texts": texts, "return_text": True}
    raw = texts_client.post("/rerank", json=body | {"raw_scores": True}).get_json()
    found = texts_client.post("/rerank", json=body).get_json()
    for item, logit, other in zip(found, raw, expected, strict=True):
        assert item["index"] == logit["index"] == other.index and item["text"] == texts[other.index]
        assert logit["score"] == pytest.approx(other.score, abs=1e-6)
        assert item["score"] == pytest.approx(1 / (1 + math.exp(-other.score)), abs=1e-6)


@pytest.mark.parametrize("raw", [False, True])
def test_labels(texts_client: FlaskClient, models: dict[str, Path], raw: bool) -> None:
    classify = Pipeline.create("text-classification", models["classifier"], num_cores=1)
    rows = [["a b"], ["a", "b"], ["c " * 60]]
    function = "none" if raw else None
    expected = classify(sequences=rows, return_all_scores=True, function_to_apply=function)
    found = texts_client.post("/predict", json={"inputs": rows, "raw_scores": raw}).get_json()
    for row, labels, scores in zip(found, expected.labels, expected.scores, strict=True):
        assert [item["label"] for item in row] == labels
        assert [item["score"] for item in row] == pytest.approx(scores, abs=1e-5)
    for single, place in (("a b", 0), (["a", "b"], 1)):
        (alone,) = texts_client.post("/predict", json={"inputs": [rows[place]], "raw_scores": raw}).get_json()
        assert texts_client.post("/predict", json={"inputs": single, "raw_scores": raw}).get_json() == alone


def test_labels_of_a_ranker(make_client: Callable[..., FlaskClient], models: dict[str, Path]) -> None:
    (endpoint,) = endpoints(models, "ranker")
    client = make_client(endpoints=[endpoint])  # at /predict
    (best,) = client.post("/rerank", json={"query": PAIR[0], "texts": PAIR[1:]}).get_json()
    assert client.post("/predict", json={"inputs": PAIR}).get_json() == [{"score": best["score"], "label": "LABEL_0"}]
    own = client.post("/predict", json={"query": PAIR[0], "documents": PAIR[1:]}).get_json()
    assert own["results"][0]["index"] == 0
    response = client.post("/predict", json={"inputs": [PAIR, ["a"]]})
    assert (response.status_code, response.get_json()["error_type"]) == (422, "Validation")
    assert response.get_json()["error"].startswith("body.inputs.1: must be a pair")


def test_a_route_of_both_dialects(make_client: Callable[..., FlaskClient], models: dict[str, Path]) -> None:
    """A lone classifier's own route is /predict as well: a body's field says whose it is, and so are its errors."""
    client = make_client(endpoints=endpoints(models, "classifier"))
    assert set(client.post("/predict", json={"sequences": "a"}).get_json()) == {"labels", "scores"}
    assert set(client.post("/predict", json={"inputs": "a"}).get_json()[0]) == {"label", "score"}
    assert set(client.post("/predict", json={}).get_json()) == {"detail", "error", "request_id"}
    assert set(client.post("/predict", json={"inputs": []}).get_json()) == {"error", "error_type"}


# ---- tokens and information ------------------------------------------------------------------------------------------


def test_tokens(texts_client: FlaskClient, models: dict[str, Path]) -> None:
    text = "\u00e9t\u00e9 \U0001f41d bees"
    tokenizer = Tokenizer.from_file(str(models["embedder"] / "tokenizer.json"))
    for special in (True, False):
        encoding = tokenizer.encode(text, add_special_tokens=special)
        (tokens,) = texts_client.post("/tokenize", json={"inputs": text, "add_special_tokens": special}).get_json()
        assert [token["id"] for token in tokens] == encoding.ids
        for token, (start, stop), inside in zip(tokens, encoding.offsets, encoding.special_tokens_mask, strict=True):
            assert token["special"] == bool(inside)
            if not inside:
                assert (token["start"], token["stop"], token["text"]) == (start, stop, text[start:stop])
        body = {"ids": [encoding.ids, encoding.ids[:2]], "skip_special_tokens": special}
        decoded = texts_client.post("/decode", json=body).get_json()
        assert decoded == [tokenizer.decode(ids, skip_special_tokens=special) for ids in body["ids"]]
    (prompted,) = texts_client.post("/tokenize", json={"inputs": "bees", "prompt_name": "query"}).get_json()
    assert [token["id"] for token in prompted] == tokenizer.encode("what is bees").ids


def test_information(
    texts_client: FlaskClient, make_client: Callable[..., FlaskClient], models: dict[str, Path]
) -> None:
    found = texts_client.get("/info").get_json()
    check_form(found, INFO)
    assert found["model_id"] == "tiny-sentences" and found["served_model_name"] == "embedder"
    assert found["model_type"] == {"embedding": {"pooling": "mean"}}
    assert (found["max_input_length"], found["max_client_batch_size"], found["auto_truncate"]) == (40, 2048, True)
    assert (found["max_concurrent_requests"], found["version"]) == (256, __version__)
    both = endpoints(models, "ranker", "classifier", truncation=False)
    limited = make_client(endpoints=both, limits={"max_batch_tokens": 99, "max_texts": 5, "max_queue": 7})
    found = limited.get("/info").get_json()
    numbers = {"id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1}}
    assert found["model_type"] == {"classifier": numbers} and not found["auto_truncate"]
    assert (found["max_batch_tokens"], found["max_client_batch_size"], found["max_concurrent_requests"]) == (99, 5, 7)
    alone = make_client(endpoints=endpoints(models, "ranker")).get("/info").get_json()["model_type"]
    assert alone == {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
    tagged = make_client(endpoints=endpoints(models, "tagger")).get("/info").get_json()["model_type"]
    assert tagged["classifier"]["id2label"]["1"] == "B-PER"


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "message"),
    [
        ("/embed", {"inputs": []}, 400, "Empty", "body.inputs: holds no text"),
        ("/embed_all", {"inputs": []}, 400, "Empty", "holds no text"),
        ("/rerank", {"query": "a", "texts": []}, 400, "Empty", "body.texts: holds no text"),
        ("/predict", {"inputs": []}, 400, "Empty", "body.inputs: holds no text"),
        ("/tokenize", {"inputs": []}, 400, "Empty", "body.inputs: holds no text"),
        ("/decode", {"ids": [[]]}, 400, "Empty", "body.ids: holds no token ids"),
        (
            "/similarity",
            {"inputs": {"source_sentence": "a", "sentences": []}},
            400,
            "Empty",
            "body.inputs.sentences: holds no text",
        ),
        ("/embed", {}, 422, "Validation", "body.inputs: Field required"),
        ("/embed", {"inputs": ["a", None]}, 422, "Validation", "element 1 must be a string, got null"),
        ("/embed", {"inputs": ["a", "\ud800"]}, 422, "Validation", "element 1 must not hold lone surrogates"),
        ("/embed", {"inputs": [[1, 2]]}, 422, "Validation", "token ids"),
        ("/embed", {"inputs": [["a", "b"]]}, 422, "Validation", "element 0 must be a string, got a list"),
        ("/embed", {"inputs": "a", "colour": 1}, 422, "Validation", "body.colour"),
        ("/embed", {"inputs": "a", "dimensions": 25}, 422, "Validation", "body.dimensions: must be at most 24"),
        ("/embed", {"inputs": "a", "prompt_name": "x"}, 422, "Validation", "must be one of ['document', 'query']"),
        ("/embed", {"inputs": ["a", LONG], "truncate": False}, 422, "Validation", "body.inputs.1: has 22 tokens more"),
        ("/embed", {"inputs": LONG, "truncation_direction": "Left"}, 422, "Validation", "at the right alone"),
        ("/embed", {"inputs": ["a"] * 2049}, 422, "Validation", "at most 2048 elements"),
        (
            "/similarity",
            {"inputs": {"source_sentence": LONG, "sentences": ["a"]}, "parameters": {"truncate": False}},
            422,
            "Validation",
            "body.inputs.source_sentence: has 22 tokens",
        ),
        (
            "/similarity",
            {"inputs": {"source_sentence": "a", "sentences": ["a", LONG]}, "parameters": {"truncate": False}},
            422,
            "Validation",
            "body.inputs.sentences.1: has 22 tokens",
        ),
        ("/rerank", {"query": "a", "texts": ["b", LONG], "truncate": False}, 422, "Validation", "body.texts.1: has"),
        ("/predict", {"inputs": [["a"], ["a", "b", "c"]]}, 422, "Validation", "element 1 must be a list of one or two"),
        ("/predict", {"inputs": {"a": 1}}, 422, "Validation", "must be a string, a pair"),
        ("/predict", {"inputs": "c " * 60, "truncate": False}, 422, "Validation", "body.inputs.0: has 22 tokens"),
        ("/tokenize", {"inputs": "a", "prompt_name": "x"}, 422, "Validation", "must be one of ['document', 'query']"),
        ("/decode", {"ids": [1 << 32]}, 422, "Validation", "must be a list of token ids"),
        ("/embed_sparse", {"inputs": "a"}, 424, "Backend", "sparse embeddings"),
    ],
)
def test_what_is_refused(
    texts_client: FlaskClient, path: str, body: dict[str, Any], status: int, kind: str, message: str
) -> None:
    response = texts_client.post(path, json=body)
    error = response.get_json()
    assert (response.status_code, set(error), error["error_type"]) == (status, {"error", "error_type"}, kind)
    assert message in error["error"] and kind in ERROR_TYPES
    assert response.headers["X-Request-ID"]


@pytest.mark.parametrize("path", ["/embed", "/embed_all", "/embed_sparse", "/similarity", "/rerank", "/decode", "/"])
def test_a_wrong_method_has_the_form_of_the_route(texts_client: FlaskClient, path: str) -> None:
    response = texts_client.put(path, json={"inputs": "a"})
    assert (response.status_code, response.get_json()["error_type"]) == (405, "Validation")
    assert "POST" in response.headers["Allow"]


def test_a_wrong_method_of_an_own_route(make_client: Callable[..., FlaskClient]) -> None:
    error = make_client(endpoints=[{"task": "question-answering", "route": "/embed"}]).get("/embed")
    assert (error.status_code, set(error.get_json())) == (405, {"detail", "error", "request_id"})


@pytest.mark.parametrize("path", ["/embed", "/embed_all", "/similarity", "/rerank", "/predict", "/tokenize", "/decode"])
def test_a_server_without_such_a_model(make_client: Callable[..., FlaskClient], path: str) -> None:
    bare = make_client(endpoints=[{"task": "question-answering", "route": "/ask"}])
    response = bare.post(path, json=CONTRACT[path][0])
    assert (response.status_code, response.get_json()["error_type"]) == (424, "Backend")
    assert "this server has no model for" in response.get_json()["error"]
    assert bare.get("/info").status_code == 424


def test_short_texts_may_say_truncate_false(texts_client: FlaskClient) -> None:
    body = {"inputs": "a", "truncate": False, "truncation_direction": "left"}
    assert texts_client.post("/embed", json=body).status_code == 200


def test_a_model_without_vectors_of_tokens(make_client: Callable[..., FlaskClient], models: dict[str, Path]) -> None:
    first = make_client(endpoints=endpoints(models, "embedder", pooling="cls"))
    assert len(first.post("/embed_all", json={"inputs": "bees"}).get_json()[0]) > 2
    assert len(first.post("/embed", json={"inputs": "bees"}).get_json()) == 1
    tokens = make_client(endpoints=endpoints(models, "embedder", pooling="none"))
    assert tokens.post("/embed_all", json={"inputs": "bees"}).status_code == 200
    response = tokens.post("/embed", json={"inputs": "bees"})
    assert (response.status_code, response.get_json()["error_type"]) == (424, "Backend")


# ---- the hub's client ------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, which asks this machine alone."""
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return hub


@pytest.mark.parametrize("path", ["", "/embed"])
def test_inference_client_embeds(texts_server: RunningServer, hub: Any, embed: Any, path: str) -> None:
    client = hub.InferenceClient(texts_server.url + path, timeout=60)
    found = client.feature_extraction(PAIR[1], normalize=True, prompt_name="query", truncate=True)
    expected = embed(inputs=[PAIR[1]], normalize=True, prompt_name="query").vectors
    np.testing.assert_allclose(found, expected, atol=1e-6)
    many = client.feature_extraction(PAIR, dimensions=5, truncation_direction="right")
    np.testing.assert_allclose(many, embed(inputs=PAIR, normalize=True, truncate_dim=5).vectors, atol=1e-6)


@pytest.mark.parametrize("path", ["", "/similarity"])
def test_inference_client_compares(texts_server: RunningServer, hub: Any, embed: Any, path: str) -> None:
    client = hub.InferenceClient(texts_server.url + path, timeout=60)
    source, *others = embed(inputs=PAIR, normalize=True).vectors
    found = client.sentence_similarity(PAIR[0], PAIR[1:])
    assert found == pytest.approx([float(other @ source) for other in others], abs=1e-6)


def test_inference_client_classifies(texts_server: RunningServer, hub: Any, models: dict[str, Path]) -> None:
    client = hub.InferenceClient(f"{texts_server.url}/predict", timeout=60)
    classify = Pipeline.create("text-classification", models["classifier"], num_cores=1, top_k=None)
    # As of text-embeddings-inference: a flat list for one text, of which this client gives the first
    best = client.text_classification("a b", top_k=2)
    assert best.label == classify("a b").labels[0][0]
    assert best.score == pytest.approx(classify("a b").scores[0][0], abs=1e-5)
    raw = client.text_classification("a b", function_to_apply="none")
    expected = classify(sequences="a b", function_to_apply="none").scores[0][0]
    assert raw.score == pytest.approx(expected, abs=1e-5)
