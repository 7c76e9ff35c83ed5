"""Text classification scored on datasets: metrics against loops over labels, files of all forms, real runs."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from classifiers import Reference, make_classifier, random_texts

from sparsert.errors import InputError
from sparsert.evaluate import evaluate
from sparsert.evaluate.__main__ import main
from sparsert.model_config import ModelConfig
from sparsert.pipelines.text_classification.dataset import LabelledText, read_labelled
from sparsert.pipelines.text_classification.evaluation import label_number
from sparsert.pipelines.text_classification.metrics import classification_metrics, regression_metrics

# ---- metrics ---------------------------------------------------------------------------------------------------------


def naive_f1(truth: list[set[int]], predicted: list[set[int]], label: int) -> float:
    right = sum(label in one and label in other for one, other in zip(truth, predicted, strict=True))
    given = sum(label in labels for labels in predicted)
    there = sum(label in labels for labels in truth)
    precision, recall = right / given if given else 0.0, right / there if there else 0.0
    return 2 * precision * recall / (precision + recall) if right else 0.0


def naive_metrics(truth: list[set[int]], predicted: list[set[int]]) -> dict[str, float]:
    occurring = set().union(*truth, *predicted)
    decisions = [(label, text) for text, labels in enumerate(truth) for label in labels]
    answers = [(label, text) for text, labels in enumerate(predicted) for label in labels]
    shared = len(set(decisions) & set(answers))
    return {
        "accuracy": 100 * sum(one == other for one, other in zip(truth, predicted, strict=True)) / len(truth),
        "f1_macro": 100 * sum(naive_f1(truth, predicted, label) for label in occurring) / max(len(occurring), 1),
        "f1_micro": 100 * 2 * shared / max(len(decisions) + len(answers), 1),
    }


def indicator(sets: list[set[int]], labels: int) -> np.ndarray:
    return np.array([[label in found for label in range(labels)] for found in sets])


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_accuracy_and_f1(several: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels, texts = int(random.integers(2, 6)), int(random.integers(1, 30))

    def draw() -> list[set[int]]:
        counts = random.integers(0, 3, texts) if several else [1] * texts
        return [set(random.integers(0, labels, count).tolist()) for count in counts]

    truth, predicted = draw(), draw()
    found = classification_metrics(indicator(truth, labels), indicator(predicted, labels))
    assert found == pytest.approx(naive_metrics(truth, predicted))
    if not several:
        assert found["f1_micro"] == pytest.approx(found["accuracy"])


def naive_pearson(x: list[float], y: list[float]) -> float:
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    shared = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    spreads = [math.fsum((a - mean) ** 2 for a in values) for values, mean in ((x, mean_x), (y, mean_y))]
    return 100 * shared / math.sqrt(spreads[0] * spreads[1])


def naive_ranks(values: list[float]) -> list[float]:
    return [sum(b < a for b in values) + (sum(b == a for b in values) + 1) / 2 for a in values]


@pytest.mark.parametrize("seed", range(20))
def test_correlations(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.integers(0, 6, 30).astype(float)
    predicted = np.round(truth + random.normal(0, 2, 30), int(seed % 3))
    ranks = naive_ranks(truth.tolist()), naive_ranks(predicted.tolist())
    assert regression_metrics(truth, predicted) == pytest.approx(
        {"pearson": naive_pearson(truth.tolist(), predicted.tolist()), "spearman": naive_pearson(*ranks)}
    )


def test_correlations_of_what_is_equal() -> None:
    assert regression_metrics(np.array([1.0, 2.0]), np.array([3.0, 3.0])) == {"pearson": 0, "spearman": 0}
    with pytest.raises(InputError, match="different numbers as labels"):
        regression_metrics(np.array([1.0, 1.0]), np.array([3.0, 4.0]))


# ---- datasets --------------------------------------------------------------------------------------------------------

RECORDS: list[dict[str, Any]] = [
    {"text": "a, b", "label": "good"},
    {"text": "c", "text_pair": 'd "e"\nf', "label": "1"},
    {"text": "g", "text_pair": "", "label": "0", "id": "own"},
]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["text", "text_pair", "label", "id"])
            writer.writeheader()
            writer.writerows(records)
    else:
        lines = "\n".join(json.dumps(record) for record in records)
        path.write_text(lines if path.suffix == ".jsonl" else json.dumps(records))
    return path


@pytest.mark.parametrize("name", ["data.csv", "data.jsonl", "data.json"])
def test_datasets(tmp_path: Path, name: str) -> None:
    empty = None if name == "data.csv" else ""
    assert read_labelled(write(tmp_path / name, RECORDS)) == [
        LabelledText("1", "a, b", None, ("good",)),
        LabelledText("2", "c", 'd "e"\nf', ("1",)),
        LabelledText("own", "g", empty, ("0",)),
    ]
    assert len(read_labelled(tmp_path / name, 2)) == 2


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"label": 1}, "record 2 has no 'text'"),
        ({"text": "a"}, "record 2 has no 'label'"),
        ({"text": 3, "label": 1}, "record 2: 'text' must be a string, got a number"),
        ({"text": "a", "text_pair": 3, "label": 1}, "record 2: 'text_pair' must be a string"),
        ({"text": "a", "label": None}, "record 2: 'label' must be a string, a number or a list of these, got null"),
        ({"text": "a", "label": [True]}, "record 2: 'label' must be.*got a boolean"),
        ({"text": "a", "label": 1, "id": "1"}, "record 2 has the id '1', which record 1 has already"),
        ([], "record 2 must be a JSON object, got a list"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, record: Any, message: str) -> None:
    path = write(tmp_path / "data.json", [RECORDS[0], record])
    with pytest.raises(InputError, match=message) as caught:
        read_labelled(path)
    assert str(path) in str(caught.value)


CONFIG = ModelConfig(Path("config.json"), labels=("bad", "good", "1"), label2id={"bad": 0, "good": 1, "fine": 1})


@pytest.mark.parametrize(
    ("label", "number"), [("bad", 0), ("good", 1), ("fine", 1), ("1", 2), ("0", 0), (1, 1), (2.0, 2), ("2", 2)]
)
def test_labels_by_name_and_number(label: Any, number: int) -> None:
    assert label_number(label, CONFIG.labels, CONFIG) == number


@pytest.mark.parametrize("label", ["best", 3, -1, 1.5, "1.0", "", math.nan, math.inf])
def test_labels_that_there_are_not(label: Any) -> None:
    with pytest.raises(InputError, match=r"the model has no label .*'bad', 'good', '1'.*config.json"):
        label_number(label, CONFIG.labels, CONFIG)


# ---- runs ------------------------------------------------------------------------------------------------------------


def examples(number: int, labels: list[Any]) -> list[LabelledText]:
    random = np.random.default_rng(5)
    texts = random_texts(random, number)
    pairs = [None if random.random() < 0.5 else text for text in random_texts(random, number)]
    return [
        LabelledText(str(index), text, pair, (labels[index % len(labels)],))
        for index, (text, pair) in enumerate(zip(texts, pairs, strict=True))
    ]


def logits(folder: Path, chosen: list[LabelledText]) -> np.ndarray:
    reference = Reference(folder)
    return np.array([reference.logits(example.text, example.text_pair) for example in chosen])


def test_a_classifier(tmp_path: Path) -> None:
    folder = make_classifier(tmp_path, "distilbert")
    chosen = examples(100, ["good", 0, "1"])
    result = evaluate(folder, chosen, task="text_classification", compare="onnxruntime", num_cores=1)
    predicted = logits(folder, chosen).argmax(axis=1).tolist()
    truth = [{"good": 1, 0: 0, "1": 1}[example.answers[0]] for example in chosen]
    assert result.scores.metrics == pytest.approx(naive_metrics([{label} for label in truth], [{x} for x in predicted]))
    assert list(result.scores.predictions.values()) == [("bad", "good")[label] for label in predicted]
    assert result.main_metric == "accuracy" and result.windows == result.questions == 100
    assert result.comparison is not None and result.comparison.equal_answers == 1
    assert result.comparison.largest_logit_difference < 1e-3


def test_several_labels(tmp_path: Path) -> None:
    folder = make_classifier(tmp_path, "bert", problem_type="multi_label_classification")
    chosen = [
        LabelledText(example.id, example.text, example.text_pair, labels)
        for example, labels in zip(examples(60, [0]), [(), ("good",), (0, 1)] * 20, strict=True)
    ]
    found = evaluate(folder, chosen, task="text_classification", num_cores=1).scores
    sets = [set(np.flatnonzero(row > 0).tolist()) for row in logits(folder, chosen)]
    assert found.metrics == pytest.approx(naive_metrics([set(), {1}, {0, 1}] * 20, sets))
    assert list(found.predictions.values()) == [", ".join(("bad", "good")[x] for x in sorted(row)) for row in sets]


@pytest.mark.parametrize("problem_type", ["regression", None])
def test_a_model_of_one_number(tmp_path: Path, problem_type: str | None) -> None:
    folder = make_classifier(tmp_path, "bert", 1, problem_type=problem_type)
    chosen = examples(60, [1, "2.5", 0, -3])
    result = evaluate(folder, chosen, task="text_classification", num_cores=1)
    truth = [float(example.answers[0]) for example in chosen]
    numbers = logits(folder, chosen)[:, 0].astype(float)
    predicted = (numbers if problem_type else 1 / (1 + np.exp(-numbers))).tolist()
    expected = {
        "pearson": naive_pearson(truth, predicted),
        "spearman": naive_pearson(naive_ranks(truth), naive_ranks(predicted)),
    }
    # Sums of float32 in another order, and six digits of each prediction
    assert result.scores.metrics == pytest.approx(expected, abs=1e-3)
    assert [float(value) for value in result.scores.predictions.values()] == pytest.approx(predicted, abs=1e-4)
    assert result.main_metric == "spearman"
    for label in ("good", math.inf):
        with pytest.raises(InputError, match="record 'x' must have a number as its label"):
            evaluate(folder, [LabelledText("x", "a", None, (label,))], task="text_classification", num_cores=1)


def test_what_the_model_does_not_know(tmp_path: Path) -> None:
    folder = make_classifier(tmp_path, "bert")
    for answers, message in ((("best",), "record '7': the model has no label 'best'"), ((0, 1), "has 2 labels")):
        with pytest.raises(InputError, match=message):
            evaluate(folder, [LabelledText("7", "a", None, answers)], task="text_classification", num_cores=1)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_classifier(tmp_path / "model", "bert")
    dataset = write(tmp_path / "data.csv", RECORDS)
    arguments = [str(folder), "--task", "sentiment-analysis", "--dataset", str(dataset), "--num-cores", "1", "-q"]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert "accuracy" in table and "f1_macro" in table
    assert main([*arguments, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["main_metric"] == "accuracy"
