"""``python -m sparsert.classify``: what goes to stdout, what to stderr, and what the shell is told."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from classifiers import make_classifier
from taggers import make_tagger

from sparsert import classify
from sparsert.errors import EngineError
from sparsert.pipelines import Pipeline
from sparsert.pipelines.text_classification import TextClassificationPipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("classifier"), "bert")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Pipeline:
    """For comparison; and it keeps the compiled model alive for all tests."""
    return Pipeline.create("text-classification", folder)


@pytest.fixture
def run(folder: Path, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    """Run the command with some arguments; gives the objects on stdout, and sees that stderr is empty."""

    def run(*arguments: str, status: int = 0) -> list[dict[str, Any]]:
        assert classify.main(["--model", str(folder), *arguments]) == status
        out, err = capsys.readouterr()
        assert err == ""
        return [json.loads(line) for line in out.splitlines()]

    return run


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Set what comes on stdin."""

    def give(content: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode()), encoding="utf-8"))

    return give


Run = Callable[..., list[dict[str, Any]]]


def test_texts_as_arguments(run: Run, pipeline: Pipeline) -> None:
    both = pipeline(["a b", ""])
    assert run("a b", "") == [
        {"text": text, "label": label, "score": score}
        for text, label, score in zip(["a b", ""], both.labels, both.scores, strict=True)
    ]


def test_lines_of_stdin(run: Run, stdin: Callable[[str], None]) -> None:
    stdin("\ufeffa b\r\n\nc")
    assert run() == run("a b", "", "c")
    stdin("a b\n\nc\n")
    assert run("--input", "-", "--batch-size", "2") == run("a b", "", "c")


def test_json_lines_keep_their_order_and_report_errors_in_place(
    run: Run, stdin: Callable[[str], None], pipeline: Pipeline
) -> None:
    records: list[Any] = [
        {"id": 1, "text": "a"},
        {"text": "a", "text_pair": "b"},
        "c",
        {"id": "x", "text": 3},
        {"text": "a", "text_pair": 3},
        {"text": "\ud800"},
        {"text": "d", "text_pair": None, "other": 1},
    ]
    stdin("\n".join([*map(json.dumps, records), "{oops"]))
    found = run("--format", "jsonl", "--batch-size", "3", status=1)
    assert [line.get("line") for line in found] == [None, None, None, 4, 5, 6, None, 8]
    assert [line.get("id") for line in found] == [1, None, None, "x", None, None, None, None]
    expected = pipeline([["a"], ["a", "b"], ["c"], ["d"]])
    whole = [line for line in found if "error" not in line]
    assert [(line["label"], line["score"]) for line in whole] == [*zip(expected.labels, expected.scores, strict=True)]
    assert [line.get("text_pair") for line in whole] == [None, "b", None, None]
    for line, message in ((3, "'text' must be a string"), (4, "'text_pair' must be"), (5, "surrogates"), (7, "JSON")):
        assert message in found[line]["error"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_files(run: Run, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"texts.{suffix}"
    if suffix == "jsonl":
        path.write_text('{"first": "a b", "second": "c"}\n{"first": "d"}\n')
    else:
        path.write_text("first,second\na b,c\nd,\n".replace(",", "," if suffix == "csv" else "\t"))
    pair, single = run("--input", str(path), "--field", "first", "--pair-field", "second")
    assert (pair["text"], pair["text_pair"]) == ("a b", "c")
    assert [single] == run("d")


def test_several_labels(run: Run, pipeline: Pipeline) -> None:
    (best,) = run("a b")
    for k in ("2", "all"):
        (found,) = run("--top-k", k, "a b")
        assert sorted(found["labels"]) == ["bad", "good"]
        assert (found["labels"][0], found["scores"][0]) == (best["label"], best["score"])
        assert sum(found["scores"]) == pytest.approx(1)
    (both,) = run("--top-k", "all", "--function-to-apply", "sigmoid", "a b")
    assert sum(both["scores"]) != pytest.approx(1)


def test_labels_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_classifier(tmp_path, "bert", id2label={"0": "contradiction", "1": "entailment"})
    arguments = ["--model", str(folder), "--labels", "x, y z, w", "--hypothesis-template", "is {}", "a b", "c"]
    for more, multi_label in (([], False), (["--multi-label"], True)):
        assert classify.main([*arguments, *more]) == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        pipeline = Pipeline.create("zero-shot", folder, hypothesis_template="is {}", multi_label=multi_label)
        expected = pipeline(sequences=["a b", "c"], labels=["x", "y z", "w"])
        assert found == [
            {"text": text, "labels": labels, "scores": scores}
            for text, labels, scores in zip(["a b", "c"], expected.labels, expected.scores, strict=True)
        ]


def test_entities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_tagger(tmp_path, "bert", architectures=["BertForTokenClassification"])
    text = " ".join("abcdefghij" * 10)
    for more, options in (([], {}), (["--aggregation-strategy", "simple"], {"aggregation_strategy": "simple"})):
        assert classify.main(["--model", str(folder), *more, text, ""]) == 0
        first, second = map(json.loads, capsys.readouterr().out.splitlines())
        expected = Pipeline.create("ner", folder, **options)([text]).model_dump()["predictions"][0]
        assert first == {"text": text, "entities": expected} and len(expected) > 1
        assert second == {"text": "", "entities": []}
    file = folder / "onnx" / "model.onnx"  # its configuration is beside the folder
    file.parent.mkdir()
    (folder / "model.onnx").rename(file)
    assert classify.main(["--model", str(file), text]) == 0
    assert len(json.loads(capsys.readouterr().out)["entities"]) > 1
    assert classify.main(["--model", str(folder), "--top-k", "2", text]) == 1
    assert "--top-k does not belong to task token_classification" in capsys.readouterr().err


def test_an_error_of_the_engine_is_that_of_its_text(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = TextClassificationPipeline.forward

    def fail(self: TextClassificationPipeline, prepared: Any) -> Any:
        if any(item.inputs.sequences == ["b"] for item in prepared):
            raise EngineError("no b")
        return forward(self, prepared)

    monkeypatch.setattr(TextClassificationPipeline, "forward", fail)
    first, second, third = run("a", "b", "c", status=1)
    assert (first["text"], second, third["text"]) == ("a", {"line": 2, "error": "no b"}, "c")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--input", "b.txt"], "give TEXT or --input"),
        (["a", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["--format", "xml"], "invalid choice"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        classify.main(["--model", "x", *arguments])
    out, err = capsys.readouterr()
    assert out == "" and message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "absent", "a"], "absent"),
        (["--top-k", "two", "a"], "--top-k must be a number or all, got 'two'"),
        (["--top-k", "0", "a"], "top_k must be an int of at least 1"),
        (["--input", "absent.txt"], "absent.txt cannot be read: No such file"),
        (["--task", "nothing", "a"], "Unknown Pipeline task nothing"),
        (["--aggregation-strategy", "max", "a"], "--aggregation-strategy does not belong to task text_classification"),
    ],
)
def test_what_cannot_be_done_exits_with_1(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert classify.main(["--model", str(folder), *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sparsert.classify: error: ") and message in err


def test_it_answers_before_the_next_text(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "sparsert.classify", "--model", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[1],
        env=os.environ | {"PYTHONUNBUFFERED": ""},
    ) as process:
        assert process.stdin and process.stdout
        for text in ("a", "b"):
            process.stdin.write(f"{text}\n".encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["text"] == text
        process.stdin.close()
        assert process.wait(120) == 0
