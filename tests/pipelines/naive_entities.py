"""Naive twin of token classification: loops over one token at a time, from the published description of the rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer


@dataclass
class Token:
    """A token with its probabilities; ``row`` is its place in the row of a model."""

    id: int
    start: int
    end: int
    row: int
    scores: list[float]


def probabilities(logits: Sequence[float]) -> list[float]:
    """Softmax."""
    highest = max(logits)
    powers = [math.exp(value - highest) for value in logits]
    return [power / sum(powers) for power in powers]


def best(scores: Sequence[float]) -> int:
    """The first place of the highest score."""
    return max(range(len(scores)), key=lambda place: (scores[place], -place))


def entities(
    backend: Tokenizer,
    unknown: int | None,
    text: str,
    tokens: Sequence[Token],
    labels: Sequence[str],
    strategy: str,
    ignored: Sequence[str],
) -> list[dict[str, Any]]:
    """Entities as dicts of ``label, score, word, start, end, index``."""

    def piece(token: Token) -> str:
        return text[token.start : token.end] if token.id == unknown else backend.id_to_token(token.id)

    def join(pieces: list[str]) -> str:
        return " ".join(pieces) if backend.decoder is None else backend.decoder.decode(pieces)

    def continues(token: Token) -> bool:
        if token.id == unknown:
            return False
        if getattr(backend.model, "continuing_subword_prefix", None):
            return len(backend.id_to_token(token.id)) != token.end - token.start
        return token.start > 0 and " " not in text[token.start - 1 : token.start + 1]

    words: list[list[Token]] = []
    for token in tokens:
        if words and strategy in ("first", "average", "max") and continues(token):
            words[-1].append(token)
        else:
            words.append([token])

    units = []
    for word in words:
        scores = word[0].scores
        if strategy == "max":
            scores = max(word, key=lambda token: max(token.scores)).scores
        if strategy == "average":
            scores = [sum(column) / len(word) for column in zip(*(token.scores for token in word), strict=True)]
        written = piece(word[0]) if strategy in ("none", "simple") else join([piece(token) for token in word])
        place = best(scores)
        units.append(
            {
                "label": labels[place],
                "score": scores[place],
                "word": written,
                "start": word[0].start,
                "end": word[-1].end,
                "index": word[0].row,
            }
        )
    if strategy != "none":
        units = [grouped(group, join) for group in groups(units)]
    return [unit for unit in units if unit["label"] not in ignored]


def groups(units: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Neighbours of one tag, of which only the first may begin with ``B-``."""
    found: list[list[dict[str, Any]]] = []
    for unit in units:
        if found and tag(unit) == tag(found[-1][-1]) and not unit["label"].startswith("B-"):
            found[-1].append(unit)
        else:
            found.append([unit])
    return found


def tag(unit: dict[str, Any]) -> str:
    """A label without ``B-`` or ``I-``."""
    label: str = unit["label"]
    return label[2:] if label[:2] in ("B-", "I-") else label


def grouped(group: list[dict[str, Any]], join: Any) -> dict[str, Any]:
    """One entity of several units."""
    return {
        "label": group[0]["label"].partition("-")[2] or group[0]["label"].partition("-")[0],
        "score": sum(unit["score"] for unit in group) / len(group),
        "word": join([unit["word"] for unit in group]),
        "start": group[0]["start"],
        "end": group[-1]["end"],
        "index": group[0]["index"],
    }


def without_overlaps(entities: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of overlapping entities the longest, of equally long ones the surest."""
    found: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if found and found[-1]["start"] <= entity["start"] < found[-1]["end"]:
            found[-1] = max(found[-1], entity, key=lambda entity: (entity["end"] - entity["start"], entity["score"]))
        else:
            found.append(entity)
    return found


def deepest(tokens: int, windows: Sequence[tuple[int, int]]) -> list[int]:
    """The window in which each token is farthest from an edge; the ends of the text are none."""
    found = []
    for token in range(tokens):
        distances = {}
        for place, (begin, end) in enumerate(windows):
            if begin <= token < end:
                left = math.inf if begin == 0 else token - begin
                right = math.inf if end == tokens else end - 1 - token
                distances[place] = min(left, right)
        found.append(min(distances, key=lambda place: (-distances[place], windows[place][0])))
    return found
