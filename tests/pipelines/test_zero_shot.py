"""Zero-shot classification against ONNX Runtime, and of models whose scores can be told from the words."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pair_models import FORMATS, make_encoder, make_table, naive_logits
from pydantic import ValidationError

from sparsert.errors import InputError, InputRangeError, ModelFormatError
from sparsert.pipelines import Pipeline, ZeroShotInput, ZeroShotOutput
from sparsert.pipelines.zero_shot_text_classification import ZeroShotPipeline

NLI = ("contradiction", "neutral", "entailment")
LABELS = ["nature", "old radios", "the history of the city"]

# Letters stand for words: each adds to the logits of contradiction, neutral and entailment.
VALUES = {"a": [0.0, 0.0, 2.0], "b": [1.0, 0.0, 0.0], "c": [0.0, 5.0, 0.0], "x": [0.0, 0.0, 200.0]}
CONFIG = {"label2id": {name: place for place, name in enumerate(NLI)}}


@pytest.fixture(scope="module", params=FORMATS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three classes with random weights."""
    pytest.importorskip("onnxruntime")
    return make_encoder(tmp_path_factory.mktemp(request.param) / "model", request.param, NLI)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., ZeroShotPipeline]:
    """A pipeline whose logits for a pair are the sums of its words' numbers."""

    def make(config: dict | None = None, **options: Any) -> ZeroShotPipeline:
        folder = make_table(tmp_path / f"model{len(list(tmp_path.iterdir()))}", VALUES, config or CONFIG)
        template = {} if "model_config" in options else {"hypothesis_template": "{}"}
        return Pipeline.create("zero-shot", folder, num_cores=1, **(template | options))

    return make


def softmax(*logits: float) -> list[float]:
    powers = np.exp(np.array(logits) - max(logits))
    return list(powers / powers.sum())


def texts_of(paragraphs: list[dict]) -> list[str]:
    """Of several lengths: empty, short, and such as are cut."""
    contexts = [paragraph["context"] for paragraph in paragraphs]
    return ["", contexts[0][:60], contexts[1], contexts[2][:200]]


def test_scores_of_onnxruntime(paragraphs: list[dict], encoder: Path) -> None:
    texts = texts_of(paragraphs)
    pairs = [(text, f"It is about {label}.") for text in texts for label in LABELS]
    logits = naive_logits(encoder, pairs, "only_first").reshape(len(texts), len(LABELS), 3)
    pipeline = Pipeline.create("zero-shot-text-classification", encoder, num_cores=1)
    # Float32 sums in another order; of int8, a float between two bytes may be rounded to either, logits spread by 1
    bound = 1e-5 if encoder.parent.name.startswith("float") else 0.02
    for multi_label in (False, True):
        output = pipeline(
            sequences=texts, labels=LABELS, hypothesis_template="It is about {}.", multi_label=multi_label
        )
        assert output.sequences == texts
        for table, labels, scores in zip(logits, output.labels, output.scores, strict=True):
            if multi_label:
                expected = [softmax(contradiction, entailment)[1] for contradiction, _, entailment in table]
            else:
                expected = softmax(*table[:, 2])
            assert sorted(labels) == sorted(LABELS) and scores == sorted(scores, reverse=True)
            assert scores == pytest.approx([expected[LABELS.index(label)] for label in labels], abs=bound)


def test_scores_depend_on_nothing_else(paragraphs: list[dict], encoder: Path) -> None:
    texts = texts_of(paragraphs)
    one = Pipeline.create("zero-shot", encoder, num_cores=1, multi_label=True)
    two = Pipeline.create("zero-shot", encoder, num_cores=2, batch_size=2, multi_label=True)
    together = by_label(one(texts, LABELS))
    alone = [[by_label(one([text], [label]))[0][label] for label in LABELS] for text in texts]
    others = by_label(two(texts[::-1], LABELS[::-1]))[::-1]
    bound = 0 if encoder.parent.name.startswith("int8") else 1e-6
    for found, single, other in zip(together, alone, others, strict=True):
        values = [found[label] for label in LABELS]
        np.testing.assert_allclose(single, values, rtol=0, atol=bound)
        np.testing.assert_allclose([other[label] for label in LABELS], values, rtol=0, atol=bound)


def by_label(output: ZeroShotOutput) -> list[dict[str, float]]:
    return [dict(zip(labels, scores, strict=True)) for labels, scores in zip(output.labels, output.scores, strict=True)]


