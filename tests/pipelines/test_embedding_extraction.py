"""The pipeline of embeddings: requests, prompts, options, and vectors that depend on nothing but their text."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from sentence_cases import FOLDERS, sample_texts, write_changes

from sparsert.errors import InputError, InputRangeError, ModelFormatError
from sparsert.pipelines import EmbeddingInput, EmbeddingOutput, Pipeline
from sparsert.pipelines.embedding_extraction import EmbeddingPipeline
from sparsert.pipelines.embedding_extraction.hidden import hidden_states

FOLDER = Path(__file__).parent / "data" / "tiny-sentences"

# The last hidden states of the default model, whose outputs are logits
QA_HIDDEN = "Add_565_o"


@pytest.fixture(scope="module")
def texts(squad_sample: Path) -> list[str]:
    return sample_texts(json.loads(squad_sample.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def embed() -> EmbeddingPipeline:
    return make(FOLDER)


def make(model: Path, **options: Any) -> EmbeddingPipeline:
    pipeline = Pipeline.create("embedding-extraction", model, **{"num_cores": 1, "return_numpy": True} | options)
    assert isinstance(pipeline, EmbeddingPipeline)
    return pipeline


def changed(tmp_path: Path, changes: dict[str, Any]) -> Path:
    """The folder with other JSON files."""
    copy = Path(shutil.copytree(FOLDER, tmp_path / "folder"))
    write_changes(copy, changes)
    return copy


def hidden(model: Path, ids: list[int], output: str = "last_hidden_state") -> np.ndarray:
    """Vectors of the tokens of a text by ONNX Runtime, shape (T, H)."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(model / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    row = np.array([ids])
    feeds = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
    names = {value.name for value in session.get_inputs()}
    return session.run([output], {name: value for name, value in feeds.items() if name in names})[0][0]


# ---- requests --------------------------------------------------------------------------------------------------------


def test_one_text_and_many(embed: EmbeddingPipeline) -> None:
    one, many = embed("bees"), embed(["bees", "keep bees"])
    assert (one.embeddings.shape, many.embeddings.shape) == ((1, 24), (2, 24))
    assert embed(inputs="bees") == embed(EmbeddingInput(inputs="bees")) == one
    batch = embed([{"inputs": "bees"}, EmbeddingInput(inputs=["keep bees"])])
    assert [output.embeddings.shape for output in batch] == [(1, 24), (1, 24)]
    np.testing.assert_allclose(batch[1].embeddings, many.embeddings[1:], atol=1e-6)


@pytest.mark.parametrize("alias", ["transformers_embedding_extraction", "embedding", "sentence-embedding"])
def test_aliases(alias: str) -> None:
    assert Pipeline.class_of(alias) is EmbeddingPipeline


def test_lists_by_default_and_the_array_beside_them() -> None:
    output = make(FOLDER, return_numpy=False)(["bees", "a"])
    assert isinstance(output.embeddings, list) and isinstance(output.embeddings[1][23], float)
    assert output.vectors.dtype == np.float32
    assert output.vectors.tolist() == output.embeddings


def test_json(embed: EmbeddingPipeline) -> None:
    output = embed("bees")
    content = json.loads(output.model_dump_json())
    assert content == {"embeddings": output.embeddings.tolist()}
    assert EmbeddingOutput.model_validate(content) == output
    np.testing.assert_array_equal(EmbeddingOutput.model_validate(content).vectors, output.embeddings.astype(float))
    schema = EmbeddingOutput.model_json_schema()["properties"]["embeddings"]
    assert schema["type"] == "array" and schema["description"]


def test_a_bad_text_fails_alone(embed: EmbeddingPipeline) -> None:
    requests = [
        EmbeddingInput(inputs="bees"),
        EmbeddingInput.model_construct(inputs=["a", "\ud800"]),
        EmbeddingInput(inputs=[]),
        EmbeddingInput(inputs="a", prompt_name="nobody"),
        EmbeddingInput(inputs="a", truncate_dim=25),
        EmbeddingInput(inputs="keep"),
    ]
    results = embed.run_many(requests, return_exceptions=True)
    np.testing.assert_array_equal(results[0].embeddings, embed("bees").embeddings)
    assert results[5].embeddings.shape == (1, 24)
    messages = [
        r"inputs[1]: the text must be a str without lone surrogates",
        "inputs: expected at least one text",
        "prompt_name must be one of ['query', 'document'], got 'nobody'",
        "truncate_dim must be from 1 to 24, the numbers of a vector, got 25",
    ]
    for result, message in zip(results[1:5], messages, strict=True):
        assert isinstance(result, InputError) and message in str(result)
    for wrong, message in (
        (["a", None], r"\[1\] must be a string; got None"),
        ([["a", "b"]], r"\[0\] must be a string; got \['a', 'b'\]"),
        (None, "must be a string or a list of strings; got None"),
    ):
        with pytest.raises(ValueError, match=message):
            embed(inputs=wrong)


