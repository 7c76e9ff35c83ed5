"""Loading a model's tokenizer, and the layout of a text and of a pair with its special tokens.

The tokenizer is the one that transformers would load, but through the ``tokenizers`` library that transformers itself
is built on: importing transformers takes several seconds, ``tokenizers`` a tenth of one. Only a directory without a
``tokenizer.json`` (a bare ``vocab.txt``, say) goes through transformers, which knows how to convert it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsert._folder import read_json
from sparsert.errors import InputError, ModelFormatError, ModelNotFoundError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

__all__ = [
    "PairTemplate",
    "SingleTemplate",
    "TextTokenizer",
    "TokenizedText",
    "estimated_tokens",
    "load_tokenizer",
]

_log = logging.getLogger(__name__)

# Texts that the library holds as encodings at once: one takes 200 bytes a token, its array of ids 8.
_BATCH = 256

# Keys of tokenizer_config.json that transformers lets override the normalizer in tokenizer.json, and their names there.
_BERT_NORMALIZER_KEYS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


@dataclass(frozen=True)
class TokenizedText:
    """One text as tokens, without special tokens.

    Attributes
    ----------
    ids : int64 array, shape (T,)
        Token ids.
    offsets : int64 array, shape (T, 2)
        First code point of each token in the text, and the one after its last.
    words : int64 array, shape (T,), optional
        Index of the word that each token belongs to, by the tokenizer's own idea of a word; -1 for none.
    """

    ids: np.ndarray
    offsets: np.ndarray
    words: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class SingleTemplate:
    """Where one text stands among the special tokens: prefix, text, suffix.

    ``*_ids`` are token ids, ``*_types`` token type ids, all int64; BERT's is ``[CLS] text [SEP]``.
    """

    prefix_ids: np.ndarray
    suffix_ids: np.ndarray
    prefix_types: np.ndarray
    suffix_types: np.ndarray
    text_type: int

    @property
    def special_tokens(self) -> int:
        """Number of special tokens that a text adds."""
        return len(self.prefix_ids) + len(self.suffix_ids)


@dataclass(frozen=True)
class PairTemplate:
    """Where a pair of texts stands among the special tokens: prefix, first text, middle, second text, suffix.

    ``*_ids`` are token ids, ``*_types`` token type ids, all int64. BERT's is ``[CLS] first [SEP] second [SEP]`` with
    type 0 up to the first ``[SEP]`` and 1 after it; RoBERTa's ``<s> first </s></s> second </s>`` with type 0
    throughout.
    """

    prefix_ids: np.ndarray
    middle_ids: np.ndarray
    suffix_ids: np.ndarray
    prefix_types: np.ndarray
    middle_types: np.ndarray
    suffix_types: np.ndarray
    first_type: int
    second_type: int

    @property
    def special_tokens(self) -> int:
        """Number of special tokens that a pair adds."""
        return len(self.prefix_ids) + len(self.middle_ids) + len(self.suffix_ids)


class TextTokenizer:
    """A tokenizer of single texts that never truncates and never pads. Safe to call from several threads.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
        Must have neither truncation nor padding switched on.
    pad_id, pad_type : int
        Token id and token type id of padding.
    padding_side : {"right", "left"}
        With "left", padding comes first and the context before the question, as transformers does it.
    truncation_side : {"right", "left"}
        With "left", a long text keeps its end, and windows are counted from the end of the context.
    max_length : int, optional
        Longest sequence that the tokenizer was made for.
    unknown_id : int, optional
        Token id of what the vocabulary does not have.
    """

    def __init__(
        self,
        backend: Tokenizer,
        pad_id: int = 0,
        pad_type: int = 0,
        padding_side: str = "right",
        truncation_side: str = "right",
        max_length: int | None = None,
        unknown_id: int | None = None,
    ) -> None:
        for name, side in (("padding_side", padding_side), ("truncation_side", truncation_side)):
            if side not in ("right", "left"):
                raise ModelFormatError(f"{name} in tokenizer_config.json must be 'right' or 'left', got {side!r}")
        self.backend = backend
        self.pad_id = pad_id
        self.pad_type = pad_type
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self.max_length = max_length
        self.unknown_id = unknown_id

    @cached_property
    def single(self) -> SingleTemplate:
        """How one text becomes a sequence."""
        return _single_template(self.backend)

    @cached_property
    def template(self) -> PairTemplate:
        """How a pair of texts becomes a sequence.

        Raises
        ------
        ModelFormatError
            The tokenizer encodes single texts only.
        """
        return _pair_template(self.backend)

    def encode(self, text: str) -> TokenizedText:
        """Tokenize one text, without special tokens."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str], words: bool = False) -> list[TokenizedText]:
        """Tokenize texts, without special tokens; with ``words``, also say which word each token belongs to.

        Raises
        ------
        InputError
            Something is no str, or holds lone surrogates.
        """
        try:
            if len(texts) == 1:  # on this thread: a batch goes through the library's pool of threads
                encodings = [self.backend.encode(texts[0], add_special_tokens=False)]
            else:
                encodings = self.backend.encode_batch(list(texts), add_special_tokens=False)
        except TypeError as error:
            raise _no_text(texts) from error
        return [_as_arrays(encoding, words) for encoding in encodings]

    def encode_words(self, words: Sequence[str]) -> TokenizedText:
        """Tokenize words that somebody else told apart, one by one, without special tokens.

        ``words`` of the result says which of them each token belongs to, and ``offsets`` are places in that word.

        Raises
        ------
        InputError
            Something is no str, or holds lone surrogates.
        """
        try:
            encoding = self.backend.encode(list(words), is_pretokenized=True, add_special_tokens=False)
        except TypeError as error:
            raise _no_text(words) from error
        return _as_arrays(encoding, words=True)

    def encode_ids(self, texts: Sequence[str]) -> list[np.ndarray | InputError]:
        """Token ids of texts, int64 and without special tokens; an InputError stands for what is no text."""
        batches = (texts[begin : begin + _BATCH] for begin in range(0, len(texts), _BATCH))
        return [ids for batch in batches for ids in self._batch_ids(batch)]

    def _batch_ids(self, texts: Sequence[str]) -> list[np.ndarray | InputError]:
        try:
            if len(texts) == 1:
                encodings = [self.backend.encode(texts[0], add_special_tokens=False)]
            else:  # the fast form leaves out offsets
                encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except TypeError as error:
            if len(texts) > 1:
                return [ids for text in texts for ids in self._batch_ids([text])]
            failure = _no_text(texts)
            failure.__cause__ = error
            return [failure]
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def shortened(self, text: TokenizedText, tokens: int) -> TokenizedText:
        """At most so many tokens of a text, from its beginning or, with ``truncation_side`` left, its end."""
        if len(text) <= tokens:
            return text
        kept = slice(len(text) - tokens, None) if self.truncation_side == "left" else slice(tokens)
        return TokenizedText(text.ids[kept], text.offsets[kept], None if text.words is None else text.words[kept])


