"""What a cross-encoder's logits become: the rule of sentence-transformers, and the functions that it may name."""

from __future__ import annotations

import logging

import numpy as np

from sparsert.errors import InputError, ModelFormatError
from sparsert.model_config import ModelConfig
from sparsert.pipelines.heads import sigmoid, softmax

__all__ = ["ACTIVATIONS", "activated", "check_activation", "folder_activation"]

_log = logging.getLogger(__name__)

ACTIVATIONS = ("sigmoid", "identity", "softmax")
"""Functions that logits may go through."""


def check_activation(name: str) -> str:
    """One of ``ACTIVATIONS``, in lower case.

    Raises
    ------
    InputError
        It is none of them.
    """
    found = name.lower() if isinstance(name, str) else name
    if found not in ACTIVATIONS:
        raise InputError(f"activation must be one of {list(ACTIVATIONS)}, got {name!r}")
    return found


def folder_activation(config: ModelConfig, num_labels: int) -> str:
    """The activation that a cross-encoder's folder names, else sigmoid for one label, and none for several.

    Only names of torch are taken, as in sentence-transformers: others are code of the folder's own.

    Raises
    ------
    ModelFormatError
        It is a function of torch that is not among ``ACTIVATIONS``.
    """
    name = config.activation
    if name is not None and name.startswith("torch."):
        found = name.rpartition(".")[2].lower()
        if found not in ACTIVATIONS:
            raise ModelFormatError(
                f"the activation of the cross-encoder, {name}, named beside {config.path}, is not known; expected one "
                f"of {list(ACTIVATIONS)}: give activation yourself"
            )
        return found
    default = "sigmoid" if num_labels == 1 else "identity"
    if name is not None:
        _log.warning(
            "the activation %s, named beside %s, is no function of torch; %s instead", name, config.path, default
        )
    return default


def activated(logits: np.ndarray, activation: str) -> np.ndarray:
    """Logits, shape (W, L), after one of ``ACTIVATIONS``."""
    if activation == "identity":
        return logits
    return sigmoid(logits) if activation == "sigmoid" else softmax(logits)
