"""Which output of a model file holds the vectors of its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparsert.errors import ModelFormatError

__all__ = ["hidden_states"]

# Names of the vectors of tokens in the files of torch's exporters, Optimum, sentence-transformers and transformers.js.
_TOKEN_NAMES = ("last_hidden_state", "token_embeddings")
_POOLED_NAME = "sentence_embedding"


def hidden_states(outputs: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """Choose an output by name and shape.

    Parameters
    ----------
    outputs : mapping of str to shape
        The outputs of the file.

    Returns
    -------
    dict
        ``{"tokens": name}`` of the vectors of all tokens: ``last_hidden_state``, ``token_embeddings``, or else the only
        output with three axes; where there is none, ``{"pooled": name}`` of ``sentence_embedding``, which the graph has
        pooled already.

    Raises
    ------
    ModelFormatError
        There is no such output.
    """
    for name in _TOKEN_NAMES:
        if name in outputs:
            return {"tokens": name}
    deep = [name for name, shape in outputs.items() if len(shape) == 3]
    if len(deep) == 1:
        return {"tokens": deep[0]}
    if _POOLED_NAME in outputs:
        return {"pooled": _POOLED_NAME}
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in outputs.items())
    raise ModelFormatError(
        f"the model's outputs are {shapes}; expected {' or '.join(_TOKEN_NAMES)}, a single output of shape (batch, "
        f"tokens, features), or {_POOLED_NAME}; export the model without a head, or name the value to take in "
        "emb_extraction_layer"
    )
