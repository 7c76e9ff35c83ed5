"""Synthetic BERT models: random weights in the exact form of the zoo's files, for measuring speed without a download.

The answers of such a model mean nothing; its shapes, sparsity, number formats and graph are those of the real one, so
its speed is. ``synthetic:bert-base-pruned90_quant`` and its sisters are generated once, deterministically, and cached.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

import onnx

from sparsert._paths import DEFAULT_MODEL, cache_root
from sparsert.errors import ModelError
from sparsert.synthetic.calibrate import calibrate
from sparsert.synthetic.graph import build_model
from sparsert.synthetic.recipe import Recipe, names, parse
from sparsert.synthetic.weights import draw_weights

__all__ = ["Recipe", "generate", "generate_model", "names", "parse"]

_LOGGER = logging.getLogger(__name__)

VERSION = 1
"""Part of the cache path; raise it when the same name would give another file."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def generate_model(name: str) -> onnx.ModelProto:
    """Build the model of a name in memory, without reading or writing a file.

    Parameters
    ----------
    name
        As :func:`sparsert.synthetic.parse` reads it, for example ``synthetic:bert-base-pruned90_quant``.

    Raises
    ------
    ModelNotFoundError
        Nothing of that name can be generated.
    """
    recipe = parse(name)
    weights = draw_weights(recipe)
    ranges = calibrate(recipe, weights) if recipe.quantization in ("quant", "qdq") else {}
    return build_model(recipe, weights, ranges)


def generate(name: str, out: str | os.PathLike[str] | None = None) -> Path:
    """Return the directory of a synthetic model, writing it first unless it is there already.

    The directory holds ``model.onnx``, ``config.json`` and the default model's tokenizer. Every file is put in place in
    one step and ``model.onnx`` last, so a directory that has it is complete, however many processes generate at once.

    Parameters
    ----------
    name
        For example ``synthetic:bert-base-pruned90_quant``.
    out
        Directory to write to; by default a folder of the cache (``SPARSERT_MODELS_PATH`` or ``~/.cache/sparsert``).

    Raises
    ------
    ModelNotFoundError
        Nothing of that name can be generated.
    ModelError
        The directory cannot be written.
    """
    recipe = parse(name)
    directory = Path(out) if out is not None else cache_root() / f"synthetic-v{VERSION}" / recipe.name
    if (directory / "model.onnx").is_file():
        return directory
    _LOGGER.info("generating synthetic:%s into %s", recipe.name, directory)
    started = time.perf_counter()
    serialized = generate_model(recipe.name).SerializeToString()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _write(directory / "config.json", (json.dumps(_config(recipe), indent=2) + "\n").encode())
        for file in _TOKENIZER_FILES:
            _write(directory / file, (DEFAULT_MODEL / file).read_bytes())
        _write(directory / "model.onnx", serialized)
    except OSError as error:
        raise ModelError(
            f"cannot write synthetic:{recipe.name} ({len(serialized) / 1e6:.0f} MB) to {directory}: {error}; set "
            "SPARSERT_MODELS_PATH to a writable folder with enough space"
        ) from error
    _LOGGER.info("generated %s in %.1f s", directory, time.perf_counter() - started)
    return directory


def _write(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        shutil.copymode(DEFAULT_MODEL / "config.json", temporary)  # mkstemp's 0600 would lock other users out
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _config(recipe: Recipe) -> dict[str, object]:
    arch = recipe.architecture
    return {
        "architectures": ["BertForQuestionAnswering"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": arch.hidden,
        "intermediate_size": arch.ffn,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": arch.max_positions,
        "num_attention_heads": arch.heads,
        "num_hidden_layers": arch.layers,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": arch.vocab,
        "sparsert_synthetic": recipe.name,
    }
