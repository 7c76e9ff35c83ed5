"""Windows against the tokenizers library's own truncation with overflow, on real questions and contexts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from sparsert.errors import InputRangeError
from sparsert.pipelines.tokenization import TextTokenizer
from sparsert.pipelines.windows import context_budget, layout_windows, window_overlap, window_ranges


def reference_rows(tokenizer: Tokenizer, first: str, second: str, length: int, stride: int, left: bool) -> list:
    """Encodings of all windows, made by the tokenizers library; the tokenizer's settings are put back afterwards."""
    pad = tokenizer.token_to_id("[PAD]")
    tokenizer.enable_truncation(length, stride=stride, strategy="only_first" if left else "only_second")
    tokenizer.enable_padding(
        direction="left" if left else "right", pad_id=1 if pad is None else pad, length=length, pad_token="pad"
    )
    encoding = tokenizer.encode(first, second)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return [encoding, *encoding.overflowing]


def assert_same_windows(
    backend: Tokenizer, question: str, text: str, length: int, stride: int, left: bool = False
) -> int:
    """Compare everything that a row says; gives the number of rows."""
    pad = backend.token_to_id("[PAD]")
    tokenizer = TextTokenizer(backend, 1 if pad is None else pad, 0, "left" if left else "right")
    asked, context = tokenizer.encode(question), tokenizer.encode(text)
    budget = context_budget(length, len(asked), tokenizer.template)
    ranges = window_ranges(len(context), budget, stride)
    batch = layout_windows(asked, context, ranges, length, tokenizer)
    pair = (text, question) if left else (question, text)
    expected = reference_rows(backend, *pair, length, stride, left)
    assert len(ranges) == len(expected)
    for row, encoding in enumerate(expected):
        assert batch.arrays["input_ids"][row].tolist() == encoding.ids
        assert batch.arrays["attention_mask"][row].tolist() == encoding.attention_mask
        assert batch.arrays["token_type_ids"][row].tolist() == encoding.type_ids
        start, stop = ranges[row]
        columns = [column for column, part in enumerate(encoding.sequence_ids) if part == (0 if left else 1)]
        assert columns == list(range(batch.context_columns[row], batch.context_columns[row] + stop - start))
        assert context.offsets[start:stop].tolist() == [list(encoding.offsets[column]) for column in columns]
        assert batch.null_columns[row] == encoding.attention_mask.index(1)
    return len(expected)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize("kind", ["wordpiece", "roberta"])
def test_equal_to_tokenizers_on_real_text(
    kind: str, left: bool, dev_set: list[dict], request: pytest.FixtureRequest
) -> None:
    backend = request.getfixturevalue(kind)
    rows = 0
    for index, paragraph in enumerate(dev_set[::8]):
        length, stride = [(384, 128), (128, 32), (96, 0), (100, 17)][index % 4]
        for question in [entry["question"] for entry in paragraph["qas"]][:2]:
            rows += assert_same_windows(backend, question, paragraph["context"], length, stride, left)
    assert rows > 2 * len(dev_set[::8])  # most contexts really took several windows


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
def test_equal_to_tokenizers_for_every_layout(post_processor: object, roberta: Tokenizer, dev_set: list[dict]) -> None:
    backend = Tokenizer.from_str(roberta.to_str())
    backend.post_processor = post_processor
    context = dev_set[0]["context"] + " 🙂👍🏽 اللغة العربية 漢字\u00a0 \n\n tail"
    assert assert_same_windows(backend, "Which name is also used?", context, 64, 16) > 3
    assert assert_same_windows(backend, "Which name is also used?", context, 64, 16, left=True) > 3


@pytest.mark.parametrize("stride", [0, 1, 7])
def test_equal_to_tokenizers_where_a_context_just_fits(wordpiece: Tokenizer, stride: int) -> None:
    # 3 special tokens, 2 of the question, n of the context
    for tokens in range(8, 33):
        assert_same_windows(wordpiece, "who wins", "fish " * tokens, 15, stride)


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
    with pytest.raises(InputRangeError, match="no context token fits"):
        window_ranges(3, 0, 0)
    with pytest.raises(InputRangeError, match="overlap by 0 to 4 tokens, got 5"):
        window_ranges(10, 5, 5)
    assert window_ranges(0, 0, 0).tolist() == [[0, 0]]


def test_overlap_is_half_a_window_where_doc_stride_leaves_no_progress() -> None:
    assert window_overlap(64, 65) == 64
    assert window_overlap(64, 64) == 32
    assert window_overlap(64, 9) == 4
    assert window_overlap(64, 1) == 0


def test_layout_refuses_a_window_longer_than_the_row(wordpiece: Tokenizer) -> None:
    tokenizer = TextTokenizer(wordpiece)
    asked, context = tokenizer.encode("who wins"), tokenizer.encode("fish " * 10)
    with pytest.raises(InputRangeError, match="15 tokens does not fit into a sequence of 14"):
        layout_windows(asked, context, np.array([[0, 10]]), 14, tokenizer)
