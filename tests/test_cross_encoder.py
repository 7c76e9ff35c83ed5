"""CrossEncoder against that of sentence-transformers: whole models, and 10,000 tables of logits.

``pipelines/originals/record_cross_encoder.py`` and ``make_cross_encoder.py`` recorded both.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pair_models import RECORDED, make_encoder, make_table

import sparsert
from sparsert.cross_encoder import CrossEncoder
from sparsert.errors import InputError, InputRangeError, ModelNotFoundError

# Float32 sums in another order; scores are about 0.2 and at most 1.
CLOSE = 1e-5

ACTIVATIONS: list[Any] = [None, "sigmoid", "identity", "softmax", np.tanh]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    """What sentence-transformers made of its model."""
    return json.loads((RECORDED / "scores.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> CrossEncoder:
    """The same model here."""
    return sparsert.CrossEncoder(make_encoder(tmp_path_factory.mktemp("encoder") / "model"), num_cores=1)


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., CrossEncoder]:
    """Encoders whose logits are sums of the numbers of words, with one label or three."""

    def make(labels: int = 1, **arguments: Any) -> CrossEncoder:
        values = {"a": [3.0, 1.0, 0.0][:labels], "b": [-2.0, 0.0, 4.0][:labels]}
        folder = make_table(tmp_path / f"model{len(list(tmp_path.iterdir()))}", values)
        return CrossEncoder(folder, num_cores=1, **arguments)

    return make


class Table:
    """Gives the logits of a table in place of a model; documents are numbers of its rows."""

    def __init__(self, labels: int) -> None:
        self.num_labels = labels
        self.table = np.zeros((0, labels), dtype=np.float32)

    def tokenize(self, texts: Iterable[str]) -> dict[str, np.ndarray]:
        return {text: np.array([int(text)] if text else []) for text in texts}

    def row(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return second

    def forward(self, prepared: Sequence[Any]) -> list[Any]:
        return []

    def logits(self, prepared: Sequence[Any], parts: Iterable[Any]) -> list[np.ndarray]:
        list(parts)
        return [self.table[np.array([int(row[0]) for row in item.rows], dtype=int)] for item in prepared]


def of_table(table: Table) -> CrossEncoder:
    """An encoder with a table for a model."""
    encoder = CrossEncoder.__new__(CrossEncoder)
    encoder._encoder = SimpleNamespace(model=table, prompt=lambda prompt, name: "")
    encoder.activation_fn = "sigmoid" if table.num_labels == 1 else "identity"
    return encoder


def test_scores_of_sentence_transformers_on_any_logits() -> None:
    with np.load(RECORDED.with_suffix(".npz")) as found:
        columns = dict(found)
    sizes = columns["rows"].astype(int) * columns["labels"]
    tables = np.split(columns["logits"].astype(np.float32), np.cumsum(sizes)[:-1])
    scores = np.split(columns["scores"], np.cumsum(sizes)[:-1])
    encoders = {labels: of_table(Table(labels)) for labels in (1, 3)}
    place = ties = 0
    names = ("rows", "labels", "activations", "softmax", "top_k")
    cases = zip(*(columns[name].tolist() for name in names), strict=True)
    for logits, theirs, case in zip(tables, scores, cases, strict=True):
        rows, labels, activation, softmax, top_k = case
        encoder = encoders[labels]
        encoder._encoder.model.table = logits.reshape(rows, labels)
        documents, chosen = [str(row) for row in range(rows)], {"activation_fn": ACTIVATIONS[activation]}
        ours = encoder.predict([("", document) for document in documents], apply_softmax=bool(softmax), **chosen)
        assert ours.shape == ((rows,) if labels == 1 else (rows, labels)) and ours.dtype == np.float32
        np.testing.assert_allclose(ours.ravel(), theirs, rtol=1e-6, atol=1e-6)
        if labels == 3:
            continue
        ranked = encoder.rank("", documents, top_k=top_k or None, **chosen)
        order = columns["orders"][place : place + len(ranked)].tolist()
        place += len(ranked)
        found = [entry["corpus_id"] for entry in ranked]
        assert [entry["score"] for entry in ranked] == ours[found].tolist()
        if found != order:  # a sigmoid may round to another neighbour, which makes or breaks a tie
            ties += 1
            np.testing.assert_allclose(theirs[found], theirs[order], rtol=0, atol=1e-7)
    assert len(tables) == 10_000 and place == len(columns["orders"]) and ties < 100


def test_scores_of_sentence_transformers(recorded: dict[str, Any], encoder: CrossEncoder) -> None:
    pairs = recorded["pairs"]
    assert (encoder.num_labels, encoder.max_length, encoder.activation_fn) == (
        1,
        recorded["max_seq_length"],
        "identity",
    )
    assert encoder.max_seq_length == encoder.max_length and encoder.prompts["ask"] == "please rank for: "
    for scores in (encoder.predict(pairs), encoder.predict(pairs, batch_size=1), encoder.predict(np.array(pairs))):
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, recorded["scores"], rtol=0, atol=CLOSE)
    sigmoid = encoder.predict(pairs, activation_fn="sigmoid")
    np.testing.assert_allclose(sigmoid, recorded["sigmoid"], rtol=0, atol=CLOSE)
    for prompt in ({"prompt_name": "ask"}, {"prompt": encoder.prompts["ask"]}):
        np.testing.assert_allclose(encoder.predict(pairs, **prompt), recorded["prompted"], rtol=0, atol=CLOSE)
    for pair in (pairs[3], tuple(pairs[3]), np.array(pairs[3])):
        assert encoder.predict(pair) == pytest.approx(recorded["single"], abs=CLOSE)


def test_rankings_of_sentence_transformers(recorded: dict[str, Any], encoder: CrossEncoder) -> None:
    for name, options in (("ranked", {}), ("first_two", {"top_k": 2, "return_documents": True})):
        for query, theirs in zip(recorded["queries"], recorded[name], strict=True):
            ours = encoder.rank(query, recorded["documents"], **options)
            scores = [entry.pop("score") for entry in ours]
            assert ours == [{key: value for key, value in entry.items() if key != "score"} for entry in theirs]
            assert scores == pytest.approx([entry["score"] for entry in theirs], abs=CLOSE)


def test_nothing_to_score(table: Callable[..., CrossEncoder]) -> None:
    assert table().predict([]).shape == (0,)
    assert table(labels=3).predict([]).shape == (0, 3)
    assert table().rank("a", []) == []


def test_the_arguments_of_the_constructor(table: Callable[..., CrossEncoder]) -> None:
    encoder = table(max_length=9)
    assert encoder.max_length == 9
    encoder.max_length = 12
    assert encoder.max_seq_length == 12
    assert table(num_labels=3, labels=3).num_labels == 3
    assert table(activation_fn="Identity").predict(("a", "b")) == 1.0
    double = table(labels=3, activation_fn=lambda logits: 2 * logits)
    assert double.predict([("a", "b")]).tolist() == [[2, 2, 8]]
    assert double.predict([("a", "b")], activation_fn=lambda logits: logits.max(axis=1)).tolist() == [4]
    prompted = table(prompts={"p": "a "}, default_prompt_name="p", activation_fn="identity")
    assert prompted.default_prompt_name == "p" and prompted.predict(("b", "b")) == -1.0
    assert prompted.predict(("b", "b"), prompt="") == -4.0


def test_tensors_where_torch_is(table: Callable[..., CrossEncoder], monkeypatch: pytest.MonkeyPatch) -> None:
    class Tensor(np.ndarray):
        """All that is asked of torch, where that is not installed."""

    class Tanh:
        __module__ = "torch.nn.modules.activation"

        def __call__(self, logits: Any) -> Any:
            assert type(logits) is Tensor
            return np.tanh(logits)

    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(from_numpy=lambda array: array.view(Tensor)))
    encoder = table(labels=3)
    tensor = encoder.predict([("a", "b")], convert_to_tensor=True, activation_fn=Tanh())
    assert type(tensor) is Tensor and tensor.tolist() == np.tanh(np.float32([[1, 1, 4]])).tolist()
    rows = encoder.predict([("a", "b"), ("b", "b")], convert_to_numpy=False)
    assert [(type(row), row.tolist()) for row in rows] == [(Tensor, [1, 1, 4]), (Tensor, [-4, 0, 8])]


def test_tensors_without_torch(table: Callable[..., CrossEncoder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for options in ({"convert_to_tensor": True}, {"convert_to_numpy": False}):
        with pytest.raises(InputError, match="tensors need torch"):
            table().predict(("a", "b"), **options)


def test_a_progress_bar(table: Callable[..., CrossEncoder], capsys: pytest.CaptureFixture[str]) -> None:
    table().predict([("a", "b")] * 3, show_progress_bar=True)
    assert "3/3" in capsys.readouterr().err
    table().predict([("a", "b")] * 3)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e: e.predict("a"), "inputs must be pairs of texts, or one pair, got 'a'"),
        (lambda e: e.predict(3), "inputs must be pairs of texts, or one pair, got 3"),
        (lambda e: e.predict(["a"]), r"inputs\[0\] must be a pair of two str, got \['a'\]"),
        (lambda e: e.predict([("a", "b"), ("a", None)]), r"inputs\[1\] must be a pair of two str"),
        (lambda e: e.predict([("a", "b"), ("a", "b", "c")]), r"inputs\[1\] must be a pair of two str"),
        (lambda e: e.predict([("a", "b"), ("a", "\ud800")]), r"inputs\[1\]\[1\]: the text must be a str without lone"),
        (lambda e: e.predict(("a", "b"), batch_size=0), "batch_size must be an int of at least 1"),
        (lambda e: e.predict(("a", "b"), prompt_name="none"), "prompt_name must be one of"),
        (lambda e: e.predict(("a", "b"), activation_fn="relu"), "activation must be one of"),
        (lambda e: e.predict(("a", "b"), activation_fn=5), "activation must be one of .* got 5"),
        (lambda e: e.predict([("a", "b")] * 2, activation_fn=lambda x: x[:1]), r"activation_fn made \(1, 1\) of"),
        (lambda e: e.rank("a", ["b"], top_k=0), "top_k must be an int of at least 1"),
        (lambda e: e.rank("a", ["b", None]), r"inputs\[1\] must be a pair of two str"),
    ],
)
def test_calls_that_make_no_sense(
    table: Callable[..., CrossEncoder], call: Callable[[CrossEncoder], Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        call(table())


def test_models_that_do_not_fit(table: Callable[..., CrossEncoder]) -> None:
    with pytest.raises(InputError, match="only works for models with num_labels=1, this one has 3"):
        table(labels=3).rank("a", ["b"])
    with pytest.raises(InputError, match="num_labels must be what the model has, 1, got 3"):
        table(num_labels=3)
    with pytest.raises(InputError, match="prompt_name must be one of"):
        table(default_prompt_name="none")
    with pytest.raises(InputRangeError, match="no room for text"):
        table(max_length=1)
    for length in (1, None):
        with pytest.raises(InputError, match="max_seq_length must leave room for text"):
            table().max_length = length
    with pytest.raises(InputError, match="activation must be one of .* got 5"):
        table(activation_fn=5)
    with pytest.raises(InputError, match=r"prompts\['query'\] must be a str, got None"):
        table(prompts={"query": None})
    with pytest.raises(InputRangeError, match=r"inputs\[1\]: a pair of 20 and 1 tokens does not fit"):
        table(truncation=False).predict([("a", "b"), ("a " * 20, "b")])
    with pytest.raises(TypeError, match="nothing"):
        table(nothing={})


def test_arguments_without_a_meaning(table: Callable[..., CrossEncoder], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "sparsert")
    encoder = table(device="cpu", trust_remote_code=False, activation_fn="identity")
    assert encoder.predict(("a", "b"), device="cpu", pool=None, chunk_size=3) == 1.0
    assert not caplog.messages
    table(device="cuda", model_kwargs={"dtype": "float16"})
    assert caplog.messages == ["CrossEncoder: device, model_kwargs mean nothing here and are ignored"]


def test_a_repository_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("ms-marco-none", "cross-encoder/ms-marco-none"):
        with pytest.raises(ModelNotFoundError, match="'hf:cross-encoder/ms-marco-none@v1'"):
            CrossEncoder(name, revision="v1")
