"""From logits of natural language inference to scores of labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from sparsert.errors import InputRangeError, ModelFormatError
from sparsert.pipelines.heads import softmax

__all__ = ["entailment_and_contradiction", "label_scores"]

_log = logging.getLogger(__name__)


def label_scores(logits: np.ndarray, entailment: int, contradiction: int, multi_label: bool) -> np.ndarray:
    """Scores of labels by how much the text entails their hypotheses.

    Parameters
    ----------
    logits : float array, shape (..., L, C)
        For each of ``L`` hypotheses the logits of ``C`` classes.
    entailment, contradiction : int
        Classes.
    multi_label : bool
        Each label by itself: entailment against contradiction. Otherwise, of several labels one is right: entailment of
        one against that of the others.

    Returns
    -------
    float array, shape (..., L)
    """
    if multi_label or logits.shape[-2] == 1:
        return softmax(logits[..., [contradiction, entailment]])[..., 1]
    return softmax(logits[..., entailment])


def entailment_and_contradiction(
    label2id: Mapping[str, int],
    classes: int,
    entailment: int | None = None,
    contradiction: int | None = None,
    source: object = "config.json",
) -> tuple[int, int]:
    """Which classes of a model mean that the text entails the hypothesis, and that it contradicts it.

    Parameters
    ----------
    label2id : mapping
        Names of classes, of which one begins with "entail" and one with "contra", in any case. Where none does the
        latter, it is the first class, or the last if the first means entailment.
    classes : int
        Classes that the model has.
    entailment, contradiction : int, optional
        Stand above the names.
    source : object
        Where the names are from, for messages.

    Raises
    ------
    InputRangeError
        A given class does not exist, or both are the same.
    ModelFormatError
        The model has one class, or a name is that of a class that it has not.
    """
    if classes < 2:
        raise ModelFormatError(
            "zero-shot classification needs a model of natural language inference with 2 classes or more, this one "
            f"has {classes}"
        )
    for name, given in (("entailment_index", entailment), ("contradiction_index", contradiction)):
        if given is not None and not 0 <= given < classes:
            raise InputRangeError(
                f"{name} must be from 0 to {classes - 1}, as the model has {classes} classes: {given}"
            )
    named = {key: _place(label2id, key) for key in ("entail", "contra")}
    for key, place in named.items():
        if place is not None and not 0 <= place < classes:
            raise ModelFormatError(
                f"label2id in {source} has {key!r} at {place}, but the model has {classes} classes; correct it"
            )
    if entailment is None:
        entailment = named["entail"]
    if entailment is None:
        _log.warning("no name in label2id of %s begins with 'entail'; class 0 is taken, as in DeepSparse", source)
        entailment = 0
    if contradiction is None:
        contradiction = named["contra"]
    if contradiction is None:
        contradiction = classes - 1 if entailment == 0 else 0
    if entailment == contradiction:
        raise InputRangeError(f"entailment_index and contradiction_index must differ, both are {entailment}")
    return entailment, contradiction


def _place(label2id: Mapping[str, int], beginning: str) -> int | None:
    return next((place for name, place in label2id.items() if name.lower().startswith(beginning)), None)
