"""Entities across windows, and the rules of aggregation on small cases, against a naive twin."""

from __future__ import annotations

from dataclasses import asdict

import naive_entities
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sparsert.pipelines.token_classification.entities import STRATEGIES, Entity, Labels, without_overlaps
from sparsert.pipelines.token_classification.windows import default_overlap, entities_of_windows, own_ranges
from sparsert.pipelines.token_classification.words import Vocabulary, join_words
from sparsert.pipelines.tokenization import TextTokenizer
from sparsert.pipelines.windows import window_ranges

LABELS = ("O", "B-PER", "I-PER", "LOC")
PIECES = ["[UNK]", *"abcde", *(f"##{letter}" for letter in "abcde")]


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    """WordPiece whose pieces are single letters."""
    backend = Tokenizer(models.WordPiece({piece: place for place, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    return backend


@given(st.integers(0, 300), st.integers(1, 60), st.data())
def test_each_token_is_reported_from_where_it_is_deepest(tokens: int, budget: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, budget // 2))
    side = data.draw(st.sampled_from(["right", "left"]))
    ranges = window_ranges(tokens, budget, overlap, side)
    own = own_ranges(ranges)
    windows = [(int(begin), int(end)) for begin, end in ranges]
    found = [next(place for place, (begin, end) in enumerate(own) if begin <= token < end) for token in range(tokens)]
    assert found == naive_entities.deepest(tokens, windows)
    assert sum(end - begin for begin, end in own) == tokens
    assert all(outer[0] <= begin <= end <= outer[1] for outer, (begin, end) in zip(windows, own, strict=True))


def test_default_overlap_is_64_or_a_quarter() -> None:
    assert [default_overlap(budget) for budget in (1, 4, 100, 255, 256, 510)] == [0, 1, 25, 63, 64, 64]


@settings(max_examples=300)
@given(
    st.text("abcdez ", max_size=40),
    st.sampled_from(STRATEGIES),
    st.sampled_from(["right", "left"]),
    st.integers(2, 12),
    st.integers(0, 2**32 - 1),
)
def test_scores_of_windows_are_put_together(
    letters: Tokenizer, text: str, strategy: str, side: str, budget: int, seed: int
) -> None:
    tokenized = TextTokenizer(letters).encode(text)
    ranges = window_ranges(len(tokenized), budget, budget // 4, side)
    random = np.random.RandomState(seed)
    scores = [random.dirichlet(np.ones(len(LABELS)), end - begin).astype(np.float32) for begin, end in ranges]
    vocabulary = Vocabulary(letters, 0, 1)
    tokens = vocabulary.tokens(text, tokenized.ids, tokenized.offsets)
    found = entities_of_windows(tokens, ranges, scores, Labels(LABELS), vocabulary, strategy)

    deepest = naive_entities.deepest(len(tokens), [(int(begin), int(end)) for begin, end in ranges])
    twins = [
        naive_entities.Token(
            int(tokenized.ids[place]),
            *map(int, tokenized.offsets[place]),
            place + 1,
            [float(score) for score in scores[window][place - ranges[window, 0]]],
        )
        for place, window in enumerate(deepest)
    ]
    expected = naive_entities.entities(letters, 0, text, twins, LABELS, strategy, ("O",))
    for entity, twin in zip(found, expected, strict=True):
        # A mean in float32 of up to 40 numbers
        assert asdict(entity) == twin | {"score": pytest.approx(twin["score"], abs=1e-5)}


def entity(start: int, end: int, score: float = 0.5) -> Entity:
    return Entity("X", score, "", start, end, 0)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], []),
        ([(5, 8), (0, 3)], [(0, 3), (5, 8)]),
        ([(0, 3), (1, 5)], [(1, 5)]),  # the longer one
        ([(0, 3, 0.5), (1, 4, 0.6)], [(1, 4, 0.6)]),  # as long: the surer one
        ([(0, 3, 0.5), (0, 3, 0.5)], [(0, 3, 0.5)]),
        ([(0, 3), (3, 5)], [(0, 3), (3, 5)]),  # they touch
        ([(0, 9), (1, 3), (5, 7), (9, 11)], [(0, 9), (9, 11)]),
        ([(0, 4), (3, 8), (7, 9)], [(3, 8)]),  # compared with the one kept so far
        ([(2, 2), (2, 2)], [(2, 2), (2, 2)]),  # no letter, no overlap
    ],
)
def test_overlaps(given: list[tuple], kept: list[tuple]) -> None:
    assert without_overlaps([entity(*item) for item in given]) == [entity(*item) for item in kept]


def test_words_that_are_given_are_tokenized_one_by_one(letters: Tokenizer) -> None:
    text, tokens = join_words(TextTokenizer(letters), ["ab", "", "c d", "zz", "e"], "--")
    assert text == "ab----c d--zz--e"
    assert [text[start:end] for start, end in tokens.offsets] == ["a", "b", "c", "d", "zz", "e"]
    assert tokens.words is not None
    assert tokens.words.tolist() == [0, 0, 2, 2, 3, 4]
    assert join_words(TextTokenizer(letters), [], " ")[0] == ""
