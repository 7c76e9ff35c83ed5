"""Reading question-answering datasets: the layout of SQuAD, and flat records as a JSON list or as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsert.errors import InputError

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
    if max_samples is not None and (isinstance(max_samples, bool) or max_samples < 1):
        raise InputError(f"max_samples must be None or an int of at least 1, got {max_samples!r}")
    examples: list[Example] = []
    seen: dict[str, str] = {}
    for place, example in _examples(str(path), _load(path)):
        if example.id in seen:
            raise InputError(
                f"{place} has the id {example.id!r}, which {seen[example.id]} has already; give each its own"
            )
        seen[example.id] = place.removeprefix(f"{path}: ")
        examples.append(example)
        if len(examples) == max_samples:
            break
    if not examples:
        raise InputError(f"{path} holds no questions")
    return examples


def _load(path: str | Path) -> Sequence[tuple[str, Any]]:
    """The elements of a file, articles or records, each with its name."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error
    try:
        content = json.loads(text)
    except ValueError as error:
        lines = _json_lines(path, text)
        if lines is None:
            raise InputError(f"{path} is not JSON ({error}), nor does its first line hold a JSON object") from error
        return lines
    if isinstance(content, dict) and "data" in content:
        content = content["data"]
    if isinstance(content, dict):
        return [("record 1", content)]  # JSON lines of one line, or a single article
    if not isinstance(content, list):
        raise InputError(f"{path} must hold a list of articles or records, got {_kind(content)}")
    nested = bool(content) and isinstance(content[0], dict) and "paragraphs" in content[0]
    return [(f"{'article' if nested else 'record'} {number}", element) for number, element in enumerate(content, 1)]


def _json_lines(path: str | Path, text: str) -> list[tuple[str, Any]] | None:
    """The elements of a file of JSON lines; None if its first line is not a JSON object."""
    elements: list[tuple[str, Any]] = []
    # Not splitlines(): it also cuts at U+2028 and others, which JSON allows within a string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            element = json.loads(line)
        except ValueError as error:
            if not elements:
                return None
            raise InputError(f"{path}: line {number} is not JSON: {error}") from error
        if not elements and not isinstance(element, dict):
            return None
        elements.append((f"line {number}", element))
    return elements or None


def _examples(path: str, elements: Sequence[tuple[str, Any]]) -> Iterator[tuple[str, Example]]:
    """Every question, with its place in the file."""
    for name, element in elements:
        place = f"{path}: {name}"
        _check_object(place, element)
        if "paragraphs" not in element:
            yield place, _example(place, element, _text(place, element, "context"))
            continue
        for number, paragraph in enumerate(_list(place, element, "paragraphs"), 1):
            part = f"{place}, paragraph {number}"
            _check_object(part, paragraph)
            context = _text(part, paragraph, "context")
            for index, entry in enumerate(_list(part, paragraph, "qas"), 1):
                _check_object(f"{part}, question {index}", entry)
                yield f"{part}, question {index}", _example(f"{part}, question {index}", entry, context)


def _example(place: str, entry: dict[str, Any], context: str) -> Example:
    name = _value(place, entry, "id")
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise InputError(f"{place}: 'id' must be a string, got {_kind(name)}")
    return Example(str(name), _text(place, entry, "question"), context, _answers(place, entry))


def _answers(place: str, entry: dict[str, Any]) -> tuple[str, ...]:
    if entry.get("is_impossible") is True:
        return ()
    answers = _value(place, entry, "answers")
    if isinstance(answers, dict):
        answers = _value(f"{place}, answers", answers, "text")
        answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list):
        raise InputError(
            f"{place}: 'answers' must be a list, or an object with a list under 'text', got {_kind(answers)}"
        )
    texts = []
    for number, answer in enumerate(answers, 1):
        if isinstance(answer, dict):
            texts.append(_text(f"{place}, answer {number}", answer, "text"))
        elif isinstance(answer, str):
            texts.append(answer)
        else:
            raise InputError(f"{place}: answer {number} must be a string or an object with 'text', got {_kind(answer)}")
    return tuple(texts)


def _check_object(place: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise InputError(f"{place} must be a JSON object, got {_kind(value)}")


def _value(place: str, entry: dict[str, Any], key: str) -> Any:
    if key not in entry:
        raise InputError(f"{place} has no {key!r}; its keys are {sorted(entry)}")
    return entry[key]


def _text(place: str, entry: dict[str, Any], key: str) -> str:
    value = _value(place, entry, key)
    if not isinstance(value, str):
        raise InputError(f"{place}: {key!r} must be a string, got {_kind(value)}")
    return value


def _list(place: str, entry: dict[str, Any], key: str) -> list[Any]:
    value = _value(place, entry, key)
    if not isinstance(value, list):
        raise InputError(f"{place}: {key!r} must be a list, got {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    """What a JSON value is, in the words of JSON."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