def test_options_of_a_request(embed: EmbeddingPipeline) -> None:
    plain = embed("what is bees").embeddings
    assert np.linalg.norm(plain) == pytest.approx(1)  # as the folder says
    np.testing.assert_array_equal(embed(inputs="bees", prompt_name="query").embeddings, plain)
    np.testing.assert_array_equal(embed(inputs="bees", prompt="what is ", prompt_name="nobody").embeddings, plain)
    cut = embed(inputs="what is bees", truncate_dim=3)
    np.testing.assert_array_equal(cut.embeddings, plain[:, :3])
    both = embed(inputs="what is bees", truncate_dim=3, normalize=True).embeddings
    np.testing.assert_allclose(both, plain[:, :3] / np.linalg.norm(plain[:, :3]), rtol=1e-5)
    longer = embed(inputs="what is bees", normalize=False).embeddings
    assert np.linalg.norm(longer) > 1.1
    np.testing.assert_allclose(longer / np.linalg.norm(longer), plain, rtol=1e-5)


def test_what_a_server_asks_of_it(embed: EmbeddingPipeline) -> None:
    assert (embed.pooling, embed.model.sequence_length) == (("mean",), 40)
    assert embed.model.tokenizer.truncation_side == "right"
    assert make(FOLDER, pooling="none").pooling == ("none",)


def test_tokens_are_counted(embed: EmbeddingPipeline) -> None:
    [prepared] = embed.preprocess([EmbeddingInput(inputs=["a a a", "a"], prompt="a ")])
    assert embed.tokens(prepared) == 6 + 4


def test_texts_are_cut_or_refused() -> None:
    long, cut = "bees " * 100, "bees " * 60
    np.testing.assert_array_equal(make(FOLDER)(long).embeddings, make(FOLDER)(cut).embeddings)
    with pytest.raises(InputRangeError, match=r"inputs\[1\]: a text of .* does not fit"):
        make(FOLDER, truncation=False)(["a", long])
    with pytest.raises(InputRangeError, match="64 positions"):
        make(FOLDER, sequence_length=65)


def test_a_text_without_tokens_fails_alone(tmp_path: Path) -> None:
    folder = changed(tmp_path, {"tokenizer.json": {"post_processor": None}})
    embed = make(folder, truncate_dim=5)
    failed, answered = embed.run_many(
        [EmbeddingInput(inputs=["a", ""]), EmbeddingInput(inputs="a")], return_exceptions=True
    )
    assert "inputs[1]: the tokenizer makes no tokens of the text" in str(failed)
    assert answered.vectors.shape == (1, 5)


# ---- vectors ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def static_int8(model_directory: Path) -> dict[str, Any]:
    """The default model up to its head: a static int8 one."""
    return {
        "model": model_directory,
        "emb_extraction_layer": QA_HIDDEN,
        "sequence_length": 128,
        "pooling": ["mean", "max"],
    }


def test_a_vector_does_not_depend_on_its_neighbours(texts: list[str], static_int8: dict[str, Any]) -> None:
    order = np.random.default_rng(0).permutation(len(texts))
    for options, tolerance in (({"model": FOLDER}, 1e-6), (static_int8, 0)):
        pipelines = [make(**options, num_cores=cores) for cores in (1, 2)]
        together = pipelines[0](texts).embeddings
        # Sums of floats may be split in another way; products of int8 are exact
        np.testing.assert_allclose(pipelines[1](texts).embeddings, together, atol=tolerance, rtol=0)
        alone = np.concatenate([pipelines[1](text).embeddings for text in texts])
        np.testing.assert_allclose(alone, together, atol=tolerance, rtol=0)
        shuffled = pipelines[0]([texts[place] for place in order]).embeddings
        np.testing.assert_allclose(shuffled, together[order], atol=tolerance, rtol=0)
        requests = pipelines[1].run_many([EmbeddingInput(inputs=texts[:7]), EmbeddingInput(inputs=texts[7:])])
        np.testing.assert_allclose(
            np.concatenate([output.embeddings for output in requests]), together, atol=tolerance, rtol=0
        )


def test_both_engines(texts: list[str]) -> None:
    pytest.importorskip("onnxruntime")
    ours, theirs = (make(FOLDER, engine_type=kind)(texts).embeddings for kind in ("sparsert", "onnxruntime"))
    np.testing.assert_allclose(ours, theirs, atol=5e-6)


