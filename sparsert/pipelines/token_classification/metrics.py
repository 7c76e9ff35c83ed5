"""Metrics of entities: precision, recall and F1 of those found with exactly the right bounds and the right type.

These are the numbers of the CoNLL-2003 shared task (Tjong Kim Sang and De Meulder, 2003), whose script ``conlleval``
also says what an entity is where tags break the rules of IOB; seqeval gives the same by default.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

__all__ = ["Span", "entity_metrics", "spans_of_tags"]

Span = tuple[int, int, str]
"""Where an entity begins, the place after its end, and its type."""

_BEGIN, _INSIDE, _END, _SINGLE = "B", "I", "E", "S"

_LETTERS = {"B": _BEGIN, "I": _INSIDE, "E": _END, "L": _END, "S": _SINGLE, "U": _SINGLE}
"""What stands before a hyphen, in IOB, IOBES and BILOU."""


def spans_of_tags(tags: Sequence[str]) -> list[Span]:
    """The entities that tags of words mark.

    Parameters
    ----------
    tags : sequence of str
        ``O`` outside of entities, else a type behind ``B-``, ``I-``, ``E-`` or ``L-``, ``S-`` or ``U-``; a type alone
        counts as ``I-``.

    Returns
    -------
    list of (int, int, str)
        In order, in words.
    """
    spans: list[Span] = []
    begin, before, inside = 0, "O", ""
    for place, (letter, kind) in enumerate(map(_split, [*tags, "O"])):
        ended = before in (_END, _SINGLE)
        if inside and (letter in ("O", _BEGIN, _SINGLE) or ended or kind != inside):
            spans.append((begin, place, inside))
            inside = ""
        if letter != "O" and not inside:
            begin, inside = place, kind
        before = letter
    return spans


def _split(tag: str) -> tuple[str, str]:
    """Letter and type of a tag."""
    if tag == "O":
        return "O", ""
    letter, hyphen, kind = tag.partition("-")
    return (_LETTERS[letter], kind) if hyphen and letter in _LETTERS else (_INSIDE, tag)


def entity_metrics(truths: Iterable[Iterable[Span]], found: Iterable[Iterable[Span]]) -> dict[str, float]:
    """Precision, recall and F1 over the entities of all texts together, and of each type.

    Parameters
    ----------
    truths, found : iterable of iterable of (int, int, str)
        For each text, the entities that are there, and those that were found.

    Returns
    -------
    dict
        ``f1``, ``precision`` and ``recall`` in percent, ``total``, the number of entities that are there, and the same
        with a type before it, such as ``PER f1``. What cannot be divided is 0.
    """
    wanted: Counter[str] = Counter()
    given: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for true, said in zip(truths, found, strict=True):
        true, said = set(true), set(said)
        for counter, spans in ((wanted, true), (given, said), (right, true & said)):
            counter.update(kind for _, _, kind in spans)
    metrics = _metrics("", wanted.total(), given.total(), right.total())
    for kind in sorted({*wanted, *given}):
        metrics |= _metrics(f"{kind} ", wanted[kind], given[kind], right[kind])
    return metrics


def _metrics(prefix: str, wanted: int, given: int, right: int) -> dict[str, float]:
    values = {
        "f1": 200 * right / max(wanted + given, 1),
        "precision": 100 * right / max(given, 1),
        "recall": 100 * right / max(wanted, 1),
        "total": float(wanted),
    }
    return {prefix + name: value for name, value in values.items()}
