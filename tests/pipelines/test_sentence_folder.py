"""Folders of sentence-transformers: what is read of them, what their layers compute, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsert.errors import ModelError, ModelFormatError, ModelNotFoundError
from sparsert.pipelines.sentence_folder import SentenceFolder, read_sentence_folder
from sparsert.pipelines.sentence_layers import ACTIVATIONS, Dense, LayerNorm, UnitLength

RECORDED = Path(__file__).parent / "data" / "sentence-layers.zip"
OLD_FLAGS = {
    "word_embedding_dimension": 24,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
    "pooling_mode_mean_sqrt_len_tokens": False,
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that sentence-transformers wrote, see originals/record_sentence_layers.py."""
    folder = tmp_path_factory.mktemp("recorded")
    with zipfile.ZipFile(RECORDED) as archive:
        archive.extractall(folder)
    return folder


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def put_modules(root: Path, *kinds: str, package: str = "sentence_transformers.models", transformer: str = "") -> None:
    """A modules.json as the library writes it; a kind with dots is a type of its own."""
    entries = [{"idx": 0, "name": "0", "path": transformer, "type": f"{package}.Transformer"}]
    for index, kind in enumerate(kinds, 1):
        kind_of_own = kind if "." in kind else f"{package}.{kind}"
        path = f"{index}_{kind.rpartition('.')[2]}"
        entries.append({"idx": index, "name": str(index), "path": path, "type": kind_of_own})
    put(root / "modules.json", entries)


def put_pooling(root: Path, **content: Any) -> None:
    put(root / "1_Pooling" / "config.json", content)


# ---- what the original's modules give --------------------------------------------------------------------------------


def models() -> list[str]:
    with zipfile.ZipFile(RECORDED) as archive:
        return sorted({name.partition("/")[0] for name in archive.namelist()})


def embed(folder: SentenceFolder, pooled: np.ndarray) -> np.ndarray:
    """All that follows on pooling."""
    for layer in folder.dense:
        pooled = layer(pooled)
    return UnitLength()(pooled) if folder.normalize else pooled


@pytest.mark.parametrize("name", models())
def test_layers_give_what_sentence_transformers_gives(recorded: Path, name: str) -> None:
    folder = read_sentence_folder(recorded / name)
    with np.load(recorded / name / "vectors.npz") as found:
        pooled, embedded = found["pooled"], found["embedded"]
    ours = embed(folder, pooled)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, embedded, rtol=0, atol=2e-6)  # sums of up to 48 products near 1, in float32


def test_the_recorded_folders_are_read_as_they_were_made(recorded: Path) -> None:
    found = {name: read_sentence_folder(recorded / name) for name in models()}
    assert found["nothing"] == SentenceFolder(recorded / "nothing", ("cls",), include_prompt=False)
    assert found["joined"].pooling == ("max", "cls")
    assert [type(layer) for layer in found["chain"].dense] == [UnitLength, LayerNorm, Dense, Dense]
    assert (found["chain"].pooling, found["chain"].normalize) == (("weightedmean",), True)
    assert found["residual"].normalize is False
    assert {found[name].dense[0].activation for name in ACTIVATIONS} == set(ACTIVATIONS)
    assert found["no-bias"].dense[0].bias is None


