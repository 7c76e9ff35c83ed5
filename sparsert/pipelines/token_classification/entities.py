"""Scores of tokens become entities, in the five ways that transformers calls aggregation strategies.

The rules are those of its ``TokenClassificationPipeline``, to the order in which float32 numbers are added, since that
decides between scores that are equal but for rounding. The tests hold these functions to its own results.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from sparsert.pipelines.token_classification.words import Tokens, Vocabulary

__all__ = ["STRATEGIES", "Entity", "Labels", "aggregate", "without_overlaps"]

STRATEGIES = ("none", "simple", "first", "average", "max")
"""How tokens become entities.

``none`` reports each token. The others join neighbours of the same type to groups: ``simple`` tokens, with the best
label of each; ``first``, ``average`` and ``max`` whole words, with the label of the word's first token, of the mean of
its tokens' scores, or of its surest token.
"""


@dataclass(frozen=True)
class Entity:
    """A labelled piece of a text: a token, or a group of tokens.

    Attributes
    ----------
    label : str
        The token's label, or the group's without ``B-`` or ``I-``.
    score : float
        Probability of the label; of a group, the mean of those of its tokens or words.
    word : str
        The token as the vocabulary has it, or the group as the tokenizer's decoder writes it.
    start, end : int
        First code point in the text, and the one after the last.
    index : int
        Place of the first token in the row that the model reads, special tokens included.
    """

    label: str
    score: float
    word: str
    start: int
    end: int
    index: int


class Labels:
    """The labels of a model, taken apart: ``B-PER`` begins an entity of the tag PER, ``I-PER`` or ``PER`` are in one.

    Parameters
    ----------
    names : sequence of str, length L
        The labels in the order of the logits.

    Attributes
    ----------
    names : tuple of str, length L
        As given.
    groups : tuple of str, length L
        How a group is called whose first label this is: what follows the first hyphen, if there is one.
    tags : int64 array, shape (L,)
        The same number for labels that may be in one entity.
    begins : bool array, shape (L,)
        Whether the label begins an entity even beside one of its tag.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.groups = tuple(name.split("-", 1)[-1] for name in names)
        tags = [name[2:] if name.startswith(("B-", "I-")) else name for name in names]
        numbers = {tag: number for number, tag in enumerate(dict.fromkeys(tags))}
        self.tags = np.array([numbers[tag] for tag in tags], dtype=np.int64)
        self.begins = np.array([name.startswith("B-") for name in names], dtype=bool)


@dataclass(frozen=True)
class _Units:
    """What a strategy labels, ``U`` tokens or words: label and score of each, its first token, the one after its last.

    All are arrays of shape (U,).
    """

    labels: np.ndarray
    scores: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def aggregate(
    tokens: Tokens,
    scores: np.ndarray,
    labels: Labels,
    vocabulary: Vocabulary,
    strategy: str = "none",
    ignored: Collection[str] = ("O",),
) -> list[Entity]:
    """The entities of a text, or of a window of it.

    Parameters
    ----------
    tokens : Tokens
        ``T`` tokens.
    scores : float32 array, shape (T, L)
        Probabilities of the labels of each token, without NaN.
    labels : Labels
        The ``L`` labels.
    vocabulary : Vocabulary
        Puts words together.
    strategy : str
        One of :data:`STRATEGIES`.
    ignored : collection of str
        What is left out: labels by strategy ``none``, names of groups by the others.

    Returns
    -------
    list of Entity
        In the order of the text.
    """
    if not len(tokens):
        return []
    words = strategy not in ("none", "simple")
    units = _words(tokens, scores, strategy) if words else _single_tokens(scores)
    if strategy == "none":
        names, firsts = labels.names, np.arange(len(tokens))
    else:
        names, firsts = labels.groups, _group_starts(labels, units.labels)
    lasts = np.append(firsts[1:], len(units.labels)) - 1

    wanted = np.array([name not in ignored for name in names], dtype=bool)[units.labels[firsts]]
    entities = []
    for first, last in zip(firsts[wanted].tolist(), lasts[wanted].tolist(), strict=True):
        begin, end = int(units.starts[first]), int(units.ends[last])
        pieces = tokens.pieces[begin:end]
        if words:  # a group's text is put together from those of its words
            bounds = zip(units.starts[first : last + 1] - begin, units.ends[first : last + 1] - begin, strict=True)
            pieces = [vocabulary.join(pieces[start:stop]) for start, stop in bounds]
        entities.append(
            Entity(
                label=names[units.labels[first]],
                score=float(units.scores[first : last + 1].sum() / np.float32(last + 1 - first)),
                word=pieces[0] if strategy == "none" else vocabulary.join(pieces),
                start=int(tokens.offsets[begin, 0]),
                end=int(tokens.offsets[end - 1, 1]),
                index=tokens.first_index + begin,
            )
        )
    return entities


def without_overlaps(entities: Sequence[Entity]) -> list[Entity]:
    """Of entities of overlapping windows, the longest where some overlap; of equally long ones, the surest.

    Each is compared with the one that is kept so far, in the order in which they begin.
    """
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda entity: entity.start):
        if not kept or not kept[-1].start <= entity.start < kept[-1].end:
            kept.append(entity)
            continue
        length, best = entity.end - entity.start, kept[-1].end - kept[-1].start
        if length > best or (length == best and entity.score > kept[-1].score):
            kept[-1] = entity
    return kept


def _single_tokens(scores: np.ndarray) -> _Units:
    best, places = scores.argmax(axis=1), np.arange(len(scores))
    return _Units(best, scores[places, best], places, places + 1)


def _words(tokens: Tokens, scores: np.ndarray, strategy: str) -> _Units:
    """Words with the label and score that a strategy gives each."""
    starts = np.flatnonzero(np.append(True, ~tokens.continues[1:]))
    ends = np.append(starts[1:], len(tokens))
    if strategy == "average":
        rows = _means(scores, starts, ends - starts)
    else:
        rows = scores[starts if strategy == "first" else _surest(scores.max(axis=1), starts, ends - starts)]
    best = rows.argmax(axis=1)
    return _Units(best, rows[np.arange(len(rows)), best], starts, ends)


def _surest(highest: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The token of each word whose highest score is the greatest; of equal ones, the first."""
    found = np.flatnonzero(highest == np.repeat(np.maximum.reduceat(highest, starts), counts))
    word = np.repeat(np.arange(len(starts)), counts)[found]
    return found[np.unique(word, return_index=True)[1]]


def _means(scores: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean scores of each word's tokens, added up one after another: ``np.add.reduceat`` adds in another order."""
    totals = scores[starts]
    longer = np.flatnonzero(counts > 1)
    place = 1
    while len(longer):
        totals[longer] += scores[starts[longer] + place]
        place += 1
        longer = longer[counts[longer] > place]
    return np.asarray(totals / counts[:, None].astype(np.float32))


def _group_starts(labels: Labels, found: np.ndarray) -> np.ndarray:
    """The first unit of each group: what continues a group has its tag, and does not begin an entity."""
    tags = labels.tags[found]
    return np.flatnonzero(np.append(True, (tags[1:] != tags[:-1]) | labels.begins[found[1:]]))