def _no_text(texts: Sequence[Any]) -> InputError:
    """What is wrong where the library refuses something."""
    others = [text for text in texts if not isinstance(text, str)]
    if others:
        return InputError(f"the text must be a str, got {others[0]!r:.80} ({type(others[0]).__name__})")
    return InputError(
        "the text must be a str without lone surrogates, which are no characters; replace them, for instance "
        "with text.encode('utf-8', 'replace').decode()"
    )


def _as_arrays(encoding: Encoding, words: bool) -> TokenizedText:
    """The library's lists as arrays; ``fromiter`` on flat values takes half the time of ``array`` on pairs."""
    ids = encoding.ids
    offsets = np.fromiter(chain.from_iterable(encoding.offsets), dtype=np.int64, count=2 * len(ids)).reshape(-1, 2)
    found = None
    if words:
        found = np.array([-1 if word is None else word for word in encoding.word_ids], dtype=np.int64)
    return TokenizedText(np.array(ids, dtype=np.int64), offsets, found)


def load_tokenizer(directory: str | Path, lower_case: bool = False) -> TextTokenizer:
    """Load the tokenizer of a model directory.

    ``do_lower_case``, ``strip_accents``, ``tokenize_chinese_chars`` and ``add_prefix_space`` in
    ``tokenizer_config.json`` override ``tokenizer.json``, as in transformers.

    Parameters
    ----------
    directory
        The folder with the tokenizer's files.
    lower_case
        Whether texts are brought to lower case first, whatever these files say.

    Raises
    ------
    ModelNotFoundError
        The directory holds no tokenizer.
    ModelFormatError
        Its files cannot be read.
    """
    directory = Path(directory)
    config = read_json(directory / "tokenizer_config.json")
    path = directory / "tokenizer.json"
    backend = _from_json(path, config) if path.is_file() else _from_transformers(directory)
    if lower_case:
        from tokenizers import normalizers

        rest = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])
    padding = backend.padding or {}
    backend.no_truncation()
    backend.no_padding()

    special = read_json(directory / "special_tokens_map.json")
    pad_id = _id_of(backend, config.get("pad_token") or special.get("pad_token"))
    if pad_id is None:
        pad_id = padding.get("pad_id", read_json(directory / "config.json").get("pad_token_id") or 0)
    max_length = config.get("model_max_length")
    return TextTokenizer(
        backend,
        pad_id,
        padding.get("pad_type_id", 0),
        config.get("padding_side", "right"),
        config.get("truncation_side", "right"),
        # transformers writes 1e30 for "no limit"
        max_length if isinstance(max_length, int) and max_length < 2**31 else None,
        _id_of(backend, config.get("unk_token") or special.get("unk_token") or _unknown_token(backend)),
    )


