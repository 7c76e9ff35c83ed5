"""Rankings against sentence-transformers and ONNX Runtime, and of models whose scores can be told from the words."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pair_models import FORMATS, RECORDED, change_json, make_encoder, make_table, naive_logits
from pydantic import ValidationError

from sparsert.errors import InputError, InputRangeError, ModelFormatError
from sparsert.pipelines import Pipeline, TextRankingInput
from sparsert.pipelines.text_ranking import TextRankingPipeline

# Float32 sums in another order; logits are about 0.2 and at most 1.
CLOSE = 1e-5

VALUES = {word: [value] for word, value in zip("abcde", (3.0, -2.0, 0.5, 0.5, 200.0), strict=True)}


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    """What sentence-transformers made of its model."""
    return json.loads((RECORDED / "scores.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=FORMATS)
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder with random weights."""
    pytest.importorskip("onnxruntime")
    return make_encoder(tmp_path_factory.mktemp(request.param) / "model", request.param)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., TextRankingPipeline]:
    """A pipeline whose raw score of a pair is the sum of its words' numbers."""

    def make(config: dict | None = None, **options: Any) -> TextRankingPipeline:
        folder = make_table(tmp_path / f"model{len(list(tmp_path.iterdir()))}", VALUES, config)
        return Pipeline.create("text-ranking", folder, num_cores=1, **options)

    return make


def test_rankings_of_sentence_transformers(recorded: dict[str, Any], tmp_path: Path, engine_type: str) -> None:
    pipeline = Pipeline.create("rerank", make_encoder(tmp_path / "model"), engine_type=engine_type, num_cores=1)
    assert pipeline.model.sequence_length == recorded["max_seq_length"]
    outputs = pipeline([{"query": query, "documents": recorded["documents"]} for query in recorded["queries"]])
    for output, theirs in zip(outputs, recorded["ranked"], strict=True):
        assert [found.index for found in output.results] == [entry["corpus_id"] for entry in theirs]
        scores = [entry["score"] for entry in theirs]
        assert [found.score for found in output.results] == pytest.approx(scores, abs=CLOSE)
        assert {found.text for found in output.results} == {None}
    query, documents, theirs = recorded["queries"][1], recorded["documents"], recorded["first_two"][1]
    output = pipeline(query=query, documents=documents, top_k=2, return_documents=True)
    assert [(found.index, found.text) for found in output.results] == [
        (entry["corpus_id"], entry["text"]) for entry in theirs
    ]


def test_logits_of_onnxruntime(recorded: dict[str, Any], encoder: Path) -> None:
    pipeline = Pipeline.create("text-ranking", encoder, num_cores=1)
    queries, documents = [*recorded["queries"], "", "bees " * 200], ["", *recorded["documents"]]
    outputs = pipeline([{"query": query, "documents": documents} for query in queries])
    expected = naive_logits(encoder, [(query, document) for query in queries for document in documents])
    found = np.array([_by_index(output) for output in outputs]).ravel()
    # A float between two bytes may be rounded to either, and later layers carry that on; scores spread by 0.19
    bound = CLOSE if encoder.parent.name.startswith("float") else 0.02
    np.testing.assert_allclose(found, expected[:, 0], rtol=0, atol=bound)


def test_scores_depend_on_nothing_else(recorded: dict[str, Any], encoder: Path) -> None:
    requests = [{"query": query, "documents": recorded["documents"]} for query in recorded["queries"]]
    one = Pipeline.create("text-ranking", encoder, num_cores=1)
    together = np.array([_by_index(output) for output in one(requests)])
    alone = np.array(
        [
            [one(query=item["query"], documents=[text]).results[0].score for text in item["documents"]]
            for item in requests
        ]
    )
    two = Pipeline.create("text-ranking", encoder, num_cores=2, batch_size=3)
    backwards = [item | {"documents": item["documents"][::-1]} for item in requests[::-1]]
    others = np.array([_by_index(output) for output in two(backwards)])[::-1, ::-1]
    if encoder.parent.name.startswith("int8"):
        assert (together == alone).all() and (together == others).all()
    else:
        np.testing.assert_allclose(alone, together, rtol=0, atol=1e-6)
        np.testing.assert_allclose(others, together, rtol=0, atol=1e-6)


def _by_index(output: Any) -> list[float]:
    return [found.score for found in sorted(output.results, key=lambda found: found.index)]


def test_best_first_and_ties_in_order(make: Callable[..., TextRankingPipeline]) -> None:
    output = make(activation="identity")(query="c", documents=["c", "a", "b", "d", "a b", "a", "unknown"])
    found = [(entry.index, entry.score) for entry in output.results]
    assert found == [(1, 3.5), (5, 3.5), (4, 1.5), (0, 1.0), (3, 1.0), (6, 0.5), (2, -1.5)]
    # Equal after the activation: in order, whatever the logits are
    output = make()(query="e", documents=["b", "a", "e"])
    assert [(entry.index, entry.score) for entry in output.results] == [(0, 1.0), (1, 1.0), (2, 1.0)]
    output = make()(query="e", documents=["b", "a", "e"], raw_scores=True, top_k=2)
    assert [(entry.index, entry.score) for entry in output.results] == [(2, 400.0), (1, 203.0)]
    assert len(make()(query="a", documents=["b"], top_k=9).results) == 1