@pytest.mark.parametrize("engine_type", ["sparsert", "onnxruntime"])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_the_first_token(engine_type: str, include_prompt: bool, tmp_path: Path) -> None:
    """By the engine where prompts take part, else by pooling."""
    pytest.importorskip("onnxruntime")
    pooling = {"embedding_dimension": 32, "pooling_mode": "cls", "include_prompt": include_prompt}
    folder = changed(tmp_path, {"1_Pooling/config.json": pooling, "modules.json": ["", "1_Pooling"]})
    embed = make(folder, engine_type=engine_type)
    ids = embed.embedder.rows.tokenizer.backend.encode("what is bees").ids
    found = embed(inputs=["bees", "a much longer text"], prompt_name="query").embeddings
    prompt = len(embed.embedder.rows.tokenizer.backend.encode("what is ").ids) - 1
    np.testing.assert_allclose(found[0], hidden(FOLDER, ids)[0 if include_prompt else prompt], atol=5e-6)


@pytest.mark.parametrize("engine_type", ["sparsert", "onnxruntime"])
def test_every_token(engine_type: str) -> None:
    pytest.importorskip("onnxruntime")
    for options in ({"pooling": "none"}, {"extraction_strategy": "per_token"}):
        embed = make(FOLDER, engine_type=engine_type, **options)
        texts = ["bees", "a much longer text"]
        output = embed(texts)
        for text, found in zip(texts, output.embeddings, strict=True):
            ids = embed.embedder.rows.tokenizer.backend.encode(text).ids
            np.testing.assert_allclose(found, hidden(FOLDER, ids), atol=5e-6)
        assert [len(item) for item in json.loads(output.model_dump_json())["embeddings"]] == [
            len(found) for found in output.vectors
        ]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_requests_for_tokens_among_others(pooling: str) -> None:
    embed = make(FOLDER, pooling=pooling)
    requests = [
        EmbeddingInput(inputs=["bees", "a much longer text"], pooling="none"),
        EmbeddingInput(inputs="bees"),
        EmbeddingInput(inputs="a", pooling="none"),
        EmbeddingInput(inputs=["a much longer text", "a"]),
    ]
    results = embed.run_many(requests)
    for place in (0, 2):
        alone = make(FOLDER, pooling="none")(requests[place].inputs)
        for found, expected in zip(results[place].vectors, alone.vectors, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)
    for place in (1, 3):
        np.testing.assert_allclose(results[place].vectors, embed(requests[place].inputs).vectors, atol=1e-6)


@pytest.mark.parametrize(
    ("strategy", "reduce"),
    [
        ("reduce_mean", lambda tokens: tokens[1:].mean(axis=0)),
        ("reduce_max", lambda tokens: tokens[1:].max(axis=0)),
        ("cls_token", lambda tokens: tokens[0]),
    ],
)
def test_strategies_of_deepsparse(strategy: str, reduce: Any) -> None:
    embed = make(FOLDER, extraction_strategy=strategy, emb_extraction_layer=-1, model_size=32)
    ids = embed.embedder.rows.tokenizer.backend.encode("a much longer text").ids
    found = embed(["bees", "a much longer text"]).embeddings[1]
    np.testing.assert_allclose(found, reduce(hidden(FOLDER, ids)), atol=5e-6)


def test_pooling_by_option() -> None:
    tokens = make(FOLDER, pooling="none")("a much longer text").vectors[0]
    # The folder's layers come after it, whatever it is
    found = make(FOLDER, pooling="last", normalize=False)
    dense = found.embedder.folder.dense[0]
    np.testing.assert_allclose(found("a much longer text").embeddings, dense(tokens[-1:]), atol=1e-6)


def test_precisions() -> None:
    texts = ["bees", "a much longer text", "nothing"]
    floats = make(FOLDER)(texts).embeddings
    bits = make(FOLDER, precision="ubinary")(texts).embeddings
    np.testing.assert_array_equal(np.unpackbits(bits, axis=1), floats > 0)
    assert make(FOLDER, precision="int8", return_numpy=False)(texts).vectors.dtype == np.int8
    with pytest.raises(InputError, match="one text has none"):
        make(FOLDER, precision="uint8")("bees")


