"""Evaluations: the answers are the pipeline's, the metrics those of the answers, the differences the engines'."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sparsert import Engine
from sparsert.errors import EngineError, InputError, ModelNotFoundError
from sparsert.evaluate import SQUAD_OPTIONS, Evaluation, Example, evaluate, read_dataset, squad_v1, squad_v2
from sparsert.evaluate.__main__ import main
from sparsert.pipelines import Pipeline

MODEL = Path(__file__).resolve().parents[2] / "sparsert" / "models" / "minilm-l6-squad-pruned60_quant"

TEXT = (
    "Ada keeps bees in Turin. Bob, her neighbour, repairs old radios on Sundays. In 1995 the two of them founded a "
    "society for the protection of wild bees, which has 312 members today."
)
EXAMPLES = [
    Example("a", "Who keeps bees?", TEXT, ("Ada",)),
    Example("b", "When was the society founded?", TEXT, ("in 1995", "1995")),
    Example("c", "How many members has the society?", TEXT, ("312", "312 members")),
    Example("d", "What does Bob repair?", TEXT, ("radios",)),
    Example("e", "Who is the neighbour of Ada?", TEXT, ("Robert",)),
]
# The second half has no answer in its text, once for want of any text.
UNANSWERABLE = [
    Example("f", "What is the capital of Mongolia?", TEXT, ()),
    Example("g", "What does the cat of the minister eat?", TEXT, ()),
    Example("h", "Who keeps bees?", " \n ", ()),
]


def write(path: Path, examples: list[Example]) -> Path:
    records = [
        {"id": item.id, "question": item.question, "context": item.context, "answers": list(item.answers)}
        for item in examples
    ]
    path.write_text(json.dumps(records))
    return path


@pytest.fixture(scope="module", autouse=True)
def compiled_model() -> Iterator[None]:
    """Keeps the compiled model alive, which all pipelines of a process share, so that it is packed once."""
    pipeline = Pipeline.create("question-answering", num_cores=1)
    yield
    del pipeline


@pytest.fixture(scope="module")
def result() -> Evaluation:
    """Both engines on the first questions."""
    pytest.importorskip("onnxruntime")
    return evaluate("default", EXAMPLES, compare="onnxruntime", num_cores=1)


def test_answers_and_metrics_are_those_of_the_pipeline(result: Evaluation) -> None:
    assert result.comparison
    truths = {item.id: item.answers for item in EXAMPLES}
    for scores in (result.scores, result.comparison.scores):
        pipeline = Pipeline.create("question-answering", engine_type=scores.engine, num_cores=1, **SQUAD_OPTIONS)
        answers = {item.id: pipeline(question=item.question, context=item.context).answer for item in EXAMPLES}
        assert scores.predictions == answers
        assert scores.metrics == squad_v1(truths, answers)
        assert scores.questions_per_second == len(EXAMPLES) / scores.seconds
        assert 0 < scores.engine_seconds < scores.seconds
    assert result.scores.metrics["exact_match"] >= 60  # four of the five are easy
    assert (result.f1, result.exact_match) == (result.scores.f1, result.scores.exact_match)
    equal = [result.scores.predictions[name] == result.comparison.scores.predictions[name] for name in truths]
    assert result.comparison.equal_answers == np.mean(equal)
    assert result.comparison.f1_difference == result.f1 - result.comparison.scores.f1


def test_logit_differences_are_those_of_the_engines_on_the_same_tokens(result: Evaluation) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    session = onnxruntime.InferenceSession(str(MODEL / "model.onnx"), providers=["CPUExecutionProvider"])
    engine = Engine(str(MODEL), batch_size=None)
    differences = []
    for item in EXAMPLES:
        encoding = tokenizer.encode(item.question, item.context)
        columns = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        arrays = {name: np.array([columns[name]], dtype=np.int64) for name in engine.input_names}
        ours, theirs = engine(list(arrays.values())), session.run(None, arrays)
        differences += [np.abs(a - b).ravel() for a, b in zip(ours, theirs, strict=True)]
    every = np.concatenate(differences)
    assert result.windows == len(EXAMPLES)
    assert result.tokens == every.size // 2
    assert result.comparison
    # A flipped byte somewhere may move a logit a little when sequences share a tile or a row is padded.
    assert result.comparison.largest_logit_difference == pytest.approx(every.max(), rel=0.2)
    assert result.comparison.mean_logit_difference == pytest.approx(every.mean(), rel=0.2)


def test_the_scoring_of_transformers_is_an_option() -> None:
    scores = evaluate("default", EXAMPLES, scoring="huggingface", num_cores=1).scores
    pipeline = Pipeline.create("question-answering", scoring="huggingface", num_cores=1, **SQUAD_OPTIONS)
    outputs = pipeline([{"question": item.question, "context": item.context} for item in EXAMPLES])
    assert list(scores.predictions.values()) == [output.answer for output in outputs]


def test_an_engine_does_not_differ_from_itself() -> None:
    result = evaluate("default", EXAMPLES[:2], compare="sparsert", num_cores=1)
    assert result.comparison
    assert result.comparison.largest_logit_difference == 0
    assert result.comparison.equal_answers == 1
    assert result.comparison.f1_difference == 0


@pytest.mark.parametrize("threshold", [-6.0, 0.0, 6.0])
def test_version_2_predicts_no_answer_as_the_pipeline_does(threshold: float) -> None:
    examples = [*EXAMPLES, *UNANSWERABLE]
    options = {"version_2_with_negative": True, "null_score_diff_threshold": threshold}
    scores = evaluate("default", examples, **options, num_cores=1).scores
    pipeline = Pipeline.create("question-answering", num_cores=1, **options, **SQUAD_OPTIONS)
    answers = {item.id: pipeline(question=item.question, context=item.context).answer for item in examples}
    assert scores.predictions == answers
    assert scores.null_odds
    truths = {item.id: item.answers for item in examples}
    published = squad_v2(truths, answers)
    assert {name: scores.metrics[name] for name in published} == published
    assert scores.metrics["best_f1"] >= scores.f1
    assert scores.metrics["HasAns_total"] == len(EXAMPLES)
    assert scores.exact_match == published["exact"]


def test_the_best_threshold_reaches_the_best_f1() -> None:
    examples = [*EXAMPLES, *UNANSWERABLE]
    first = evaluate("default", examples, version_2_with_negative=True, num_cores=1).scores.metrics
    again = evaluate(
        "default",
        examples,
        version_2_with_negative=True,
        null_score_diff_threshold=first["best_f1_thresh"],
        num_cores=1,
    )
    assert again.f1 == pytest.approx(first["best_f1"])


def test_a_result_is_json_with_settings_and_versions(result: Evaluation) -> None:
    content = json.loads(result.to_json())
    assert content["questions"] == 5
    assert content["settings"]["kwargs"]["sequence_length"] == 384
    assert content["settings"]["compare"] == "onnxruntime"
    assert {"python", "sparsert", "numpy", "numba", "onnxruntime"} <= set(content["versions"])
    assert content["scores"]["metrics"] == result.scores.metrics
    assert content["comparison"]["scores"]["questions_per_second"] > 0
    assert "predictions" not in content["scores"]
    assert result.comparison and json.loads(json.dumps(result.comparison.to_dict())) == content["comparison"]


def test_progress_is_told_and_windows_are_counted() -> None:
    calls = []
    many = [Example(str(number), "Who keeps bees?", "Ada keeps bees.", ("Ada",)) for number in range(70)]
    done = evaluate("default", many, progress=lambda *call: calls.append(call), max_samples=66, num_cores=1)
    assert calls == [(64, 66), (66, 66)]
    assert done.questions == len(done.scores.predictions) == done.windows == 66
    assert done.exact_match == 100
    assert evaluate("default", EXAMPLES, sequence_length=32, doc_stride=4, num_cores=1).windows >= 2 * len(EXAMPLES)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dataset": UNANSWERABLE}, InputError, "'f' has no answers"),
        ({"dataset": []}, InputError, "no questions"),
        ({"dataset": EXAMPLES[:1] * 2}, InputError, "the same id"),
        ({"dataset": "absent.json"}, InputError, "absent.json cannot be read"),
        ({"engine": "none"}, InputError, "none"),
        ({"task": "nothing"}, InputError, "Unknown Pipeline task nothing"),
        ({"model": "absent.onnx"}, ModelNotFoundError, "absent"),
        ({"sequence_length": 9, "doc_stride": 2}, InputError, "question 'a' cannot be answered: .*no room"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        evaluate(**({"model": "default", "dataset": EXAMPLES} | arguments))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write(tmp_path / "data.json", [*EXAMPLES, *UNANSWERABLE])
    paths = {name: tmp_path / f"{name}.json" for name in ("json", "predictions", "null-odds")}
    arguments = [part for name, path in paths.items() for part in (f"--{name}", str(path))]
    status = main(
        ["default", "--dataset", str(dataset), "--version-2-with-negative", "--compare", "sparsert", *arguments]
        + ["--num-cores", "1", "--sequence-length", "64", "--doc-stride", "16"]
    )
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    content, predictions, odds = (json.loads(path.read_text(encoding="utf-8")) for path in paths.values())
    metrics = content["scores"]["metrics"]
    # The files go into the published script, with the threshold, and give the same numbers.
    truths = {example.id: example.answers for example in read_dataset(dataset)}
    assert squad_v2(truths, predictions) == {name: metrics[name] for name in squad_v2(truths, predictions)}
    assert list(odds) == list(predictions) == list(truths)
    assert f"f1                {metrics['f1']:14.2f}{metrics['f1']:14.2f}" in out
    assert "8 questions" in out
    assert "equal answers              100.00%" in out
    assert content["settings"]["kwargs"]["doc_stride"] == 16


def test_command_line_with_json_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = write(tmp_path / "data.json", EXAMPLES)
    assert main(["-d", str(dataset), "--json", "-", "-n", "2", "--num-cores", "1"]) == 0
    assert json.loads(capsys.readouterr().out)["questions"] == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["-d", "absent.json"], 1, "absent.json cannot be read"),
        (["-d", "data.json", "--json", "absent/result.json"], 1, "absent/result.json is not a file in an existing"),
        (["-d", "data.json", "-m", "x"], 2, "unrecognized"),
        (["-d", "data.json", "--null-odds", "odds.json"], 2, "belongs to --version-2"),
        ([], 2, "--dataset"),
    ],
)
def test_command_line_errors(
    arguments: list[str],
    status: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()
    assert (code, out) == (status, "")
    assert message in err


def test_a_missing_onnx_runtime_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match="pip install onnxruntime"):
        evaluate("default", EXAMPLES, compare="onnxruntime", progress=lambda *_: pytest.fail("it ran"))


def test_real_questions_against_onnx_runtime(squad_sample: Path) -> None:
    pytest.importorskip("onnxruntime")
    result = evaluate("default", squad_sample, compare="onnxruntime")
    assert result.comparison
    # The model's card says 72.3 for all 644 questions, and a question's F1 deviates by about 40: two standard errors of
    # the mean of 54. A broken pipeline would bring both engines down together.
    assert result.comparison.scores.f1 > 72.3 - 2 * 40 / 54**0.5
    # Three answers may differ, by a quarter of their words on average.
    assert abs(result.comparison.f1_difference) <= 100 * 3 * 0.25 / 54
    # int8 activations: a byte that rounds the other way moves logits, but seldom the best span.
    assert result.comparison.equal_answers > 0.93
    assert result.comparison.mean_logit_difference < 0.1