def test_one_label_is_right_or_each_by_itself(make: Callable[..., ZeroShotPipeline]) -> None:
    pipeline = make()
    output = pipeline(sequences="b c", labels=["c", "a", "b a a"])
    assert output.labels == ["b a a", "a", "c"]
    assert output.scores == pytest.approx(softmax(4, 2, 0))
    output = pipeline(sequences="b c", labels=["c", "a", "b a a"], multi_label=True)
    assert output.labels == ["b a a", "a", "c"]
    assert output.scores == pytest.approx([softmax(2, 4)[1], softmax(1, 2)[1], softmax(1, 0)[1]])
    # One label by itself cannot be the right one of several
    assert pipeline("b", "a").scores == pytest.approx([softmax(1, 2)[1]])


def test_ties_in_order_and_extremes(make: Callable[..., ZeroShotPipeline]) -> None:
    assert make()("c", ["b", "c", "a", "d", "a a"]).labels == ["a a", "a", "b", "c", "d"]
    output = make()("x", ["b", "a", "x"])
    assert (output.labels, output.scores) == (["x", "b", "a"], [1.0, 0.0, 0.0])
    assert make()("x", ["b", "c"], multi_label=True).scores == [1.0, 1.0]


def test_both_dialects_of_calls(make: Callable[..., ZeroShotPipeline]) -> None:
    pipeline = make()
    expected = pipeline(sequences="b", labels=["a", "c"])
    calls: list[Any] = [
        pipeline("b", ["a", "c"]),
        pipeline("b", "a, c"),
        pipeline("b", candidate_labels=["a", "c"]),
        pipeline("b", candidate_labels="a, c", multi_label=False),
        pipeline("b", ["a", "c"], hypothesis_template="{}", multi_class=False),
        pipeline({"sequences": "b", "candidate_labels": "a, c"}),
        pipeline(ZeroShotInput(sequences="b", labels=["a", "c"])),
        make(labels="a,c")("b"),
        make(candidate_labels=["a", "c"])(sequences="b"),
    ]
    assert calls == [expected] * len(calls)
    assert expected.labels == ["a", "c"]

    several = make(labels=["a", "c"])("b", "c", "a")
    assert several == pipeline(["b", "c", "a"], ["a", "c"])
    assert several.sequences == ["b", "c", "a"] and len(several.labels) == 3
    listed = pipeline([{"sequences": "b", "labels": "a"}, {"sequences": ["b"], "labels": "a"}])
    assert (listed[0].labels, listed[1].labels) == (["a"], [["a"]])


def test_deepsparses_words_in_the_constructor(make: Callable[..., ZeroShotPipeline]) -> None:
    config = {"hypothesis_template": "b {}", "entailment_index": 0, "contradiction_index": 2, "multi_class": True}
    pipeline = make(model_scheme="mnli", model_config=config)
    assert pipeline("c", ["a", "c"]).scores == pytest.approx([softmax(0, 1)[1], softmax(2, 1)[1]])
    assert pipeline("c", ["a", "c"], multi_label=False).scores == pytest.approx([0.5, 0.5])
    assert (
        make(multi_class=True).options.multi_label and not make(model_config={"multi_class": None}).options.multi_label
    )
    for again in (Pipeline.from_config(pipeline.to_config()), pickle.loads(pickle.dumps(pipeline))):
        assert again.options.as_data() == pipeline.options.as_data()
        assert again("c", ["a", "c"]) == pipeline("c", ["a", "c"])


def test_the_default_template_is_deepsparses(make: Callable[..., ZeroShotPipeline]) -> None:
    assert make().options_type().hypothesis_template == "This text is about {}"


