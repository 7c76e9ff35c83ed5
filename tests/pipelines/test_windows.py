"""Windows against the tokenizers library's own truncation with overflow, on real questions and contexts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from sparsert.errors import InputRangeError
from sparsert.pipelines.question_answering.windows import (
    Reading,
    context_budget,
    default_overlap,
    pack_windows,
)
from sparsert.pipelines.tokenization import TextTokenizer
from sparsert.pipelines.windows import window_ranges


def reference_rows(
    tokenizer: Tokenizer, first: str, second: str, length: int, stride: int, left: bool, side: str
) -> list:
    """Encodings of all windows, made by the tokenizers library; the tokenizer's settings are put back afterwards."""
    strategy = "only_first" if left else "only_second"
    tokenizer.enable_truncation(length, stride=stride, strategy=strategy, direction=side)
    encoding = tokenizer.encode(first, second)
    tokenizer.no_truncation()
    return [encoding, *encoding.overflowing]


def assert_same_windows(
    backend: Tokenizer,
    question: str,
    text: str,
    length: int,
    stride: int,
    left: bool = False,
    side: str = "right",
) -> int:
    """Compare everything that a sequence says; gives the number of windows."""
    tokenizer = TextTokenizer(backend, 0, 0, "left" if left else "right", side)
    asked, (context,) = tokenizer.encode(question), tokenizer.encode_batch([text], words=True)
    budget = context_budget(length, len(asked), tokenizer.template)
    ranges = window_ranges(len(context), budget, stride, side)
    # Twice, in two readings and in one, so that windows of several requests lie side by side.
    readings = [Reading(0, text, asked, context, ranges[:1]), Reading(1, text, asked, context, ranges)]
    packed = pack_windows(readings, tokenizer)
    pair = (text, question) if left else (question, text)
    expected = reference_rows(backend, *pair, length, stride, left, side)
    assert packed.items.tolist() == [0] + [1] * len(expected)
    assert packed.reading_rows.tolist() == [0, 1]
    assert packed.lengths.tolist() == [len(encoding.ids) for encoding in [expected[0], *expected]]
    for row, encoding in enumerate([expected[0], *expected]):
        begin = packed.null_positions[row]
        tokens = slice(begin, begin + packed.lengths[row])
        assert packed.arrays["input_ids"][tokens].tolist() == encoding.ids
        assert packed.arrays["attention_mask"][tokens].tolist() == encoding.attention_mask
        assert packed.arrays["token_type_ids"][tokens].tolist() == encoding.type_ids
        columns = [column for column, part in enumerate(encoding.sequence_ids) if part == (0 if left else 1)]
        count = packed.context_lengths[row]
        assert columns == list(range(packed.context_starts[row] - begin, packed.context_starts[row] - begin + count))
        rows = slice(packed.context_rows[row], packed.context_rows[row] + count)
        assert packed.offsets[rows].tolist() == [list(encoding.offsets[column]) for column in columns]
        assert packed.words[rows].tolist() == [
            -1 if encoding.word_ids[column] is None else encoding.word_ids[column] for column in columns
        ]
    return len(expected)


@pytest.mark.parametrize("side", ["right", "left"], ids=["", "from the end"])
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("kind", ["wordpiece", "roberta"])
def test_equal_to_tokenizers_on_real_text(
    kind: str, left: bool, side: str, paragraphs: list[dict], request: pytest.FixtureRequest
) -> None:
    backend = request.getfixturevalue(kind)
    rows = 0
    for index, paragraph in enumerate(paragraphs):
        length, stride = [(384, 128), (128, 32), (96, 0), (100, 17)][index % 4]
        for question in [entry["question"] for entry in paragraph["qas"]][:2]:
            rows += assert_same_windows(backend, question, paragraph["context"], length, stride, left, side)
    assert rows > 2 * len(paragraphs)  # most contexts really took several windows


@pytest.mark.parametrize(
    "post_processor",
    [
        processors.BertProcessing(("</s>", 2), ("<s>", 0)),
        processors.TemplateProcessing(
            single="<s> $A",
            pair="<s> $A </s> <unk> </s> $B:1 </s>:1",
            special_tokens=[("<s>", 0), ("</s>", 2), ("<unk>", 3)],
        ),
        processors.TemplateProcessing(single="$A", pair="$A:0 $B:1", special_tokens=[]),
        processors.ByteLevel(add_prefix_space=False, trim_offsets=True),
    ],
    ids=["bert", "template", "bare template", "no special tokens"],
)
def test_equal_to_tokenizers_for_every_layout(
    post_processor: object, roberta: Tokenizer, paragraphs: list[dict]
) -> None:
    backend = Tokenizer.from_str(roberta.to_str())
    backend.post_processor = post_processor
    context = paragraphs[0]["context"] + " 🙂👍🏽 اللغة العربية 漢字\u00a0 \n\n tail"
    assert assert_same_windows(backend, "Which name is also used?", context, 64, 16) > 3
    assert assert_same_windows(backend, "Which name is also used?", context, 64, 16, left=True) > 3


@pytest.mark.parametrize("stride", [0, 1, 7])
def test_equal_to_tokenizers_where_a_context_just_fits(wordpiece: Tokenizer, stride: int) -> None:
    # 3 special tokens, 2 of the question, n of the context
    for tokens in range(8, 33):
        assert_same_windows(wordpiece, "who wins", "fish " * tokens, 15, stride)
        assert_same_windows(wordpiece, "who wins", "fish " * tokens, 15, stride, side="left")


@given(st.integers(0, 500), st.integers(1, 60), st.data())
def test_ranges_cover_every_token_and_overlap_exactly(tokens: int, budget: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, budget - 1))
    ranges = window_ranges(tokens, budget, overlap)
    assert ranges[0, 0] == 0
    assert ranges[-1, 1] == tokens
    assert all(stop - start == budget for start, stop in ranges[:-1])
    assert all(before[1] - after[0] == overlap for before, after in zip(ranges, ranges[1:], strict=False))
    assert 0 <= ranges[-1, 1] - ranges[-1, 0] <= budget
    if len(ranges) > 1:  # no window without news
        assert ranges[-1, 1] > ranges[-2, 1]


def test_ranges_refuse_what_makes_no_sense() -> None:
    with pytest.raises(InputRangeError, match="no token of the text fits"):
        window_ranges(3, 0, 0)
    with pytest.raises(InputRangeError, match="overlap by 0 to 4 tokens, got 5"):
        window_ranges(10, 5, 5)
    assert window_ranges(0, 0, 0).tolist() == [[0, 0]]


def test_default_overlap_is_three_quarters_of_a_window_where_doc_stride_is_more() -> None:
    assert default_overlap(64, 100) == 64
    assert default_overlap(64, 86) == 64
    assert default_overlap(64, 80) == 60
    assert default_overlap(64, 1) == 0
    assert default_overlap(0, 10) == 0
