"""Question answering end to end: the founding document's examples, real edge cases, and exact answers of toy models."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from pydantic import ValidationError

from sparsert.errors import EngineError, InputError, InputRangeError, ModelFormatError, ModelNotFoundError
from sparsert.pipelines import Pipeline, QuestionAnsweringInput
from sparsert.pipelines.question_answering import QuestionAnsweringPipeline

QUESTION = "What is DeepSparse?"
CONTEXT = (
    "DeepSparse is sparsity-aware inference runtime offering GPU-class performance on CPUs and APIs to integrate ML "
    "into your application"
)
LONG_CONTEXT = "I have been trying to accelerate my inference workloads. DeepSparse is a CPU runtime that helps me."


def create(model: Path, engine_type: str = "sparsert", **options: object) -> QuestionAnsweringPipeline:
    return Pipeline.create("question-answering", model, engine_type=engine_type, num_cores=1, **options)


# ---- the founding document -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "context", "expected"),
    [
        ({}, CONTEXT, "sparsity-aware inference runtime"),
        ({"sequence_length": 64, "max_question_length": 32}, CONTEXT, "sparsity-aware inference runtime"),
        ({"sequence_length": [64, 128], "max_question_length": 32}, CONTEXT, "sparsity-aware inference runtime"),
        ({"sequence_length": 24, "max_question_length": 8, "doc_stride": 4}, LONG_CONTEXT, "CPU runtime"),
    ],
    ids=["plain", "64 tokens", "buckets", "windows"],
)
def test_examples_of_the_founding_document(
    model_directory: Path, engine_type: str, options: dict, context: str, expected: str
) -> None:
    output = create(model_directory, engine_type, **options)(question=QUESTION, context=context)
    assert expected in output.answer
    assert output.answer == context[output.start : output.end]
    assert output.score > 0


def test_output_is_json_in_the_documented_order(pipeline: QuestionAnsweringPipeline) -> None:
    output = pipeline(question=QUESTION, context=CONTEXT)
    text = output.model_dump_json()
    assert list(json.loads(text)) == ["score", "answer", "start", "end"]
    assert json.loads(text)["start"] == 14
    assert json.loads(text)["end"] == 46


def test_the_default_model_needs_no_path() -> None:
    pytest.importorskip("onnxruntime")
    for arguments in ({}, {"model_path": "default"}, {"model": "default"}):
        pipeline = Pipeline.create(task="qa", engine_type="onnxruntime", **arguments)
        assert "runtime" in pipeline(question=QUESTION, context=CONTEXT).answer


def test_the_founding_documents_stub_gets_its_answer(models_path: Path, engine_type: str) -> None:
    stub = "zoo:nlp/question_answering/obert-base/pytorch/huggingface/squad/pruned90_quant-none"
    pipeline = Pipeline.create(task="question-answering", model_path=stub, engine_type=engine_type, num_cores=1)
    assert pipeline(question=QUESTION, context=CONTEXT).answer == "sparsity-aware inference runtime"
    assert pickle.loads(pickle.dumps(pipeline)).model_path == stub


# ---- edges of the input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", ["", " ", " \t\n\u3000", "\u200b", "\x00\x00"])
def test_a_context_without_text_has_the_null_score_as_its_answer(
    pipeline: QuestionAnsweringPipeline, context: str
) -> None:
    output = pipeline(question=QUESTION, context=context)
    (logits,) = pipeline.forward(pipeline.preprocess([QuestionAnsweringInput(question=QUESTION, context=context)]))
    assert (output.answer, output.start, output.end) == ("", 0, 0)
    assert output.score == pytest.approx(float(logits.start[0] + logits.end[0]), abs=1e-5)


@pytest.mark.parametrize("question", ["", "   ", "\x00", "🙂", "什么?", "?" * 3000])
def test_any_question_gets_an_answer(pipeline: QuestionAnsweringPipeline, question: str) -> None:
    output = pipeline(question=question, context=CONTEXT)
    assert output.answer
    assert output.answer == CONTEXT[output.start : output.end]


@pytest.mark.parametrize(
    ("question", "context", "expected"),
    [
        ("Who lives in Paris?", "🙂🙂👍🏽 Élodie lives in Paris 👩‍👩‍👧.", "Élodie"),
        ("Where does Jürgen live?", "🙂🙂👍🏽 Since 2001, 👩‍👩‍👧 Jürgen lives in Köln 🙂.", "Köln"),
        ("Who wrote it?", "北京 2008 年。 The book was written by Lu Xun in 1921. 漢字", "Lu Xun"),
        ("Who lives in Cairo?", "مرحبا بالعالم. Ahmed lives in Cairo. עברית", "Ahmed"),
        ("Who lives in Rome?", "\x00\x00 Anna \x00lives in Rome.\x00", "Anna"),
        ("Who lives in Rome?", "e\u0301e\u0301 I\u0307 ﬁ ß Anna lives in Rome.", "Anna"),
    ],
    ids=["emoji", "umlaut", "cjk", "right to left", "nul", "combining"],
)
def test_offsets_are_code_points_in_every_script(
    pipeline: QuestionAnsweringPipeline, question: str, context: str, expected: str
) -> None:
    output = pipeline(question=question, context=context)
    assert output.answer == context[output.start : output.end]
    assert expected in output.answer


def test_a_lone_surrogate_is_refused(pipeline: QuestionAnsweringPipeline) -> None:
    with pytest.raises(ValueError, match="surrogate|unicode"):
        pipeline(question="who?", context="a \ud800 b")
    with pytest.raises(InputError, match="lone surrogates"):
        pipeline.tokenizer.encode("a \ud800 b")


def test_the_answer_is_found_at_the_end_of_a_long_context(engine_type: str, toy_model: Callable[..., Path]) -> None:
    pipeline = create(toy_model({"q": 5}, {"q": 5}), engine_type)
    context = "a b c d e " * 5000 + "q"
    output = pipeline(question="z", context=context)
    assert len(context) > 50_000
    assert (output.score, output.answer, output.start) == (10.0, "q", 50_000)


def test_engine_calls_are_bounded_slices(
    toy_model: Callable[..., Path], engine_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = create(toy_model({"q": 5}, {"q": 5}), engine_type, batch_size=10)
    rows = []
    engine = pipeline.engines[128]
    original = engine.run_rows
    monkeypatch.setattr(engine, "run_rows", lambda arrays: (rows.append(len(arrays["input_ids"])), original(arrays))[1])
    # 123 context tokens a window, 64 of them shared: windows begin at every 59th, the last but one before 1877
    assert pipeline(question="z", context="a " * 1999 + "q").answer == "q"
    assert rows == [10, 10, 10, 3]


# ---- options ---------------------------------------------------------------------------------------------------------


def test_max_question_length_cuts_the_question(toy_model: Callable[..., Path], engine_type: str) -> None:
    pipeline = create(toy_model({}, {}), engine_type, max_question_length=3, sequence_length=16)
    (prepared,) = pipeline.preprocess([QuestionAnsweringInput(question="a b c d e f", context="x")])
    assert prepared.question.ids.tolist() == pipeline.tokenizer.encode("a b c").ids.tolist()
    assert pipeline(question="a " * 500, context="x").answer == "x"


def test_a_question_that_leaves_no_room_is_an_error_that_says_what_to_do(
    toy_model: Callable[..., Path], engine_type: str
) -> None:
    pipeline = create(toy_model({}, {}), engine_type, sequence_length=16)
    assert pipeline(question="a " * 12, context="x y z").answer == "x"  # room for one token of context
    with pytest.raises(
        InputRangeError, match=r"13 tokens and 3 special tokens against a sequence_length of 16; shorten"
    ):
        pipeline(question="a " * 13, context="x y z")
    assert pipeline(question="a " * 13, context="").answer == ""
    with pytest.raises(InputRangeError, match="no room"):
        pipeline(question="a " * 14, context="")


def test_a_stride_that_leaves_no_room_to_advance_is_an_error_that_says_what_to_do(
    toy_model: Callable[..., Path], engine_type: str
) -> None:
    model = toy_model({"q": 5}, {"q": 5})
    pipeline = create(model, engine_type, sequence_length=16, doc_stride=12)
    assert pipeline(question="z", context="a " * 11 + "q").answer == "q"  # one window: nothing to overlap
    with pytest.raises(InputRangeError, match="doc_stride 12 leaves windows of 12 context tokens no room to advance"):
        pipeline(question="z", context="a " * 12 + "q")
    # Whatever the question, no more than 13 tokens of the context fit.
    with pytest.raises(InputRangeError, match="doc_stride 13 leaves windows of 13 context tokens no room to advance"):
        create(model, engine_type, sequence_length=[8, 16], doc_stride=13)
    assert create(model, engine_type, sequence_length=16, doc_stride=11)(question="z", context="a " * 40 + "q").answer


@pytest.mark.parametrize("scoring", ["deepsparse", "huggingface"])
def test_windows_overlap_by_three_quarters_at_most_unless_told_otherwise(
    toy_model: Callable[..., Path], engine_type: str, scoring: str
) -> None:
    pipeline = create(toy_model({"q": 5}, {"q": 5}), engine_type, sequence_length=16, scoring=scoring)
    item = QuestionAnsweringInput(question="z", context="a " * 40 + "q")
    (prepared,) = pipeline.preprocess([item])
    overlap = {"deepsparse": 9, "huggingface": 8}[scoring]  # 12 tokens a window; half of sequence_length is 8
    assert prepared.ranges[:2].tolist() == [[0, 12], [12 - overlap, 24 - overlap]]
    assert pipeline(item).answer == "q"


def test_windows_overlap_by_doc_stride(toy_model: Callable[..., Path], engine_type: str) -> None:
    # An answer of two tokens across the edge of the first window is seen whole by the second.
    model = toy_model({"p": 5}, {"q": 5})
    context = "a " * 11 + "p q " + "b " * 8
    assert create(model, engine_type, sequence_length=16, doc_stride=4)(question="z", context=context).answer == "p q"
    assert create(model, engine_type, sequence_length=16, doc_stride=0)(question="z", context=context).answer != "p q"


def test_num_spans_reads_the_first_windows_only(toy_model: Callable[..., Path], engine_type: str) -> None:
    model = toy_model({"p": 1, "q": 5}, {"p": 1, "q": 5})
    context = "p " + "a " * 30 + "q"
    assert create(model, engine_type, sequence_length=16, doc_stride=4)(question="z", context=context).answer == "q"
    limited = create(model, engine_type, sequence_length=16, doc_stride=4, num_spans=2)
    assert limited(question="z", context=context).answer == "p"


def test_max_answer_length_counts_tokens(toy_model: Callable[..., Path], engine_type: str) -> None:
    model = toy_model({"p": 5}, {"q": 5})
    assert create(model, engine_type, max_answer_length=3)(question="z", context="p a q").answer == "p a q"
    assert create(model, engine_type, max_answer_length=2)(question="z", context="p a q").answer == "p"


def test_padding_and_question_take_no_place_among_the_best(toy_model: Callable[..., Path], engine_type: str) -> None:
    # Every token outside the context scores higher than the answer, as padding may in a real model.
    high = {"[PAD]": 9.0, "[CLS]": 9.0, "[SEP]": 9.0, "z": 9.0}
    pipeline = create(toy_model(high | {"p": 1}, high | {"p": 1}), engine_type, n_best_size=1)
    assert pipeline(question="z " * 30, context="a p b").answer == "p"


def test_no_answer_may_win_only_with_version_2(toy_model: Callable[..., Path], engine_type: str) -> None:
    model = toy_model({"[CLS]": 3, "p": 2}, {"[CLS]": 3, "p": 2})
    assert create(model, engine_type)(question="z", context="a p").answer == "p"
    output = create(model, engine_type, version_2_with_negative=True)(question="z", context="a p")
    assert (output.score, output.answer, output.start, output.end) == (6.0, "", 0, 0)
    tie = toy_model({"[CLS]": 2, "p": 2}, {"[CLS]": 2, "p": 2})
    assert create(tie, engine_type, version_2_with_negative=True)(question="z", context="a p").answer == "p"


class Spy:
    """An engine that notes the shapes of rows, and the lengths of sequences without padding."""

    def __init__(self, engine: Any, seen: list[object]) -> None:
        self._engine = engine
        self._seen = seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def __call__(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        self._seen.append(inputs[0].shape)
        return self._engine(inputs)

    def run_ragged(self, inputs: list[np.ndarray], lengths: np.ndarray, val_inp: bool = True) -> list[np.ndarray]:
        self._seen.append(list(lengths))
        return self._engine.run_ragged(inputs, lengths, val_inp)


def test_rows_are_padded_to_the_sequence_length_unless_told_otherwise(
    toy_model: Callable[..., Path], engine_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = toy_model({"p": 5}, {"p": 5})
    item = QuestionAnsweringInput(question="z", context="a b p")
    padded, short = create(model, engine_type), create(model, engine_type, pad_to_max_length=False)
    seen: list[object] = []
    for pipeline in (padded, short):
        engine = pipeline.engines[128]
        monkeypatch.setattr(engine, "engine", Spy(engine.engine, seen))
    assert padded(item) == short(item)
    assert seen == [(1, 128), [7]]


def test_buckets_are_chosen_by_the_real_length_of_the_pair(toy_model: Callable[..., Path], engine_type: str) -> None:
    pipeline = create(toy_model({"q": 5}, {"q": 5}), engine_type, sequence_length=[32, 8, 16, 16])
    assert pipeline.sequence_lengths == [8, 16, 32]

    def bucket(tokens: int) -> tuple[int, int]:
        (prepared,) = pipeline.preprocess([QuestionAnsweringInput(question="z", context="a " * tokens)])
        return prepared.bucket, len(prepared.ranges)

    # 3 special tokens and 1 of the question
    assert [bucket(tokens) for tokens in (0, 4, 5, 12, 13, 28)] == [(8, 1), (8, 1), (16, 1), (16, 1), (32, 1), (32, 1)]
    assert bucket(29)[0] == 32
    assert bucket(29)[1] == 2
    for tokens in (0, 4, 5, 12, 13, 28, 29, 90):
        assert pipeline(question="z", context="a " * tokens + "q").answer == "q"


def test_left_padding_puts_the_context_first(toy_model: Callable[..., Path], engine_type: str) -> None:
    model = toy_model({"q": 5, "[CLS]": 7}, {"q": 5}, tokenizer_config={"padding_side": "left"})
    pipeline = create(model, engine_type, sequence_length=16, doc_stride=4)
    assert pipeline(question="z", context="a b q c").answer == "q"
    assert pipeline(question="z", context="a " * 30 + "q c").answer == "q"
    assert pipeline(question="z", context="").score == 7.0  # read at [CLS], which padding precedes


# ---- kinds of models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": TensorProto.INT32},
        {"inputs": ("input_ids",)},
        {"inputs": ("attention_mask", "input_ids")},
        {"shape": (1, 384)},
        {"shape": (1, "sequence")},
    ],
    ids=["int32", "ids only", "other order", "fixed shape", "fixed batch"],
)
def test_inputs_follow_the_model(toy_model: Callable[..., Path], engine_type: str, options: dict) -> None:
    pipeline = create(toy_model({"p": 2}, {"q": 3}, **options), engine_type, sequence_length=[16, 64], doc_stride=4)
    assert pipeline(question="z", context="a p q").answer == "p q"
    assert pipeline(question="z", context="a " * 100 + "p q").answer == "p q"


@pytest.mark.parametrize(
    ("outputs", "answer"),
    [
        (("start_logits", "end_logits"), "p q"),
        (("end_logits", "start_logits"), "q"),  # by position it would be "p q"
        (("output_0", "output_1"), "p q"),
        (("start", "end"), "p q"),
        (("start_logits", "end_logits", "pooled"), "p q"),
    ],
)
def test_outputs_are_found_by_name(
    toy_model: Callable[..., Path], engine_type: str, outputs: tuple, answer: str
) -> None:
    pipeline = create(toy_model({"p": 2}, {"q": 3}, outputs=outputs), engine_type)
    assert pipeline(question="z", context="p q").answer == answer


def test_models_for_something_else_are_refused(toy_model: Callable[..., Path], engine_type: str) -> None:
    with pytest.raises(ModelFormatError, match=r"list with two elements \[start_logits, end_logits\]"):
        create(toy_model({}, {}, outputs=("logits",)), engine_type)
    with pytest.raises(ModelFormatError, match="'pixels'.*expected input_ids"):
        create(toy_model({}, {}, inputs=("input_ids", "pixels")), engine_type)


def test_logits_that_are_not_numbers_are_refused(toy_model: Callable[..., Path], engine_type: str) -> None:
    pipeline = create(toy_model({"p": np.nan}, {}), engine_type)
    assert pipeline(question="z", context="a").answer == "a"
    with pytest.raises(EngineError, match="NaN"):
        pipeline(question="z", context="a p")


def test_the_users_files_are_left_alone(toy_model: Callable[..., Path], engine_type: str) -> None:
    model = toy_model({"p": 2}, {"q": 3}, shape=(1, 384))
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    create(model, engine_type, sequence_length=[16, 32])(question="z", context="p q")
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_a_sequence_beyond_the_models_positions_is_refused(
    toy_model: Callable[..., Path], engine_type: str, model_type: str
) -> None:
    config = {"model_type": model_type, "max_position_embeddings": 34, "pad_token_id": 1}
    model = toy_model({}, {}, config=config)
    limit = 34 if model_type == "bert" else 32
    create(model, engine_type, sequence_length=limit)
    with pytest.raises(InputRangeError, match=f"sequence_length {limit + 1} exceeds the {limit} positions"):
        create(model, engine_type, sequence_length=[8, limit + 1])


def test_files_may_be_named_in_several_ways(toy_model: Callable[..., Path], engine_type: str, tmp_path: Path) -> None:
    model = toy_model({"p": 2}, {"q": 3})
    deployment = tmp_path / "root" / "deployment"
    deployment.parent.mkdir()
    model.rename(deployment)
    for reference in (deployment, str(deployment), deployment / "model.onnx", deployment.parent):
        assert create(reference, engine_type)(question="z", context="p q").answer == "p q"


def test_missing_files_are_named(toy_model: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        create(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFoundError, match="model.onnx"):
        create(tmp_path / "empty")
    model = toy_model({}, {})
    (model / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"no tokenizer in .*expected tokenizer.json"):
        create(model)
    # transformers 5 makes a tokenizer without words of these two files
    (model / "config.json").write_text('{"model_type": "bert"}')
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.raises(ModelNotFoundError, match=r"no tokenizer in .*expected tokenizer.json"):
        create(model)


# ---- calls, threads, processes ---------------------------------------------------------------------------------------


def test_ways_to_call(pipeline: QuestionAnsweringPipeline) -> None:
    expected = pipeline(question=QUESTION, context=CONTEXT)
    assert pipeline(QuestionAnsweringInput(question=QUESTION, context=CONTEXT)) == expected
    assert pipeline(question=QUESTION, context=CONTEXT, id="7", colour="blue") == expected
    with pytest.raises(ValidationError):
        pipeline(question=QUESTION)
    with pytest.raises(ValidationError):
        pipeline(question=QUESTION, context=[3])
    with pytest.raises(ValueError, match="Found 2 args and 0 kwargs"):
        pipeline(QUESTION, CONTEXT)


def test_threads_get_the_answers_of_a_single_one(pipeline: QuestionAnsweringPipeline) -> None:
    cities = ["Paris", "Rome", "Cairo", "Oslo", "Lima", "Quito", "Delhi", "Minsk"]
    names = ["Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry"]
    context = " ".join(f"{name} lives in {city}." for name, city in zip(names, cities, strict=True))
    items = [{"question": f"Who lives in {city}?", "context": context} for city in cities]
    expected = [pipeline(**item) for item in items]
    found: dict[tuple[int, int], object] = {}

    def ask(thread: int) -> None:
        for turn in range(len(items)):
            index = (thread + turn) % len(items)
            found[thread, index] = pipeline(**items[index])

    threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 * len(items)
    assert all(output == expected[index] for (_, index), output in found.items())
    assert len({output.answer for output in expected}) > 1


def test_pickles_as_its_options(toy_model: Callable[..., Path], engine_type: str) -> None:
    pipeline = create(toy_model({"p": 2}, {"q": 3}), engine_type, sequence_length=[16, 32], doc_stride=4, alias="mine")
    data = pickle.dumps(pipeline)
    assert len(data) < 2000
    copy = pickle.loads(data)
    assert copy.to_config() == pipeline.to_config()
    assert copy(question="z", context="a p q b") == pipeline(question="z", context="a p q b")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": 0}, "sequence_length must be an int of at least 1, got 0"),
        ({"sequence_length": [64, -1]}, "sequence_length must be an int of at least 1, got -1"),
        ({"sequence_length": []}, r"Expected a non empty List of pipeline objects but got \[\]"),
        ({"sequence_length": "128"}, "sequence_length must be an int or a list of ints, got '128'"),
        ({"max_question_length": 0}, "max_question_length must be an int of at least 1, got 0"),
        ({"doc_stride": -1}, "doc_stride must be an int of at least 0, got -1"),
        ({"max_answer_length": 0}, "max_answer_length must be an int of at least 1, got 0"),
        ({"n_best_size": 0}, "n_best_size must be an int of at least 1, got 0"),
        ({"num_spans": 0}, "num_spans must be an int of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be None or an int of at least 1, got 0"),
        ({"doc_stride": True}, "doc_stride must be an int of at least 0, got True"),
    ],
)
def test_options_are_checked(model_directory: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create(model_directory, **options)
