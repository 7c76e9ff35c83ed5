"""Many requests at once: equal to one after another, each text tokenized once, memory bounded, errors kept apart."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from sparsert.errors import InputError, InputRangeError
from sparsert.pipelines import Pipeline, QuestionAnsweringInput
from sparsert.pipelines.question_answering import QuestionAnsweringPipeline
from sparsert.pipelines.question_answering import pipeline as stages
from sparsert.pipelines.question_answering.pipeline import MAX_TOKENS


def create(model: Path, engine_type: str = "sparsert", **options: object) -> QuestionAnsweringPipeline:
    return Pipeline.create("question-answering", model, engine_type=engine_type, num_cores=1, **options)


# ---- ways to call ----------------------------------------------------------------------------------------------------


def test_forms_of_a_batch(toy_model: Callable[..., Path]) -> None:
    pipeline = create(toy_model({"p": 3, "q": 2}, {"p": 3, "q": 2}))
    one, two = pipeline(question="z", context="a p"), pipeline(question="y", context="q a b")
    assert (one.answer, two.answer) == ("p", "q")
    questions, contexts = ["z", "y"], ["a p", "q a b"]
    assert pipeline(question=questions, context=contexts) == [one, two]
    assert pipeline(question=tuple(questions), context=np.array(contexts), id=["1", None]) == [one, two]
    assert pipeline({"question": questions, "context": contexts}) == [one, two]
    assert pipeline({"question": "z", "context": "a p"}) == one
    items = [QuestionAnsweringInput(question="z", context="a p"), {"question": "y", "context": "q a b"}]
    assert pipeline(items) == [one, two]
    assert pipeline.run_many([QuestionAnsweringInput(question="z", context="a p")]) == [one]
    assert pipeline(question=questions, context="a p") == [one, one]
    assert pipeline(question="z", context=contexts) == [one, two]
    assert pipeline(question=["z"], context="a p") == [one]  # a batch of one is a batch
    assert pipeline(question=[], context="a p") == pipeline([]) == pipeline.run_many([]) == []


def test_batches_that_make_no_sense_are_refused(toy_model: Callable[..., Path]) -> None:
    pipeline = create(toy_model({}, {}))
    with pytest.raises(
        InputError, match=r"lists given together must be equally long, got {'question': 2, 'context': 3}"
    ):
        pipeline(question=["a", "b"], context=["a", "b", "c"])
    for arguments in (
        {"question": ["a", None], "context": "a"},
        {"question": ["a"]},
        {"context": [["a"]], "question": "a"},
    ):
        with pytest.raises(ValidationError):
            pipeline(**arguments)
    with pytest.raises(ValidationError):
        pipeline([{"question": "a"}])
    with pytest.raises(InputError, match="Found 1 args and 1 kwargs"):
        pipeline({"question": "a"}, context="a")


def test_a_request_that_fails_leaves_the_others_alone(toy_model: Callable[..., Path], engine_type: str) -> None:
    pipeline = create(toy_model({"p": 3}, {"p": 3}), engine_type, sequence_length=16)
    items = [QuestionAnsweringInput(question=question, context="a p") for question in ("z", "z " * 14, "y")]
    first, second, third = pipeline.run_many(items, return_exceptions=True)
    assert first.answer == third.answer == "p"
    assert isinstance(second, InputRangeError)
    with pytest.raises(InputRangeError, match="no room"):
        pipeline.run_many(items)
    (alone,) = pipeline.run_many(items[1:2], return_exceptions=True)
    assert isinstance(alone, InputRangeError)


# ---- equal to one after another --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scoring", ["deepsparse", "huggingface"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sequence_length": [16, 32], "doc_stride": 4},
        {"sequence_length": 16, "doc_stride": 9, "batch_size": 3},
        {"sequence_length": 16, "doc_stride": 4, "num_spans": 2},
        {"sequence_length": 16, "doc_stride": 4, "pad_to_max_length": False},
        {"sequence_length": [16, 32], "doc_stride": 4, "fixed": True},
        {"sequence_length": 16, "doc_stride": 4, "left": True},
        {"sequence_length": 16, "doc_stride": 4, "from_the_end": True},
    ],
    ids=[
        "one window",
        "buckets",
        "small calls",
        "few windows",
        "unpadded",
        "fixed shapes",
        "left padding",
        "left truncation",
    ],
)
def test_equal_to_one_after_another(
    toy_model: Callable[..., Path], engine_type: str, scoring: str, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.Generator(np.random.PCG64(7))
    tables = [dict(zip("abcdefgh[", rng.normal(size=9).tolist(), strict=True)) for _ in range(2)]
    settings = {"padding_side": "left" if options.get("left") else "right"}
    settings["truncation_side"] = "left" if options.get("from_the_end") else "right"
    shape = (1, 32) if options.get("fixed") else ("batch", "sequence")
    model = toy_model(*tables, tokenizer_config=settings, shape=shape)
    options = {name: value for name, value in options.items() if name not in ("fixed", "left", "from_the_end")}
    pipeline = create(model, engine_type, scoring=scoring, top_k=4, handle_impossible_answer=True, **options)
    items = [
        QuestionAnsweringInput(
            question="z " * int(rng.integers(0, 4)),
            context=" ".join(rng.choice(list("abcdefgh"), int(rng.choice([0, 1, 5, 20, 90])))),
        )
        for _ in range(25)
    ]
    expected = [pipeline.run_many([item])[0] for item in items]
    # A call that is just full, and calls into which the short last window of a request would still fit.
    for limit in (100, 105, 110):
        monkeypatch.setattr(stages, "MAX_TOKENS", limit)
        assert_same(pipeline.run_many(items), expected, scoring)


def assert_same(outputs: list, expected: list, scoring: str) -> None:
    for together, alone in zip(outputs, expected, strict=True):
        assert [(output.answer, output.start) for output in together] == [
            (output.answer, output.start) for output in alone
        ]
        # The sum of a softmax has another order in wider rows; raw logits are exact.
        tolerance = 1e-6 if scoring == "huggingface" else 0
        for one, other in zip(together, alone, strict=True):
            assert one.score == pytest.approx(other.score, rel=tolerance)


def test_real_answers_do_not_depend_on_the_batch(pipeline: QuestionAnsweringPipeline, paragraphs: list[dict]) -> None:
    items = [
        {"question": entry["question"], "context": paragraph["context"]}
        for paragraph in paragraphs[::5]
        for entry in paragraph["qas"][:2]
    ]
    together = pipeline(items)
    for item, output in zip(items, together, strict=True):
        alone = pipeline(item)
        assert (alone.answer, alone.start) == (output.answer, output.start)
        assert alone.score == pytest.approx(output.score, abs=1e-3)  # another batch, another order of float sums
        assert output.answer == item["context"][output.start : output.end]


def test_windows_count_from_the_end_with_truncation_side_left(toy_model: Callable[..., Path], engine_type: str) -> None:
    model = toy_model({"p": 5, "q": 4}, {"p": 5, "q": 4}, tokenizer_config={"truncation_side": "left"})
    context = "p " + "a " * 30 + "q"
    assert create(model, engine_type, sequence_length=16)(question="z", context=context).answer == "p"
    assert create(model, engine_type, sequence_length=16, num_spans=1)(question="z", context=context).answer == "q"
    pipeline = create(model, engine_type, max_question_length=2)
    (prepared,) = pipeline.preprocess([QuestionAnsweringInput(question="a b c", context="p")])
    assert prepared.question.ids.tolist() == pipeline.tokenizer.encode("b c").ids.tolist()


# ---- cost ------------------------------------------------------------------------------------------------------------


def test_each_text_is_tokenized_once(toy_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = create(toy_model({"p": 3}, {"p": 3}))
    seen: list[str] = []
    encode = pipeline.tokenizer.encode_batch
    monkeypatch.setattr(
        pipeline.tokenizer, "encode_batch", lambda texts, words=False: (seen.extend(texts), encode(texts, words))[1]
    )
    pipeline(question=["z", "y", "z"], context="a p")
    assert sorted(seen) == ["a p", "y", "z"]


def test_engine_calls_hold_a_bounded_number_of_tokens(toy_model: Callable[..., Path], engine_type: str) -> None:
    for pad_to_max_length in (True, False):
        pipeline = create(toy_model({"q": 5}, {"q": 5}), engine_type, pad_to_max_length=pad_to_max_length)
        items = [QuestionAnsweringInput(question="z", context="a " * (count * 37 % 3000)) for count in range(60)]
        sizes = []
        for bucket, readings in pipeline._slices(pipeline.preprocess(items)):
            rows = sum(len(reading.ranges) for reading in readings)
            tokens = sum(int((reading.ranges[:, 1] - reading.ranges[:, 0] + 4).sum()) for reading in readings)
            # The engine of this model takes rows only.
            assert (rows * bucket if pad_to_max_length else tokens) <= MAX_TOKENS
            sizes.append(tokens)
        assert len(sizes) > 3
        assert min(sizes[:-1]) > MAX_TOKENS // 4  # and not a small one


def test_memory_stays_bounded_for_a_long_context(
    toy_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times the windows over one context, with no more memory: 16 questions need what 4 do."""
    pipeline = create(toy_model({"q": 5}, {"q": 5}), "sparsert", batch_size=64)
    context = "a b c d e " * 2000 + "q"

    def peak(questions: int) -> int:
        asked = [" ".join("z" * (1 + number % 3)) for number in range(questions)]
        tracemalloc.start()
        try:
            assert {output.start for output in pipeline(question=asked, context=context)} == {20_000}
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)
    # The context as tokens is the greater part; each question adds its result and, at most, its windows' ranges.
    assert peak(16) < 1.2 * peak(4)


@pytest.mark.slow
def test_a_hundred_thousand_tokens_and_a_thousand_questions(model_directory: Path, paragraphs: list[dict]) -> None:
    pipeline = Pipeline.create("question-answering", model_directory, sequence_length=384, doc_stride=16)
    text = " ".join(paragraph["context"] for paragraph in paragraphs)
    filler = "Nothing of note happened in the valley that year. "
    context = filler * 5000 + text + filler * 5000
    assert len(pipeline.tokenizer.encode(context)) > 100_000
    output = pipeline(question="Which name is also used to describe the Amazon rainforest in English?", context=context)
    assert output.answer == context[output.start : output.end]
    context = text[:200]
    asked = [f"{entry['question']} {number}" for number in range(250) for entry in paragraphs[0]["qas"]]
    outputs = pipeline(question=asked, context=context)
    assert len(outputs) == len(asked) == 1000
    assert all(output.answer == context[output.start : output.end] for output in outputs)
