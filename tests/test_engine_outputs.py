"""Tests of engines that compute some outputs of a file, or values between its nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import small_models
from fusion_checks import DATA, FLOAT_ERROR, onnxruntime_outputs
from pooled_files import pooled

from sparsert import Context, Engine, MultiModelEngine, compile_model
from sparsert.errors import InputError, InputTypeError
from sparsert.graph.outputs import First
from sparsert.pipelines.ort_engine import OrtEngine

SOURCE, HIDDEN = DATA / "bert-qa-sdpa-script17.onnx", "v324"
VOCAB = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pooled(SOURCE, HIDDEN, tmp_path_factory.mktemp("pooled") / "model.onnx")


def feeds(rows: int = 3, columns: int = 21) -> dict[str, np.ndarray]:
    """Rows of which each has a token less than the one before."""
    rng = np.random.default_rng(0)
    mask = (np.arange(columns) < columns - np.arange(rows)[:, None]).astype(np.int64)
    ids = rng.integers(5, VOCAB, mask.shape)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def run(engine: Engine, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return engine.mapped_run([arrays[name] for name in engine.input_names])


def test_without_the_pooling_sequences_stay_ragged(model: Path) -> None:
    whole, tokens = Engine(model, None), Engine(model, None, outputs=["token_embeddings"])
    assert not whole.supports_ragged and tokens.supports_ragged
    assert tokens.output_names == ["token_embeddings"] and tokens.output_shapes == [(None, None, 16)]
    assert tokens.report().source_node_count < whole.report().source_node_count
    assert tokens.fraction_of_supported_ops == 1.0
    arrays = feeds()
    want = onnxruntime_outputs(model, arrays)["token_embeddings"]
    inside = arrays["attention_mask"] == 1
    np.testing.assert_allclose(run(tokens, arrays)["token_embeddings"][inside], want[inside], atol=FLOAT_ERROR)
    flat = [arrays[name][inside] for name in tokens.input_names]
    (got,) = tokens.run_ragged(flat, inside.sum(axis=1))
    np.testing.assert_allclose(got, want[inside], atol=FLOAT_ERROR)


@pytest.mark.parametrize("names", [None, ["sentence_embedding"], ["sentence_embedding", "token_embeddings"]])
def test_outputs_come_in_the_order_asked(model: Path, names: list[str] | None) -> None:
    arrays = feeds()
    want = onnxruntime_outputs(model, arrays)
    got = run(Engine(model, None, outputs=names), arrays)
    assert list(got) == (names or list(want))
    for name, values in got.items():
        np.testing.assert_allclose(values, want[name], atol=FLOAT_ERROR)


def test_values_between_nodes_and_first_tokens(model: Path) -> None:
    engine = Engine(model, None, outputs=["mean", First("token_embeddings"), HIDDEN])
    arrays = feeds()
    mean, first, hidden = run(engine, arrays).values()
    np.testing.assert_array_equal(first, hidden[:, 0])
    assert engine.output_shapes == [(None, 16), (None, 16), (None, None, 16)]
    wanted = OrtEngine(model, 1, outputs=["mean", HIDDEN])
    assert wanted.output_names == ["mean", HIDDEN]
    for got, want in zip([mean, hidden], wanted([arrays[name] for name in wanted.input_names]), strict=True):
        np.testing.assert_allclose(got, want, atol=FLOAT_ERROR)


def test_first_tokens_of_sequences_without_padding(model: Path) -> None:
    engine = Engine(model, None, outputs=[First("token_embeddings")])
    assert engine.supports_ragged
    arrays = feeds()
    inside = arrays["attention_mask"] == 1
    (got,) = engine.run_ragged([arrays[name][inside] for name in engine.input_names], inside.sum(axis=1))
    np.testing.assert_array_equal(got, *run(engine, arrays).values())


def test_an_unknown_name_is_refused_with_those_that_there_are(model: Path) -> None:
    for make in (lambda names: Engine(model, outputs=names), lambda names: OrtEngine(model, 1, names)):
        with pytest.raises(InputError, match=r"no 'pooler_output'.*\['token_embeddings', 'sentence_embedding'\]"):
            make(["pooler_output"])
    with pytest.raises(InputTypeError, match="must be a list"):
        Engine(model, outputs="token_embeddings")
    with pytest.raises(InputError, match="at least one"):
        Engine(model, outputs=[])


def test_engines_share_a_model_if_they_have_the_same_outputs(tmp_path: Path) -> None:
    path = small_models.arithmetic(tmp_path / "model.onnx")
    every, named = Engine(path, 2), Engine(path, 2, outputs=["total", "product"])
    first, again = Engine(path, 2, outputs=["total"]), compile_model(path, 2, outputs=("total",))
    other = MultiModelEngine(path, 2, Context(num_cores=1, num_streams=1), outputs=["product"])
    turned = Engine(path, 2, outputs=["product", "total"])
    assert every._model is named._model and first._model is again._model
    assert len({id(engine._model) for engine in (every, first, other, turned)}) == 4
    x, y = np.arange(16, dtype=np.float32).reshape(2, 8), np.full((2, 8), 3, np.float32)
    for engine in (every, named, first, again, other, turned):
        want = {"total": x + y, "product": x * y}
        got = engine.mapped_run([x, y])
        assert list(got) == engine.output_names
        for name, values in got.items():
            np.testing.assert_array_equal(values, want[name])


def test_onnxruntime_gives_the_outputs_asked_for(model: Path) -> None:
    engine = OrtEngine(model, 1, outputs=["sentence_embedding", "token_embeddings"])
    arrays = feeds()
    want = onnxruntime_outputs(model, arrays)
    for name, values in zip(engine.output_names, engine([arrays[n] for n in engine.input_names]), strict=True):
        np.testing.assert_array_equal(values, want[name])
    inside = arrays["attention_mask"] == 1
    pooled_rows, tokens = engine.run_ragged([arrays[n][inside] for n in engine.input_names], inside.sum(axis=1))
    assert pooled_rows.shape == (3, 16) and tokens.shape == (inside.sum(), 16)
