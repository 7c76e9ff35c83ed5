"""Rows of model input made of one text or two: truncation, special tokens, and the flat arrays that engines take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sparsert.errors import InputError, InputRangeError
from sparsert.pipelines.tokenization import TextTokenizer

__all__ = ["STRATEGIES", "PackedRows", "Row", "make_row", "pack_rows", "pair_lengths"]

STRATEGIES = ("longest_first", "only_first", "only_second", "do_not_truncate")
"""How a row that is too long is cut, by the names of the tokenizers library."""


@dataclass(frozen=True)
class Row:
    """One text or a pair as tokens, already cut to what the model takes.

    Attributes
    ----------
    first, second : int64 array, shape (T,)
        Token ids without special tokens; ``second`` is None for a single text.
    cut : int
        Tokens that truncation took.
    """

    first: np.ndarray
    second: np.ndarray | None = None
    cut: int = 0

    def __len__(self) -> int:
        return len(self.first) + (0 if self.second is None else len(self.second))


@dataclass(frozen=True)
class PackedRows:
    """Rows one after another in flat arrays: ``N`` tokens of ``W`` rows.

    Attributes
    ----------
    arrays : dict of int64 arrays, each of shape (N,)
        ``input_ids``, ``attention_mask`` and ``token_type_ids``.
    lengths : int64 array, shape (W,)
        Tokens of each row, special tokens included.
    first_starts : int64 array, shape (W,)
        Place of the first text's first token within its row.
    first_lengths : int64 array, shape (W,)
        Tokens of the first text.
    rows : sequence of Row
        The rows themselves.
    """

    arrays: dict[str, np.ndarray]
    lengths: np.ndarray
    first_starts: np.ndarray
    first_lengths: np.ndarray
    rows: Sequence[Row]

    @cached_property
    def begins(self) -> np.ndarray:
        """Index of each row's first token in the flat arrays, shape (W,)."""
        begins: np.ndarray = np.cumsum(self.lengths) - self.lengths
        return begins


def pair_lengths(first: int, second: int, budget: int, strategy: str = "longest_first") -> tuple[int, int]:
    """Tokens that remain of the texts of a pair, exactly as the tokenizers library cuts them.

    Parameters
    ----------
    first, second : int
        Tokens of each.
    budget : int
        Tokens of both together, special tokens not counted.
    strategy : str
        One of :data:`STRATEGIES`.

    Raises
    ------
    InputRangeError
        The strategy may not cut as much as would be needed.

    Notes
    -----
    ``longest_first`` is `utils/truncation.rs` of huggingface/tokenizers: the longer text is cut to what the shorter one
    leaves, but not below it; if that is still too long, each gets half, the longer one the odd token.
    """
    surplus = first + second - budget
    if surplus <= 0:
        return first, second
    if strategy == "longest_first" and budget >= 0:
        short, long = sorted((first, second))
        long = short if short > budget else max(short, budget - short)
        if short + long > budget:
            short = budget // 2
            long = short + budget % 2
        return (long, short) if first > second else (short, long)
    if strategy == "only_first" and first > surplus:
        return first - surplus, second
    if strategy == "only_second" and second > surplus:
        return first, second - surplus
    raise InputRangeError(
        f"a pair of {first} and {second} tokens does not fit: the model takes {budget} beside the special tokens, and "
        f"truncation {strategy!r} cannot make up for that; shorten the texts, or raise sequence_length"
    )


def make_row(
    tokenizer: TextTokenizer,
    first: np.ndarray,
    second: np.ndarray | None,
    sequence_length: int,
    strategy: str = "longest_first",
) -> Row:
    """A row of one text or two, cut to ``sequence_length`` tokens, special tokens included.

    Raises
    ------
    InputError
        The strategy is unknown.
    InputRangeError
        It may not cut as much as would be needed.
    """
    if strategy not in STRATEGIES:
        raise InputError(f"truncation strategy must be one of {list(STRATEGIES)}, got {strategy!r}")
    keep_end = tokenizer.truncation_side == "left"
    if second is None:
        budget = sequence_length - tokenizer.single.special_tokens
        kept = min(len(first), max(budget, 0))
        if kept < len(first) and strategy == "do_not_truncate":
            raise InputRangeError(
                f"a text of {len(first)} tokens does not fit: the model takes {budget} beside the special tokens; "
                "shorten it, allow truncation, or raise sequence_length"
            )
        return Row(_kept(first, kept, keep_end), None, len(first) - kept)
    sizes = pair_lengths(len(first), len(second), sequence_length - tokenizer.template.special_tokens, strategy)
    cut = len(first) + len(second) - sum(sizes)
    return Row(_kept(first, sizes[0], keep_end), _kept(second, sizes[1], keep_end), cut)


def _kept(ids: np.ndarray, tokens: int, end: bool) -> np.ndarray:
    return ids[len(ids) - tokens :] if end else ids[:tokens]


def pack_rows(rows: Sequence[Row], tokenizer: TextTokenizer) -> PackedRows:
    """Lay rows, at least one, out one after another, each with the special tokens of its kind."""
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    for row in rows:
        if row.second is None:
            single = tokenizer.single
            ids += (single.prefix_ids, row.first, single.suffix_ids)
            types += (single.prefix_types, np.full(len(row.first), single.text_type), single.suffix_types)
        else:
            pair = tokenizer.template
            ids += (pair.prefix_ids, row.first, pair.middle_ids, row.second, pair.suffix_ids)
            types += (pair.prefix_types, np.full(len(row.first), pair.first_type), pair.middle_types)
            types += (np.full(len(row.second), pair.second_type), pair.suffix_types)
    layouts = [tokenizer.single if row.second is None else tokenizer.template for row in rows]
    flat = np.concatenate(ids)
    return PackedRows(
        {"input_ids": flat, "attention_mask": np.ones_like(flat), "token_type_ids": np.concatenate(types)},
        np.array([len(row) + layout.special_tokens for row, layout in zip(rows, layouts, strict=True)], dtype=np.int64),
        np.array([len(layout.prefix_ids) for layout in layouts], dtype=np.int64),
        np.array([len(row.first) for row in rows], dtype=np.int64),
        rows,
    )
