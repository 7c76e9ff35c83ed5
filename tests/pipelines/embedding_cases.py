"""Random cases of pooling, precision and similarity, the same on every machine.

``originals/record_embeddings.py`` runs them through sentence-transformers, the tests through sparsert. NumPy may change
the numbers that methods of its generators give, and promises never to change PCG64's raw ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")


class Numbers:
    """Random numbers out of raw PCG64."""

    def __init__(self, seed: int) -> None:
        self._raw = np.random.PCG64(seed)

    def floats(self, *shape: int) -> np.ndarray:
        """float32 array, even from -4 to 4."""
        raw = self._raw.random_raw(int(np.prod(shape))) >> np.uint64(40)
        return (raw.astype(np.float32) * np.float32(2.0**-21) - np.float32(4)).reshape(shape)

    def below(self, limit: int) -> int:
        """An int from 0 to ``limit - 1``."""
        return int(self._raw.random_raw() >> np.uint64(33)) % limit


@dataclass(frozen=True)
class PoolingCase:
    """Sequences end to end, and how they are pooled."""

    hidden: np.ndarray
    lengths: np.ndarray
    modes: tuple[str, ...]
    prompt: int
    """Tokens of a prompt that are left out, fewer than any sequence has."""
    left: bool
    """Whether the original gets them padded on the left."""

    def padded(self) -> tuple[np.ndarray, np.ndarray]:
        """Hidden states (W, S, H) with numbers in the padding too, and the mask (W, S)."""
        columns = np.arange(self.lengths.max())
        lengths = self.lengths[:, None]
        mask = columns >= len(columns) - lengths if self.left else columns < lengths
        rows = np.full((*mask.shape, self.hidden.shape[1]), 77, dtype=np.float32)
        rows[mask] = self.hidden
        return rows, mask


def pooling_cases(count: int = 1500) -> Iterator[PoolingCase]:
    """About four sequences each, single modes and several at once."""
    numbers = Numbers(1)
    for index in range(count):
        modes = (MODES[index % len(MODES)],)
        if index % 3 == 2:
            modes = tuple(mode for mode in MODES if numbers.below(2)) or modes
        longest = (3, 12, 70)[numbers.below(3)]
        lengths = np.array([1 + numbers.below(longest) for _ in range(1 + numbers.below(7))])
        prompt = numbers.below(int(lengths.min())) if numbers.below(2) else 0
        hidden = numbers.floats(int(lengths.sum()), 3)
        if numbers.below(8) == 0:
            hidden *= np.float32(1e4)
        yield PoolingCase(hidden, lengths, modes, prompt, bool(numbers.below(2)))


@dataclass(frozen=True)
class PrecisionCase:
    """Embeddings, and how they are quantized."""

    embeddings: np.ndarray
    precision: str
    options: dict[str, Any]


def precision_cases(count: int = 500) -> Iterator[PrecisionCase]:
    """With ranges of their own, calibrated and given ones; with dimensions that never change, and zeros."""
    numbers = Numbers(2)
    for index in range(count):
        precision = PRECISIONS[index % len(PRECISIONS)]
        rows, width = 2 + numbers.below(7), 1 + numbers.below(20)
        embeddings = numbers.floats(rows, width)
        embeddings[numbers.below(rows)] = 0
        embeddings[:, numbers.below(width)] = embeddings[0, 0]
        options: dict[str, Any] = {}
        how = numbers.below(3) if precision in ("int8", "uint8") else 0
        if how == 1:
            options["calibration_embeddings"] = numbers.floats(5, width) / 2
        elif how == 2:
            options["ranges"] = np.stack([-np.abs(numbers.floats(width)), np.abs(numbers.floats(width))])
        yield PrecisionCase(embeddings, precision, options)


@dataclass(frozen=True)
class SimilarityCase:
    """Two collections of embeddings; those of the shorter one are paired with the first of the other."""

    first: np.ndarray
    second: np.ndarray
    function: str


def similarity_cases(count: int = 800) -> Iterator[SimilarityCase]:
    """A few embeddings each, some of them zero, equal, or a single one without an axis of its own."""
    numbers = Numbers(3)
    for index in range(count):
        width = 1 + numbers.below(30)
        first, second = numbers.floats(1 + numbers.below(3), width), numbers.floats(1 + numbers.below(3), width)
        kind = numbers.below(6)
        if kind == 0:
            first[0] = 0
        elif kind == 1:
            second[0] = first[0]
        elif kind == 2:
            first, second = first[0], second[0]
        yield SimilarityCase(first, second, SIMILARITIES[index % len(SIMILARITIES)])


def pairs(case: SimilarityCase) -> tuple[np.ndarray, np.ndarray]:
    """As many embeddings of either collection."""
    if case.first.ndim == 1:
        return case.first, case.second
    rows = min(len(case.first), len(case.second))
    return case.first[:rows], case.second[:rows]
