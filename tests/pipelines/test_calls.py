"""The forms in which a call of a pipeline gives its requests, for a task with a field for arguments without a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from sparsert.errors import InputError
from sparsert.pipelines import Pipeline


class Texts(BaseModel):
    texts: str | list[str]
    times: int = 1


class Repeat(Pipeline):
    """Gives each request back."""

    input_schema = output_schema = Texts
    main_field = "texts"

    def preprocess(self, inputs: Sequence[Texts]) -> Sequence[Texts]:
        return inputs

    def forward(self, prepared: Sequence[Texts]) -> Sequence[Texts]:
        return prepared

    def postprocess(self, prepared: Sequence[Texts], outputs: Sequence[Texts]) -> Sequence[Texts]:
        return outputs


class Unnamed(Repeat):
    main_field = None


@pytest.mark.parametrize(
    ("args", "texts"),
    [
        (["a"], "a"),
        ([["a", "b"]], ["a", "b"]),
        ([("a", "b")], ["a", "b"]),
        (["a", "b", "c"], ["a", "b", "c"]),
        ([[]], []),
    ],
)
def test_one_request_without_a_name(args: list[Any], texts: Any) -> None:
    assert Repeat("x")(*args) == Texts(texts=texts)


def test_requests_in_full() -> None:
    one, two = Texts(texts="a"), Texts(texts=["b"], times=2)
    pipeline = Repeat("x")
    assert pipeline(one) == pipeline({"texts": "a"}) == pipeline(texts="a") == one
    assert pipeline([one, two]) == pipeline(one, two) == pipeline([one, {"texts": ["b"], "times": 2}]) == [one, two]


@pytest.mark.parametrize("args", [[None], [["a", None]], [["a", {"texts": "b"}]], [3]])
def test_neither_texts_nor_requests(args: list[Any]) -> None:
    with pytest.raises(ValidationError, match="texts"):
        Repeat("x")(*args)


def test_arguments_with_and_without_names() -> None:
    with pytest.raises(InputError, match="Found 1 args and 1 kwargs"):
        Repeat("x")("a", times=2)


def test_a_task_without_such_a_field() -> None:
    pipeline = Unnamed("x")
    assert pipeline([]) == []
    for args in (["a"], ["a", "b"], [{"texts": "a"}, {"texts": "b"}]):
        with pytest.raises(InputError, match=f"Found {len(args)} args and 0 kwargs"):
            pipeline(*args)