@pytest.mark.parametrize("sizes", [(24, 16), (384, 768), (768, 768), (1024, 256), (31, 7), (5, 1)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_row_does_not_depend_on_its_neighbours(sizes: tuple[int, int], activation: str) -> None:
    random = np.random.default_rng(3)
    inputs, outputs = sizes
    weight, bias = random.standard_normal((outputs, inputs)), random.standard_normal(outputs)
    dense = Dense(weight.astype(np.float32), bias.astype(np.float32), activation, residual=weight.astype(np.float32))
    norm = LayerNorm(bias.astype(np.float32), bias.astype(np.float32))
    vectors = random.standard_normal((67, inputs)).astype(np.float32)

    def layers(rows: np.ndarray) -> np.ndarray:
        return UnitLength()(norm(dense(rows)))

    together = layers(vectors)
    assert layers(vectors[:0]).shape == (0, outputs)
    for start, stop in [(0, 1), (3, 4), (5, 13), (1, 67), (66, 67)]:
        assert np.array_equal(layers(vectors[start:stop]), together[start:stop])
    assert np.array_equal(layers(vectors[::-1])[::-1], together)
    assert np.array_equal(layers(np.asfortranarray(vectors)), together)


def test_a_vector_of_zeros_has_no_direction() -> None:
    assert np.array_equal(UnitLength()(np.zeros((1, 3), np.float32)), np.zeros((1, 3)))


# ---- layouts ---------------------------------------------------------------------------------------------------------


def test_a_folder_of_another_kind_means_the_mean(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sparsert"):
        assert read_sentence_folder(tmp_path) == SentenceFolder(tmp_path)
    (record,) = caplog.records
    assert "taking the mean" in record.getMessage()


@pytest.mark.parametrize(
    "package", ["sentence_transformers.models", "sentence_transformers.sentence_transformer.modules"]
)
@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (OLD_FLAGS, ("mean",)),
        (OLD_FLAGS | {"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, ("lasttoken",)),
        (OLD_FLAGS | {"pooling_mode_mean_tokens": False}, ("mean",)),
        (
            {key: True for key in [*OLD_FLAGS, "pooling_mode_weightedmean_tokens"] if key.startswith("pooling")},
            ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean"),
        ),
        ({"embedding_dimension": 24, "pooling_mode": "cls"}, ("cls",)),
        ({"embedding_dimension": 24, "pooling_mode": ["mean", "cls"]}, ("mean", "cls")),
        (OLD_FLAGS | {"pooling_mode": "max"}, ("max",)),
    ],
)
def test_pooling_old_and_new(tmp_path: Path, package: str, pooling: dict, expected: tuple[str, ...]) -> None:
    put_modules(tmp_path, "Pooling", "Normalize", package=package)  # whose folder does not exist
    put_pooling(tmp_path, **pooling)
    folder = read_sentence_folder(tmp_path)
    assert (folder.pooling, folder.normalize, folder.include_prompt) == (expected, True, True)


def test_the_options_of_a_folder(tmp_path: Path) -> None:
    put_modules(tmp_path, "Pooling")
    put_pooling(tmp_path, **OLD_FLAGS, include_prompt=False)
    options = {
        "prompts": {"query": "query: ", "document": None, "topic": "about "},
        "default_prompt_name": "topic",
        "similarity_fn_name": "dot",
        "truncate_dim": 8,
    }
    put(tmp_path / "config_sentence_transformers.json", options)
    put(tmp_path / "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": True})
    folder = read_sentence_folder(str(tmp_path))
    assert folder.prompts == {"query": "query: ", "document": "", "topic": "about "}
    assert (folder.default_prompt_name, folder.similarity, folder.truncate_dim) == ("topic", "dot", 8)
    assert (folder.max_seq_length, folder.do_lower_case, folder.include_prompt) == (256, True, False)
    put(tmp_path / "config_sentence_transformers.json", dict.fromkeys(options))
    put(tmp_path / "sentence_bert_config.json", {"max_seq_length": None, "do_lower_case": None})
    folder = read_sentence_folder(tmp_path)
    assert (folder.prompts, folder.default_prompt_name) == ({"query": "", "document": ""}, None)
    assert (folder.similarity, folder.truncate_dim, folder.max_seq_length) == ("cosine", None, None)


@pytest.mark.parametrize("name", ["roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"])
def test_names_of_old_for_the_transformers_options(tmp_path: Path, name: str) -> None:
    put_modules(tmp_path, transformer="0_Transformer")
    put(tmp_path / "0_Transformer" / f"sentence_{name}_config.json", {"max_seq_length": 128})
    put(tmp_path / f"sentence_{name}_config.json", {"max_seq_length": 99})
    assert read_sentence_folder(tmp_path).max_seq_length == 128


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "value"),
    [
        ("modules.json", "{", "not JSON"),
        ("modules.json", {"a": 1}, "list of objects"),
        ("modules.json", [3], "list of objects"),
        ("modules.json", [{"path": ""}], "no type"),
        ("modules.json", [{"path": "../x", "type": "a.Transformer"}], r"\.\./x"),
        ("modules.json", [{"path": "/x", "type": "a.Transformer"}], "/x"),
        ("modules.json", [{"path": 3, "type": "a.Transformer"}], "path"),
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "median"),
        ("1_Pooling/config.json", {"pooling_mode": []}, "pooling_mode"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", 3]}, "pooling_mode"),
        (
            "1_Pooling/config.json",
            {"pooling_mode": None, "pooling_mode_median_tokens": True},
            "pooling_mode_median_tokens",
        ),
        ("1_Pooling/config.json", {"pooling_mode": None, "pooling_mode_cls_token": "yes"}, "pooling_mode_cls_token"),
        ("1_Pooling/config.json", {"embedding_dimension": 0}, "embedding_dimension"),
        ("1_Pooling/config.json", {"embedding_dimension": 23}, "23 numbers"),
        ("1_Pooling/config.json", {"include_prompt": 1}, "include_prompt"),
        ("2_Dense/config.json", {"out_features": None}, "out_features"),
        ("2_Dense/config.json", {"activation_function": "mine.Tanh"}, "mine.Tanh"),
        ("2_Dense/config.json", {"activation_function": "torch.nn.Mish"}, "torch.nn.Mish"),
        ("2_Dense/config.json", {"activation_function": 3}, "activation_function"),
        ("2_Dense/config.json", {"out_features": 15}, "shape"),
        ("2_Dense/config.json", {"out_features": True}, "out_features"),
        ("2_Dense/config.json", {"use_residual": True}, "residual.weight"),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "token_embeddings"),
        ("2_Dense/model.safetensors", "short", "safetensors"),
        ("3_Normalize/config.json", {"module_input_name": "token_embeddings"}, "token_embeddings"),
        ("config_sentence_transformers.json", {"prompts": ["a"]}, "prompts"),
        ("config_sentence_transformers.json", {"prompts": {"a": 1}}, "prompts"),
        ("config_sentence_transformers.json", {"default_prompt_name": "a"}, "default_prompt_name"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "hamming"}, "hamming"),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, "truncate_dim"),
        ("sentence_bert_config.json", {"max_seq_length": "256"}, "max_seq_length"),
        ("sentence_bert_config.json", {"do_lower_case": "no"}, "do_lower_case"),
    ],
)
def test_broken_files_are_named_with_the_value(
    recorded: Path, tmp_path: Path, file: str, content: Any, value: str
) -> None:
    root = tmp_path / "model"
    shutil.copytree(recorded / "Tanh", root)
    if isinstance(content, dict) and file != "modules.json":
        content = (json.loads((root / file).read_text()) if (root / file).exists() else {}) | content
    put(root / file, content)
    with pytest.raises(ModelFormatError, match=value) as caught:
        read_sentence_folder(root)
    assert str(root) in str(caught.value)


@pytest.mark.parametrize(
    "kinds",
    [
        ("Pooling", "mine.Router"),
        ("WordWeights", "Pooling"),
        ("Normalize",),
        ("Pooling", "Pooling"),
        ("Pooling", "Transformer"),
        ("models.StaticEmbedding",),
    ],
)
def test_unknown_modules_and_orders(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    put_modules(tmp_path, *kinds)
    put_pooling(tmp_path, **OLD_FLAGS)
    with pytest.raises(ModelFormatError, match=r"modules\.json"):
        read_sentence_folder(tmp_path)


@pytest.mark.parametrize("file", ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"])
def test_missing_files_are_named(recorded: Path, tmp_path: Path, file: str) -> None:
    root = tmp_path / "model"
    shutil.copytree(recorded / "Tanh", root)
    (root / file).unlink()
    with pytest.raises(ModelNotFoundError, match=file.rpartition("/")[2]):
        read_sentence_folder(root)


def test_weights_as_a_pickle_are_not_read(recorded: Path, tmp_path: Path) -> None:
    root = tmp_path / "model"
    shutil.copytree(recorded / "Tanh", root)
    (root / "2_Dense" / "model.safetensors").rename(root / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        read_sentence_folder(root)
