"""What is read off ``config.json``; labels, activations and limits against those of the original libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsert.errors import ModelFormatError
from sparsert.model_config import ModelConfig, read_config

CLASSIFIER = "BertForSequenceClassification"
IDENTITY = "torch.nn.modules.linear.Identity"


def config_of(folder: Path, **content: Any) -> ModelConfig:
    """What is read from a folder whose config.json has these keys."""
    (folder / "config.json").write_text(json.dumps(content))
    return read_config(folder)


def test_a_folder_without_a_configuration_says_nothing(tmp_path: Path) -> None:
    assert read_config(tmp_path) == ModelConfig(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ({}, ()),
        ({"id2label": {}}, ()),
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": {"1": "yes", "0": "no"}}, ("no", "yes")),
        ({"id2label": {"0": "no", "2": "yes"}}, ("no", "LABEL_1", "yes")),
        ({"id2label": {"0": 0, "1": 1}}, ("0", "1")),
        ({"id2label": {"0": "no"}, "num_labels": 2}, ("no",)),
        ({"id2label": {str(index): f"L{index}" for index in range(12)}}, tuple(f"L{index}" for index in range(12))),
    ],
)
def test_labels(tmp_path: Path, content: dict, labels: tuple[str, ...]) -> None:
    config = config_of(tmp_path, **content)
    assert config.labels == labels
    assert config.label2id == {name: index for index, name in enumerate(labels)}


def test_the_files_own_indices_of_labels(tmp_path: Path) -> None:
    config = config_of(tmp_path, id2label={"0": "a", "1": "b"}, label2id={"a": "0", "b": 1, "entailment": 1})
    assert config.label2id == {"a": 0, "b": 1, "entailment": 1}


@pytest.mark.parametrize(
    ("architecture", "labels", "task"),
    [
        ("BertForQuestionAnswering", 2, "question-answering"),
        (CLASSIFIER, 0, "text-classification"),
        (CLASSIFIER, 1, "text-ranking"),
        ("XLMRobertaForSequenceClassification", 3, "text-classification"),
        ("MPNetForTokenClassification", 1, "token-classification"),
        ("BertForMaskedLM", 0, None),
        ("BertModel", 0, "embedding-extraction"),
        ("LlamaForCausalLM", 0, None),
    ],
)
def test_the_task_of_an_architecture(tmp_path: Path, architecture: str, labels: int, task: str | None) -> None:
    config = config_of(tmp_path, architectures=[architecture], num_labels=labels)
    assert (config.architecture, config.task) == (architecture, task)


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", CLASSIFIER])
def test_what_sentence_transformers_pools_is_an_embedding_model(tmp_path: Path, architecture: str) -> None:
    modules = [{"path": "", "type": "sentence_transformers.base.modules.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))  # as version 6 writes it for a cross-encoder
    without = config_of(tmp_path, architectures=[architecture], num_labels=1).task
    assert without == ("text-ranking" if architecture == CLASSIFIER else None)
    modules.append({"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    assert read_config(tmp_path).task == "embedding-extraction"
    transformer = tmp_path / "0_Transformer"
    transformer.mkdir()
    (tmp_path / "config.json").rename(transformer / "config.json")
    assert read_config(transformer, tmp_path).task == "embedding-extraction"


@pytest.mark.parametrize(
    ("model_type", "pad_token_id", "positions"),
    [
        ("bert", 0, 514),
        ("roberta", 1, 512),
        ("roberta", None, 512),
        ("roberta", 3, 510),
        ("xlm-roberta", 1, 512),
        ("camembert", 1, 512),
        ("mpnet", 1, 512),
        ("distilbert", 1, 514),
    ],
)
def test_positions(tmp_path: Path, model_type: str, pad_token_id: int | None, positions: int) -> None:
    content = {"model_type": model_type, "max_position_embeddings": 514}
    if pad_token_id is not None:
        content["pad_token_id"] = pad_token_id
    assert config_of(tmp_path, **content).positions == positions


def test_the_activation_of_a_cross_encoder_by_age_of_the_file(tmp_path: Path) -> None:
    assert config_of(tmp_path).activation is None
    old = {"sbert_ce_default_activation_function": "torch.nn.modules.activation.Tanh"}
    assert config_of(tmp_path, **old).activation == "torch.nn.modules.activation.Tanh"
    newer = {"sentence_transformers": {"activation_fn": IDENTITY, "version": "4.0.1"}}
    assert config_of(tmp_path, **old, **newer).activation == IDENTITY
    (tmp_path / "config_sentence_transformers.json").write_text('{"activation_fn": "mine.Own"}')
    assert config_of(tmp_path, **old, **newer).activation == "mine.Own"  # an error for who uses it


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"architectures": "BertModel"}, "architectures"),
        ({"architectures": [1]}, "architectures"),
        ({"model_type": 1}, "model_type"),
        ({"id2label": ["a"]}, "id2label"),
        ({"id2label": {"a": "b"}}, "id2label"),
        ({"id2label": {"-1": "b"}}, "id2label"),
        ({"id2label": {"9999999": "b"}}, "id2label"),
        ({"id2label": {"0": ["b"]}}, "id2label"),
        ({"num_labels": -1}, "num_labels"),
        ({"num_labels": 10**9}, "num_labels"),
        ({"num_labels": True}, "num_labels"),
        ({"label2id": {"a": "b"}}, "label2id"),
        ({"label2id": {"a": 0.5}}, "label2id"),
        ({"problem_type": "guess"}, "problem_type"),
        ({"max_position_embeddings": "512"}, "max_position_embeddings"),
        ({"max_position_embeddings": 0}, "max_position_embeddings"),
        ({"model_type": "roberta", "max_position_embeddings": 2}, "max_position_embeddings"),
        ({"sentence_transformers": {"activation_fn": 3}}, "activation_fn"),
    ],
)
def test_broken_values_name_file_and_key(tmp_path: Path, content: dict, key: str) -> None:
    with pytest.raises(ModelFormatError) as caught:
        config_of(tmp_path, **content)
    assert str(tmp_path / "config.json") in str(caught.value) and key in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "3", '"a"', "[" * 100_000, "\x00"])
def test_what_is_no_json_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelFormatError, match=r"config\.json"):
        read_config(tmp_path)
