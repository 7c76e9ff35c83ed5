"""Pooling, precisions and similarities against what sentence-transformers 6 made of the same 12,000 cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from embedding_cases import MODES, pairs, pooling_cases, precision_cases, similarity_cases

from sparsert.errors import InputError, InputShapeError, InputTypeError
from sparsert.pipelines.embedding_extraction.pooling import POOLING_MODES, pool
from sparsert.pipelines.embedding_extraction.precision import quantize_embeddings
from sparsert.pipelines.embedding_extraction.similarity import similarity, similarity_pairwise


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    """By ``originals/record_embeddings.py``."""
    with np.load(Path(__file__).parent / "data" / "embeddings.npz") as found:
        return dict(found)


def test_pooling(recorded: dict[str, np.ndarray]) -> None:
    rest = recorded["pooled"]
    for case in pooling_cases():
        ours = pool(case.hidden, case.lengths, case.modes, case.prompt)
        theirs, rest = rest[: ours.size].reshape(ours.shape), rest[ours.size :]
        # Sums of up to 70 float32 numbers in another order, which may cancel
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6 * np.abs(case.hidden).max())
    assert not len(rest)


def test_the_modes_are_theirs() -> None:
    assert POOLING_MODES == MODES


@pytest.mark.parametrize("mode", MODES)
def test_a_vector_does_not_depend_on_its_neighbours(mode: str) -> None:
    for case in list(pooling_cases(60)):
        together = pool(case.hidden, case.lengths, [mode], case.prompt)
        rows = np.split(case.hidden, np.cumsum(case.lengths)[:-1])
        alone = [pool(row, np.array([len(row)]), [mode], case.prompt)[0] for row in rows]
        np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("mode", MODES)
def test_prompts_of_different_lengths_and_nothing_but_a_prompt(mode: str) -> None:
    hidden = np.arange(1, 15, dtype=np.float32).reshape(7, 2)
    found = pool(hidden, np.array([3, 2, 2]), [mode], np.array([1, 0, 5]))
    weights = np.array([[2.0], [3.0]]) if mode == "weightedmean" else np.array([[1.0], [1.0]])
    kept = hidden[1:3]
    expected = {
        "cls": kept[0],
        "lasttoken": kept[1],
        "max": kept.max(axis=0),
        "mean_sqrt_len_tokens": kept.sum(axis=0) / np.sqrt(2),
    }.get(mode, (kept * weights).sum(axis=0) / weights.sum())
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)
    # Where the original has minus infinity for max, and the padding for cls on the left
    np.testing.assert_array_equal(found[2], hidden[5] if mode == "cls" else [0, 0])


def test_precisions(recorded: dict[str, np.ndarray]) -> None:
    rest = recorded["quantized"].tobytes()
    for case in precision_cases():
        ours = quantize_embeddings(case.embeddings, case.precision, **case.options)
        kind = {"float32": np.float32, "int8": np.int8, "binary": np.int8}.get(case.precision, np.uint8)
        assert ours.dtype == kind
        theirs, rest = rest[: ours.nbytes], rest[ours.nbytes :]
        assert ours.tobytes() == theirs
    assert not rest


def test_precisions_of_nothing_and_of_one() -> None:
    nothing = np.zeros((0, 9), dtype=np.float32)
    assert quantize_embeddings(nothing, "int8").shape == (0, 9)
    assert quantize_embeddings(nothing, "ubinary").shape == (0, 2)
    np.testing.assert_array_equal(quantize_embeddings(np.array([1.0, -1, 0, 2]), "ubinary"), [0b10010000])
    for single in (np.ones(4), np.ones((1, 4))):
        with pytest.raises(InputError, match="ranges"):
            quantize_embeddings(single, "int8")
    with pytest.raises(InputTypeError, match="int8"):
        quantize_embeddings(np.ones((2, 2), dtype=np.int8), "binary")
    with pytest.raises(InputError, match="precision must be one of"):
        quantize_embeddings(np.ones((2, 2)), "float16")


def test_similarities(recorded: dict[str, np.ndarray]) -> None:
    rest = recorded["similarities"]
    for case in similarity_cases():
        for ours in (
            similarity(case.first, case.second, case.function),
            similarity_pairwise(*pairs(case), case.function),
        ):
            theirs, rest = rest[: ours.size].reshape(ours.shape), rest[ours.size :]
            assert ours.dtype == np.float32
            # Up to 30 products of numbers below 4, added in another order; square roots of what is left near zero
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not len(rest)


def test_similarity_of_quantized_embeddings_does_not_overflow() -> None:
    vectors = np.array([[127, 127], [127, -128]], dtype=np.int8)
    np.testing.assert_array_equal(similarity(vectors, vectors, "dot"), [[32258, -127], [-127, 32513]])


def test_what_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="similarity function must be one of"):
        similarity(np.ones((1, 2)), np.ones((1, 2)), "maxsim")
    with pytest.raises(InputShapeError, match="same dimension"):
        similarity_pairwise(np.ones((1, 2)), np.ones((1, 3)))
