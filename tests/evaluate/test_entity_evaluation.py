"""Token classification scored on datasets: files of both forms, and runs whose truth is ONNX Runtime's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from taggers import LABELS, LENGTH, Reference, make_tagger, random_text

from sparsert.errors import InputError
from sparsert.evaluate import evaluate
from sparsert.evaluate.__main__ import main
from sparsert.pipelines.token_classification.dataset import TaggedText, read_tagged


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tagger(tmp_path_factory.mktemp("tagger"), "bert")


def write(path: Path, records: list[Any]) -> Path:
    path.write_text(
        "\n".join(json.dumps(record) for record in records) if path.suffix == ".jsonl" else json.dumps(records)
    )
    return path


# ---- datasets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["data.jsonl", "data.json"])
def test_datasets(tmp_path: Path, name: str) -> None:
    records = [
        {"tokens": ["Ada", "sees"], "ner_tags": [1, 0]},
        {"tokens": ["Ada"], "labels": ["B-PER"], "id": 7},
        {"text": "Ada sees", "entities": [{"start": 0, "end": 3, "label": "PER"}]},
        {"text": "", "entities": [], "id": "own"},
    ]
    assert read_tagged(write(tmp_path / name, records)) == [
        TaggedText("1", ("Ada", "sees"), (1, 0)),
        TaggedText("7", ("Ada",), ("B-PER",)),
        TaggedText("3", "Ada sees", ((0, 3, "PER"),)),
        TaggedText("own", "", ()),
    ]
    assert len(read_tagged(tmp_path / name, 2)) == 2


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"tokens": ["a"]}, "record 1 has no 'ner_tags'"),
        ({"tokens": [], "ner_tags": []}, "'tokens' must be a list of at least one string"),
        ({"tokens": ["a", None], "ner_tags": [0, 0]}, "'tokens' must be a list of at least one string"),
        ({"tokens": ["a", "b"], "tags": [0]}, "'tags' has 1 tags for 2 tokens"),
        ({"tokens": ["a"], "labels": [0.5]}, "'labels' must hold strings or integers, got a number"),
        ({"tokens": ["a"], "labels": [True]}, "'labels' must hold strings or integers, got a boolean"),
        ({"text": "a"}, "record 1 has no 'entities'"),
        ({"text": "a", "entities": [3]}, "entity 1 must be a JSON object"),
        (
            {"text": "a", "entities": [{"start": 0, "end": 2, "label": "X"}]},
            "in the text of 1 code points, got 0 and 2",
        ),
        ({"text": "a", "entities": [{"start": 0, "end": "1", "label": "X"}]}, "got 0 and '1'"),
        ({"text": "a", "entities": [{"start": 0, "end": 1}]}, "entity 1 has no 'label'"),
        ("a", "record 1 must be a JSON object"),
    ],
)
def test_datasets_that_are_none(tmp_path: Path, record: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_tagged(write(tmp_path / "data.json", [record]))


# ---- runs ------------------------------------------------------------------------------------------------------------


def words_and_tags(folder: Path, seed: int) -> list[dict[str, Any]]:
    """Texts of some words, each tagged with the label of its first token by ONNX Runtime, read as a whole."""
    random, reference = np.random.default_rng(seed), Reference(folder)
    records = []
    for size in (1, 5, 12, 60):
        words = random_text(random, size).split()
        text = " ".join(words)
        found = {twin["start"]: twin["label"] for twin in reference.entities(text, "none", ignored=())}
        starts = np.cumsum([0] + [len(word) + 1 for word in words])[:-1].tolist()
        records.append({"tokens": words, "ner_tags": [found[start] for start in starts]})
    return records


def test_words_with_the_right_tags(folder: Path, tmp_path: Path) -> None:
    records = words_and_tags(folder, 1)
    named = evaluate(folder, write(tmp_path / "named.json", records), task="ner", num_cores=1)
    assert (named.scores.metrics["f1"], named.main_metric) == (100, "f1")
    assert named.scores.metrics["total"] == named.scores.metrics["PER total"] + named.scores.metrics["LOC total"] > 20
    assert list(named.scores.predictions.values()) == [" ".join(record["ner_tags"]) for record in records]
    assert (named.questions, named.windows > 4) == (4, True)
    for record in records:
        record["ner_tags"] = [LABELS.index(tag) for tag in record["ner_tags"]]
    numbered = evaluate(folder, write(tmp_path / "numbered.json", records), task="ner", num_cores=1)
    assert numbered.scores.metrics == named.scores.metrics
    cut = evaluate(folder, tmp_path / "numbered.json", task="ner", num_cores=1, truncation=True)
    assert cut.scores.metrics["recall"] < 100 == cut.scores.metrics["precision"]


def test_texts_with_entities(folder: Path, tmp_path: Path) -> None:
    random, reference = np.random.default_rng(2), Reference(folder)
    texts = [random_text(random, size) for size in (2, 8, 20, 60)]
    found = [reference.entities(text, "first") for text in texts]
    records = [
        {
            "text": text,
            "entities": [{"start": item["start"], "end": item["end"], "label": item["label"]} for item in items],
        }
        for text, items in zip(texts, found, strict=True)
    ]
    result = evaluate(folder, write(tmp_path / "a.json", records), task="ner", num_cores=1, compare="onnxruntime")
    assert result.scores.metrics["f1"] == 100
    assert result.comparison is not None
    assert result.comparison.equal_answers == 1
    total = sum(map(len, found))
    # One entity has another type, one another end, one is missing, one was never there
    kinds = {"PER": "LOC", "LOC": "PER"}
    entities = records[3]["entities"]
    entities[0]["label"] = kinds[entities[0]["label"]]
    entities[1]["end"] -= 1
    del entities[2]
    worse = evaluate(folder, write(tmp_path / "b.json", records), task="ner", num_cores=1)
    assert worse.scores.metrics["precision"] == pytest.approx(100 * (total - 3) / total)
    assert worse.scores.metrics["recall"] == pytest.approx(100 * (total - 3) / (total - 1))


def test_what_cannot_be_scored(folder: Path) -> None:
    texts = [TaggedText("1", "abc", ((0, 3, "PER"),))]
    with pytest.raises(InputError, match="cannot be scored with aggregation_strategy 'none'"):
        evaluate(folder, texts, task="ner", aggregation_strategy="none")
    with pytest.raises(InputError, match=r"types \['DRUG'\], the model knows \['LOC', 'PER'\]"):
        evaluate(folder, [TaggedText("1", ("abc",), ("B-DRUG",))], task="ner", num_cores=1)
    with pytest.raises(InputError, match="record 'x' has the tag 5, but the model has 5 labels; see id2label"):
        evaluate(folder, [TaggedText("x", ("abc",), (5,))], task="ner", num_cores=1)


def test_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "data.jsonl", words_and_tags(folder, 3))
    arguments = ["--task", "ner", str(folder), "-d", str(path), "--num-cores", "1", "--sequence-length", str(LENGTH)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "PER f1" in out and "LOC precision" in out and "100.00" in out
