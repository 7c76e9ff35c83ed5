"""Text classification over HTTP: the pipeline's own results, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from classifiers import make_classifier
from flask.testing import FlaskClient

from sparsert.pipelines import Pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("classifier"), "bert")


@pytest.fixture
def served(make_client: Callable[..., FlaskClient], folder: Path) -> FlaskClient:
    endpoint = {"task": "text_classification", "model": str(folder), "route": "/predict", "kwargs": {"top_k": None}}
    return make_client(endpoints=[endpoint], limits={"max_request_tokens": 100})


@pytest.mark.parametrize(
    "content",
    [
        {"sequences": "a b"},
        {"sequences": ["a b", "c"]},
        {"sequences": [["a b", "c"]]},
        {"sequences": [{"text": "a", "text_pair": "b"}]},
        {"text": "a", "text_pair": "b"},
    ],
)
def test_results_of_the_pipeline(served: FlaskClient, folder: Path, content: dict[str, Any]) -> None:
    expected = Pipeline.create("text-classification", folder, top_k=None, num_cores=1)(content).model_dump()
    assert served.post("/predict", json=content).get_json() == expected


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ({"sequences": ["a", None]}, 422, "[1] must be a string, or a list of two for a pair; got None"),
        ({"sequences": [["a", "b", "c"]]}, 422, "sequences[0] must be one text, or two for a pair"),
        ({"sequences": []}, 422, "sequences is empty"),
        ({"sequences": ["a", "\ud800"]}, 422, "surrogate"),
        ({}, 422, "sequences"),
        ({"sequences": ["a " * 50] * 3}, 413, "takes 120 tokens"),
    ],
)
def test_what_is_refused(served: FlaskClient, content: dict[str, Any], status: int, message: str) -> None:
    response = served.post("/predict", json=content)
    assert (response.status_code, message in response.get_data(as_text=True)) == (status, True)


def test_the_description_has_the_schemas(served: FlaskClient) -> None:
    schemas = served.get("/openapi.json").get_json()["components"]["schemas"]
    assert {"TextClassificationInput", "TextClassificationOutput"} <= {name.split(".")[-1] for name in schemas}
