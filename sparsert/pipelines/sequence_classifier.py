"""A model with a head for sequence classification, which gives each text or pair of texts some logits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sparsert.errors import InputError, ModelFormatError
from sparsert.model_config import ModelConfig
from sparsert.pipelines.row_model import PreparedRows, RowModel, RowOutputs, TextOptions, gather
from sparsert.zoo import ResolvedModel

__all__ = ["SequenceClassifier", "class_logits", "class_names", "tokens_of_text"]


class SequenceClassifier(RowModel):
    """A :class:`RowModel` whose output is the logits of rows.

    Parameters
    ----------
    model, options, limit, lower_case
        As for :class:`RowModel`.

    Attributes
    ----------
    num_labels : int
        Logits of a row.
    labels : tuple of str
        Their names.

    Raises
    ------
    ModelError
        The model cannot be found, read or run, has no such logits, or other labels than its ``config.json``.
    InputRangeError
        ``sequence_length`` holds no text, or exceeds the model's positions.
    """

    def __init__(
        self, model: ResolvedModel, options: TextOptions, limit: int | None = None, lower_case: bool = False
    ) -> None:
        shape: Sequence[Any] = ()

        def outputs(shapes: Mapping[str, Sequence[Any]]) -> dict[str, str]:
            nonlocal shape
            chosen = class_logits(shapes)
            shape = shapes[chosen["logits"]]
            return chosen

        super().__init__(model, options, outputs, limit, lower_case)
        # Some exporters leave the width open, and a run tells it.
        self.num_labels = shape[-1] if isinstance(shape[-1], int) else self._width()
        self.labels = class_names(self.config, self.num_labels)

    def _width(self) -> int:
        part = next(iter(self.run([self.row(np.zeros(1, dtype=np.int64))])))
        return int(part.outputs["logits"].shape[1])

    def logits(self, prepared: Sequence[PreparedRows], parts: Iterable[RowOutputs]) -> list[np.ndarray]:
        """Logits of each request's rows, shape (W, L), in float32."""
        width = self.num_labels
        return [np.array(rows, dtype=np.float32).reshape(-1, width) for rows in gather(prepared, parts, "logits")]


def class_names(config: ModelConfig, width: int) -> tuple[str, ...]:
    """Names of so many logits: those of ``config.json``, or ``LABEL_i`` where it says nothing.

    Raises
    ------
    ModelFormatError
        It has another number of them.
    """
    names = config.labels or tuple(f"LABEL_{index}" for index in range(width))
    if len(names) != width:
        raise ModelFormatError(
            f"{config.path} names {len(names)} labels (id2label or num_labels), but the model gives {width} logits for "
            "each text; correct it, or export the model again"
        )
    return names


def class_logits(outputs: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """Which output of a model has the logits of classes: the one of that name, or the only one with two axes.

    Raises
    ------
    ModelFormatError
        There is none.
    """
    found = [name for name, shape in outputs.items() if len(shape) == 2]
    name = "logits" if "logits" in found else found[0] if len(found) == 1 else None
    if name is None:
        shapes = {name: list(shape) for name, shape in outputs.items()}
        raise ModelFormatError(
            f"expected one output of shape [batch, labels], called logits if there are others; the model's outputs are "
            f"{shapes}: export it with a head for sequence classification"
        )
    return {"logits": name}


def tokens_of_text(found: Mapping[str, np.ndarray | InputError], text: str, name: str) -> np.ndarray:
    """Token ids of a text, from those of :meth:`RowModel.tokenize`.

    Raises
    ------
    InputError
        It is no text; the message has the name.
    """
    ids = found[text]
    if isinstance(ids, InputError):
        raise InputError(f"{name}: {ids}") from ids
    return ids
