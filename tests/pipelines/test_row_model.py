"""Rows through an engine in slices, and back to the requests that they belong to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sparsert._drop_in import set_limit
from sparsert.errors import EngineError, InputError, InputRangeError
from sparsert.pipelines import row_model
from sparsert.pipelines.row_model import PreparedRows, RowModel, TextOptions, gather, tokens_of
from sparsert.zoo import resolve

LOGITS = {word: float(index) for index, word in enumerate("abcdefgh", 1)}


@pytest.fixture(params=["sparsert", "onnxruntime"])
def make(request: pytest.FixtureRequest, toy_model: Callable[..., Path]) -> Callable[..., RowModel]:
    """A model whose logits are a table over its tokens."""

    def make(**options: object) -> RowModel:
        files = {name: options.pop(name) for name in ("config", "shape", "special_tokens") if name in options}
        directory = toy_model(LOGITS, {}, **files)
        chosen = TextOptions(engine_type=request.param, num_cores=1, **options)
        return RowModel(resolve(directory), chosen, lambda shapes: {"logits": "start_logits"})

    return make


def requests(model: RowModel, *texts: tuple[str, ...]) -> list[PreparedRows]:
    """A request for each tuple of texts."""
    found = model.tokenize(text for item in texts for text in item)
    return [PreparedRows(item, [model.row(ids) for ids in tokens_of(found, item, "texts")]) for item in texts]


def test_each_request_gets_its_own_rows(make: Callable[..., RowModel]) -> None:
    model = make()
    prepared = requests(model, ("a b", "c"), (), ("d e f",))
    rows = gather(prepared, model.forward(prepared), "logits", per_token=True)
    assert [[values.tolist() for values in item] for item in rows] == [
        [[0, 1, 2, 0], [0, 3, 0]],
        [],
        [[0, 4, 5, 6, 0]],
    ]
    assert [model.tokens(item) for item in prepared] == [7, 1, 5]


def test_rows_of_one_token(make: Callable[..., RowModel]) -> None:
    model = make(special_tokens=False)
    prepared = requests(model, ("a", "b"), ("c",))
    parts = list(model.forward(prepared))
    of_tokens, of_rows = (gather(prepared, parts, "logits", per_token) for per_token in (True, False))
    assert [[values.tolist() for values in item] for item in of_tokens] == [[[1], [2]], [[3]]]
    assert [[values.tolist() for values in item] for item in of_rows] == [[1, 2], [3]]
    longer = requests(model, ("a b",))
    with pytest.raises(EngineError, match=r"the model's logits have shape \(2,\), expected one for each row, 1"):
        gather(longer, model.forward(longer), "logits")


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_slices_change_nothing(
    make: Callable[..., RowModel], batch_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_model, "MAX_TOKENS", 12)
    model = make(batch_size=batch_size)
    texts = [" ".join("abcdefgh"[:n]) for n in (1, 8, 2, 7, 3, 3, 3, 8)]
    prepared = requests(model, *((text,) for text in texts))
    parts = list(model.forward(prepared))
    assert len(parts) > 3
    assert all(part.rows.lengths.sum() <= 12 or len(part.rows.lengths) == 1 for part in parts)
    for text, (values,) in zip(texts, gather(prepared, parts, "logits", per_token=True), strict=True):
        assert values.tolist() == [0, *(LOGITS[word] for word in text.split()), 0]


def test_what_is_kept_of_a_slice(make: Callable[..., RowModel]) -> None:
    model = make()
    prepared = requests(model, ("a b", "c"), ("d",))
    sums = model.forward(
        prepared, lambda rows, outputs: {"sum": np.add.reduceat(outputs["logits"], rows.begins).reshape(-1, 1)}
    )
    assert [[float(value[0]) for value in item] for item in gather(prepared, sums, "sum")] == [[3, 3], [4]]


def test_texts_are_cut_to_the_least_limit(make: Callable[..., RowModel]) -> None:
    model = make(config={"max_position_embeddings": 4})
    (prepared,) = requests(model, ("a b c d",))
    assert (model.sequence_length, prepared.rows[0].first.tolist(), prepared.rows[0].cut) == (4, [4, 5], 2)
    with pytest.raises(InputRangeError, match="exceeds the 4 positions"):
        make(config={"max_position_embeddings": 4}, sequence_length=5)
    with pytest.raises(InputRangeError, match="no room for text beside the 2 special tokens"):
        make(sequence_length=2)
    assert make(sequence_length=[3, 9]).sequence_length == 9


def test_a_length_that_the_file_fixes(make: Callable[..., RowModel]) -> None:
    model = make(shape=(1, 6))
    prepared = requests(model, ("a b c d e f", "g"))
    assert model.sequence_length == 6
    rows = gather(prepared, model.forward(prepared), "logits", per_token=True)
    assert [values.tolist() for values in rows[0]] == [[0, 1, 2, 3, 4, 0], [0, 7, 0]]


def test_without_truncation_a_long_text_is_refused(make: Callable[..., RowModel]) -> None:
    model = make(sequence_length=4, truncation=False)
    with pytest.raises(InputRangeError, match="a text of 3 tokens does not fit"):
        requests(model, ("a b c",))


def test_a_row_without_any_token_is_refused(toy_model: Callable[..., Path]) -> None:
    directory = toy_model(LOGITS, {})
    path = directory / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    model = RowModel(resolve(directory), TextOptions(num_cores=1), lambda shapes: {"logits": "start_logits"})
    nothing, one = (np.zeros(length, dtype=np.int64) for length in (0, 1))
    assert model.tokens(PreparedRows(None, [model.row(one), model.row(nothing, one)])) == 2
    for second in (None, nothing):
        with pytest.raises(InputRangeError, match="the tokenizer makes no tokens of the text, and adds no special"):
            model.row(nothing, second)


def test_a_text_that_is_none_is_named(make: Callable[..., RowModel]) -> None:
    model = make()
    with pytest.raises(InputError, match=r"texts\[1\]: the text must be a str without lone surrogates"):
        requests(model, ("a", "\ud800"))
    assert json.dumps([values.tolist() for values in model.tokenize(["a", "a"]).values()]) == "[[4]]"


def test_tokens_that_the_model_does_not_have(toy_model: Callable[..., Path]) -> None:
    directory = toy_model(LOGITS, {})
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"]["strange"] = 4000
    path.write_text(json.dumps(content), encoding="utf-8")
    model = RowModel(resolve(directory), TextOptions(num_cores=1), lambda shapes: {"logits": "start_logits"})
    found = model.tokenize(["a", "a strange b", "b"])
    assert [list(found[text]) for text in ("a", "b")] == [[4], [5]]
    error = found["a strange b"]
    assert isinstance(error, InputRangeError)
    for part in (f"the tokenizer in {directory} has the token 'strange' as 4000", str(directory / "model.onnx")):
        assert part in str(error)


def test_a_cut_is_told_once(make: Callable[..., RowModel], caplog: pytest.LogCaptureFixture) -> None:
    model = make(sequence_length=4)
    for texts in (("a b",), ("a", "a b c d e"), ("a b c",)):
        (prepared,) = requests(model, texts)
        list(model.forward([prepared]))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith("3 of 5 tokens are cut off: ")
    assert "reads 4 at most, with special tokens" in caplog.messages[0]


def test_a_lower_limit_for_a_file_of_fixed_length(make: Callable[..., RowModel]) -> None:
    model = make(shape=(1, 6))
    assert make().longest is None
    assert make(config={"max_position_embeddings": 9}).longest == 9
    assert model.longest == 6 or model.engine.any_length
    set_limit(model, 4)
    prepared = requests(model, ("a b c d e f", "g"))
    rows = gather(prepared, model.forward(prepared), "logits", per_token=True)
    assert [values.tolist() for values in rows[0]] == [[0, 1, 2, 0], [0, 7, 0]]
