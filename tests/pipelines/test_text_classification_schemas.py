"""The forms of a request for text classification: DeepSparse's and those of transformers."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sparsert.errors import InputError
from sparsert.pipelines.text_classification import TextClassificationInput


@pytest.mark.parametrize(
    ("sequences", "texts"),
    [
        ("a", [("a", None)]),
        ("", [("", None)]),
        (["a", "b"], [("a", None), ("b", None)]),
        ([["a", "b"]], [("a", "b")]),
        ([["a"], ["b"]], [("a", None), ("b", None)]),
        ([("a", "b"), ("c", "d")], [("a", "b"), ("c", "d")]),
        (["a", ["b", "c"]], [("a", None), ("b", "c")]),
        ({"text": "a"}, [("a", None)]),
        ({"text": "a", "text_pair": "b"}, [("a", "b")]),
        ([{"text": "a", "text_pair": None}, {"text": "b", "text_pair": "c"}], [("a", None), ("b", "c")]),
    ],
)
def test_forms(sequences: Any, texts: list[tuple[str, str | None]]) -> None:
    request = TextClassificationInput(sequences=sequences)
    assert request.texts() == texts
    assert TextClassificationInput.model_validate_json(request.model_dump_json()).texts() == texts


def test_the_dialect_of_transformers() -> None:
    assert TextClassificationInput(text="a").texts() == [("a", None)]
    assert TextClassificationInput.model_validate({"text": "a", "text_pair": "b"}).texts() == [("a", "b")]


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        (None, "sequences"),
        (3, "sequences"),
        (["a", None], r"sequences\n.*\[1\] must be a string, or a list of two for a pair; got None"),
        ([["a", "b"], ["c", 3]], r"sequences\n.*\[1\] must be a string.*got 3"),
        ([[["a", "b"]]], r"sequences\n.*\[0\] must be a string"),
        ([{"texts": "a"}], r"expected an object with \"text\".*its keys are \['texts'\]"),
        ([{"text": "a", "text_pair": 3}], r"\[0\] must be a string.*got 3"),
    ],
)
def test_what_is_no_text(sequences: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TextClassificationInput(sequences=sequences)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "sequences is empty"),
        ([["a", "b", "c"]], r"sequences\[0\] must be one text, or two for a pair; got a list of 3"),
        (["a", []], r"sequences\[1\] must be one text.*got a list of 0"),
    ],
)
def test_what_cannot_be_answered(sequences: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TextClassificationInput(sequences=sequences).texts()
