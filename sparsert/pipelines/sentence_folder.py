"""What the folder of an embedding model says, in the layouts of sentence-transformers 2 to 6.

``modules.json`` lists the modules: the transformer, then pooling, then layers on the pooled vectors, each with a folder
of its own. A module's kind is the last part of its type: the library moved its classes several times.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sparsert._folder import MODULES, Module, read_json, read_modules, value_of
from sparsert.errors import ModelFormatError, ModelNotFoundError
from sparsert.export.weights import Weights, read_weights
from sparsert.pipelines.sentence_layers import ACTIVATIONS, Dense, LayerNorm, UnitLength

__all__ = ["POOLINGS", "SentenceFolder", "read_sentence_folder"]

_log = logging.getLogger(__name__)

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""Ways to make one vector of those of all tokens; several are joined in the order in which they are given."""

# The flags of versions before 6, in the order in which their vectors are joined.
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
# The first that exists holds the options of the transformer.
_TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json" for name in "bert roberta distilbert camembert albert xlm-roberta xlnet".split()
)


@dataclass(frozen=True)
class SentenceFolder:
    """What an embedding model's folder says.

    Attributes
    ----------
    root : Path
        The folder with ``modules.json``.
    pooling : tuple of str
        Names of :data:`POOLINGS`, whose vectors are joined.
    include_prompt : bool
        Whether the tokens of a prompt take part in pooling.
    dense : tuple of layers
        What happens to the pooled vectors in order, each called with them: float32, shape (rows, features).
    normalize : bool
        Whether the vectors have unit length in the end.
    prompts : mapping of str to str
        What is put before a text, by name; ``query`` and ``document`` are always there.
    default_prompt_name : str, optional
        The prompt that is used where none is named.
    similarity : str
        ``"cosine"``, ``"dot"``, ``"euclidean"`` or ``"manhattan"``.
    truncate_dim : int, optional
        Numbers of a vector that are kept.
    max_seq_length : int, optional
        Most tokens of a text, special tokens included.
    do_lower_case : bool
        Whether texts are brought to lower case before the tokenizer sees them.
    """

    root: Path
    pooling: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    dense: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()
    normalize: bool = False
    prompts: Mapping[str, str] = field(default_factory=lambda: {"query": "", "document": ""})
    default_prompt_name: str | None = None
    similarity: str = "cosine"
    truncate_dim: int | None = None
    max_seq_length: int | None = None
    do_lower_case: bool = False


def read_sentence_folder(root: str | Path) -> SentenceFolder:
    """Read an embedding model's folder; one without ``modules.json`` means the tokens' mean, not normalized.

    Raises
    ------
    ModelNotFoundError
        A file that ``modules.json`` asks for is missing.
    ModelFormatError
        A file is malformed, or a module or a way of pooling is not known; the message names file and value.
    """
    root = Path(root)
    modules = read_modules(root)
    _check_order(modules, root / MODULES)
    pooling: tuple[str, ...] = ("mean",)
    include_prompt, width = True, None
    layers: list[Callable[[np.ndarray], np.ndarray]] = []
    for module in modules:
        folder = root / module.path
        if module.kind == "Pooling":
            pooling, include_prompt, width = _read_pooling(folder / "config.json")
        elif module.kind in _LAYERS:
            layer, width = _LAYERS[module.kind](folder, width)
            layers.append(layer)
    if not any(module.kind == "Pooling" for module in modules):
        _log.info("%s names no pooling: taking the mean of the tokens, not normalized", root / MODULES)
    normalize = bool(layers) and isinstance(layers[-1], UnitLength)
    transformer = next((root / module.path for module in modules if module.kind == "Transformer"), root)
    options = next((path for name in _TRANSFORMER_FILES if (path := transformer / name).is_file()), None)
    content = {} if options is None else read_json(options)
    source = options or transformer / _TRANSFORMER_FILES[0]
    return SentenceFolder(
        root,
        pooling,
        include_prompt,
        tuple(layers[:-1] if normalize else layers),
        normalize,
        max_seq_length=_positive(content, "max_seq_length", source),
        do_lower_case=value_of(content, "do_lower_case", bool, False, source),
        **_read_options(root / "config_sentence_transformers.json"),
    )


def _check_order(modules: Sequence[Module], path: Path) -> None:
    """Refuse modules that are not known, and orders that mean something else."""
    known = ("Transformer", "Pooling", "Dropout", *_LAYERS)
    for module in modules:
        if module.kind not in known:
            raise ModelFormatError(
                f"{path}: unknown module {module.type}; expected one whose class is {', '.join(known)}"
            )
    kinds = [module.kind for module in modules]
    heads, rest = kinds[:2], kinds[2:]
    if kinds and (heads not in (["Transformer"], ["Transformer", "Pooling"]) or {"Transformer", "Pooling"} & set(rest)):
        raise ModelFormatError(f"{path}: expected a Transformer, then Pooling, then layers, got {', '.join(kinds)}")


