"""What a model's ``config.json`` says: its task, its labels, how long its sequences may be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsert._folder import read_json, read_modules, value_of
from sparsert.errors import ModelFormatError

__all__ = ["ModelConfig", "read_config"]

_TASKS = {
    "ForQuestionAnswering": "question-answering",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "Model": "embedding-extraction",
}
"""The task of an architecture, by the end of its name."""

_PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

# Architectures whose positions begin after the padding token's id, so that the first ones are never used. That id is 1
# in the configuration classes of all of them, which leave it out of the file where it is the default.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet")
_OFFSET_PAD_ID = 1

_MOST_LABELS = 1 << 20
"""More are a mistake in the file, which must not become a list that fills the memory."""


@dataclass(frozen=True)
class ModelConfig:
    """What a model's configuration says; None or empty where it says nothing.

    Attributes
    ----------
    path : Path
        The file ``config.json``, to be named in messages; it may be absent.
    model_type : str, optional
        Such as ``"bert"``.
    architecture : str, optional
        Such as ``"BertForSequenceClassification"``, the first of the file's ``architectures``.
    task : str, optional
        The task of that architecture: ``"question-answering"``, ``"text-classification"``, ``"text-ranking"`` (a
        sequence classifier with one label), ``"token-classification"`` or ``"embedding-extraction"``.
    labels : tuple of str
        Names of the logits in order, from ``id2label`` or else ``num_labels``. One that is missing is ``LABEL_i``.
    label2id : mapping of str to int
        Index of each label as the file says it, or else by ``labels``.
    problem_type : str, optional
        ``"regression"``, ``"single_label_classification"`` or ``"multi_label_classification"``.
    positions : int, optional
        Most tokens of a sequence, special tokens included.
    activation : str, optional
        Full name of the activation that a cross-encoder wants on its logits, such as
        ``"torch.nn.modules.linear.Identity"``. It is not checked here: who uses it has to know it.
    """

    path: Path
    model_type: str | None = None
    architecture: str | None = None
    task: str | None = None
    labels: tuple[str, ...] = ()
    label2id: Mapping[str, int] = field(default_factory=dict)
    problem_type: str | None = None
    positions: int | None = None
    activation: str | None = None


def read_config(directory: str | Path, root: str | Path | None = None) -> ModelConfig:
    """Read the configuration of a model's folder; a folder without one gives a configuration that says nothing.

    Parameters
    ----------
    directory
        The folder with ``config.json``.
    root
        The folder with ``modules.json`` and ``config_sentence_transformers.json``, if that is another.

    Raises
    ------
    ModelFormatError
        A file is malformed; the message names it and the key.
    """
    directory = Path(directory)
    root = directory if root is None else Path(root)
    path = directory / "config.json"
    content = read_json(path)
    architectures = value_of(content, "architectures", list, [], path)
    if not all(isinstance(name, str) for name in architectures):
        raise ModelFormatError(f"{path}: architectures must be a list of names, got {architectures!r:.200}")
    architecture = architectures[0] if architectures else None
    labels = _labels(content, path)
    problem_type = value_of(content, "problem_type", str, None, path)
    if problem_type not in (None, *_PROBLEM_TYPES):
        raise ModelFormatError(f"{path}: problem_type must be one of {', '.join(_PROBLEM_TYPES)}, got {problem_type!r}")
    return ModelConfig(
        path,
        value_of(content, "model_type", str, None, path),
        architecture,
        _task(architecture, len(labels), root),
        labels,
        _label2id(content, labels, path),
        problem_type,
        _positions(content, path),
        _activation(content, path, root),
    )


def _task(architecture: str | None, labels: int, root: Path) -> str | None:
    modules = {module.kind for module in read_modules(root)}
    # An embedding model may say that it was trained as another: sentence-transformers loads its encoder alone.
    if "Pooling" in modules:
        return "embedding-extraction"
    task = next((task for suffix, task in _TASKS.items() if (architecture or "").endswith(suffix)), None)
    if task == "text-classification" and labels == 1:
        return "text-ranking"
    return task


def _labels(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    names = value_of(content, "id2label", dict, None, path)
    if not names:
        count = value_of(content, "num_labels", int, 0, path)
        if not 0 <= count < _MOST_LABELS:
            raise ModelFormatError(f"{path}: num_labels must be a number of labels, got {count}")
        return tuple(f"LABEL_{index}" for index in range(count))
    found = {}
    for key, name in names.items():
        if not re.fullmatch(r"[0-9]{1,7}", key) or int(key) >= _MOST_LABELS:
            raise ModelFormatError(f"{path}: the keys of id2label must be indices of logits, got {key!r:.200}")
        if not isinstance(name, str | int | float):
            raise ModelFormatError(f"{path}: id2label must give a name for {key}, got {name!r:.200}")
        found[int(key)] = str(name)
    return tuple(found.get(index, f"LABEL_{index}") for index in range(max(found) + 1))


def _label2id(content: Mapping[str, Any], labels: tuple[str, ...], path: Path) -> dict[str, int]:
    ids = value_of(content, "label2id", dict, None, path)
    if not ids:
        return {name: index for index, name in enumerate(labels)}
    found = {}
    for name, index in ids.items():
        if isinstance(index, bool) or not isinstance(index, str | int) or not re.fullmatch(r"[0-9]{1,7}", str(index)):
            raise ModelFormatError(f"{path}: label2id must give the index of a logit for {name!r}, got {index!r:.200}")
        found[name] = int(index)
    return found


def _positions(content: Mapping[str, Any], path: Path) -> int | None:
    positions: int | None = value_of(content, "max_position_embeddings", int, None, path)
    if positions is None:
        return None
    if value_of(content, "model_type", str, None, path) in _OFFSET_POSITIONS:
        positions -= value_of(content, "pad_token_id", int, _OFFSET_PAD_ID, path) + 1
    if positions < 1:
        raise ModelFormatError(f"{path}: max_position_embeddings leaves {positions} positions for tokens")
    return positions


def _activation(content: Mapping[str, Any], path: Path, root: Path) -> str | None:
    """From where sentence-transformers 6, 4 and 3 wrote it, in the order in which version 6 looks."""
    newest = root / "config_sentence_transformers.json"
    nested = value_of(content, "sentence_transformers", dict, {}, path)
    return (
        value_of(read_json(newest), "activation_fn", str, None, newest)
        or value_of(nested, "activation_fn", str, None, path)
        or value_of(content, "sbert_ce_default_activation_function", str, None, path)
    )
