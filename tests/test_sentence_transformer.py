"""``sparsert.SentenceTransformer`` against what sentence-transformers 6 made of the same folder and texts."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_cases import FOLDERS, Case, cases, sample_texts, write_changes

from sparsert import SentenceTransformer
from sparsert.errors import InputError, InputTypeError

DATA = Path(__file__).parent / "pipelines" / "data"
ALL_CASES = [(folder, case) for folder in FOLDERS for case in cases(folder)]

# Sums of 32 to 64 float32 products in another order, over two layers
TOLERANCE = 5e-6


@pytest.fixture(scope="module")
def texts(squad_sample: Path) -> list[str]:
    return sample_texts(json.loads(squad_sample.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    """By ``pipelines/originals/make_sentence_folder.py``."""
    with np.load(DATA / "sentences.npz") as found:
        return dict(found)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SentenceTransformer]:
    found = {}
    for name, changes in FOLDERS.items():
        copy = Path(shutil.copytree(DATA / "tiny-sentences", tmp_path_factory.mktemp("folder") / name))
        write_changes(copy, changes)
        found[name] = SentenceTransformer(copy, num_cores=1)
    return found


@pytest.fixture
def model(models: dict[str, SentenceTransformer]) -> SentenceTransformer:
    return models["as_saved"]


@pytest.mark.parametrize(("folder", "case"), ALL_CASES, ids=[case.key for _, case in ALL_CASES])
def test_encoding(
    folder: str,
    case: Case,
    models: dict[str, SentenceTransformer],
    recorded: dict[str, np.ndarray],
    texts: list[str],
) -> None:
    ours = getattr(models[folder], case.method)(texts, **case.arguments)
    theirs = recorded[case.key]
    if isinstance(ours, list):
        ours = np.concatenate(ours)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    if ours.dtype != np.float32:  # a number at the edge of its bucket may fall to the other side
        same = np.unpackbits(ours.view(np.uint8)) == np.unpackbits(theirs.view(np.uint8))
        assert same.mean() > 0.999
        return
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE * max(1, np.abs(theirs).max()), rtol=0)


def test_what_the_models_say_of_themselves(models: dict[str, SentenceTransformer]) -> None:
    saved, old = models["as_saved"], models["old_pooling"]
    assert (saved.get_embedding_dimension(), old.get_sentence_embedding_dimension()) == (24, 96)
    assert models["last_and_weighted"].get_embedding_dimension() == 50
    assert [models[name].max_seq_length for name in ("as_saved", "last_and_weighted")] == [40, 9]
    assert saved.prompts == {"query": "what is ", "document": "text about: "}
    assert (saved.default_prompt_name, old.default_prompt_name) == (None, "passage")
    assert (saved.similarity_fn_name, old.similarity_fn_name) == ("cosine", "euclidean")


def test_one_text_and_none(model: SentenceTransformer) -> None:
    single = model.encode("bees")
    assert single.shape == (24,)
    np.testing.assert_allclose(single, model.encode(["bees", "and more"])[0], atol=1e-6)
    assert model.encode([]).shape == (0, 24)
    assert model.encode([], precision="binary").shape == (0, 3)
    np.testing.assert_array_equal(model.encode(np.array(["bees"])), [single])
    np.testing.assert_array_equal(model.encode(sentences=("bees",), task="query"), [single])


def test_lists_and_dicts(model: SentenceTransformer) -> None:
    vectors = model.encode(["a b", "c"], convert_to_numpy=False)
    assert isinstance(vectors, list) and vectors[0].shape == (24,)
    everything = model.encode("bees", output_value=None)
    tokens = model.encode("bees", output_value="token_embeddings")
    assert sorted(everything) == [
        "attention_mask",
        "input_ids",
        "sentence_embedding",
        "token_embeddings",
        "token_type_ids",
    ]
    np.testing.assert_array_equal(everything["token_embeddings"], tokens)
    np.testing.assert_allclose(everything["sentence_embedding"], model.encode("bees"), atol=1e-6)
    assert len(tokens) == len(everything["input_ids"])


def test_prompts_that_are_given(model: SentenceTransformer) -> None:
    expected = model.encode("to be or not")
    np.testing.assert_array_equal(model.encode("not", prompt="to be or "), expected)
    np.testing.assert_array_equal(model.encode("not", "query", prompt="to be or "), expected)
    np.testing.assert_array_equal(model.encode_query("not", prompt="to be or "), expected)
    folder = DATA / "tiny-sentences"
    other = SentenceTransformer(folder, prompts={"be": "to be or "}, default_prompt_name="be", num_cores=1)
    np.testing.assert_array_equal(other.encode("not"), expected)
    with pytest.raises(InputError, match="prompt_name must be one of .*'query'.*got 'clustering'"):
        model.encode("not", "clustering")
    with pytest.raises(InputError, match="got 'nobody'"):
        SentenceTransformer(folder, default_prompt_name="nobody")


def test_cutting_vectors(model: SentenceTransformer) -> None:
    whole = model.encode("bees")
    np.testing.assert_array_equal(model.encode("bees", truncate_dim=5), whole[:5])
    np.testing.assert_array_equal(model.encode("bees", truncate_dim=500), whole)
    with model.truncate_embeddings(3):
        assert model.encode("bees").shape == (3,)
        assert model.get_embedding_dimension() == 3
    assert model.truncate_dim is None


def test_tokenize(model: SentenceTransformer) -> None:
    found = model.tokenize(["bees keep bees", "a"])
    assert found["input_ids"].shape == found["attention_mask"].shape == found["token_type_ids"].shape
    assert found["attention_mask"].sum(axis=1).tolist() == [
        len(model.encode(text, output_value="token_embeddings")) for text in ("bees keep bees", "a")
    ]
    assert found["input_ids"][1, 0] == 2 and found["input_ids"][1, -1] == 0


def test_max_seq_length_may_change() -> None:
    model = SentenceTransformer(DATA / "tiny-sentences", num_cores=1)
    text = "bees " * 30
    model.max_seq_length = 5
    assert len(model.encode(text, output_value="token_embeddings")) == 5
    np.testing.assert_array_equal(model.encode(text), model.encode("bees " * 20))
    for value in (2, 65):
        with pytest.raises(InputError, match=f"at most 64, got {value}"):
            model.max_seq_length = value


def test_similarity(model: SentenceTransformer) -> None:
    vectors = model.encode(["bees", "keep bees", "nothing"])
    found = model.similarity(vectors, vectors)
    assert found.shape == (3, 3)
    np.testing.assert_allclose(np.diagonal(found), 1, atol=1e-6)
    np.testing.assert_allclose(model.similarity_pairwise(vectors, vectors), 1, atol=1e-6)
    np.testing.assert_allclose(model.similarity(vectors[0], list(vectors)), found[:1], atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"inputs": None}, InputTypeError, "got NoneType"),
        ({"inputs": ["a", None]}, InputTypeError, r"inputs\[1\] must be a str, got None"),
        ({"inputs": [("a", "b")]}, InputTypeError, r"inputs\[0\] must be a str"),
        ({"inputs": ["a", "\ud800"]}, InputError, r"inputs\[1\].*lone surrogates"),
        ({"inputs": "a", "prompt": "\ud800"}, InputError, "lone surrogates"),
        ({"inputs": "a", "batch_size": 0}, InputError, "batch_size"),
        ({"inputs": "a", "output_value": "words"}, InputError, "output_value must be one of"),
        ({"inputs": "a", "precision": "int4"}, InputError, "precision must be one of"),
        ({"inputs": "a", "precision": "int8"}, InputError, "needs ranges"),
        ({"inputs": "a", "precision": "int8", "output_value": None}, InputError, "output_value=None"),
    ],
)
def test_what_cannot_be_encoded(
    arguments: dict[str, Any], kind: type[Exception], message: str, model: SentenceTransformer
) -> None:
    with pytest.raises(kind, match=message):
        model.encode(**arguments)


def test_a_bad_text_is_named_by_its_place_among_all(model: SentenceTransformer) -> None:
    texts = ["a"] * 1500
    texts[1234] = "\ud800"
    with pytest.raises(InputError, match=r"inputs\[1234\]"):
        model.encode(texts)


def test_memory_does_not_grow_with_the_texts(model: SentenceTransformer) -> None:
    def peak(count: int) -> int:
        texts = [f"{index} " + "bees " * 40 for index in range(count)]
        tracemalloc.start()
        try:
            model.encode(texts)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # Vectors of 24 floats twice, and a reference or two to a text; the hidden states would be 10 MB
    assert peak(4096) - peak(2048) < 2048 * (2 * 24 * 4 + 100)


def test_arguments_without_a_meaning(caplog: pytest.LogCaptureFixture) -> None:
    folder = DATA / "tiny-sentences"
    SentenceTransformer(folder, device="cpu", trust_remote_code=False, backend="onnx", num_cores=1)
    assert not caplog.records
    SentenceTransformer(folder, device="cuda", model_kwargs={"dtype": "bfloat16"}, num_cores=1)
    assert "device, model_kwargs mean nothing here" in caplog.text
    with pytest.raises(TypeError, match="colour"):
        SentenceTransformer(folder, colour="red")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.encode({"text": "a"}), "inputs must be a text or a list of texts, got dict"),
        (lambda model: model.encode(b"a"), "inputs must be a text or a list of texts, got bytes"),
        (lambda model: model.encode("a", prompt=3), "prompt must be a str, got 3"),
        (lambda model: model.encode("a", prompt="\ud800"), "prompt must be a str without lone surrogates"),
        (lambda model: model.encode("a", prompt_name=["query"]), "prompt_name must be one of"),
        (lambda model: setattr(model, "max_seq_length", "9"), "max_seq_length must .* be an int of at most"),
        (
            lambda model: SentenceTransformer(DATA / "tiny-sentences", pooling="none"),
            "pools tokens to vectors of float32",
        ),
        (
            lambda model: SentenceTransformer(DATA / "tiny-sentences", precision="int8"),
            "pools tokens to vectors of float32",
        ),
    ],
)
def test_what_is_no_argument(call: Callable[[SentenceTransformer], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(SentenceTransformer(DATA / "tiny-sentences", num_cores=1))


def test_tokens_of_no_texts() -> None:
    tokens = SentenceTransformer(DATA / "tiny-sentences", num_cores=1).tokenize([])
    assert {name: values.shape for name, values in tokens.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), (0, 0)
    )
