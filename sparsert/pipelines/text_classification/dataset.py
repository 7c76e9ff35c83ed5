"""Reading datasets of labelled texts and pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsert.errors import InputError
from sparsert.pipelines.records import collect, kind_of, numbered_records, text_of, value_of

__all__ = ["Label", "LabelledText", "read_labelled"]

Label = str | int | float
"""A label's name or its number, or the number that a model for regression should say."""


@dataclass(frozen=True)
class LabelledText:
    """One text or pair of a dataset; ``answers`` are its labels, more than one only for a model of several."""

    id: str
    text: str
    text_pair: str | None
    answers: tuple[Label, ...]


def read_labelled(path: str | Path, max_samples: int | None = None) -> list[LabelledText]:
    """Read records ``{"text", "label"}``, perhaps with ``"text_pair"`` and ``"id"``: JSON, JSON lines, CSV or TSV.

    ``label`` is a name or a number, or a list of these. Without ``id``, a record is called by its number.

    Parameters
    ----------
    path : str or Path
        The file, in UTF-8, see :func:`~sparsert.pipelines.records.read_records`.
    max_samples : int, optional
        Read the first so many records only.

    Raises
    ------
    InputError
        The file cannot be read or is none of these; the message names file, record and key.
    """
    return collect(path, _examples(path), max_samples, "records")


def _examples(path: str | Path) -> Iterator[tuple[str, LabelledText]]:
    for place, called, record in numbered_records(path):
        yield (
            place,
            LabelledText(
                called,
                text_of(place, record, "text"),
                None if record.get("text_pair") is None else text_of(place, record, "text_pair"),
                _labels(place, value_of(place, record, "label")),
            ),
        )


def _labels(place: str, value: Any) -> tuple[Label, ...]:
    labels = value if isinstance(value, list) else [value]
    for label in labels:
        if isinstance(label, bool) or not isinstance(label, (str, int, float)):
            raise InputError(f"{place}: 'label' must be a string, a number or a list of these, got {kind_of(label)}")
    return tuple(labels)
