"""The routes of OpenAI's API: vectors and rankings of the pipelines, errors in its form, and its own clients."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from running_server import RunningServer
from text_models import STATIC_INT8, endpoints
from tokenizers import Tokenizer

from sparsert.pipelines import Pipeline

TEXTS = ["Ada keeps bees in Turin.", "", "Bob repairs old radios " * 20, "\u00e9t\u00e9 \U0001f41d"]


@pytest.fixture(scope="module")
def embed(models: dict[str, Path]) -> Any:
    return Pipeline.create("embeddings", models["embedder"], num_cores=1, normalize=True, return_numpy=True)


def vectors(answer: Any) -> np.ndarray:
    """Those of an answer, float or base64."""
    rows = [item["embedding"] for item in answer["data"]]
    if isinstance(rows[0], str):
        return np.stack([np.frombuffer(base64.b64decode(row), dtype="<f4") for row in rows])
    return np.array(rows, dtype=np.float32)


# ---- embeddings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
def test_vectors_of_the_pipeline(texts_client: FlaskClient, embed: Any, models: dict[str, Path], path: str) -> None:
    answer = texts_client.post(path, json={"input": TEXTS, "model": "embedder"}).get_json()
    assert (answer["object"], answer["model"]) == ("list", "embedder")
    assert [(item["object"], item["index"]) for item in answer["data"]] == [("embedding", i) for i in range(len(TEXTS))]
    np.testing.assert_allclose(vectors(answer), embed(TEXTS).vectors, atol=1e-6)
    tokenizer = Tokenizer.from_file(str(models["embedder"] / "tokenizer.json"))
    tokenizer.enable_truncation(40)
    tokens = sum(len(tokenizer.encode(text).ids) for text in TEXTS)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_base64_says_the_same_bits(texts_client: FlaskClient) -> None:
    for fields in ({}, {"dimensions": 5}):
        floats = texts_client.post("/v1/embeddings", json={"input": TEXTS, "encoding_format": "float"} | fields)
        base = texts_client.post("/v1/embeddings", json={"input": TEXTS, "encoding_format": "base64"} | fields)
        np.testing.assert_array_equal(vectors(floats.get_json()), vectors(base.get_json()))


def test_dimensions_keep_length_one(texts_client: FlaskClient, embed: Any) -> None:
    answer = texts_client.post("/v1/embeddings", json={"input": "bees", "dimensions": 7, "user": "ada"}).get_json()
    (whole,) = embed("bees").vectors
    np.testing.assert_allclose(vectors(answer)[0], whole[:7] / np.linalg.norm(whole[:7]), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "status", "param", "code", "message"),
    [
        ({"input": []}, 400, "input", None, "holds no text"),
        ({"input": None}, 400, "input", None, "must be a string or a list of strings"),
        ({"input": ["a", None]}, 400, "input", None, "element 1 must be a string, got null"),
        ({"input": ["a", "\ud800"]}, 400, "input", None, "element 1 must not hold lone surrogates"),
        ({"input": [1, 2]}, 400, "input", None, "check_embedding_ctx_length=False"),
        ({"input": [[1, 2], [3]]}, 400, "input", None, "check_embedding_ctx_length=False"),
        ({"encoding_format": "int8"}, 400, "encoding_format", None, "'float' or 'base64'"),
        ({"dimensions": 0}, 400, "dimensions", None, "greater than or equal to 1"),
        ({"dimensions": 25}, 400, "dimensions", None, "at most 24"),
        ({"dimensions": "5"}, 400, "dimensions", None, "integer"),
        ({"colour": 1}, 400, "colour", None, "colour"),
        ({"model": "other"}, 404, "model", "model_not_found", "there is no model 'other'; there is embedder"),
        ({"model": "ranker"}, 404, "model", "model_not_found", "there is embedder"),
        ({"input": ["a"] * 2049}, 400, "input", None, "at most 2048 elements, got 2049"),
    ],
)
def test_what_is_refused(
    texts_client: FlaskClient, change: dict[str, Any], status: int, param: str, code: str | None, message: str
) -> None:
    response = texts_client.post("/v1/embeddings", json={"input": "a"} | change)
    error = response.get_json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code)
    assert error["type"] == "invalid_request_error" and message in error["message"]


def test_other_errors(
    make_client: Callable[..., FlaskClient], client: FlaskClient, models: dict[str, Path], tmp_path: Path
) -> None:
    error = client.post("/v1/embeddings", json={"input": "a"})
    assert (error.status_code, error.get_json()["error"]["code"]) == (404, None)
    assert "no model for embedding-extraction" in error.get_json()["error"]["message"]
    assert client.post("/v1/embeddings", data=b"{").get_json()["error"]["type"] == "invalid_request_error"
    assert client.get("/v1/nothing").get_json()["error"]["code"] is None
    for path in ("/v1/embeddings", "/embeddings"):
        error = client.get(path)
        assert (error.status_code, error.get_json()["error"]["type"]) == (405, "invalid_request_error")
    (tmp_path / "key").write_text("long enough")
    limits = {"max_request_tokens": 50}
    both = [*endpoints(models, "embedder", pooling="none"), *endpoints(models, "classifier")]
    guarded = make_client(endpoints=both, limits=limits, api_key_file=str(tmp_path / "key"))
    error = guarded.post("/v1/embeddings", json={"input": "a"})
    assert (error.status_code, error.get_json()["error"]["code"]) == (401, "invalid_api_key")
    assert guarded.get("/").status_code == 200 and guarded.post("/", json={"inputs": "a"}).status_code == 401
    error = guarded.post("/v1/embeddings", json={"input": "a"}, headers={"Authorization": "Bearer long enough"})
    assert error.status_code == 400 and "vectors of tokens" in error.get_json()["error"]["message"]


def test_limits(make_client: Callable[..., FlaskClient], models: dict[str, Path]) -> None:
    limited = make_client(endpoints=endpoints(models, "embedder"), limits={"max_request_tokens": 50, "max_texts": 30})
    assert limited.post("/v1/embeddings", json={"input": [""] * 25}).status_code == 200
    assert limited.post("/v1/embeddings", json={"input": [""] * 31}).status_code == 400
    response = limited.post("/v1/embeddings", json={"input": [""] * 26})
    assert (response.status_code, "takes 52 tokens" in response.get_json()["error"]["message"]) == (413, True)
    assert response.get_json()["error"]["message"].endswith("50 are allowed; send it in parts")
    assert limited.get("/info").get_json()["max_client_batch_size"] == 30


def test_a_text_that_may_not_be_cut_names_its_place(
    make_client: Callable[..., FlaskClient], models: dict[str, Path]
) -> None:
    strict = make_client(endpoints=endpoints(models, "embedder", truncation=False))
    error = strict.post("/v1/embeddings", json={"input": ["a", "a " * 60]}).get_json()["error"]
    assert error["param"] == "input.1" and error["message"].startswith("body.input.1: a text of 60 tokens")


def test_names_of_models(texts_client: FlaskClient, make_client: Callable[..., FlaskClient]) -> None:
    found = texts_client.get("/v1/models").get_json()
    assert [item["id"] for item in found["data"]] == ["embedder", "ranker", "classifier", "zero-shot", "tagger"]
    assert texts_client.get("/v1/models/ranker").get_json() == found["data"][1]
    missing = texts_client.get("/v1/models/other")
    assert (missing.status_code, missing.get_json()["error"]["code"]) == (404, "model_not_found")
    for name in ("embedder", "tiny-sentences", None):  # an endpoint's, a folder's, none
        response = texts_client.post("/v1/embeddings", json={"input": "a", "model": name})
        assert response.get_json()["model"] == "embedder"


def test_a_route_of_that_name_is_its_endpoints(
    make_client: Callable[..., FlaskClient], models: dict[str, Path]
) -> None:
    (endpoint,) = endpoints(models, "classifier")
    own = make_client(endpoints=[endpoint | {"route": "/v1/embeddings"}])
    assert own.post("/v1/embeddings", json={"sequences": "a"}).get_json()["labels"]
    assert own.post("/v1/embeddings", json={}).get_json()["detail"][0]["loc"] == ["body", "sequences"]


# ---- batches of several clients --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batching_client(make_client: Callable[..., FlaskClient], models: dict[str, Path]) -> FlaskClient:
    """One that waits for company, with a float and an int8 model."""
    return make_client(endpoints=[*endpoints(models, "embedder"), STATIC_INT8], limits={"max_delay_ms": 50})


@pytest.mark.parametrize(("model", "tolerance"), [("embedder", 1e-6), ("int8", 0)])
def test_many_clients_share_batches(batching_client: FlaskClient, model: str, tolerance: float) -> None:
    texts = [" ".join(["bees"] * (1 + number % 17)) + f" {number}" for number in range(40)]

    def ask(chosen: list[str]) -> np.ndarray:
        client = batching_client.application.test_client()
        body = {"input": chosen, "model": model, "encoding_format": "base64"}
        return vectors(client.post("/v1/embeddings", json=body).get_json())

    def batches() -> float:
        metrics = batching_client.get("/metrics").text.splitlines()
        name = f'sparsert_batch_size_count{{endpoint="{model}"}}'
        return sum(float(line.split()[-1]) for line in metrics if line.startswith(name))

    alone = np.concatenate([ask([text]) for text in texts])
    before = batches()
    with ThreadPoolExecutor(10) as pool:
        together = np.concatenate(list(pool.map(ask, [texts[place : place + 2] for place in range(0, 40, 2)])))
    assert 0 < batches() - before < 15
    np.testing.assert_allclose(together, alone, atol=tolerance, rtol=0)


# ---- reranking -------------------------------------------------------------------------------------------------------


def test_ranking(texts_client: FlaskClient, models: dict[str, Path]) -> None:
    documents = [*TEXTS, "Ada"]
    body = {"query": "Who keeps bees?", "documents": [{"text": documents[0]}, *documents[1:]], "return_documents": True}
    answer = texts_client.post("/v1/rerank", json=body | {"model": "ranker"}).get_json()
    rank = Pipeline.create("text-ranking", models["ranker"], num_cores=1)
    expected = rank(query=body["query"], documents=documents, raw_scores=True).results
    assert [item["index"] for item in answer["results"]] == [item.index for item in expected]
    for item, logit in zip(answer["results"], expected, strict=True):
        assert item["relevance_score"] == pytest.approx(1 / (1 + math.exp(-logit.score)), abs=1e-6)
        assert item["document"]["text"] == documents[item["index"]]
    first = texts_client.post("/v1/rerank", json=body | {"top_n": 2, "return_documents": False}).get_json()
    assert first["results"] == [
        {name: item[name] for name in ("index", "relevance_score")} for item in answer["results"][:2]
    ]
    assert first["usage"] == answer["usage"] and answer["usage"]["total_tokens"] > len(documents)


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"documents": []}, "documents", "at least one document"),
        ({"documents": ["a", {"title": "b"}]}, "documents", "element 1 must be a string or an object with text"),
        ({"documents": ["\ud800"]}, "documents", "lone surrogates"),
        ({"query": "\ud800"}, "query", "lone surrogates"),
        ({"query": None}, "query", "string"),
        ({"top_n": 0}, "top_n", "greater"),
        ({"max_tokens_per_doc": 5}, "max_tokens_per_doc", "max_tokens_per_doc"),
    ],
)
def test_rankings_that_are_refused(texts_client: FlaskClient, change: dict[str, Any], param: str, message: str) -> None:
    response = texts_client.post("/v1/rerank", json={"query": "a", "documents": ["b"]} | change)
    error = response.get_json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert message in error["message"]


# ---- real clients ----------------------------------------------------------------------------------------------------


def test_openais_client(texts_server: RunningServer, embed: Any) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{texts_server.url}/v1", api_key="none", max_retries=0) as client:
        default = client.embeddings.create(model="embedder", input=TEXTS)  # as base64, which it turns into floats
        floats = client.embeddings.create(model="embedder", input=TEXTS, encoding_format="float")
        assert [item.embedding for item in default.data] == [
            [float(np.float32(value)) for value in item.embedding] for item in floats.data
        ]
        np.testing.assert_allclose([item.embedding for item in default.data], embed(TEXTS).vectors, atol=1e-6)
        short = client.embeddings.create(model="embedder", input="bees", dimensions=3)
        assert len(short.data[0].embedding) == 3 and short.usage.prompt_tokens == short.usage.total_tokens > 0
        assert [model.id for model in client.models.list()][:2] == ["embedder", "ranker"]
        with pytest.raises(openai.NotFoundError) as missing:
            client.embeddings.create(model="other", input="a")
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError, match="holds no text"):
            client.embeddings.create(model="embedder", input=[])


def test_langchains_client(texts_server: RunningServer, embed: Any) -> None:
    langchain = pytest.importorskip("langchain_openai")
    embeddings = langchain.OpenAIEmbeddings(
        model="embedder",
        base_url=f"{texts_server.url}/v1",
        api_key="none",
        check_embedding_ctx_length=False,
    )
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), embed(TEXTS).vectors, atol=1e-6)
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), embed(TEXTS[0]).vectors[0], atol=1e-6)
