"""Text classification end to end: labels of ONNX Runtime, rows of the tokenizers library, bad input."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from classifiers import FORMS, LENGTH, Reference, make_classifier, random_texts
from pair_models import make_table
from pydantic import ValidationError

from sparsert.errors import InputError, InputRangeError, ModelError, ModelFormatError
from sparsert.pipelines import Pipeline, TextClassificationInput, TextClassificationOutput
from sparsert.pipelines.rows import pack_rows
from sparsert.pipelines.text_classification import TextClassificationPipeline

NAMES = ("bad", "good")

Make = Callable[..., TextClassificationPipeline]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make_classifier(tmp_path_factory.mktemp(name), name) for name in FORMS}


@pytest.fixture
def make(folders: dict[str, Path], tmp_path: Path) -> Make:
    """A pipeline on a folder, whose ``config.json`` may have other keys."""

    def make(name: str = "bert", config: dict[str, Any] | None = None, **options: Any) -> TextClassificationPipeline:
        folder = folders[name]
        if config is not None:
            files = [path for path in folder.iterdir() if path.name != "config.json"]
            folder = tmp_path / "changed"
            folder.mkdir()
            for path in files:
                (folder / path.name).symlink_to(path)
            (folder / "config.json").write_text(json.dumps(config))
        pipeline = Pipeline.create("text-classification", folder, num_cores=1, **options)
        assert isinstance(pipeline, TextClassificationPipeline)
        return pipeline

    return make


def some_texts(seed: int, number: int) -> list[list[str]]:
    """Singles and pairs, shorter and longer than the model takes, as ``sequences``."""
    random = np.random.default_rng(seed)
    texts, pairs = random_texts(random, number), random_texts(random, number)
    return [[text] if random.random() < 0.5 else [text, pair] for text, pair in zip(texts, pairs, strict=True)]


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = [math.exp(value - max(logits)) for value in logits.tolist()]
    return np.array(powers) / math.fsum(powers)


# ---- against ONNX Runtime --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_labels_of_onnxruntime(make: Make, folders: dict[str, Path], name: str, engine_type: str) -> None:
    sequences = some_texts(1, 200)
    # ONNX Runtime takes one range for all rows of a call, so that a row's result depends on the others
    rows = 1 if (name, engine_type) == ("dynamic", "onnxruntime") else None
    found = make(name, engine_type=engine_type, batch_size=rows)(sequences=sequences)
    reference = Reference(folders[name], exact=engine_type == "sparsert")
    expected = np.array([softmax(reference.logits(*texts)) for texts in sequences])
    labels = [NAMES[row.argmax()] for row in expected]
    assert set(labels) == set(NAMES)
    if name in ("int8", "dynamic"):
        # A float between two bytes may be rounded to either, which moves these logits, stretched to a deviation of 1,
        # by some hundredths; where the labels are as near as that, either may win.
        clear = np.abs(expected[:, 0] - expected[:, 1]) > 0.05
        assert clear.mean() > 0.8
        assert [label for label, sure in zip(found.labels, clear, strict=True) if sure] == [
            label for label, sure in zip(labels, clear, strict=True) if sure
        ]
        assert np.corrcoef(found.scores, expected.max(axis=1))[0, 1] > 0.995
    else:
        assert found.labels == labels
        # Sums of float32 in another order, stretched up to a hundredfold
        np.testing.assert_allclose(found.scores, expected.max(axis=1), atol=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", ["bert", "roberta"])
@pytest.mark.parametrize("sequence_length", [8, 9, LENGTH])
def test_rows_of_the_tokenizers_library(
    make: Make, folders: dict[str, Path], name: str, sequence_length: int, side: str
) -> None:
    pipeline = make(name, sequence_length=sequence_length)
    pipeline.model.tokenizer.truncation_side = side
    tokenizer = Reference(folders[name], sequence_length).tokenizer
    tokenizer.enable_truncation(sequence_length, strategy="longest_first", direction=side)
    lengths = range(0, sequence_length + 4)
    sequences = [["a b " * half] for half in lengths]
    sequences += [["a " * first, "b " * second] for first in lengths for second in lengths[::3]]
    (prepared,) = pipeline.preprocess([TextClassificationInput(sequences=sequences)])
    packed = pack_rows(prepared.rows, pipeline.model.tokenizer)
    encodings = [tokenizer.encode(*texts) for texts in sequences]
    assert packed.lengths.tolist() == [len(encoding) for encoding in encodings]
    assert packed.arrays["input_ids"].tolist() == [number for item in encodings for number in item.ids]
    assert packed.arrays["token_type_ids"].tolist() == [number for item in encodings for number in item.type_ids]
    assert pipeline.tokens(prepared) == packed.lengths.sum()


@pytest.mark.parametrize(
    ("config", "function"),
    [
        ({}, softmax),
        ({"problem_type": "single_label_classification"}, softmax),
        ({"problem_type": "multi_label_classification"}, lambda logits: 1 / (1 + np.exp(-logits.astype(np.float64)))),
        ({"problem_type": "regression"}, lambda logits: logits),
    ],
)
def test_all_scores(make: Make, folders: dict[str, Path], config: dict[str, Any], function: Any) -> None:
    sequences = some_texts(2, 50)
    found = make(config=config | {"id2label": {"1": "good", "0": "bad"}}, top_k=None)(sequences=sequences)
    reference = Reference(folders["bert"])
    for texts, labels, scores in zip(sequences, found.labels, found.scores, strict=True):
        expected = function(reference.logits(*texts))
        order = sorted(range(2), key=lambda label: -expected[label])  # noqa: B023
        assert labels == [NAMES[label] for label in order]
        np.testing.assert_allclose(scores, expected[order], atol=1e-4)


def test_one_label(tmp_path: Path) -> None:
    for problem_type in ("regression", None):
        folder = make_classifier(tmp_path, "bert", 1, problem_type=problem_type)
        found = Pipeline.create("text-classification", folder, num_cores=1)(["a b", "c"])
        logits = [float(Reference(folder).logits(text)[0]) for text in ("a b", "c")]
        assert found.labels == ["bad", "bad"]
        expected = logits if problem_type else [1 / (1 + math.exp(-logit)) for logit in logits]
        assert found.scores == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["bert", "int8", "dynamic"])
@pytest.mark.parametrize("num_cores", [1, 2])
def test_neighbours_change_nothing(folders: dict[str, Path], name: str, num_cores: int) -> None:
    one = Pipeline.create("text-classification", folders[name], top_k=None, num_cores=1)
    pipeline = Pipeline.create("text-classification", folders[name], top_k=None, num_cores=num_cores)
    sequences = some_texts(3, 60)
    alone = [one(sequences=[texts]).scores[0] for texts in sequences]
    tolerance = 1e-6 if name == "bert" else 0
    np.testing.assert_allclose(pipeline(sequences=sequences).scores, alone, rtol=0, atol=tolerance)
    order = np.random.default_rng(4).permutation(len(sequences))
    shuffled = pipeline(sequences=[sequences[place] for place in order]).scores
    np.testing.assert_allclose(shuffled, np.array(alone)[order], rtol=0, atol=tolerance)
    batch = pipeline([{"sequences": [texts]} for texts in sequences])
    np.testing.assert_allclose([output.scores[0] for output in batch], alone, rtol=0, atol=tolerance)


# ---- forms -----------------------------------------------------------------------------------------------------------


def test_forms_of_calls(make: Make) -> None:
    pipeline = make()
    both = pipeline(sequences=["a b", "c"])
    one, two = pipeline("a b"), pipeline(["c"])
    assert both == TextClassificationOutput(labels=one.labels + two.labels, scores=one.scores + two.scores)
    assert pipeline(["a b", "c"]) == pipeline("a b", "c") == pipeline([["a b"], ["c"]]) == both
    assert pipeline([{"text": "a b"}, {"text": "c"}]) == [one, two]
    assert pipeline({"text": "a b", "text_pair": "c"}) == pipeline([["a b", "c"]]) != one
    requests = [TextClassificationInput(sequences="a b"), TextClassificationInput(sequences=["c"])]
    assert pipeline(requests) == pipeline.run_many(requests) == [one, two]
    assert pipeline.run_many([]) == []


def test_lists_where_more_than_one_label_is_asked(make: Make) -> None:
    one = make()("a")
    for options in ({"top_k": 2}, {"top_k": 5}, {"top_k": None}, {"return_all_scores": True}):
        found = make(**options)("a")
        assert set(found.labels[0]) == set(NAMES) and sum(found.scores[0]) == pytest.approx(1)
        assert ([found.labels[0][0]], [found.scores[0][0]]) == (one.labels, one.scores)


def test_options_of_a_request(make: Make, folders: dict[str, Path]) -> None:
    classify, logits = make(), Reference(folders["bert"]).logits("a b")
    request = {"sequences": "a b", "return_all_scores": True}
    plain, raw, asked = classify(
        [
            classify.input_schema(**item)
            for item in ({"sequences": "a b"}, request | {"function_to_apply": "none"}, request)
        ]
    )
    assert plain == classify("a b")
    best = np.argsort(-logits)
    assert raw.labels == asked.labels == [[NAMES[place] for place in best]]
    np.testing.assert_allclose(raw.scores, [logits[best]], atol=1e-4)  # stretched, and so are their errors
    np.testing.assert_allclose(asked.scores, [softmax(logits)[best]], atol=1e-4)
    assert classify([{"text": "a b", "return_all_scores": True}])[0] == asked
    with pytest.raises(ValidationError, match="function_to_apply"):
        classify(sequences="a b", function_to_apply="square")


def test_options_go_with_the_pipeline(make: Make) -> None:
    pipeline = make(top_k=None, function_to_apply="Sigmoid", sequence_length=16)
    for other in (pickle.loads(pickle.dumps(pipeline)), Pipeline.from_config(pipeline.to_config())):
        assert other.task_options() == pipeline.task_options()
        assert other("a " * 50) == pipeline("a " * 50)
    assert {"text_classification", "sentiment_analysis", "glue"} <= set(Pipeline.supported_tasks())


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_a_bad_request_fails_alone(make: Make) -> None:
    pipeline = make()
    requests = [
        TextClassificationInput(sequences=sequences)
        for sequences in ("a", [], ["a", "\ud800"], [["a", "b"], ["c", "\udfff"]], ["b", ["c", "d", "e"]], "b")
    ]
    first, empty, surrogate, in_pair, three, last = pipeline.run_many(requests, return_exceptions=True)
    assert (first, last) == (pipeline("a"), pipeline("b"))
    for error, message in (
        (empty, "sequences is empty"),
        (surrogate, "sequences[1]: the text must be a str without lone surrogates"),
        (in_pair, "sequences[1]: the text must be a str without lone surrogates"),
        (three, "sequences[1] must be one text"),
    ):
        assert isinstance(error, InputError) and str(error).startswith(message)
    assert pipeline.run_many(requests[1:2], return_exceptions=True)[0].args == empty.args
    with pytest.raises(InputError, match="sequences is empty"):
        pipeline([])


def test_a_text_without_any_token_fails_alone(tmp_path: Path) -> None:
    folder = make_table(tmp_path / "model", {"a": [2.0, 0.0]})
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    pipeline = Pipeline.create("text-classification", folder, num_cores=1)
    requests = [TextClassificationInput(sequences=sequences) for sequences in (["a"], ["a", ""], [["", "a"]])]
    first, failed, last = pipeline.run_many(requests, return_exceptions=True)
    assert first.scores == last.scores == pytest.approx([1 / (1 + np.exp(-2))])
    assert isinstance(failed, InputError) and str(failed).startswith("sequences[1]: the tokenizer makes no tokens")


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("labels", [2, 3, 4])
def test_a_run_tells_how_many_labels_there_are(tmp_path: Path, labels: int, special: bool) -> None:
    folder = make_table(tmp_path / "model", {"a": [2.0] + [0.0] * (labels - 1)})
    path = folder / "tokenizer.json"
    if not special:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    model = onnx.load(folder / "model.onnx")
    for dim in model.graph.output[0].type.tensor_type.shape.dim:
        dim.Clear()
    onnx.save(model, folder / "model.onnx")
    pipeline = Pipeline.create("text-classification", folder, num_cores=1, function_to_apply="none")
    assert pipeline.model.num_labels == labels
    assert [pipeline(text).scores for text in ("a", "a b", "a b a b a b")] == [[2.0], [2.0], [6.0]]
    assert pipeline(["a"] * 20 + ["a a a"]).scores == [2.0] * 20 + [6.0]


def test_a_text_beyond_the_vocabulary_fails_alone(tmp_path: Path) -> None:
    folder = make_table(tmp_path / "model", {"a": [2.0, 0.0]})
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["odd"] = 30
    path.write_text(json.dumps(content))
    pipeline = Pipeline.create("text-classification", folder, num_cores=1)
    requests = [TextClassificationInput(sequences=sequences) for sequences in (["a"], ["a", "a odd"], [["a", "odd"]])]
    first, failed, pair = pipeline.run_many(requests, return_exceptions=True)
    assert first == pipeline(["a"])
    for error, place in ((failed, 1), (pair, 0)):
        message = f"sequences[{place}]: the tokenizer in {folder} has the token 'odd' as 30, but the vocabulary"
        assert isinstance(error, InputError) and str(error).startswith(message)
        assert f"of {folder / 'model.onnx'} ends at 29" in str(error)


def test_texts_without_words(make: Make, folders: dict[str, Path]) -> None:
    reference = Reference(folders["bert"])
    found = make(top_k=None)(["", " ", "\t\n", "a" * 1_000_000])
    for text, labels, scores in zip(["", " ", "", "?"], found.labels, found.scores, strict=True):
        expected = softmax(reference.logits(text))
        np.testing.assert_allclose(scores, [expected[NAMES.index(label)] for label in labels], atol=1e-4)


def test_long_texts(make: Make) -> None:
    with pytest.raises(InputRangeError, match=r"sequences\[1\]: a text of 41 tokens does not fit: the model takes 38"):
        make(truncation=False)(["a", "b " * 41])
    with pytest.raises(InputRangeError, match=r"sequences\[0\]: a pair of 30 and 8 tokens does not fit"):
        make(truncation=False)([["a " * 30, "b " * 8]])
    cut = make()("a " * 100_000)
    assert cut == make()("a " * 38)


def test_labels_that_do_not_match(make: Make) -> None:
    with pytest.raises(ModelFormatError, match=r"config.json names 3 labels .*the model gives 2 logits"):
        make(config={"id2label": {"0": "a", "1": "b", "2": "c"}})


def test_without_labels(make: Make) -> None:
    assert make(config={})("a").labels[0] in ("LABEL_0", "LABEL_1")


def test_a_model_without_such_a_head(model_directory: Path) -> None:
    with pytest.raises(ModelFormatError, match="export it with a head for sequence classification"):
        Pipeline.create("text-classification", model_directory)


def test_without_a_model() -> None:
    with pytest.raises(InputError, match="No model_path provided for pipeline"):
        Pipeline.create("text-classification")


def test_numbers_that_are_none(make: Make) -> None:
    pipeline = make()
    (prepared,) = pipeline.preprocess([TextClassificationInput(sequences="a")])
    (part,) = pipeline.forward([prepared])
    part.outputs["logits"][:] = np.nan
    with pytest.raises(ModelError, match="NaN in 1 of 1 rows"):
        pipeline.postprocess([prepared], iter([part]))


def test_what_logs_are_told(make: Make) -> None:
    functions = make().metric_functions
    assert functions["pipeline_inputs"]["number_of_texts"](TextClassificationInput(sequences=["a", "b"])) == 2
    for scores in ([0.9, 0.6], [[0.9, 0.1], [0.6, 0.4]]):
        output = TextClassificationOutput(labels=["good", "bad"], scores=scores)
        assert functions["pipeline_outputs"]["least_score"](output) == 0.6