def _read_options(path: Path) -> dict[str, Any]:
    """The fields of a folder that say how its vectors are used."""
    content = read_json(path)
    prompts = {"query": "", "document": ""}
    for name, prompt in value_of(content, "prompts", dict, {}, path).items():
        if not isinstance(prompt, str | None):
            raise ModelFormatError(f"{path}: prompts must give a string for {name!r}, got {prompt!r:.200}")
        prompts[name] = prompt or ""
    default = value_of(content, "default_prompt_name", str, None, path)
    if default is not None and default not in prompts:
        raise ModelFormatError(f"{path}: default_prompt_name must be one of {', '.join(prompts)}, got {default!r}")
    similarity = value_of(content, "similarity_fn_name", str, "cosine", path)
    if similarity not in _SIMILARITIES:
        expected = ", ".join(_SIMILARITIES)
        raise ModelFormatError(f"{path}: similarity_fn_name must be one of {expected}, got {similarity!r}")
    return {
        "prompts": prompts,
        "default_prompt_name": default,
        "similarity": similarity,
        "truncate_dim": _positive(content, "truncate_dim", path),
    }


def _read_pooling(path: Path) -> tuple[tuple[str, ...], bool, int | None]:
    """Ways of pooling, whether prompts take part, and the width of the joined vectors."""
    content = _required(path)
    modes = content.get("pooling_mode")
    if modes is None:
        flags = {key: value_of(content, key, bool, False, path) for key in content if key.startswith("pooling_mode_")}
        unknown = [key for key, value in flags.items() if value and key not in _POOLING_FLAGS]
        if unknown:
            raise ModelFormatError(f"{path}: unknown pooling {unknown[0]}; expected {', '.join(_POOLING_FLAGS)}")
        modes = [mode for key, mode in _POOLING_FLAGS.items() if flags.get(key)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes or any(mode not in POOLINGS for mode in modes):
        raise ModelFormatError(f"{path}: pooling_mode must be of {', '.join(POOLINGS)}, got {modes!r:.200}")
    key = "embedding_dimension" if "embedding_dimension" in content else "word_embedding_dimension"
    width = _positive(content, key, path)
    include_prompt: bool = value_of(content, "include_prompt", bool, True, path)
    return tuple(modes), include_prompt, None if width is None else width * len(modes)


def _read_dense(folder: Path, width: int | None) -> tuple[Dense, int]:
    path = folder / "config.json"
    content = _required(path)
    _check_place(content, path)
    in_features, out_features = (_size(content, key, path) for key in ("in_features", "out_features"))
    name = content.get("activation_function", "torch.nn.modules.activation.Tanh")
    kind = "torch.nn.Identity" if name is None else str(name)
    if not kind.startswith("torch.") or kind.rpartition(".")[2] not in ACTIVATIONS:
        raise ModelFormatError(
            f"{path}: activation_function must be torch's {', '.join(ACTIVATIONS)}, got {name!r:.200}"
        )
    _check_width(path, in_features, width)
    weights = read_weights(folder, "")
    weight = _take(weights, "linear.weight", out_features, in_features)
    has_bias = value_of(content, "bias", bool, True, path)
    bias = _take(weights, "linear.bias", out_features) if has_bias else None
    residual: np.ndarray | bool = value_of(content, "use_residual", bool, False, path)
    if residual and in_features != out_features:
        residual = _take(weights, "residual.weight", out_features, in_features)
    return Dense(weight, bias, kind.rpartition(".")[2], residual), out_features


def _read_layer_norm(folder: Path, width: int | None) -> tuple[LayerNorm, int]:
    path = folder / "config.json"
    features = _size(_required(path), "dimension", path)
    _check_width(path, features, width)
    weights = read_weights(folder, "")
    return LayerNorm(_take(weights, "norm.weight", features), _take(weights, "norm.bias", features)), features


def _read_normalize(folder: Path, width: int | None) -> tuple[UnitLength, int | None]:
    """A module without weights, and usually without a folder."""
    path = folder / "config.json"
    _check_place(read_json(path), path)
    return UnitLength(), width


_LAYERS: dict[str, Callable[[Path, int | None], tuple[Callable[[np.ndarray], np.ndarray], int | None]]] = {
    "Dense": _read_dense,
    "LayerNorm": _read_layer_norm,
    "Normalize": _read_normalize,
}


def _check_place(content: Mapping[str, Any], path: Path) -> None:
    """Refuse layers on the vectors of tokens, which models of late interaction have."""
    for key in ("module_input_name", "module_output_name"):
        place = value_of(content, key, str, "sentence_embedding", path)
        if place != "sentence_embedding":
            raise ModelFormatError(f"{path}: {key} must be sentence_embedding, got {place!r}; no pipeline has that")


def _check_width(path: Path, features: int, width: int | None) -> None:
    if width is not None and features != width:
        raise ModelFormatError(f"{path}: expected a layer for the {width} numbers that come before it, got {features}")


def _required(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelNotFoundError(
            f"no {path}, which {MODULES} asks for; save the model's folder again, or fetch it whole"
        )
    return read_json(path)


def _positive(content: Mapping[str, Any], key: str, path: Path) -> int | None:
    value: int | None = value_of(content, key, int, None, path)
    if value is not None and value < 1:
        raise ModelFormatError(f"{path}: {key} must be at least 1, got {value}")
    return value


def _size(content: Mapping[str, Any], key: str, path: Path) -> int:
    value = _positive(content, key, path)
    if value is None:
        raise ModelFormatError(f"{path} must say {key}, the number of features")
    return value


def _take(weights: Weights, name: str, *shape: int) -> np.ndarray:
    return np.ascontiguousarray(weights.take(name, shape), dtype=np.float32)
