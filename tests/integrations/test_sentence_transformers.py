"""The module for sentence-transformers, against the library's own torch modules of the same folder."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparsert
from sparsert.errors import InputError

pytest.importorskip("sentence_transformers")

import torch
from sentence_transformers import SentenceTransformer

from sparsert.integrations.sentence_transformers import SparsertModule, load_sentence_transformer

# Sums of 32 to 64 float32 products in another order, over two layers
TOLERANCE = 5e-6


@pytest.fixture(scope="module")
def ours(sentences: str) -> SentenceTransformer:
    return load_sentence_transformer(sentences, num_cores=1)


@pytest.fixture(scope="module")
def theirs(sentences: str) -> SentenceTransformer:
    return SentenceTransformer(sentences, device="cpu")


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
@pytest.mark.parametrize("arguments", [{}, {"truncate_dim": 8}, {"prompt": "in short: ", "batch_size": 4}], ids=str)
def test_vectors_are_those_of_torch(
    ours: SentenceTransformer,
    theirs: SentenceTransformer,
    paragraphs: list[str],
    method: str,
    arguments: dict[str, Any],
) -> None:
    texts = [*paragraphs, "", "bees"]
    found, expected = (getattr(model, method)(texts, **arguments) for model in (ours, theirs))
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_it_describes_itself_like_the_original(ours: SentenceTransformer, theirs: SentenceTransformer) -> None:
    assert ours.get_embedding_dimension() == theirs.get_embedding_dimension()
    assert ours.max_seq_length == theirs.max_seq_length
    assert ours.prompts == theirs.prompts
    assert ours.similarity_fn_name == theirs.similarity_fn_name


def test_single_texts_empty_lists_and_tensors(ours: SentenceTransformer, paragraphs: list[str]) -> None:
    assert ours.encode("bees").shape == (24,)
    assert ours.encode([]).shape == (0,)
    found = ours.encode(paragraphs[:3], convert_to_tensor=True)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(ours.similarity(found, found).diagonal(), 1, atol=1e-6)
    with pytest.raises(InputError, match=r"inputs\[0\] must be a str"):
        ours[0].preprocess([None])
    with pytest.raises(InputError, match=r"inputs\[0\]"):
        ours.encode(["\ud800"])


def test_the_limit_can_be_changed(
    sentences: str, theirs: SentenceTransformer, paragraphs: list[str], tmp_path: Path
) -> None:
    model = load_sentence_transformer(sentences, num_cores=1)
    before, model.max_seq_length, theirs.max_seq_length = theirs.max_seq_length, 9, 9
    try:
        found = model.encode(paragraphs)
        np.testing.assert_allclose(found, theirs.encode(paragraphs), atol=TOLERANCE, rtol=0)
    finally:
        theirs.max_seq_length = before
    model.save(str(tmp_path))
    for again in (
        pickle.loads(pickle.dumps(model)),
        SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu"),
    ):
        assert again.max_seq_length == 9
        np.testing.assert_array_equal(again.encode(paragraphs), found)


@pytest.fixture(scope="module")
def without_prompt(sentences: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder, whose pooling leaves out the tokens of a prompt."""
    folder = Path(shutil.copytree(sentences, tmp_path_factory.mktemp("without") / "model"))
    path = folder / "1_Pooling" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"include_prompt": False}), encoding="utf-8")
    return folder


def test_prompts_may_stay_out_of_pooling(without_prompt: Path, paragraphs: list[str]) -> None:
    found = load_sentence_transformer(without_prompt, num_cores=1).encode_query(paragraphs)
    expected = SentenceTransformer(str(without_prompt), device="cpu").encode_query(paragraphs)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)
    np.testing.assert_allclose(
        found, sparsert.SentenceTransformer(without_prompt, num_cores=1).encode_query(paragraphs), atol=1e-6
    )


def test_modules_of_the_library_may_follow(
    sentences: str, without_prompt: Path, theirs: SentenceTransformer, paragraphs: list[str]
) -> None:
    for folder in (sentences, without_prompt):
        original = SentenceTransformer(str(folder), device="cpu")
        first = SparsertModule(folder, {"pooling": "none", "num_cores": 1})
        model = SentenceTransformer(modules=[first, *list(original)[1:]], device="cpu", prompts=original.prompts)
        np.testing.assert_allclose(
            model.encode_query(paragraphs), original.encode_query(paragraphs), atol=TOLERANCE, rtol=0
        )
        found, expected = (item.encode(paragraphs[:4], output_value="token_embeddings") for item in (model, original))
        for tokens, same in zip(found, expected, strict=True):
            np.testing.assert_allclose(tokens, same, atol=TOLERANCE * 10, rtol=0)


def test_it_is_saved_and_loaded(ours: SentenceTransformer, tmp_path: Path, paragraphs: list[str]) -> None:
    ours.save(str(tmp_path / "saved"))
    written = json.loads((tmp_path / "saved" / "sparsert_config.json").read_text(encoding="utf-8"))
    assert written["options"] == {"num_cores": 1}
    again = SentenceTransformer(str(tmp_path / "saved"), trust_remote_code=True, device="cpu")
    assert isinstance(again[0], SparsertModule)
    np.testing.assert_array_equal(again.encode_query(paragraphs), ours.encode_query(paragraphs))


def test_an_evaluator_of_the_library_takes_it(
    ours: SentenceTransformer, theirs: SentenceTransformer, squad_sample: Path
) -> None:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    articles = json.loads(squad_sample.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    evaluator = InformationRetrievalEvaluator(
        {question["id"]: question["question"] for item in paragraphs for question in item["qas"]},
        {str(place): item["context"] for place, item in enumerate(paragraphs)},
        {question["id"]: {str(place)} for place, item in enumerate(paragraphs) for question in item["qas"]},
    )
    found, expected = evaluator(ours), evaluator(theirs)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=1e-6)
