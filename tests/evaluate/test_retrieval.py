"""How well embeddings find what is relevant: datasets, the search, and the scores of a model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsert.errors import InputError
from sparsert.evaluate import evaluate
from sparsert.evaluate.__main__ import main
from sparsert.evaluate.retrieval import RetrievalText, read_retrieval, search
from sparsert.pipelines import Pipeline

FOLDER = Path(__file__).parents[1] / "pipelines" / "data" / "tiny-sentences"

DATASET: dict[str, Any] = {
    "queries": {"q1": "Who keeps bees?", "q2": "What is black death?", "q3": "Nobody knows"},
    "corpus": {
        "q1": "Ada keeps bees.",
        "d2": {"title": "Black Death", "text": "It was the plague."},
        "d3": {"text": "Packets are switched."},
    },
    "relevant": {"q1": ["q1"], "q2": {"d2": 2, "d3": 1, "q1": 0}, "q3": []},
}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def to_file(content: Any) -> Path:
        path = tmp_path / "dataset.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return to_file


def test_three_sections(write: Any) -> None:
    texts = read_retrieval(write(DATASET))
    assert texts == [
        RetrievalText("query q1", "Who keeps bees?", "query", {"document q1": 1.0}),
        RetrievalText(
            "query q2", "What is black death?", "query", {"document d2": 2.0, "document d3": 1.0, "document q1": 0.0}
        ),
        RetrievalText("document q1", "Ada keeps bees.", "document"),
        RetrievalText("document d2", "Black Death It was the plague.", "document"),
        RetrievalText("document d3", "Packets are switched.", "document"),
    ]
    assert [text.id for text in read_retrieval(write(DATASET), 1) if text.kind == "query"] == ["query q1"]


def test_questions_that_look_for_their_contexts(squad_sample: Path) -> None:
    texts = read_retrieval(squad_sample)
    queries = [text for text in texts if text.kind == "query"]
    documents = {text.id: text.text for text in texts if text.kind == "document"}
    assert (len(queries), len(documents)) == (54, 21)
    articles = json.loads(squad_sample.read_text(encoding="utf-8"))["data"]
    contexts = {
        entry["id"]: paragraph["context"]
        for article in articles
        for paragraph in article["paragraphs"]
        for entry in paragraph["qas"]
    }
    for query in queries:
        [found] = query.answers
        assert documents[found] == contexts[query.id.removeprefix("query ")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": ["a"]}, "corpus must be a JSON object, got a list"),
        ({"relevant": None}, "relevant must be a JSON object, got null"),
        ({"queries": {"q1": 3}}, "queries, 'q1' must be a JSON object, got a number"),
        ({"corpus": {"q1": {"title": "no text"}}}, "corpus, 'q1' has no 'text'"),
        ({"relevant": {"q1": "q1"}}, "relevant, 'q1' must be a list of ids, or an object of gains, got a string"),
        ({"relevant": {"q1": ["d9"]}}, "relevant, 'q1' names the document 'd9', which corpus does not have"),
        ({"relevant": {"q1": {"d2": -1}}}, "the gain of 'd2' must be a number of at least 0, got -1"),
        ({"relevant": {"q9": ["d2"]}}, "relevant names the query 'q9', which queries does not have"),
        ({"relevant": {"q1": []}}, "no query with a relevant document"),
    ],
)
def test_datasets_that_make_no_sense(changes: dict[str, Any], message: str, write: Any) -> None:
    path = write(DATASET | changes)
    with pytest.raises(InputError, match=message) as failure:
        read_retrieval(path)
    assert str(path) in str(failure.value)


def test_search_is_that_of_a_loop() -> None:
    numbers = np.random.default_rng(0)
    queries = numbers.standard_normal((150, 5)).astype(np.float32)
    documents = numbers.standard_normal((40, 5)).astype(np.float32)
    documents[7] = documents[30]
    found = search(queries, documents, "dot", 10)
    for query, ranking in zip(queries, found.tolist(), strict=True):
        scores = [(-float(np.dot(query, document)), place) for place, document in enumerate(documents)]
        scores[30] = (scores[7][0], 30)  # equal ones, whatever the order of a sum
        assert ranking == [place for _, place in sorted(scores)[:10]]


def test_a_model_is_scored_as_by_hand(squad_sample: Path) -> None:
    result = evaluate(FOLDER, squad_sample, task="embedding_extraction", num_cores=1)
    texts = read_retrieval(squad_sample)
    embed = Pipeline.create("embedding_extraction", FOLDER, num_cores=1, return_numpy=True)
    documents = [text for text in texts if text.kind == "document"]
    corpus = embed(inputs=[text.text for text in documents], prompt_name="document").embeddings.astype(float)
    values: dict[str, list[float]] = {"ndcg@10": [], "mrr@10": [], "recall@1": [], "recall@10": [], "recall@100": []}
    predictions = {}
    for query in texts:
        if query.kind == "document":
            continue
        vector = embed(inputs=query.text, prompt_name="query").embeddings[0].astype(float)
        order = sorted(range(len(documents)), key=lambda place, vector=vector: -float(corpus[place] @ vector))
        [right] = query.answers
        rank = [documents[place].id for place in order].index(right) + 1
        values["ndcg@10"].append(1 / math.log2(rank + 1) if rank <= 10 else 0)
        values["mrr@10"].append(1 / rank if rank <= 10 else 0)
        for depth in (1, 10, 100):
            values[f"recall@{depth}"].append(rank <= depth)
        predictions[query.id.removeprefix("query ")] = documents[order[0]].id.removeprefix("document ")
    assert result.scores.metrics == pytest.approx({name: 100 * float(np.mean(found)) for name, found in values.items()})
    assert result.scores.predictions == predictions
    assert (result.main_metric, result.questions, result.windows) == ("ndcg@10", 75, 75)
    assert result.scores.metrics["recall@100"] == 100


def test_the_command_line(write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    result = tmp_path / "result.json"
    options = ["--compare", "onnxruntime", "--num-cores", "1", "--json", str(result), "--quiet"]
    status = main([str(FOLDER), "--task", "embedding", "--dataset", str(write(DATASET)), *options])
    assert status == 0
    assert "ndcg@10" in capsys.readouterr().out
    content = json.loads(result.read_text(encoding="utf-8"))
    assert content["comparison"]["largest_logit_difference"] < 1e-4
    assert set(content["scores"]["metrics"]) == {"ndcg@10", "mrr@10", "recall@1", "recall@10", "recall@100"}


def test_vectors_of_tokens_are_not_searched(write: Any) -> None:
    with pytest.raises(InputError, match="pooling 'none' gives no vectors of texts"):
        evaluate(FOLDER, write(DATASET), task="embedding_extraction", num_cores=1, pooling="none")
