"""What tokens look like: the vocabulary's text of each, which of them continue a word, and tokens put into words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sparsert.pipelines.tokenization import TextTokenizer, TokenizedText

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Tokens", "Vocabulary", "join_words"]

_SPACE = ord(" ")


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text, or of a window of it, without special tokens.

    Attributes
    ----------
    pieces : list of str, length T
        The vocabulary's text of each token, such as ``##ing``; of an unknown one, what the text has there.
    offsets : int64 array, shape (T, 2)
        First code point of each token in the text, and the one after its last.
    continues : bool array, shape (T,)
        Whether a token continues the word of the one before it.
    first_index : int
        Place of the first token in the row that the model reads, special tokens included.
    """

    pieces: list[str]
    offsets: np.ndarray
    continues: np.ndarray
    first_index: int = 0

    def __len__(self) -> int:
        return len(self.pieces)

    def window(self, begin: int, end: int) -> Tokens:
        """The tokens of a window, which has a row of its own."""
        chosen = slice(begin, end)
        return Tokens(self.pieces[chosen], self.offsets[chosen], self.continues[chosen], self.first_index)


class Vocabulary:
    """What a tokenizer says of single tokens, as transformers reads it.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
        The tokenizer.
    unknown_id : int, optional
        The token for what the vocabulary does not have.
    first_index : int
        Special tokens in front of a text.

    Notes
    -----
    Only a model with a prefix for pieces within words (WordPiece's ``##``) knows words: a token continues one if it is
    longer than what it stands for, by that prefix. Where it is not, a token continues a word if it begins neither with
    a space nor after one. Other white space separates nothing, and punctuation belongs to the word before it.
    """

    def __init__(self, backend: Tokenizer, unknown_id: int | None, first_index: int = 0) -> None:
        self._backend = backend
        self._unknown_id = unknown_id
        self._first_index = first_index
        self.knows_words = bool(getattr(backend.model, "continuing_subword_prefix", None))

    def tokens(self, text: str, ids: np.ndarray, offsets: np.ndarray) -> Tokens:
        """Describe tokens of a text, given by ids, shape (T,), and offsets, shape (T, 2)."""
        pieces = [self._backend.id_to_token(token) or "" for token in ids.tolist()]
        if self.knows_words:
            lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
            continues = lengths != offsets[:, 1] - offsets[:, 0]
        else:
            continues = _touch(text, offsets[:, 0])
        if self._unknown_id is not None:
            unknown = ids == self._unknown_id
            continues &= ~unknown
            for place in np.flatnonzero(unknown).tolist():
                start, end = offsets[place].tolist()
                pieces[place] = text[start:end]
        return Tokens(pieces, offsets, continues, self._first_index)

    def join(self, pieces: Sequence[str]) -> str:
        """Pieces of a vocabulary, or words, as a text, by the tokenizer's decoder."""
        decoder = self._backend.decoder
        return " ".join(pieces) if decoder is None else str(decoder.decode(list(pieces)))


def join_words(tokenizer: TextTokenizer, words: Sequence[str], delimiter: str) -> tuple[str, TokenizedText]:
    """A text of given words, and its tokens: those of the words one by one, so that none is of two words.

    Raises
    ------
    InputError
        Something is no str, or holds lone surrogates.
    """
    tokens = tokenizer.encode_words(words)
    assert tokens.words is not None
    sizes = np.array([0, *map(len, words)], dtype=np.int64) + len(delimiter)
    starts = np.cumsum(sizes) - len(delimiter)
    offsets = tokens.offsets + starts[tokens.words, None]
    return delimiter.join(words), TokenizedText(tokens.ids, offsets, tokens.words)


def _touch(text: str, starts: np.ndarray) -> np.ndarray:
    """Whether there is no space at these places of a text, nor before them, nor the text's beginning."""
    points = np.frombuffer(text.encode("utf-32-le") + bytes(4), dtype="<u4")  # a token may start at the text's end
    spaces = points == _SPACE
    return (starts > 0) & ~spaces[starts] & ~spaces[starts - 1]
