"""Token classification end to end: entities of ONNX Runtime and a naive twin, windows, forms of calls, bad input."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import naive_entities
import numpy as np
import pytest
from pydantic import ValidationError
from taggers import FORMS, LABELS, LENGTH, Reference, make_tagger, random_text
from tokenizers import Tokenizer, models, pre_tokenizers

from sparsert.errors import InputError, ModelError, ModelFormatError
from sparsert.pipelines import Pipeline, TokenClassificationInput, TokenClassificationOutput
from sparsert.pipelines.rows import Row
from sparsert.pipelines.token_classification import TokenClassificationPipeline
from sparsert.pipelines.token_classification.entities import STRATEGIES

Make = Callable[..., TokenClassificationPipeline]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make_tagger(tmp_path_factory.mktemp(name), name) for name in FORMS}


@pytest.fixture
def make(folders: dict[str, Path], tmp_path: Path) -> Make:
    """A pipeline on a folder, whose ``config.json`` may have other keys."""

    def make(name: str = "bert", config: dict[str, Any] | None = None, **options: Any) -> TokenClassificationPipeline:
        folder = folders[name]
        if config is not None:
            files = [path for path in folder.iterdir() if path.name != "config.json"]
            folder = tmp_path / "changed"
            folder.mkdir()
            for path in files:
                (folder / path.name).symlink_to(path)
            (folder / "config.json").write_text(json.dumps(config))
        pipeline = Pipeline.create("token-classification", folder, num_cores=1, **options)
        assert isinstance(pipeline, TokenClassificationPipeline)
        return pipeline

    return make


def texts_of(seed: int, sizes: list[int]) -> list[str]:
    random = np.random.default_rng(seed)
    return [random_text(random, words) for words in sizes]


# ---- against ONNX Runtime --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_entities_of_onnxruntime(
    make: Make, folders: dict[str, Path], name: str, strategy: str, engine_type: str
) -> None:
    texts = ["", " ", "\n\t", "x", *texts_of(1, [1, 2, 5, 9, 10, 14, 15, 20, 40, 80, 200])]
    found = make(name, engine_type=engine_type, aggregation_strategy=strategy)(texts).predictions
    reference = Reference(folders[name])
    entities = 0
    for text, predictions in zip(texts, found, strict=True):
        expected = reference.entities(text, strategy)
        for entity, twin in zip(predictions, expected, strict=True):
            fields = entity.model_dump()
            assert fields.pop("is_grouped") == (strategy != "none")
            fields["label"] = fields.pop("entity")
            # Sums of float32 in another order, stretched up to a hundredfold
            assert fields == twin | {"score": pytest.approx(twin["score"], abs=1e-4)}
        entities += len(predictions)
    assert entities > 100
    assert {entity.entity for part in found for entity in part} == (
        set(LABELS[1:]) if strategy == "none" else {"PER", "LOC"}
    )


def test_labels_of_int8(make: Make, folders: dict[str, Path], engine_type: str) -> None:
    texts = texts_of(2, [3, 10, 40, 100, 300])
    found = make("int8", engine_type=engine_type, ignore_labels=[])(texts).predictions
    reference = Reference(folders["int8"])
    same = scores = 0
    for text, predictions in zip(texts, found, strict=True):
        for entity, twin in zip(predictions, reference.entities(text, "none", ignored=()), strict=True):
            # A float between two bytes may be rounded to either, which moves these logits, stretched to a deviation of
            # 2, by some tenths; where no label is clearly ahead, another may win.
            assert entity.entity == twin["label"] or twin["score"] < 0.6
            same += entity.entity == twin["label"]
            scores += 1
    assert same / scores > 0.95


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_entities_of_int8_logits(make: Make, folders: dict[str, Path], strategy: str) -> None:
    pipeline = make("int8", aggregation_strategy=strategy)

    def run(ids: list[int]) -> np.ndarray:
        """Our own logits of one window, without its neighbours."""
        (part,) = pipeline.model.run([Row(np.array(ids[1:-1], dtype=np.int64))])
        return part.outputs["logits"]

    texts = texts_of(2, [3, 10, 40, 100, 300])
    reference = Reference(folders["int8"], run)
    for text, predictions in zip(texts, pipeline(texts).predictions, strict=True):
        for entity, twin in zip(predictions, reference.entities(text, strategy), strict=True):
            found = entity.model_dump(exclude={"is_grouped", "entity"}) | {"label": entity.entity}
            assert found == twin | {"score": pytest.approx(twin["score"], abs=1e-5)}  # a mean in float32


@pytest.mark.parametrize("tokens", [1, 29, 30, 31, 53, 54, 5000])
def test_texts_of_any_length(make: Make, folders: dict[str, Path], tokens: int) -> None:
    text = " ".join("abcdefghij"[place**2 % 7] for place in range(tokens))
    pipeline = make(ignore_labels=[])
    (found,) = pipeline(text).predictions
    expected = Reference(folders["bert"]).entities(text, "none", ignored=())
    assert [entity.entity for entity in found] == [twin["label"] for twin in expected]
    assert [entity.index for entity in found] == list(range(1, len(expected) + 1))  # none lost, none twice


@pytest.mark.parametrize("stride", [0, 3, 17])
def test_windows_of_transformers(make: Make, folders: dict[str, Path], stride: int) -> None:
    texts = texts_of(3, [5, 30, 100])
    found = make(aggregation_strategy="first", stride=stride)(texts).predictions
    reference = Reference(folders["bert"])
    for text, predictions in zip(texts, found, strict=True):
        windows = reference.windows(text, LENGTH, stride)
        expected = [
            twin
            for window in windows
            for twin in naive_entities.entities(reference.tokenizer, 1, text, window, LABELS, "first", ("O",))
        ]
        if len(windows) > 1:
            expected = naive_entities.without_overlaps(expected)
        assert [(entity.entity, entity.start, entity.end, entity.word) for entity in predictions] == [
            (twin["label"], twin["start"], twin["end"], twin["word"]) for twin in expected
        ]


@pytest.mark.parametrize("side", ["right", "left"])
def test_truncation_reads_one_window(make: Make, side: str) -> None:
    (text,) = texts_of(4, [100])
    pipeline = make(truncation=True, ignore_labels=[])
    pipeline.model.tokenizer.truncation_side = side
    (found,) = pipeline(text).predictions
    assert len(found) == LENGTH - 2
    assert [entity.index for entity in found] == list(range(1, LENGTH - 1))
    tokens = pipeline.model.tokenizer.encode(text)
    offsets = tokens.offsets[: LENGTH - 2] if side == "right" else tokens.offsets[2 - LENGTH :]
    assert [[entity.start, entity.end] for entity in found] == offsets.tolist()
    (prepared,) = pipeline.preprocess([TokenClassificationInput(inputs=text)])
    assert [row.cut for row in prepared.rows] == [len(tokens) - LENGTH + 2]
    assert pipeline.tokens(prepared) == LENGTH


@pytest.mark.parametrize("name", ["bert", "int8"])
@pytest.mark.parametrize("num_cores", [1, 2])
def test_neighbours_change_nothing(folders: dict[str, Path], name: str, num_cores: int) -> None:
    options = {"aggregation_strategy": "average"}
    one = Pipeline.create("ner", folders[name], num_cores=1, **options)
    pipeline = Pipeline.create("ner", folders[name], num_cores=num_cores, **options)
    texts = texts_of(5, [1, 2, 3, 0, 10, 20, 50, 7, 7, 30, 100, 1])
    alone = [one(text).predictions[0] for text in texts]
    order = np.random.default_rng(6).permutation(len(texts))
    shuffled = pipeline([texts[place] for place in order]).predictions
    batch = [output.predictions[0] for output in pipeline([{"inputs": text} for text in texts])]
    for found in ([shuffled[place] for place in np.argsort(order)], batch):
        for ours, expected in zip(found, alone, strict=True):
            if name == "int8":
                assert ours == expected
                continue
            for entity, other in zip(ours, expected, strict=True):
                assert entity.model_dump() == other.model_dump() | {"score": pytest.approx(other.score, abs=1e-6)}


def test_the_whole_text_of_every_window_counts(make: Make) -> None:
    pipeline = make()
    requests = [TokenClassificationInput(inputs=["a " * 100, "b"]), TokenClassificationInput(inputs="")]
    long, empty = pipeline.preprocess(requests)
    # Windows of 30 tokens that share 7: 30, and 23 more each
    assert [len(row) for row in long.rows] == [30, 30, 30, 30, 8, 1]
    assert pipeline.tokens(long) == 129 + 6 * 2
    assert (empty.rows, pipeline.tokens(empty)) == ([], 1)


# ---- forms -----------------------------------------------------------------------------------------------------------


def test_forms_of_calls(make: Make) -> None:
    pipeline = make(aggregation_strategy="simple", ignore_labels=[])
    both = pipeline(inputs=["abc de", "fg"])
    one, two = pipeline("abc de"), pipeline(["fg"])
    assert both == TokenClassificationOutput(predictions=one.predictions + two.predictions)
    assert pipeline(["abc de", "fg"]) == pipeline("abc de", "fg") == pipeline({"inputs": ["abc de", "fg"]}) == both
    assert pipeline([{"inputs": "abc de"}, {"inputs": ["fg"]}]) == [one, two]
    assert pipeline.run_many([TokenClassificationInput(inputs="fg")]) == [two]
    assert pipeline("").predictions == [[]]
    assert json.loads(one.model_dump_json())["predictions"][0][0].keys() == {
        "entity", "score", "word", "start", "end", "index", "is_grouped"
    }  # fmt: skip


def test_words_that_are_given(make: Make) -> None:
    pipeline = make(aggregation_strategy="first", ignore_labels=[], delimiter="--")
    words = ["abc", "d-e", "", "😀", "fg hi", "a\0b"]
    (found,) = pipeline(inputs=words, is_split_into_words=True).predictions
    text = "--".join(words)
    assert "".join(text[entity.start : entity.end] for entity in found).replace("--", "") == "abcd-e😀fg hia\0b"
    assert make(ignore_labels=[])(inputs=["abc"], is_split_into_words=True) == make(ignore_labels=[])("abc")
    (long,) = make(ignore_labels=[])(inputs=["a"] * 100, is_split_into_words=True).predictions
    assert [entity.start for entity in long] == [2 * place for place in range(100)]


def test_odd_characters_have_their_places(make: Make) -> None:
    text = "😀 字字 é\u0301 İ a\0b \u200b\u2028 👩‍👩‍👧"
    (found,) = make(ignore_labels=[])(text).predictions
    assert {text[entity.start : entity.end] for entity in found} >= {"😀", "字", "a"}
    assert all(0 <= entity.start < entity.end <= len(text) for entity in found)


def test_options_go_with_the_pipeline(make: Make) -> None:
    pipeline = make(aggregation_strategy=" Average ", ignore_labels=("LOC",), stride=2, sequence_length=16)
    assert pipeline.options.aggregation_strategy == "average"
    for other in (pickle.loads(pickle.dumps(pipeline)), Pipeline.from_config(pipeline.to_config())):
        assert other.task_options() == pipeline.task_options()
        assert other("abc de " * 50) == pipeline("abc de " * 50)
    assert {"token_classification", "ner"} <= set(Pipeline.supported_tasks())


def test_a_tokenizer_without_words_is_told_of(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in folders["bert"].iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "tokenizer.json").unlink()
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    pipeline = Pipeline.create("ner", tmp_path, num_cores=1, aggregation_strategy="max", ignore_labels=[])
    assert "does not know words; with aggregation_strategy 'max'" in caplog.text
    # Without special tokens, and with a row of one token
    (found,) = pipeline("a").predictions
    assert [(entity.word, entity.index) for entity in found] == [("a", 0)]
    assert pipeline(["", " "]).predictions == [[], []]


def test_what_loggers_may_be_told(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    data = {"predefined": [{"func": "token_classification"}], "engine_outputs.logits": [{"func": "np.shape"}]}
    pipeline = make(logger={"loggers": {"python": {}}, "data_logging": data}, ignore_labels=[])
    with caplog.at_level("INFO", "sparsert.metrics"):
        (one, two) = pipeline(["abc", "de"]).predictions
    mean = np.mean([entity.score for entity in one + two])
    for line in (
        "pipeline_inputs__string_length | Category: data | Logged Data: 5",
        f"pipeline_outputs__entities_found | Category: data | Logged Data: {len(one + two)}",
        f"pipeline_outputs__mean_score | Category: data | Logged Data: {mean:.6f}",
        f"engine_outputs.logits__np.shape | Category: data | Logged Data: ({len(one + two) + 4}, 5)",
    ):
        assert line in caplog.text


# ---- bad input -------------------------------------------------------------------------------------------------------


def test_a_bad_request_fails_alone(make: Make) -> None:
    pipeline = make(ignore_labels=[])
    requests = [
        TokenClassificationInput(inputs=inputs, is_split_into_words=split)
        for inputs, split in (
            ("a", False), ([], False), (["a", "\ud800"], False), ("a b", True), (["a", "\udfff"], True), ("b", False)
        )
    ]  # fmt: skip
    first, *errors, last = pipeline.run_many(requests, return_exceptions=True)
    assert (first, last) == (pipeline("a"), pipeline("b"))
    messages = [
        "inputs is empty: expected a text",
        "inputs[1]: the text must be a str without lone surrogates",
        "inputs must be a list of words with is_split_into_words, got a string",
        "inputs[1]: the text must be a str without lone surrogates",
    ]
    for error, message in zip(errors, messages, strict=True):
        assert isinstance(error, InputError) and str(error).startswith(message)
    with pytest.raises(InputError, match="inputs is empty"):
        pipeline([])
    for inputs in (None, ["a", None], 3, [["a"]]):
        with pytest.raises(ValidationError, match="inputs"):
            pipeline(inputs)


def test_a_text_beyond_the_vocabulary_fails_alone(tmp_path: Path) -> None:
    folder = make_tagger(tmp_path / "model", "bert")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["z"] = 10_000
    path.write_text(json.dumps(content))
    pipeline = Pipeline.create("ner", folder, num_cores=1)
    requests = [
        TokenClassificationInput(inputs=["a", inputs], is_split_into_words=split)
        for inputs, split in (("b", False), ("b z", False), ("b z", True))
    ]
    first, *errors = pipeline.run_many(requests, return_exceptions=True)
    assert first == pipeline(["a", "b"])
    for error in errors:
        assert isinstance(error, InputError)
        assert str(error).startswith(f"inputs[1]: the tokenizer in {folder} has the token 'z' as 10000, but the voc")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aggregation_strategy": "last"}, r"must be one of \['none', .*got 'last'"),
        ({"aggregation_strategy": None}, "aggregation_strategy must be one of"),
        ({"ignore_labels": "O"}, "ignore_labels must be a list of strings, got 'O'"),
        ({"ignore_labels": 0}, "ignore_labels must be a list of strings"),
        ({"ignore_labels": [0]}, "ignore_labels must be a list of strings"),
        ({"delimiter": None}, "delimiter must be a string"),
        ({"stride": 2}, "stride chooses among the entities of windows"),
        ({"stride": -1, "aggregation_strategy": "max"}, "stride must be an int of at least 0"),
        ({"stride": 2, "aggregation_strategy": "max", "truncation": True}, "leave one of them out"),
        ({"stride": 30, "aggregation_strategy": "max"}, "stride 30 leaves windows of 30 tokens no room to advance"),
        ({"sequence_length": 2}, "leaves no room for text"),
        ({"sequence_length": LENGTH + 9}, "exceeds"),
    ],
)
def test_options_that_make_no_sense(make: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(config={"id2label": dict(enumerate(LABELS)), "max_position_embeddings": LENGTH}, **options)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "config.json names no labels: token classification needs id2label there"),
        ({"num_labels": 4}, r"config.json names 4 labels .*the model gives 5 logits for each token"),
    ],
)
def test_labels_that_do_not_match(make: Make, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelFormatError, match=message):
        make(config=config)


def test_a_model_without_such_a_head(model_directory: Path) -> None:
    with pytest.raises(ModelFormatError, match="export it with a head for token classification"):
        Pipeline.create("token-classification", model_directory)


def test_numbers_that_are_none(make: Make) -> None:
    pipeline = make()
    (prepared,) = pipeline.preprocess([TokenClassificationInput(inputs="a")])
    (part,) = pipeline.forward([prepared])
    part.outputs["logits"][:] = np.nan
    with pytest.raises(ModelError, match="got NaN"):
        pipeline.postprocess([prepared], iter([part]))
