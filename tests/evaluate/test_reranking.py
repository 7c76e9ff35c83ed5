"""Rankings of a dataset, scored: against the metrics' definition, on a model whose scores follow from the words."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pair_models import make_table

from sparsert.errors import InputError
from sparsert.evaluate import evaluate
from sparsert.evaluate.__main__ import main
from sparsert.evaluate.reranking import RankingExample, read_rankings

RECORDS: list[dict[str, Any]] = [
    {"id": "first", "query": "a", "documents": ["b", "c", "d"], "relevant": [0]},  # third
    {"query": "a", "documents": ["b", "c"], "relevant": {"1": 2, "0": 1}},  # in order
    {"query": "a", "documents": ["b"], "relevant": []},
    {"query": "a", "documents": ["d"] * 10 + ["b"], "relevant": [10]},  # beyond the tenth
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Ranks d before c before b."""
    return make_table(tmp_path / "model", {"b": [1.0], "c": [2.0], "d": [3.0]})


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(RECORDS), encoding="utf-8")
    return path


def test_reading(dataset: Path, tmp_path: Path) -> None:
    examples = read_rankings(dataset)
    assert examples[0] == RankingExample("first", "a", ("b", "c", "d"), {0: 1.0})
    assert [(example.id, example.answers) for example in examples[1:]] == [("2", {1: 2.0, 0: 1.0}), ("4", {10: 1.0})]
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(map(json.dumps, RECORDS)), encoding="utf-8")
    assert read_rankings(lines, 2) == examples[:2]


def test_scores(model: Path, dataset: Path) -> None:
    pytest.importorskip("onnxruntime")
    result = evaluate(model, dataset, task="text-ranking", compare="onnxruntime", num_cores=1)
    # Of one document at rank 3, of all in the best order, and of none among the first ten
    expected = {"ndcg@10": 100 * (1 / math.log2(4) + 1) / 3, "mrr@10": 100 * (1 / 3 + 1) / 3}
    assert result.scores.metrics == pytest.approx(expected)
    assert result.scores.predictions == {"first": "2", "2": "1", "4": "0"}
    assert (result.main_metric, result.questions, result.windows, result.tokens) == ("ndcg@10", 3, 16, 16 * 5)
    assert result.comparison and result.comparison.metric_differences == {"ndcg@10": 0, "mrr@10": 0}
    assert result.comparison.largest_logit_difference == 0


def test_the_command_line(model: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(model), "--task", "rerank", "-d", str(dataset), "--num-cores", "1", "-q"]) == 0
    assert "ndcg@10 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"documents": ["b"], "relevant": [0]}, "record 1 has no 'query'"),
        ({"query": "a", "documents": "b", "relevant": [0]}, "'documents' must be a list, got a string"),
        ({"query": "a", "documents": ["b", 3], "relevant": [0]}, "'documents' must hold strings, got a number at 1"),
        ({"query": "a", "documents": ["b"], "relevant": 0}, "must be a list of indices, or an object of gains"),
        ({"query": "a", "documents": ["b"], "relevant": [1]}, "must have indices of the 1 documents, got '1'"),
        ({"query": "a", "documents": ["b"], "relevant": [-1]}, "must have indices of the 1 documents, got '-1'"),
        ({"query": "a", "documents": ["b"], "relevant": {"0": -1}}, "the gain of document 0 must be a number of at"),
        ({"query": "a", "documents": ["b"], "relevant": {"0": True}}, "the gain of document 0 must be a number of at"),
        ({"query": "a", "documents": ["b"], "relevant": []}, "holds no queries with a relevant document"),
    ],
)
def test_records_that_make_no_sense(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps([record]), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_rankings(path)


def test_a_query_without_anything_relevant(model: Path) -> None:
    with pytest.raises(InputError, match="each query of the dataset must have a relevant document"):
        evaluate(model, [RankingExample("1", "a", ("b",), {})], task="text-ranking")