def _id_of(backend: Tokenizer, token: Any) -> int | None:
    """Id of a special token as transformers writes it, a str or an object; None if the vocabulary has no such."""
    if isinstance(token, dict):
        token = token.get("content")
    return backend.token_to_id(token) if isinstance(token, str) else None


def _unknown_token(backend: Tokenizer) -> str | None:
    """The token for what the vocabulary does not have, where no file names it: the model's, or a usual name."""
    own = getattr(backend.model, "unk_token", None)
    return own or next((name for name in ("<unk>", "[UNK]") if backend.token_to_id(name) is not None), None)


def _from_json(path: Path, config: dict[str, Any]) -> Tokenizer:
    from tokenizers import Tokenizer, normalizers, pre_tokenizers

    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelFormatError(f"{path} is not a tokenizer: {error}; export the model's tokenizer again") from error
    if isinstance(backend.normalizer, normalizers.BertNormalizer):
        for key, attribute in _BERT_NORMALIZER_KEYS.items():
            if key in config:
                setattr(backend.normalizer, attribute, config[key])
    if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel) and "add_prefix_space" in config:
        backend.pre_tokenizer.add_prefix_space = bool(config["add_prefix_space"])
    return backend


def _from_transformers(directory: Path) -> Tokenizer:
    """Convert a directory with older tokenizer files; slow, since it imports transformers."""
    _log.info("%s has no tokenizer.json; converting its tokenizer with transformers", directory)
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(directory), use_fast=True, local_files_only=True)
        backend = tokenizer.backend_tokenizer
        # Where there is no file, version 5 makes a tokenizer of special tokens alone, to which every text is unknown.
        empty = set(backend.get_vocab()) <= set(tokenizer.all_special_tokens)
        reason = "transformers finds no vocabulary there" if empty else ""
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, ... for a missing tokenizer
        reason = f"{type(error).__name__}: {error}"
    if reason:
        raise ModelNotFoundError(
            f"no tokenizer in {directory}: expected tokenizer.json (and tokenizer_config.json) next to the model; "
            f"save the model's tokenizer there with save_pretrained ({reason})"
        )
    from tokenizers import Tokenizer

    # A copy: the settings cleared on it later belong to the transformers object.
    return Tokenizer.from_str(backend.to_str())


def _single_template(backend: Tokenizer) -> SingleTemplate:
    """Read the layout off an encoded text."""
    encoding = backend.encode("text")
    places = np.array([-1 if place is None else place for place in encoding.sequence_ids])
    found = np.flatnonzero(places == 0)
    if not len(found):
        raise ModelFormatError(
            f"the tokenizer does not encode a text: expected tokens of 'text', got {encoding.tokens}; save the "
            "model's tokenizer again with save_pretrained"
        )
    ids = np.array(encoding.ids, dtype=np.int64)
    types = np.array(encoding.type_ids, dtype=np.int64)
    prefix, suffix = slice(0, found[0]), slice(found[-1] + 1, len(ids))
    return SingleTemplate(ids[prefix], ids[suffix], types[prefix], types[suffix], int(types[found[0]]))


def _pair_template(backend: Tokenizer) -> PairTemplate:
    """Read the layout off an encoded pair: post-processors are of several kinds, but each is such a template."""
    encoding = backend.encode("question", "context")
    places = np.array([-1 if place is None else place for place in encoding.sequence_ids])
    first, second = np.flatnonzero(places == 0), np.flatnonzero(places == 1)
    if not len(first) or not len(second) or first[-1] > second[0]:
        raise ModelFormatError(
            "the tokenizer does not encode a pair of texts: expected tokens of the first text, then of the second, "
            f"got {encoding.tokens}"
        )
    ids = np.array(encoding.ids, dtype=np.int64)
    types = np.array(encoding.type_ids, dtype=np.int64)
    prefix, middle, suffix = slice(0, first[0]), slice(first[-1] + 1, second[0]), slice(second[-1] + 1, len(ids))
    return PairTemplate(
        ids[prefix],
        ids[middle],
        ids[suffix],
        types[prefix],
        types[middle],
        types[suffix],
        int(types[first[0]]),
        int(types[second[0]]),
    )


def estimated_tokens(prepared: Any) -> int:
    """About how many tokens something has: the elements of arrays, a token for every four letters; at least 1.

    Values of a mapping are several arrays of the same tokens, so the largest counts; elements of a list add up.
    """
    if isinstance(prepared, str):
        return len(prepared) // 4 + 1
    if isinstance(prepared, np.ndarray):
        return max(prepared.size, 1)
    if isinstance(prepared, Mapping):
        return max(map(estimated_tokens, prepared.values()), default=1)
    if isinstance(prepared, (list, tuple)):
        return max(sum(map(estimated_tokens, prepared)), 1)
    return max(len(prepared), 1) if isinstance(prepared, Sized) else 1
