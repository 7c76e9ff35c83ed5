"""Rows of texts and pairs, against what the tokenizers library itself makes of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
from tokenizers import Tokenizer

from sparsert.errors import InputError, InputRangeError
from sparsert.pipelines.rows import make_row, pack_rows, pair_lengths
from sparsert.pipelines.tokenization import TextTokenizer

STRATEGIES = ["longest_first", "only_first", "only_second"]


@pytest.fixture(params=["wordpiece", "roberta"])
def backend(request: pytest.FixtureRequest) -> Tokenizer:
    tokenizer = copy.deepcopy(request.getfixturevalue(request.param))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def lengths(most: int) -> Iterator[tuple[int, int]]:
    """Numbers of tokens on all sides of every edge of the rules."""
    numbers = sorted({0, 1, 2, most // 2 - 1, most // 2, most // 2 + 1, most - 1, most, most + 1, 3 * most})
    return ((first, second) for first in numbers for second in numbers)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("budget", [7, 8, 20])
def test_pairs_are_cut_as_the_library_cuts(backend: Tokenizer, strategy: str, side: str, budget: int) -> None:
    tokenizer = TextTokenizer(backend, truncation_side=side)
    limit = budget + tokenizer.template.special_tokens
    original = copy.deepcopy(backend)
    original.enable_truncation(limit, strategy=strategy, direction=side)
    compared = 0
    for first, second in lengths(budget):
        texts = " a" * first, " b" * second
        ids = tokenizer.encode_ids(texts)
        try:
            expected = original.encode(*texts)
        except Exception:  # the library's own class is Exception
            with pytest.raises(InputRangeError, match="does not fit"):
                make_row(tokenizer, *ids, limit, strategy)
            continue
        row = make_row(tokenizer, *ids, limit, strategy)
        packed = pack_rows([row], tokenizer)
        assert packed.arrays["input_ids"].tolist() == expected.ids
        assert packed.arrays["token_type_ids"].tolist() == expected.type_ids
        assert packed.lengths.tolist() == [len(expected.ids)]
        assert row.cut == len(ids[0]) + len(ids[1]) - len(row)
        compared += 1
    assert compared >= 20


@pytest.mark.parametrize("side", ["right", "left"])
def test_single_texts_are_cut_as_the_library_cuts(backend: Tokenizer, side: str) -> None:
    tokenizer = TextTokenizer(backend, truncation_side=side)
    original = copy.deepcopy(backend)
    original.enable_truncation(12, direction=side)
    texts = ["", " "] + [" ".join("the quick brown fox jumps over it".split()[:n] * 3) for n in range(1, 8)]
    rows = [make_row(tokenizer, ids, None, 12) for ids in tokenizer.encode_ids(texts)]
    packed = pack_rows(rows, tokenizer)
    expected = [original.encode(text) for text in texts]
    assert packed.arrays["input_ids"].tolist() == [i for encoding in expected for i in encoding.ids]
    assert packed.arrays["token_type_ids"].tolist() == [i for encoding in expected for i in encoding.type_ids]
    assert packed.lengths.tolist() == [len(encoding) for encoding in expected]
    assert packed.begins.tolist() == [0, *np.cumsum(packed.lengths)[:-1].tolist()]
    first = packed.begins + packed.first_starts
    assert [
        packed.arrays["input_ids"][b : b + n].tolist() for b, n in zip(first, packed.first_lengths, strict=True)
    ] == [row.first.tolist() for row in rows]


def test_singles_and_pairs_share_a_batch(backend: Tokenizer) -> None:
    tokenizer = TextTokenizer(backend)
    one, two = tokenizer.encode_ids(["one text", "and another"])
    packed = pack_rows([make_row(tokenizer, one, None, 64), make_row(tokenizer, one, two, 64)], tokenizer)
    expected = [backend.encode("one text"), backend.encode("one text", "and another")]
    assert packed.arrays["input_ids"].tolist() == expected[0].ids + expected[1].ids
    assert packed.arrays["token_type_ids"].tolist() == expected[0].type_ids + expected[1].type_ids


def test_what_is_too_long_is_refused_without_truncation(backend: Tokenizer) -> None:
    tokenizer = TextTokenizer(backend)
    (ids,) = tokenizer.encode_ids(["some words that are not few"])
    with pytest.raises(InputRangeError, match="allow truncation"):
        make_row(tokenizer, ids, None, 4, "do_not_truncate")
    with pytest.raises(InputError, match="strategy must be one of"):
        make_row(tokenizer, ids, None, 4, "shortest_first")


def test_nothing_is_cut_where_all_fits() -> None:
    assert pair_lengths(3, 4, 7, "do_not_truncate") == (3, 4)


def test_a_bad_text_fails_alone(backend: Tokenizer) -> None:
    tokenizer = TextTokenizer(backend)
    good, bad, none, last = tokenizer.encode_ids(["fine", "lone \ud800 surrogate", None, "fine too"])  # type: ignore[list-item]
    assert isinstance(bad, InputError) and "surrogates" in str(bad)
    assert isinstance(none, InputError) and "NoneType" in str(none)
    assert good.tolist() == backend.encode("fine", add_special_tokens=False).ids
    assert last.tolist() == backend.encode("fine too", add_special_tokens=False).ids


def test_batches_of_texts_keep_their_order(backend: Tokenizer) -> None:
    tokenizer = TextTokenizer(backend)
    texts = [f"number {index}" for index in range(600)]
    found = [ids.tolist() for ids in tokenizer.encode_ids(texts)]
    assert found == [backend.encode(text, add_special_tokens=False).ids for text in texts]