def test_each_text_and_hypothesis_is_tokenized_once(
    make: Callable[..., ZeroShotPipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = make()
    seen: list[str] = []
    encode = pipeline.model.tokenizer.encode_ids
    monkeypatch.setattr(pipeline.model.tokenizer, "encode_ids", lambda texts: seen.extend(texts) or encode(texts))
    pipeline([{"sequences": ["a", "b"], "labels": "c, d"}, {"sequences": "b", "labels": "d, e"}])
    assert sorted(seen) == ["a", "b", "c", "d", "e"]


def test_the_text_is_cut_never_the_hypothesis(make: Callable[..., ZeroShotPipeline]) -> None:
    pipeline = make(sequence_length=7)
    # Room for 4: the text keeps one word beside a hypothesis of three
    assert pipeline("b a a", "c c b").scores == pytest.approx([softmax(2, 0)[1]])
    inputs = [ZeroShotInput(sequences=["b", "c c"], labels=label) for label in ("c", "c c c c")]
    good, bad = pipeline.run_many(inputs, return_exceptions=True)
    assert isinstance(good, ZeroShotOutput)
    assert isinstance(bad, InputRangeError)
    assert "sequences[0] with the hypothesis of a label: a pair of 1 and 4 tokens does not fit" in str(bad)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sequences": [], "labels": "a"}, "sequences is empty"),
        ({"sequences": "b"}, "labels are missing"),
        ({"sequences": "b", "labels": []}, "labels must hold at least one label"),
        ({"sequences": "b", "labels": ["a", ""]}, r"labels\[1\] must be a str that is not empty"),
        ({"sequences": "b", "labels": ["a", "a"]}, r"labels\[1\] is 'a', as labels\[0\]"),
        ({"sequences": "b", "labels": "a", "candidate_labels": "c"}, "labels and candidate_labels mean the same"),
        ({"sequences": "b", "labels": "a", "multi_label": True, "multi_class": False}, "multi_label and multi_class"),
        ({"sequences": "b", "labels": "a", "hypothesis_template": "This."}, "hypothesis_template"),
        ({"sequences": ["b", "\ud800"], "labels": "a"}, r"sequences\[1\]: the text must be a str without lone"),
        ({"sequences": "b", "labels": ["a", "\ud800"]}, r"labels\[1\]: the text must be a str without lone"),
    ],
)
def test_a_bad_request_fails_alone(make: Callable[..., ZeroShotPipeline], fields: dict[str, Any], message: str) -> None:
    pipeline, good = make(), ZeroShotInput(sequences="b", labels="a")
    results = pipeline.run_many([good, ZeroShotInput(**fields), good], return_exceptions=True)
    assert results[0] == results[2] == pipeline(good)
    with pytest.raises(InputError, match=message):
        raise results[1]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"labels": "a"}, "sequences"),
        ({"sequences": ["b", None], "labels": "a"}, "sequences"),
        ({"sequences": [["b", "c"]], "labels": "a"}, "sequences"),
        ({"sequences": "b", "labels": ["a", 3]}, "labels"),
    ],
)
def test_fields_of_other_types(make: Callable[..., ZeroShotPipeline], fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=rf"(?m)^{field}"):
        make()(**fields)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_scheme": "other"}, r"model_scheme must be one of \['mnli'\], got 'other'"),
        ({"model_config": {"labels": "a"}}, r"model_config has \['labels'\]; it may have"),
        ({"model_config": "a"}, "model_config must be a mapping"),
        (
            {"model_config": {"entailment_index": 1}, "entailment_index": 0},
            "entailment_index is 0 and in model_config 1",
        ),
        ({"entailment_index": -1}, "entailment_index must be an int of at least 0"),
        ({"entailment_index": 3}, "entailment_index must be from 0 to 2"),
        ({"entailment_index": 0}, "must differ, both are 0"),
        ({"labels": "a", "candidate_labels": "b"}, "labels and candidate_labels mean the same"),
        ({"labels": []}, "labels must hold at least one label"),
        ({"hypothesis_template": "{x}"}, "hypothesis_template"),
    ],
)
def test_options_that_make_no_sense(
    make: Callable[..., ZeroShotPipeline], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make(**options)


def test_labels_in_both_places(make: Callable[..., ZeroShotPipeline]) -> None:
    pipeline = make(labels="a")
    assert (pipeline("b").labels, pipeline("b", candidate_labels="c").labels) == (["a"], ["c"])
    with pytest.raises(InputError, match="labels are missing"):
        make()("b", "c", "a")


def test_names_of_classes(make: Callable[..., ZeroShotPipeline], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "sparsert")
    assert (make().entailment, make().contradiction) == (2, 0)
    assert not caplog.messages
    pipeline = make({"id2label": {"0": "x", "1": "y", "2": "z"}})
    assert (pipeline.entailment, pipeline.contradiction) == (0, 2)
    assert "config.json begins with 'entail'; class 0 is taken" in caplog.text
    caplog.clear()
    pipeline = make({"num_labels": 3}, entailment_index=1)
    assert (pipeline.entailment, pipeline.contradiction) == (1, 0)
    assert not caplog.messages


def test_a_model_with_one_class(tmp_path: Path) -> None:
    folder = make_table(tmp_path / "model", {"a": [1.0]})
    with pytest.raises(ModelFormatError, match="2 classes or more, this one has 1"):
        Pipeline.create("zero-shot", folder, num_cores=1)


def test_what_every_logger_takes(make: Callable[..., ZeroShotPipeline], caplog: pytest.LogCaptureFixture) -> None:
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    logger = {
        "loggers": {"prometheus": {"registry": registry}},
        "data_logging": {"predefined": [{"func": "zero_shot_text_classification"}]},
    }
    pipeline = make(logger=logger)
    least = [pipeline("c", ["b", "a"]).scores[0], min(scores[0] for scores in pipeline(["c", "b"], ["a", "x"]).scores)]
    assert not caplog.messages
    labels = {"pipeline_name": "zero_shot_text_classification"}
    assert registry.get_sample_value("sparsert_pipeline_outputs__least_score_sum", labels) == pytest.approx(sum(least))
    assert registry.get_sample_value("sparsert_pipeline_inputs__number_of_texts_sum", labels) == 3
