"""A small model for each text task, and an application that serves them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from classifiers import make_classifier
from pair_models import make_encoder
from taggers import make_tagger

import sparsert

SENTENCES = Path(__file__).resolve().parents[1] / "pipelines" / "data" / "tiny-sentences"
"""Vectors of 32 numbers and length 1, rows of 40 tokens, prompts for queries and documents."""

STATIC_INT8 = {
    "task": "embeddings",
    "name": "int8",
    "model": str(Path(sparsert.__file__).parent / "models" / "minilm-l6-squad-pruned60_quant"),
    "kwargs": {"emb_extraction_layer": "Add_565_o", "sequence_length": 128},
}
"""The default model up to its head, whose sums are exact."""

NLI = ("contradiction", "neutral", "entailment")


def make_models(folder: Path) -> dict[str, Path]:
    """Folders by the names of the endpoints that they are for."""
    return {
        "embedder": SENTENCES,
        "ranker": make_encoder(folder / "ranker"),
        "classifier": make_classifier(folder / "classifier", "bert"),
        "zero-shot": make_encoder(folder / "nli", labels=NLI),
        "tagger": make_tagger(folder / "tagger", "bert"),
    }


TASKS = {
    "embedder": "embeddings",
    "ranker": "text-ranking",
    "classifier": "text-classification",
    "zero-shot": "zero-shot",
    "tagger": "ner",
}


def endpoints(models: dict[str, Path], *names: str, **kwargs: Any) -> list[dict[str, Any]]:
    """Those of a configuration, all or some of them."""
    return [
        {"task": TASKS[name], "name": name, "model": str(models[name]), "kwargs": kwargs} for name in names or TASKS
    ]
