"""From a model reference to the ONNX file."""

from __future__ import annotations

import os

from sparsert import zoo
from sparsert.errors import InputError

__all__ = ["model_to_path"]


def model_to_path(model: str | os.PathLike[str], purpose: str = "engine") -> str:
    """Return the path of the ONNX file that ``model`` refers to.

    Parameters
    ----------
    model
        Any reference that :func:`sparsert.zoo.resolve` knows: an ``.onnx`` file, a directory, ``zoo:``, ``hf:``,
        ``synthetic:``, ``"default"``.
    purpose
        What the model is for, see :mod:`sparsert.zoo`.

    Raises
    ------
    ModelNotFoundError
        The reference leads to no file.
    InputError
        ``model`` is empty or None, or (InputTypeError) neither a str nor a path.
    """
    if not model:
        raise InputError("model must be a path, sparsezoo.Model, or sparsezoo.File")
    return str(zoo.resolve(model, purpose).onnx)
