"""A model that makes embeddings: texts to rows with their prompt, rows to pooled vectors, and the end of a vector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sparsert.errors import InputError, InputRangeError
from sparsert.graph.outputs import First
from sparsert.pipelines.embedding_extraction.hidden import hidden_states
from sparsert.pipelines.embedding_extraction.options import EmbeddingOptions
from sparsert.pipelines.embedding_extraction.pooling import pool
from sparsert.pipelines.row_model import RowModel, RowOutputs
from sparsert.pipelines.rows import PackedRows, Row
from sparsert.pipelines.sentence_folder import read_sentence_folder
from sparsert.pipelines.sentence_layers import UnitLength
from sparsert.zoo import ResolvedModel

__all__ = ["DOCUMENT", "QUERY", "Embedder", "PromptedRow"]

_unit_length = UnitLength()

QUERY, DOCUMENT = "query", "document"
"""Names of prompts that every folder has, if only empty ones, as in sentence-transformers."""

# DeepSparse's reductions take everything but the first token.
_STRATEGIES: dict[str, tuple[tuple[str, ...], int]] = {
    "per_token": ((), 0),
    "reduce_mean": (("mean",), 1),
    "reduce_max": (("max",), 1),
    "cls_token": (("cls",), 0),
}


@dataclass(frozen=True)
class PromptedRow(Row):
    """A text as tokens, of which pooling leaves out the first ``left_out``, special tokens included."""

    left_out: int = 0


class Embedder:
    """A model with its tokenizer, its prompts and its pooling. Safe to use from several threads.

    Parameters
    ----------
    model : ResolvedModel
        The files.
    options : EmbeddingOptions
        Options of the pipeline, which go before what the folder says.

    Attributes
    ----------
    rows : RowModel
        Tokenizer and engine.
    folder : SentenceFolder
        What the model's folder says.
    modes : tuple of str
        How tokens are pooled; empty if they are not.
    prompts : dict
        Prompts by name.
    default_prompt_name : str, optional
        The one that is used where none is named.

    Raises
    ------
    ModelError
        The model cannot be found, read or run.
    InputError
        An option does not fit the model.
    """

    def __init__(self, model: ResolvedModel, options: EmbeddingOptions) -> None:
        self.folder = folder = read_sentence_folder(model.root)
        self.prompts = {**folder.prompts, **(options.prompts or {})}
        self.default_prompt_name = options.prompt_name or folder.default_prompt_name
        self.prompt()  # refuses a default that does not exist
        self.truncate_dim = folder.truncate_dim if options.truncate_dim is None else options.truncate_dim
        self._layers, self._normalize = folder.dense, folder.normalize
        self._skipped, self._include_prompt = 0, folder.include_prompt
        if options.extraction_strategy is not None:
            self.modes, self._skipped = _STRATEGIES[options.extraction_strategy]
            self._layers, self._normalize = (), False
        elif options.pooling is None:
            self.modes = folder.pooling
        else:
            modes = [options.pooling] if isinstance(options.pooling, str) else options.pooling
            self.modes = () if options.pooling == "none" else tuple(modes)
        self._normalize_last = options.normalize
        layer = options.emb_extraction_layer

        def outputs(shapes: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
            chosen: dict[str, Any] = {"tokens": layer} if isinstance(layer, str) else hidden_states(shapes)
            if "tokens" in chosen and self.modes == ("cls",) and self._include_prompt:
                return {"pooled": First(chosen["tokens"])}  # the last layer computes nothing else
            self._pooled_inside = "pooled" in chosen
            return chosen

        self._pooled_inside = False
        self.rows = RowModel(model, options, outputs, folder.max_seq_length, folder.do_lower_case)
        if self._pooled_inside and not self.modes:
            raise InputError(
                f"{model.onnx} gives one vector a text, so that pooling='none' has no tokens to give; export the model "
                "with its last_hidden_state"
            )
        self.check_truncate_dim(options.truncate_dim)

    # ---- texts to rows -----------------------------------------------------------------------------------------------

    def prompt(self, prompt: str | None = None, name: str | None = None) -> str:
        """The prompt itself, else the one of that name, else the default one, else nothing.

        Raises
        ------
        InputError
            There is none of that name, or it is no text.
        """
        if prompt is not None:
            return _text(prompt)
        name = self.default_prompt_name if name is None else name
        if name is None:
            return ""
        if not isinstance(name, str) or name not in self.prompts:
            raise InputError(
                f"prompt_name must be one of {list(self.prompts)}, got {name!r}; give prompt itself, or prompts"
            )
        return _text(self.prompts[name])

    def left_out(self, prompt: str) -> int:
        """Tokens at the beginning of a row with this prompt that pooling leaves out."""
        if self._include_prompt or not prompt:
            return self._skipped
        single, ids = self.rows.tokenizer.single, self.rows.tokenizer.encode_ids([prompt])[0]
        if isinstance(ids, InputError):
            raise InputError(f"prompt: {ids}") from ids
        # What the prompt alone would be, cut as any row, less the special tokens after it
        return min(len(single.prefix_ids) + len(ids), self.rows.sequence_length - len(single.suffix_ids))

    def rows_of(
        self, found: Mapping[str, np.ndarray | InputError], texts: Sequence[str], left_out: int, first: int = 0
    ) -> list[PromptedRow]:
        """Texts, which already have their prompt, as rows.

        Parameters
        ----------
        found : mapping
            Token ids by text, see :meth:`RowModel.tokenize`.
        texts : sequence of str
            The texts.
        left_out : int
            As of :meth:`left_out`.
        first : int
            Place of the first of them among the texts that the caller knows.

        Raises
        ------
        InputError
            Something is no text, or has no tokens, or is too long and may not be cut; the message names its place.
        """
        rows = []
        for index, text in enumerate(texts, first):
            ids = found[text]
            if isinstance(ids, InputError):
                raise InputError(f"inputs[{index}]: {ids}") from ids
            try:
                row = self.rows.row(ids)
            except InputRangeError as error:
                raise InputRangeError(f"inputs[{index}]: {error}") from error
            rows.append(PromptedRow(row.first, None, row.cut, left_out))
        return rows

    # ---- rows to vectors ---------------------------------------------------------------------------------------------

    def run(self, rows: Sequence[Row]) -> Iterator[RowOutputs]:
        """Vectors of rows, a slice of them at a time, in order.

        ``outputs["embeddings"]`` has shape (W, D), one for each row before :meth:`finish`; or, if nothing is pooled,
        (N, H), one for each token.
        """
        return self.rows.run(rows, self._pool if self.modes else _tokens)

    def _pool(self, packed: PackedRows, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if "pooled" in outputs:
            return {"embeddings": self._after_pooling(outputs["pooled"])}
        left_out = np.array([getattr(row, "left_out", 0) for row in packed.rows])
        return {"embeddings": self.pool(outputs["tokens"], packed.lengths, left_out)}

    def pool(self, tokens: np.ndarray, lengths: np.ndarray, left_out: np.ndarray) -> np.ndarray:
        """Pooled vectors of tokens, after the layers that the folder has for them; shape (W, D)."""
        return self._after_pooling(pool(np.asarray(tokens, dtype=np.float32), lengths, self.modes, left_out))

    def _after_pooling(self, vectors: np.ndarray) -> np.ndarray:
        vectors = np.asarray(vectors, dtype=np.float32)
        for layer in () if self._pooled_inside else self._layers:
            vectors = layer(vectors)
        return vectors

    def finish(self, vectors: np.ndarray, normalize: bool | None = None, truncate_dim: int | None = None) -> np.ndarray:
        """Pooled vectors as they are given out, in float32: normalized by the folder, cut, normalized as asked.

        Parameters
        ----------
        vectors : float32 array, shape (W, D)
            As of :meth:`run`.
        normalize : bool, optional
            Length 1 in the end; False also leaves out what the folder says. By default as the options say.
        truncate_dim : int, optional
            By default as the options or the folder say.
        """
        normalize = self._normalize_last if normalize is None else normalize
        if self._normalize and normalize is not False:
            vectors = _unit_length(vectors)
        truncate_dim = self.truncate_dim if truncate_dim is None else truncate_dim
        vectors = vectors[:, :truncate_dim]
        return _unit_length(vectors) if normalize else vectors

    def check_truncate_dim(self, truncate_dim: int | None) -> None:
        """Refuse to cut a vector to more than it has.

        Raises
        ------
        InputRangeError
            ``truncate_dim`` is no number from 1 to :attr:`dimension`.
        """
        if truncate_dim is not None and not 1 <= truncate_dim <= self.dimension:
            raise InputRangeError(
                f"truncate_dim must be from 1 to {self.dimension}, the numbers of a vector, got {truncate_dim}"
            )

    @cached_property
    def dimension(self) -> int:
        """Numbers of a vector before :meth:`finish`; found out by embedding a token."""
        part = next(self.run([Row(np.zeros(1, dtype=np.int64))]))
        return int(part.outputs["embeddings"].shape[1])


def _text(prompt: str) -> str:
    """The same prompt, if it is a text."""
    if not isinstance(prompt, str):
        raise InputError(f"prompt must be a str, got {prompt!r:.80} ({type(prompt).__name__})")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InputError("prompt must be a str without lone surrogates, which are no characters") from error
    return prompt


def _tokens(packed: PackedRows, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"embeddings": outputs["tokens"]}