def test_activations(make: Callable[..., TextRankingPipeline]) -> None:
    def score(pipeline: TextRankingPipeline) -> float:
        return pipeline(query="a", documents=["b"]).results[0].score

    logistic = pytest.approx(1 / (1 + np.exp(-1.0)))
    assert score(make()) == logistic
    assert score(make({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"})) == 1.0
    named = {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}
    assert score(make(named)) == logistic
    assert score(make(named, activation="Identity")) == 1.0
    assert score(make(activation="softmax")) == 1.0  # of one label
    with pytest.raises(InputError, match=r"activation must be one of \['sigmoid', 'identity', 'softmax'\], got 'tanh'"):
        make(activation="tanh")
    with pytest.raises(ModelFormatError, match=r"Tanh, named beside .*config.json, is not known"):
        make({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}})


def test_code_of_the_folder_is_not_run(
    make: Callable[..., TextRankingPipeline], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sparsert")
    pipeline = make({"sentence_transformers": {"activation_fn": "os.abort"}})
    assert pipeline.encoder.activation == "sigmoid"
    assert "the activation os.abort, named beside" in caplog.text


def test_each_text_is_tokenized_once(make: Callable[..., TextRankingPipeline], monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = make()
    seen: list[str] = []
    encode = pipeline.model.tokenizer.encode_ids
    monkeypatch.setattr(pipeline.model.tokenizer, "encode_ids", lambda texts: seen.extend(texts) or encode(texts))
    pipeline([{"query": "a", "documents": ["b", "c", "a"]}, {"query": "d", "documents": ["c", "b"]}])
    assert sorted(seen) == ["a", "b", "c", "d"]


def test_the_default_prompt_goes_before_the_query(tmp_path: Path) -> None:
    folder = make_table(tmp_path / "model", VALUES)
    prompts = {"prompts": {"ask": "a "}, "default_prompt_name": "ask", "activation_fn": "torch.nn.Identity"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    pipeline = Pipeline.create("text-ranking", folder, num_cores=1)
    assert pipeline(query="b", documents=["c"]).results[0].score == 1.5


def test_long_texts_are_cut_or_refused(make: Callable[..., TextRankingPipeline]) -> None:
    pipeline = make(sequence_length=7, activation="identity")
    # Room for 4: half each, then what the shorter one leaves
    for query, document in (("c c a a", "d d a a"), ("c", "d d d a a"), ("c c c a a", "d")):
        assert pipeline(query=query, documents=[document]).results[0].score == 2.0
    pipeline = make(sequence_length=7, truncation=False, activation="identity")
    inputs = [TextRankingInput(query="a", documents=documents) for documents in (["b b b"], ["b", "b b b b"])]
    good, bad = pipeline.run_many(inputs, return_exceptions=True)
    assert good.results[0].score == -3.0
    assert isinstance(bad, InputRangeError) and "documents[1]: a pair of 1 and 4 tokens does not fit" in str(bad)


def test_a_bad_request_fails_alone(make: Callable[..., TextRankingPipeline]) -> None:
    bad = TextRankingInput(query="a", documents=["b", "\ud800"])
    no_query = TextRankingInput(query="\ud800", documents=["b"])
    good = TextRankingInput(query="a", documents=["b"])
    pipeline = make(activation="identity")
    results = pipeline.run_many([bad, good, no_query], return_exceptions=True)
    assert results[1].results[0].score == 1.0
    for result, name in ((results[0], "documents[1]"), (results[2], "query")):
        assert isinstance(result, InputError) and str(result).startswith(f"{name}: the text must be a str without lone")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"query": "a", "documents": []}, "documents"),
        ({"query": "a", "documents": ["b", None]}, r"documents\.1"),
        ({"query": "a", "documents": [["b", "c"]]}, r"documents\.0"),
        ({"query": "a", "documents": "b"}, "documents"),
        ({"query": ["a"], "documents": ["b"]}, "query"),
        ({"documents": ["b"]}, "query"),
        ({"query": "a", "documents": ["b"], "top_k": 0}, "top_k"),
    ],
)
def test_requests_that_make_no_sense(
    make: Callable[..., TextRankingPipeline], fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValidationError, match=rf"(?m)^{field}$"):
        make()(**fields)


def test_models_for_something_else(
    tmp_path: Path, model_directory: Path, make: Callable[..., TextRankingPipeline]
) -> None:
    folder = make_table(tmp_path / "three", {"a": [1.0, 2.0, 3.0]})
    with pytest.raises(ModelFormatError, match=r"one number for a pair, .*three has 3; .*CrossEncoder"):
        Pipeline.create("text-ranking", folder, num_cores=1)
    with pytest.raises(ModelFormatError, match=r"config.json names 2 labels .* gives 1 logits"):
        make({"id2label": {"0": "a", "1": "b"}})
    with pytest.raises(ModelFormatError, match=r"the model's outputs are \{'start_logits'"):
        Pipeline.create("text-ranking", model_directory, num_cores=1)
    with pytest.raises(InputError, match="No model_path provided"):
        Pipeline.create("text-ranking")


def test_models_with_open_shapes(tmp_path: Path) -> None:
    import onnx

    folder = make_table(tmp_path / "model", VALUES)
    model = onnx.load(folder / "model.onnx")
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "labels"
    onnx.save(model, folder / "model.onnx")
    assert Pipeline.create("text-ranking", folder, num_cores=1).encoder.model.num_labels == 1
    change_json(folder / "config.json", num_labels=3)
    with pytest.raises(ModelFormatError, match="names 3 labels"):
        Pipeline.create("text-ranking", folder, num_cores=1)


def test_options_survive(make: Callable[..., TextRankingPipeline]) -> None:
    pipeline = make(activation="identity", sequence_length=9, truncation=False)
    for again in (Pipeline.from_config(pipeline.to_config()), pickle.loads(pickle.dumps(pipeline))):
        assert (
            again.task_options()
            == pipeline.task_options()
            == {
                "activation": "identity",
                "sequence_length": 9,
                "truncation": False,
            }
        )
