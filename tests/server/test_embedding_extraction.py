"""Embeddings over HTTP: the pipeline's own results, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from sparsert.pipelines import Pipeline

FOLDER = Path(__file__).parents[1] / "pipelines" / "data" / "tiny-sentences"


@pytest.fixture(scope="module")
def served(make_client: Callable[..., FlaskClient]) -> FlaskClient:
    endpoint = {"task": "embedding_extraction", "model": str(FOLDER), "route": "/predict"}
    return make_client(endpoints=[endpoint], limits={"max_request_tokens": 100})


@pytest.mark.parametrize(
    "content",
    [
        {"inputs": "bees"},
        {"inputs": ["keep bees", "a"]},
        {"inputs": "bees", "prompt_name": "query", "truncate_dim": 3, "normalize": True},
        {"inputs": ["keep bees", "a"], "pooling": "none"},
    ],
)
def test_results_of_the_pipeline(served: FlaskClient, content: dict[str, Any]) -> None:
    expected = Pipeline.create("embedding-extraction", FOLDER, num_cores=1)(content).embeddings
    found = served.post("/predict", json=content).get_json()
    assert list(found) == ["embeddings"]
    for ours, theirs in zip(found["embeddings"], expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ({"inputs": ["a", None]}, 422, "[1] must be a string; got None"),
        ({"inputs": [["a", "b"]]}, 422, "[0] must be a string"),
        ({"inputs": []}, 422, "inputs: expected at least one text"),
        ({"inputs": ["a", "\ud800"]}, 422, "surrogate"),
        ({}, 422, "inputs"),
        ({"inputs": "a", "truncate_dim": 0}, 422, "truncate_dim"),
        ({"inputs": "a", "truncate_dim": 99}, 422, "truncate_dim must be from 1 to 24"),
        ({"inputs": "a", "pooling": "mean"}, 422, "pooling"),
        ({"inputs": ["bees " * 50] * 3}, 413, "takes 120 tokens"),
    ],
)
def test_what_is_refused(served: FlaskClient, content: dict[str, Any], status: int, message: str) -> None:
    response = served.post("/predict", json=content)
    assert (response.status_code, message in response.get_data(as_text=True)) == (status, True)


def test_the_description_has_the_schemas(served: FlaskClient) -> None:
    schemas = served.get("/openapi.json").get_json()["components"]["schemas"]
    assert {"EmbeddingInput", "EmbeddingOutput"} <= {name.split(".")[-1] for name in schemas}
