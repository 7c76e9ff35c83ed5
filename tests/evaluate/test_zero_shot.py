"""Zero-shot classification of a dataset, scored, on a model whose scores follow from the words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pair_models import make_table

from sparsert.errors import InputError
from sparsert.evaluate import evaluate
from sparsert.evaluate.__main__ import main
from sparsert.pipelines.zero_shot_text_classification.evaluation import ZeroShotExample, read_examples

RECORDS: list[dict[str, Any]] = [
    {"id": "x", "text": "t", "label": "b"},
    {"text": "t", "label": "a"},
    {"text": "t", "label": "c"},
    {"text": "t", "label": "b"},
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Finds that everything is about b, rather a than c, and not about c."""
    values = {"a": [0.0, 0.0, 1.0], "b": [0.0, 0.0, 2.0], "c": [1.0, 0.0, 0.0]}
    names = {"contradiction": 0, "neutral": 1, "entailment": 2}
    return make_table(tmp_path / "model", values, {"label2id": names})


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(RECORDS), encoding="utf-8")
    return path


def test_the_candidates_are_all_labels_of_the_file(dataset: Path) -> None:
    examples = read_examples(dataset, 2)
    candidates = ("b", "a", "c")
    assert examples == [
        ZeroShotExample("x", "t", ("b",), candidates),
        ZeroShotExample("2", "t", ("a",), candidates),
    ]


def test_scores(model: Path, dataset: Path) -> None:
    pytest.importorskip("onnxruntime")
    arguments: dict[str, Any] = {"task": "zero-shot", "compare": "onnxruntime", "num_cores": 1}
    result = evaluate(model, dataset, **arguments)
    # All are found to be b: two of four are, with a precision of 1/2 and a recall of 1
    expected = {"accuracy": 50, "f1_macro": 100 * (2 / 3) / 3, "f1_micro": 50}
    assert result.scores.metrics == pytest.approx(expected)
    assert result.scores.predictions == {"x": "b", "2": "b", "3": "b", "4": "b"}
    assert (result.main_metric, result.questions, result.windows) == ("accuracy", 4, 12)
    assert result.comparison and result.comparison.largest_logit_difference == 0
    result = evaluate(model, dataset, labels="c, a, b", hypothesis_template="c c c {}", **arguments)
    assert result.scores.predictions["x"] == "b"


def test_several_labels(model: Path) -> None:
    candidates = ("a", "b", "c")
    examples = [ZeroShotExample("1", "t", ("a", "b"), candidates), ZeroShotExample("2", "t", ("b", "c"), candidates)]
    result = evaluate(model, examples, task="zero-shot", multi_label=True, num_cores=1, hypothesis_template="{}")
    # a and b each time: three of four decisions for a label are right, and c is missed
    assert result.scores.predictions == {"1": "a, b", "2": "a, b"}
    expected = {"accuracy": 50, "f1_macro": 100 * (2 / 3 + 1 + 0) / 3, "f1_micro": 75}
    assert result.scores.metrics == pytest.approx(expected)
    with pytest.raises(InputError, match="record '1' has 2 labels; multi_label lets a text have several"):
        evaluate(model, examples, task="zero-shot", num_cores=1)


def test_the_command_line(model: Path, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(model), "--task", "zero-shot", "-d", str(dataset), "--num-cores", "1", "-q"]
    assert main(arguments) == 0
    assert "f1_macro " in capsys.readouterr().out
    assert main([*arguments, "--labels", "a, b"]) == 1
    assert "record '3' has the label 'c', which is none of ['a', 'b']" in capsys.readouterr().err


def test_records_that_make_no_sense(tmp_path: Path, dataset: Path) -> None:
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([{"text": "t", "text_pair": "u", "label": "a"}]), encoding="utf-8")
    with pytest.raises(InputError, match="record '1' has a text_pair"):
        read_examples(path)
    with pytest.raises(InputError, match="max_samples must be an int of at least 1"):
        read_examples(dataset, 0)
