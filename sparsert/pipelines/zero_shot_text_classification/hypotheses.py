"""Labels as hypotheses: what a model of natural language inference is asked about a text."""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter
from typing import Any

from sparsert.errors import InputError

__all__ = ["check_template", "hypotheses", "parse_labels"]


def parse_labels(labels: str | Sequence[str], name: str = "labels") -> list[str]:
    """Labels as a list, from one or from a str with commas between them.

    Raises
    ------
    InputError
        There is none, one is empty or no str, or two are equal.
    """
    if isinstance(labels, str):
        labels = [label.strip() for label in labels.split(",") if label.strip()]
    if not isinstance(labels, Sequence):
        raise InputError(f"{name} must be a list of str, or a str with commas between them, got {labels!r:.80}")
    if not labels:
        raise InputError(f"{name} must hold at least one label, got none")
    places: dict[str, int] = {}
    for place, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip():
            raise InputError(f"{name}[{place}] must be a str that is not empty, got {label!r:.80}")
        if label in places:
            raise InputError(f"{name}[{place}] is {label!r:.80}, as {name}[{places[label]}]; give each label once")
        places[label] = place
    return list(labels)


def check_template(template: Any) -> str:
    """A template that :func:`hypotheses` can fill.

    Raises
    ------
    InputError
        It is no str, or has no place ``{}`` or ``{0}`` for the label, or other places.
    """
    if not isinstance(template, str):
        raise InputError(f"hypothesis_template must be a str, got {template!r:.80}")
    try:
        # Nothing else of the language of formats: templates come over HTTP, and "{:>999999999}" takes all memory.
        parts = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise _unfit(template, str(error)) from error
    if parts != [("", "", None)] and set(parts) != {("0", "", None)}:
        raise _unfit(template, f"its places are {parts}" if parts else "it has no place for a label")
    return template


def _unfit(template: str, reason: str) -> InputError:
    return InputError(
        f'The provided hypothesis_template "{template:.200}" was not able to be formatted with the target labels: '
        f"{reason}. Write {{}} once, where the label goes, and double other braces"
    )


def hypotheses(labels: Sequence[str], template: str) -> list[str]:
    """The hypothesis of each label; the template as :func:`check_template` lets it pass."""
    return [template.format(label) for label in labels]
