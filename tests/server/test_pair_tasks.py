"""Reranking and zero-shot classification over HTTP: the pipelines' own results, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from pair_models import make_table

from sparsert.pipelines import Pipeline

VALUES = {"a": [0.0, 0.0, 2.0], "b": [1.0, 0.0, 0.0], "c": [0.0, 5.0, 0.0]}
NAMES = {"contradiction": 0, "neutral": 1, "entailment": 2}


@pytest.fixture
def ranker(tmp_path: Path) -> Path:
    return make_table(tmp_path / "ranker", {word: values[:1] for word, values in VALUES.items()})


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    return make_table(tmp_path / "reader", VALUES, {"label2id": NAMES})


@pytest.fixture
def served(make_client: Callable[..., FlaskClient], ranker: Path, reader: Path) -> FlaskClient:
    endpoints = [
        {"task": "text_ranking", "model": str(ranker), "route": "/rank"},
        {"task": "zero_shot", "model": str(reader), "route": "/zero", "kwargs": {"hypothesis_template": "{}"}},
        {"task": "zero_shot", "model": str(reader), "route": "/labelled", "kwargs": {"labels": ["a", "b"]}},
    ]
    return make_client(endpoints=endpoints, limits={"max_request_tokens": 100})


def test_rankings_of_the_pipeline(served: FlaskClient, ranker: Path) -> None:
    pipeline = Pipeline.create("text-ranking", ranker, num_cores=1)
    request: dict[str, Any] = {"query": "a", "documents": ["a", "b", "c"]}
    for more in ({}, {"top_k": 1, "return_documents": True}, {"raw_scores": True}):
        expected = pipeline(request | more).model_dump()
        assert served.post("/rank", json=request | more).get_json() == expected
    assert [found["index"] for found in served.post("/rank", json=request).get_json()["results"]] == [1, 0, 2]


def test_a_reranker_for_clients_of_text_embeddings_inference(served: FlaskClient, ranker: Path) -> None:
    expected = Pipeline.create("text-ranking", ranker, num_cores=1)(query="a", documents=["a", "b", "c"])
    found = served.post("/rerank", json={"query": "a", "texts": ["a", "b", "c"], "return_text": True}).get_json()
    assert found == [{"index": item.index, "score": item.score, "text": "abc"[item.index]} for item in expected.results]
    pairs = served.post("/predict", json={"inputs": [["a", "b"], ["a", "c"]], "raw_scores": True}).get_json()
    assert pairs == [[{"score": 1.0, "label": "LABEL_0"}], [{"score": 0.0, "label": "LABEL_0"}]]
    described = served.get("/info").get_json()
    assert (described["max_input_length"], described["model_type"]["reranker"]["id2label"]) == (16, {"0": "LABEL_0"})
    (tokens,) = served.post("/tokenize", json={"inputs": "a b"}).get_json()
    assert [token["id"] for token in tokens] == [2, 4, 5, 3]


def test_labels_of_the_pipeline(served: FlaskClient, reader: Path) -> None:
    pipeline = Pipeline.create("zero-shot", reader, hypothesis_template="{}", num_cores=1)
    for request in (
        {"sequences": "b", "labels": ["c", "a"]},
        {"sequences": ["b", "c"], "candidate_labels": "c, a", "multi_label": True},
    ):
        assert served.post("/zero", json=request).get_json() == pipeline(request).model_dump()
    assert served.post("/labelled", json={"sequences": "b"}).get_json()["labels"] == ["a", "b"]


@pytest.mark.parametrize(
    ("route", "content", "status", "message"),
    [
        ("/rank", {"query": "a"}, 422, "documents"),
        ("/rank", {"query": "a", "documents": []}, 422, "documents"),
        ("/rank", {"query": "a", "documents": ["b", None]}, 422, "documents"),
        ("/rank", {"query": "a", "documents": ["b", "\ud800"]}, 422, "surrogate"),
        ("/rank", {"query": "a", "documents": ["b"], "top_k": 0}, 422, "top_k"),
        ("/rank", {"query": "a", "documents": ["b " * 9] * 9}, 413, "takes 117 tokens"),
        ("/zero", {"sequences": "b"}, 422, "labels are missing"),
        ("/zero", {"sequences": "b", "labels": ["a", "a"]}, 422, "labels[1] is 'a', as labels[0]"),
        ("/zero", {"sequences": "b", "labels": "a", "hypothesis_template": "{:>9}"}, 422, "hypothesis_template"),
    ],
)
def test_what_is_refused(served: FlaskClient, route: str, content: dict[str, Any], status: int, message: str) -> None:
    response = served.post(route, json=content)
    assert (response.status_code, message in response.get_data(as_text=True)) == (status, True), response.text
