"""What a pipeline says about its answers: several of them, probabilities, "no answer", files and notebooks."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sparsert.errors import InputError
from sparsert.pipelines import Pipeline, QuestionAnsweringInput, QuestionAnsweringOutput
from sparsert.pipelines.question_answering import QuestionAnsweringPipeline


def create(model: Path, **options: object) -> QuestionAnsweringPipeline:
    return Pipeline.create("question-answering", model, num_cores=1, **options)


def softmax(scores: list[float]) -> list[float]:
    total = sum(math.exp(score) for score in scores)
    return [math.exp(score) / total for score in scores]


# ---- several answers -------------------------------------------------------------------------------------------------


def test_top_k_gives_a_list_best_first(toy_model: Callable[..., Path]) -> None:
    model = toy_model({"p": 3, "q": 2}, {"p": 3, "q": 2})
    one, three = create(model), create(model, top_k=3, max_answer_length=1)
    answers = three(question="z", context="q a p")
    assert [(answer.score, answer.answer, answer.start) for answer in answers] == [
        (6, "p", 4),
        (4, "q", 0),
        (0, "a", 2),
    ]
    assert one(question="z", context="q a p") == answers[0]
    assert [answer.answer for answer in three(question="z", context="p")] == ["p"]  # there are no more
    batch = three(question=["z", "z"], context=["q p", "a"])
    assert [[answer.answer for answer in found] for found in batch] == [["p", "q"], ["a"]]


def test_top_k_may_exceed_n_best_size(toy_model: Callable[..., Path]) -> None:
    pipeline = create(toy_model({}, {}), top_k=6, n_best_size=2, max_answer_length=1)
    assert len(pipeline(question="z", context="a b c d e f g")) == 6


# ---- probability -----------------------------------------------------------------------------------------------------


def test_probability_is_the_softmax_of_the_n_best_scores(toy_model: Callable[..., Path]) -> None:
    model = toy_model({"p": 3, "q": 2, "[CLS]": 1}, {"p": 3, "q": 2, "[CLS]": 1})
    options = {"return_probability": True, "top_k": 3, "max_answer_length": 1}
    answers = create(model, **options)(question="z", context="q a p")
    assert [answer.probability for answer in answers] == pytest.approx(softmax([6, 4, 0]))
    assert list(json.loads(answers[0].model_dump_json())) == ["score", "answer", "start", "end", "probability"]
    # "No answer" takes its share where it may win; n_best_size leaves out the rest.
    answers = create(model, **options, handle_impossible_answer=True)(question="z", context="q a p")
    assert [answer.answer for answer in answers] == ["p", "q", ""]
    assert [answer.probability for answer in answers] == pytest.approx(softmax([6, 4, 2, 0])[:3])
    (best, _) = create(model, **options | {"n_best_size": 2, "top_k": 2})(question="z", context="q a p")
    assert best.probability == pytest.approx(softmax([6, 4])[0])
    nothing = create(model, return_probability=True)(question="z", context="")
    assert (nothing.answer, nothing.probability) == ("", 1.0)


def test_probability_stays_a_number_for_any_logits(toy_model: Callable[..., Path]) -> None:
    pipeline = create(toy_model({"p": np.inf, "q": -3e38}, {}), return_probability=True, max_answer_length=1)
    assert pipeline(question="z", context="p q").probability == 1.0


def test_huggingface_scores_are_probabilities(toy_model: Callable[..., Path]) -> None:
    model = toy_model({"p": 3, "q": 1}, {"p": 3, "q": 1})
    pipeline = create(model, scoring="huggingface", return_probability=True, top_k=2, max_answer_length=1)
    first, second = pipeline(question="z", context="p q")
    expected = [share * share for share in softmax([3, 1, 0])]  # p, q and [CLS], twice each: start and end
    assert [first.score, second.score] == pytest.approx(expected[:2])
    assert (first.probability, second.probability) == (first.score, second.score)
    # The same answer in several places: scores add up, and the first place is given.
    again = create(model, scoring="huggingface", return_probability=True, max_answer_length=1)(
        question="z", context="p " * 400
    )
    assert (again.answer, again.start) == ("p", 0)
    assert again.probability <= 1.0


# ---- no answer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threshold", "answer"), [(0.0, ""), (1.5, ""), (2.0, "p"), (3.0, "p"), (-3.0, "")])
def test_no_answer_wins_by_more_than_the_threshold(
    toy_model: Callable[..., Path], threshold: float, answer: str
) -> None:
    model = toy_model({"[CLS]": 3, "p": 2}, {"[CLS]": 3, "p": 2})
    pipeline = create(model, version_2_with_negative=True, null_score_diff_threshold=threshold)
    output = pipeline(question="z", context="a p")
    assert (output.answer, output.score) == (answer, 4.0 if answer else 6.0)


def test_no_answer_is_ranked_among_the_others(toy_model: Callable[..., Path]) -> None:
    model = toy_model({"[CLS]": 2, "p": 3}, {"[CLS]": 2, "p": 3})
    options = {"handle_impossible_answer": True, "top_k": 3, "max_answer_length": 1}
    found = create(model, **options)(question="z", context="a p b")
    assert [answer.answer for answer in found] == ["p", "", "a"]
    found = create(model, **options, null_score_diff_threshold=-2.5)(question="z", context="a p b")
    assert [answer.answer for answer in found] == ["", "p", "a"]


def test_no_answer_with_huggingface_scores(toy_model: Callable[..., Path]) -> None:
    model = toy_model({"[CLS]": 3, "p": 2}, {"[CLS]": 3, "p": 2})
    assert create(model, scoring="huggingface")(question="z", context="a p").answer == "p"
    output = create(model, scoring="huggingface", handle_impossible_answer=True)(question="z", context="a p")
    assert (output.answer, output.score) == ("", pytest.approx(softmax([3, 0, 2])[0] ** 2))
    nothing = create(model, scoring="huggingface")(question="z", context=" ")
    assert (nothing.answer, nothing.score) == ("", 1.0)


# ---- files -----------------------------------------------------------------------------------------------------------


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def test_predictions_are_appended_to_files(toy_model: Callable[..., Path], tmp_path: Path) -> None:
    model = toy_model({"[CLS]": 0.5, "p": 3, "q": 2}, {"[CLS]": 0.5, "p": 3, "q": 2})
    folder = tmp_path / "predictions"
    with pytest.raises(InputError, match="Output folder .*predictions not found"):
        create(model, output_dir=folder)
    folder.mkdir()
    pipeline = create(model, output_dir=folder, max_answer_length=1, version_2_with_negative=True)
    pipeline(question=["z", "z"], context="q p", id=["first", "é"])
    pipeline(question="z", context="")
    assert lines(folder / "predictions.json") == [{"first": "p"}, {"é": "p"}, {"null": ""}]
    nbest = lines(folder / "nbest_predictions.json")
    shares = softmax([6, 4, 1])
    assert nbest[1]["é"] == [
        {"start_logit": 3.0, "end_logit": 3.0, "text": "p", "probability": pytest.approx(shares[0])},
        {"start_logit": 2.0, "end_logit": 2.0, "text": "q", "probability": pytest.approx(shares[1])},
    ]
    assert nbest[2] == {"null": []}
    assert lines(folder / "null_odds.json") == [{"first": -5.0}, {"é": -5.0}]
    copy = pickle.loads(pickle.dumps(pipeline))
    copy(question="z", context="p", id="copy")
    assert lines(folder / "predictions.json")[-1] == {"copy": "p"}


def test_predictions_of_several_threads_do_not_mix(toy_model: Callable[..., Path], tmp_path: Path) -> None:
    pipeline = create(toy_model({"p": 3}, {"p": 3}), output_dir=tmp_path, scoring="huggingface")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: pipeline(question="z", context="a p", id=str(number)), range(40)))
    assert sorted(int(key) for line in lines(tmp_path / "predictions.json") for key in line) == list(range(40))
    for line in lines(tmp_path / "nbest_predictions.json"):
        assert next(iter(line.values()))[0]["text"] == "p"


# ---- notebooks -------------------------------------------------------------------------------------------------------


def test_an_answer_shows_itself_in_its_context(toy_model: Callable[..., Path]) -> None:
    pipeline = create(toy_model({"p": 3}, {"p": 3}))
    output = pipeline(question="z", context="<b> p & a")
    assert output._repr_html_() == (
        "<p><strong>p (score 6)</strong></p>"
        '<p dir="auto" style="white-space: pre-wrap">&lt;b&gt; <mark>p</mark> &amp; a</p>'
    )
    plain = QuestionAnsweringOutput(score=6, answer="p", start=4, end=5)
    assert plain._repr_html_() is None
    assert plain == output  # the context is no part of the answer
    assert "context" not in output.model_dump_json()
    assert pickle.loads(pickle.dumps(output)) == output
    assert "no answer" in pipeline(question="z", context="")._repr_html_()


# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be an int of at least 1, got 0"),
        ({"scoring": "best"}, r"scoring must be one of \['deepsparse', 'huggingface'\], got 'best'"),
        ({"align_to_words": True}, "align_to_words belongs to scoring='huggingface'"),
        ({"null_score_diff_threshold": "much"}, "null_score_diff_threshold must be a number, got 'much'"),
        ({"null_score_diff_threshold": math.nan}, "null_score_diff_threshold must be a number, got nan"),
        (
            {"executor": "x"},
            "Expected an int or ThreadPoolExecutor to run in async mode but got x of type <class 'str'>",
        ),
    ],
)
def test_options_are_checked(model_directory: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create(model_directory, **options)


def test_huggingface_has_the_defaults_of_transformers(toy_model: Callable[..., Path]) -> None:
    pipeline = create(toy_model({}, {}), scoring="huggingface")
    assert (pipeline.sequence_length, pipeline.doc_stride, pipeline.align_to_words) == (384, 128, True)
    short = create(toy_model({}, {}, tokenizer_config={"model_max_length": 100}), scoring="huggingface")
    assert (short.sequence_length, short.doc_stride) == (100, 50)
    small = create(toy_model({}, {}, config={"max_position_embeddings": 64}), scoring="huggingface")
    assert (small.sequence_length, small.doc_stride) == (64, 32)
    endless = create(toy_model({}, {}, tokenizer_config={"model_max_length": 1e30}), scoring="huggingface")
    assert endless.sequence_length == 384


def test_all_options_survive_a_config(toy_model: Callable[..., Path], tmp_path: Path) -> None:
    options = {
        "sequence_length": [16, 32],
        "max_question_length": 5,
        "doc_stride": 4,
        "max_answer_length": 3,
        "n_best_size": 7,
        "pad_to_max_length": False,
        "version_2_with_negative": True,
        "null_score_diff_threshold": 0.5,
        "num_spans": 3,
        "top_k": 2,
        "return_probability": True,
        "output_dir": str(tmp_path),
        "scoring": "huggingface",
        "align_to_words": False,
    }
    shared = {
        "batch_size": 3,
        "num_streams": 1,
        "executor": 2,
        "benchmark": True,
        "logger": {"loggers": {"python": {}}},
    }
    pipeline = create(toy_model({"p": 3}, {"p": 3}), **options, **shared)
    config = Pipeline.from_config(pipeline.to_config().model_dump_json()).to_config()
    assert config == pipeline.to_config()
    assert config.kwargs == options
    assert {name: getattr(config, name) for name in shared} == shared
    assert config.model_dump_json() == pickle.loads(pickle.dumps(pipeline)).to_config().model_dump_json()
    item = QuestionAnsweringInput(question="z", context="a p " * 30)
    assert Pipeline.from_config(config)(item) == pipeline(item)
