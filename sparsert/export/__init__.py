"""Folders of the transformers library to ONNX, without torch: of ``config.json`` and ``model.safetensors``.

The graphs have the form that :mod:`sparsert.fuse` fuses completely, opset 20, and any batch and sequence length.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from pathlib import Path

from sparsert._paths import cache_root
from sparsert.errors import ModelError
from sparsert.export.albert import ALBERT
from sparsert.export.bert import BERT, ELECTRA
from sparsert.export.builder import GraphBuilder
from sparsert.export.config import CONFIG_FILE, NetworkConfig, read_network_config
from sparsert.export.distilbert import DISTILBERT
from sparsert.export.encoder import Architecture
from sparsert.export.heads import TASKS, add_head, choose_task
from sparsert.export.mpnet import MPNET
from sparsert.export.roberta import ROBERTA
from sparsert.export.save import save_model
from sparsert.export.weights import read_weights, weight_files
from sparsert.model_config import read_config

__all__ = ["ARCHITECTURES", "TASKS", "cached_export", "export_folder", "has_weights"]

_LOGGER = logging.getLogger(__name__)

VERSION = 1
"""Part of the cache path; raise it when the same folder would give another file."""

ARCHITECTURES: dict[str, Architecture] = {
    "albert": ALBERT,
    "bert": BERT,
    "camembert": ROBERTA,
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
    "mpnet": MPNET,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
}
"""By ``model_type`` in ``config.json``."""


def has_weights(directory: Path) -> bool:
    """Whether a folder has what :func:`export_folder` reads."""
    return os.path.isfile(directory / CONFIG_FILE) and bool(weight_files(directory))


def export_folder(
    directory: str | os.PathLike[str], output: str | os.PathLike[str] | None = None, task: str | None = None
) -> Path:
    """Write the model of a folder as ONNX.

    Parameters
    ----------
    directory
        Holds ``config.json`` and ``model.safetensors``, or ``model.safetensors.index.json`` with its shards.
    output
        The file to write, or an existing folder for a ``model.onnx``; by default ``model.onnx`` beside the weights,
        where there must be none yet. More than 2 GB of weights go to ``<output>.data``.
    task
        A key of :data:`TASKS`; by default that of :func:`sparsert.model_config.read_config`, and for a model of words
        that of its encoder, ``embedding-extraction``.

    Returns
    -------
    Path
        The file. The same folder always gives the same bytes.

    Raises
    ------
    ModelNotFoundError
        The folder lacks a file.
    ModelFormatError
        The architecture is none of :data:`ARCHITECTURES`, or configuration, weights and task do not fit each other.
    ModelError
        The file cannot be written.
    InputRangeError
        There is no such task.
    """
    directory = Path(directory)
    path = Path(output) if output is not None else directory / "model.onnx"
    if output is None and path.exists():
        raise ModelError(f"{path} exists already; name the file to write, as output or by --output")
    if path.is_dir():
        path = path / "model.onnx"
    started = time.perf_counter()
    config = read_network_config(directory)
    architecture = _architecture(config)
    task = choose_task(read_config(directory), task)
    builder = GraphBuilder(read_weights(directory, architecture.prefix))
    x, hidden = architecture.encode(builder, config)
    model = builder.finish(add_head(builder, architecture, task, x, hidden))
    builder.weights.report_left_over()
    save_model(model, builder.initializers, path)
    _LOGGER.info("wrote %s for %s in %.1f s", path, task, time.perf_counter() - started)
    return path


def cached_export(directory: str | os.PathLike[str], task: str | None = None) -> Path:
    """Return the ONNX file of a folder in the cache, writing it first unless it is there already.

    The cache is ``SPARSERT_MODELS_PATH`` or ``~/.cache/sparsert``. The file is written anew, and the old one deleted,
    when ``config.json`` has another content or a file of weights another name, size or time. Tasks and errors are those
    of :func:`export_folder`.
    """
    directory = Path(directory)
    place = (
        cache_root() / f"exported-v{VERSION}" / f"{directory.absolute().name}-{_digest(os.path.realpath(directory))}"
    )
    path = place / (task or "own-task") / _fingerprint(directory) / "model.onnx"
    if path.is_file():
        _LOGGER.info("%s has no ONNX file; %s was made of its weights", directory, path)
        return path
    export_folder(directory, path, task)
    for stale in path.parent.parent.iterdir():
        if stale != path.parent:
            shutil.rmtree(stale, ignore_errors=True)
    _LOGGER.warning("%s has no ONNX file; made %s of its weights", directory, path)
    return path


def _architecture(config: NetworkConfig) -> Architecture:
    """That of the configuration; an option that changes the network and that nothing here knows is refused."""
    kind = config.text("model_type", "")
    architecture = ARCHITECTURES.get(kind)
    remedy = "Export the model to ONNX with optimum or torch."
    if architecture is None:
        known = ", ".join(ARCHITECTURES)
        raise config.error(f"no export for model_type {kind!r}; expected one of {known}. {remedy}")
    positions = config.text("position_embedding_type", "absolute")
    if positions != "absolute":
        raise config.error(f"no export for position_embedding_type {positions!r}; expected 'absolute'. {remedy}")
    if config.values.get("is_decoder"):
        raise config.error(f"no export for a decoder; expected is_decoder to be false. {remedy}")
    return architecture


def _fingerprint(directory: Path) -> str:
    config = json.dumps(read_network_config(directory).values, sort_keys=True)
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in weight_files(directory)]
    return _digest(f"{config}{stats}")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
