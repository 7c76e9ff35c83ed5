"""Reading question-answering datasets: the layout of SQuAD, and flat records as a JSON list or as JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsert.errors import InputError
from sparsert.pipelines.records import check_object, collect, id_of, kind_of, list_of, read_records, text_of, value_of

__all__ = ["Example", "read_dataset"]


@dataclass(frozen=True)
class Example:
    """One question of a dataset; without ``answers``, one that cannot be answered."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...]


def read_dataset(path: str | Path, max_samples: int | None = None) -> list[Example]:
    """Read a dataset in any of these layouts, which are told apart by what the file holds.

    - SQuAD: ``{"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers": [{"text"}]}]}]}]}``, or the
      list under ``data`` alone;
    - flat: a list, or ``{"data": list}``, of ``{"id", "question", "context", "answers"}``;
    - JSON lines: one such element, of either kind, a line.

    ``answers`` is a list of objects with ``text`` or of strings, or, as the datasets library writes it, one object
    whose ``text`` is the list of all. With ``"is_impossible": true`` a question has none, and the key may be absent.

    Parameters
    ----------
    path : str or Path
        The file, in UTF-8.
    max_samples : int, optional
        Read the first so many questions only.

    Raises
    ------
    InputError
        The file cannot be read or is none of these; the message names file, element and key.
    """
    return collect(path, _examples(path), max_samples, "questions")


def _examples(path: str | Path) -> Iterator[tuple[str, Example]]:
    """Every question, with its place in the file."""
    for name, element in read_records(path):
        place = f"{path}: {name}"
        check_object(place, element)
        if "paragraphs" not in element:
            yield place, _example(place, element, text_of(place, element, "context"))
            continue
        place = f"{path}: {name.replace('record', 'article')}"
        for number, paragraph in enumerate(list_of(place, element, "paragraphs"), 1):
            part = f"{place}, paragraph {number}"
            check_object(part, paragraph)
            context = text_of(part, paragraph, "context")
            for index, entry in enumerate(list_of(part, paragraph, "qas"), 1):
                check_object(f"{part}, question {index}", entry)
                yield f"{part}, question {index}", _example(f"{part}, question {index}", entry, context)


def _example(place: str, entry: dict[str, Any], context: str) -> Example:
    return Example(id_of(place, entry), text_of(place, entry, "question"), context, _answers(place, entry))


def _answers(place: str, entry: dict[str, Any]) -> tuple[str, ...]:
    if entry.get("is_impossible") is True:
        return ()
    answers = value_of(place, entry, "answers")
    if isinstance(answers, dict):
        answers = value_of(f"{place}, answers", answers, "text")
        answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list):
        raise InputError(
            f"{place}: 'answers' must be a list, or an object with a list under 'text', got {kind_of(answers)}"
        )
    texts = []
    for number, answer in enumerate(answers, 1):
        if isinstance(answer, dict):
            texts.append(text_of(f"{place}, answer {number}", answer, "text"))
        elif isinstance(answer, str):
            texts.append(answer)
        else:
            raise InputError(
                f"{place}: answer {number} must be a string or an object with 'text', got {kind_of(answer)}"
            )
    return tuple(texts)