def test_a_graph_that_pools_by_itself(tmp_path: Path) -> None:
    folder = changed(tmp_path, {})
    path = folder / "onnx" / "model.onnx"
    model = onnx.load(path)
    model.graph.node.append(
        helper.make_node("ReduceMax", ["last_hidden_state"], ["sentence_embedding"], axes=[1], keepdims=0)
    )
    pooled = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", 32])
    others = list(model.graph.output)
    model.graph.output.append(pooled)
    onnx.save(model, path)
    # Beside the vectors of tokens it is not used
    np.testing.assert_array_equal(make(folder)("bees").embeddings, make(FOLDER)("bees").embeddings)
    del model.graph.output[:]
    model.graph.output.append(pooled)
    onnx.save(model, path)
    embed = make(folder, normalize=False)
    for text in ("bees", "a much longer text"):  # by itself: this graph takes padding for tokens
        ids = embed.embedder.rows.tokenizer.backend.encode(text).ids
        np.testing.assert_allclose(embed(text).embeddings[0], hidden(FOLDER, ids).max(axis=0), atol=5e-6)
    with pytest.raises(InputError, match="gives one vector a text"):
        make(folder, pooling="none")
    failed, answered = embed.run_many(
        [EmbeddingInput(inputs="bees", pooling="none"), EmbeddingInput(inputs="bees")], return_exceptions=True
    )
    assert "gives one vector a text" in str(failed) and answered.vectors.shape == (1, 32)
    assert [value.name for value in others] == ["last_hidden_state", "pooler_output"]


# ---- options ---------------------------------------------------------------------------------------------------------


def test_prompts_of_the_pipeline() -> None:
    embed = make(FOLDER, prompts={"be": "to be or "}, prompt_name="be")
    np.testing.assert_array_equal(embed("not").embeddings, make(FOLDER)("to be or not").embeddings)
    assert embed.embedder.prompts["query"] == "what is "
    again = pickle.loads(pickle.dumps(embed))
    np.testing.assert_array_equal(again("not").embeddings, embed("not").embeddings)
    assert embed.to_config().kwargs["prompts"] == {"be": "to be or "}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "median"}, "pooling must be 'none', one of .*got 'median'"),
        ({"pooling": []}, "pooling must be"),
        ({"pooling": [["mean"]]}, "pooling must be"),
        ({"pooling": ["mean", "none"]}, "pooling must be"),
        ({"extraction_strategy": "mean"}, "extraction_strategy must be one of"),
        ({"extraction_strategy": "per_token", "pooling": "cls"}, "give one of them"),
        ({"emb_extraction_layer": 3}, "layers have no numbers"),
        ({"emb_extraction_layer": "nowhere"}, "no 'nowhere'"),
        ({"prompts": {"query": 1}}, "prompts must map names to texts"),
        ({"prompts": "query"}, "prompts must map names to texts, got 'query'"),
        ({"prompts": {"query": "\ud800"}, "prompt_name": "query"}, "prompt must be a str without lone surrogates"),
        ({"prompt_name": ["query"]}, "prompt_name must be one of"),
        ({"prompt_name": "nobody"}, "prompt_name must be one of"),
        ({"truncate_dim": 0}, "truncate_dim must be an int of at least 1"),
        ({"truncate_dim": 25}, "truncate_dim must be from 1 to 24"),
        ({"precision": "float16"}, "precision must be one of"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(FOLDER, **options)


def test_a_folder_is_needed() -> None:
    with pytest.raises(InputError, match="model_path"):
        Pipeline.create("embedding")


# ---- outputs of files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ({"pooler_output": ("b", 32), "last_hidden_state": ("b", "s", 32)}, {"tokens": "last_hidden_state"}),
        ({"sentence_embedding": ("b", 32), "token_embeddings": ("b", "s", 32)}, {"tokens": "token_embeddings"}),
        ({"output_0": ("b", "s", 32), "output_1": ("b", 32)}, {"tokens": "output_0"}),
        ({"sentence_embedding": ("b", 32), "pooler_output": ("b", 32)}, {"pooled": "sentence_embedding"}),
    ],
)
def test_which_output_is_taken(outputs: dict[str, tuple], expected: dict[str, str]) -> None:
    assert hidden_states(outputs) == expected


@pytest.mark.parametrize(
    "outputs", [{"logits": ("b", 2)}, {"a": ("b", "s", 3), "b": ("b", "s", 4)}, {"pooler_output": ("b", 32)}]
)
def test_a_file_without_vectors(outputs: dict[str, tuple]) -> None:
    with pytest.raises(ModelFormatError, match=f"outputs are {next(iter(outputs))}.*export the model without a head"):
        hidden_states(outputs)


def test_all_folders_load(tmp_path: Path) -> None:
    for name, changes in FOLDERS.items():
        folder = changed(tmp_path / name, changes)
        assert make(folder)("bees").embeddings.shape[0] == 1
