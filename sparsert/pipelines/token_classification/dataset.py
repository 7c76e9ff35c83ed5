"""Reading datasets of texts with their entities: words with tags, or texts with the places of entities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsert.errors import InputError
from sparsert.pipelines.records import check_object, collect, kind_of, list_of, numbered_records, text_of, value_of
from sparsert.pipelines.token_classification.metrics import Span

__all__ = ["TaggedText", "read_tagged"]

_TAGS = ("ner_tags", "tags", "labels")
"""Keys under which tags are looked for."""


@dataclass(frozen=True)
class TaggedText:
    """A text of a dataset: words, whose ``answers`` are their tags, or a str, whose ``answers`` are spans."""

    id: str
    inputs: str | tuple[str, ...]
    answers: tuple[str | int, ...] | tuple[Span, ...]


def read_tagged(path: str | Path, max_samples: int | None = None) -> list[TaggedText]:
    """Read a dataset in either of these layouts: JSON or JSON lines.

    - ``{"tokens": ["Ada", ...], "ner_tags": ["B-PER", ...]}``, a tag for each word, also under ``tags`` or ``labels``;
      a number is that of a label of the model;
    - ``{"text": "Ada ...", "entities": [{"start": 0, "end": 3, "label": "PER"}]}``, places in code points.

    Without ``id``, a record is called by its number.

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


def _examples(path: str | Path) -> Iterator[tuple[str, TaggedText]]:
    for place, called, record in numbered_records(path):
        if "tokens" in record:
            yield place, TaggedText(called, *_words(place, record))
        else:
            text = text_of(place, record, "text")
            entities = list_of(place, record, "entities")
            spans = (_span(f"{place}, entity {count}", entity, text) for count, entity in enumerate(entities, 1))
            yield place, TaggedText(called, text, tuple(spans))


def _words(place: str, record: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str | int, ...]]:
    words = list_of(place, record, "tokens")
    key = next((key for key in _TAGS if key in record), _TAGS[0])
    tags = list_of(place, record, key)
    if not words or not all(isinstance(word, str) for word in words):
        raise InputError(f"{place}: 'tokens' must be a list of at least one string")
    if len(tags) != len(words):
        raise InputError(f"{place}: {key!r} has {len(tags)} tags for {len(words)} tokens")
    for tag in tags:
        if isinstance(tag, bool) or not isinstance(tag, str | int):
            raise InputError(f"{place}: {key!r} must hold strings or integers, got {kind_of(tag)}")
    return tuple(words), tuple(tags)


def _span(place: str, entity: Any, text: str) -> Span:
    check_object(place, entity)
    start, end = (value_of(place, entity, key) for key in ("start", "end"))
    if not (type(start) is type(end) is int) or not 0 <= start < end <= len(text):
        raise InputError(
            f"{place} must have a start and an end in the text of {len(text)} code points, got {start!r} and {end!r}"
        )
    return start, end, text_of(place, entity, "label")
