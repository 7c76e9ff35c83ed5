"""A model that reads pairs of texts and gives each some logits: cross-encoders, and natural language inference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sparsert.errors import InputError
from sparsert.pipelines.row_model import PreparedRows, RowModel, RowOutputs, TextOptions, gather
from sparsert.pipelines.text_classification.pipeline import class_logits, class_names
from sparsert.zoo import ResolvedModel

__all__ = ["PairModel", "tokens_of_text"]


class PairModel(RowModel):
    """A :class:`RowModel` whose output is the logits of pairs.

    Parameters
    ----------
    model, options, limit, lower_case
        As for :class:`RowModel`.

    Attributes
    ----------
    num_labels : int
        Logits of a pair.

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
        class_names(self.config, self.num_labels)  # refuses another number of them

    def _width(self) -> int:
        nothing = np.zeros(0, dtype=np.int64)
        part = next(iter(self.run([self.row(nothing, nothing)])))
        return int(part.outputs["logits"].shape[1])

    def logits(self, prepared: Sequence[PreparedRows], parts: Iterable[RowOutputs]) -> list[np.ndarray]:
        """Logits of each request's pairs, shape (W, L), in float32."""
        width = self.num_labels
        return [np.array(rows, dtype=np.float32).reshape(-1, width) for rows in gather(prepared, parts, "logits")]


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
