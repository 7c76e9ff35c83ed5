"""What is asked of a sentence-transformers folder, of the library itself and of sparsert alike.

``originals/make_sentence_folder.py`` records what the library says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEAN = {"pooling_mode": "mean", "include_prompt": True}

FOLDERS: dict[str, dict[str, Any]] = {
    "as_saved": {},
    # The form of version 5 and before, several modes, no normalization, and prompts that pooling leaves out
    "old_pooling": {
        "1_Pooling/config.json": {
            "word_embedding_dimension": 32,
            "pooling_mode_cls_token": True,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": True,
            "include_prompt": False,
        },
        "modules.json": ["", "1_Pooling"],
        "config_sentence_transformers.json": {
            "prompts": {"query": "what is ", "passage": "text about: "},
            "default_prompt_name": "passage",
            "similarity_fn_name": "euclidean",
        },
    },
    "last_and_weighted": {
        "1_Pooling/config.json": {
            "embedding_dimension": 32,
            "pooling_mode": ["max", "weightedmean", "lasttoken"],
            "include_prompt": False,
        },
        "modules.json": ["", "1_Pooling"],
        "config_sentence_transformers.json": {"prompts": {"query": "what is "}, "truncate_dim": 50},
        "sentence_bert_config.json": {"max_seq_length": 9},
    },
    "normalized_without_dense": {"modules.json": ["", "1_Pooling", "3_Normalize"]},
}
"""Name -> JSON files of the folder that differ from what was saved; ``modules.json`` lists those that are kept."""


def write_changes(folder: Path, changes: Mapping[str, Any]) -> None:
    """Turn the folder as it was saved into another."""
    for name, content in changes.items():
        path = folder / name
        if name == "modules.json":
            modules = json.loads(path.read_text(encoding="utf-8"))
            content = [module for module in modules if module["path"] in content]
        elif name != "1_Pooling/config.json":
            content = json.loads(path.read_text(encoding="utf-8")) | content
        path.write_text(json.dumps(content), encoding="utf-8")


def sample_texts(squad: Mapping[str, Any]) -> list[str]:
    """Paragraphs, questions, and what people send by mistake."""
    paragraphs = [paragraph for article in squad["data"] for paragraph in article["paragraphs"]]
    questions = [entry["question"] for paragraph in paragraphs for entry in paragraph["qas"]]
    odd = ["", " ", "a", "\n\t ", "Ünïcödé — ﬁne 漢字 🙂", "bees " * 100, " leading and trailing "]
    return [paragraph["context"] for paragraph in paragraphs] + questions + odd


@dataclass(frozen=True)
class Case:
    """One call of a method with all texts."""

    key: str
    method: str = "encode"
    arguments: dict[str, Any] = field(default_factory=dict)


def cases(folder: str) -> list[Case]:
    """The calls for a folder of :data:`FOLDERS`."""
    calls: list[tuple[str, dict[str, Any]]] = [
        ("encode", {}),
        ("encode_query", {}),
        ("encode_document", {}),
        ("encode", {"prompt": "to be or "}),
        ("encode", {"normalize_embeddings": True, "truncate_dim": 7}),
    ]
    if folder == "as_saved":
        calls += [("encode", {"precision": name}) for name in ("int8", "uint8", "binary", "ubinary")]
        calls += [("encode", {"prompt_name": "query", "truncate_dim": 10})]
        calls += [("encode", {"output_value": "token_embeddings"})]
    return [
        Case(f"{folder}.{index}", method, arguments | {"batch_size": 16})
        for index, (method, arguments) in enumerate(calls)
    ]
