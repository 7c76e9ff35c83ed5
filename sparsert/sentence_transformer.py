"""``SentenceTransformer`` as the library of that name has it, without torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sparsert._drop_in import as_tensor, model_reference, progress, set_limit, with_meaning
from sparsert.errors import InputError, InputTypeError
from sparsert.pipelines.embedding_extraction import EmbeddingPipeline, quantize_embeddings
from sparsert.pipelines.embedding_extraction.embedder import DOCUMENT, QUERY, PromptedRow
from sparsert.pipelines.embedding_extraction.precision import check_precision
from sparsert.pipelines.embedding_extraction.similarity import SIMILARITIES, similarity, similarity_pairwise
from sparsert.pipelines.engines import SEQUENCE_INPUTS
from sparsert.pipelines.rows import pack_rows

__all__ = ["SentenceTransformer"]

# Texts that are tokenized and run together: their tokens take a few MB, and a progress bar moves now and then.
_CHUNK = 1024

_OUTPUTS = ("sentence_embedding", "token_embeddings", None)


class SentenceTransformer:
    """Embeddings of texts, with the arguments, names and order of steps of sentence-transformers 6.

    Parameters
    ----------
    model_name_or_path : str or Path
        A model reference, see :mod:`sparsert.zoo`; ``ORG/REPO`` and the bare name of a repository of the library's
        authors mean the hub, unless they are paths.
    prompts : mapping of str to str, optional
        Prompts by name, on top of those of the model's folder.
    default_prompt_name : str, optional
        The prompt that :meth:`encode` uses where none is named; by default as the folder says.
    revision : str, optional
        Of a repository on the hub.
    similarity_fn_name : {"cosine", "dot", "euclidean", "manhattan"}, optional
        What :meth:`similarity` computes; by default as the folder says.
    truncate_dim : int, optional
        Numbers of a vector that are kept; by default as the folder says.
    **options
        Options of the pipeline, such as ``num_cores`` and ``model_file``. Arguments of the library that have no meaning
        here, such as ``device``, are taken as well, with a warning.

    Raises
    ------
    ModelError
        The model cannot be found, read or run.
    InputError
        An argument makes no sense.
    """

    def __init__(
        self,
        model_name_or_path: str | Path,
        *,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        revision: str | None = None,
        similarity_fn_name: str | None = None,
        truncate_dim: int | None = None,
        **options: Any,
    ) -> None:
        self._pipeline = EmbeddingPipeline(
            model_reference(model_name_or_path, revision, "sentence-transformers"),
            prompts=prompts,
            prompt_name=default_prompt_name,
            **with_meaning(options, type(self).__name__),
        )
        self._embedder = self._pipeline.embedder
        if not self._embedder.modes or self._pipeline.options.precision != "float32":
            raise InputError(
                f"{type(self).__name__} pools tokens to vectors of float32: leave pooling='none' and precision to "
                "encode, as output_value='token_embeddings' and precision"
            )
        folder = self._embedder.folder
        self.truncate_dim = folder.truncate_dim if truncate_dim is None else truncate_dim
        self.similarity_fn_name = similarity_fn_name or folder.similarity

    # ---- encoding ----------------------------------------------------------------------------------------------------

    def encode(
        self,
        inputs: str | Sequence[str] | np.ndarray | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: Any = None,
        chunk_size: int | None = None,
        *,
        sentences: str | Sequence[str] | None = None,
        task: str | None = None,
    ) -> Any:
        """Embed texts.

        Parameters
        ----------
        inputs : str or sequence of str
            The texts; ``sentences`` is its name before version 6.
        prompt_name, prompt : str, optional
            What is put before each text: by name, or itself, which wins. By default the default prompt.
        batch_size, device, pool, chunk_size, task
            Without a meaning: texts of any length run together on all cores of the pipeline.
        show_progress_bar : bool, optional
            A bar on stderr.
        output_value : {"sentence_embedding", "token_embeddings", None}
            Vectors of texts; or of the tokens of each; or all of this and the tokens, as a dict.
        precision : {"float32", "int8", "uint8", "binary", "ubinary"}
            See :func:`sparsert.pipelines.embedding_extraction.quantize_embeddings`.
        convert_to_numpy : bool
            One array rather than a list of vectors.
        convert_to_tensor : bool
            A tensor, if torch is there.
        normalize_embeddings : bool
            Length 1 in the end.
        truncate_dim : int, optional
            Keep the first so many numbers of a vector.

        Returns
        -------
        array, shape (n, D) or, of a single text, (D,)
            Or what ``output_value`` and the other arguments ask for, in lists or single.

        Raises
        ------
        InputError
            Something is no text, or an argument makes no sense.
        """
        single, texts = _as_texts(sentences if inputs is None else inputs)
        if batch_size <= 0:
            raise InputError(f"batch_size must be a positive integer, got {batch_size}")
        if output_value not in _OUTPUTS:
            raise InputError(f"output_value must be one of {list(_OUTPUTS)}, got {output_value!r}")
        if check_precision(precision) != "float32" and output_value is None:
            raise InputError(f"precision {precision!r} is for embeddings; output_value=None gives float32 alone")
        found: Any
        before = self._embedder.prompt(prompt, prompt_name)
        bar = progress(len(texts), show_progress_bar)
        if output_value == "sentence_embedding":
            parts = [self._vectors(rows) for rows in self._rows(texts, before, bar)]
            vectors = np.concatenate(parts) if parts else np.zeros((0, self._embedder.dimension), dtype=np.float32)
            cut = self.truncate_dim if truncate_dim is None else truncate_dim
            # Too great a number cuts nothing, as in the library; the pipeline refuses it.
            found = self._embedder.finish(
                vectors, normalize_embeddings or None, min(cut or sys.maxsize, vectors.shape[1])
            )
            found = quantize_embeddings(found, precision)
            if convert_to_tensor:
                found = as_tensor(found)
            elif not convert_to_numpy:
                found = list(found)
        elif output_value == "token_embeddings":
            found = [tokens for rows in self._rows(texts, before, bar) for tokens in self._tokens(rows)]
            ranges = np.concatenate(found) if found and precision in ("int8", "uint8") else None
            found = [quantize_embeddings(tokens, precision, calibration_embeddings=ranges) for tokens in found]
        else:
            found = [item for rows in self._rows(texts, before, bar) for item in self._everything(rows)]
        return found[0] if single else found

    def encode_query(self, inputs: str | Sequence[str], prompt_name: str | None = None, **arguments: Any) -> Any:
        """:meth:`encode` with the prompt ``query`` of the model, which may be empty, unless another is given."""
        return self._encode_as(QUERY, inputs, prompt_name, arguments)

    def encode_document(self, inputs: str | Sequence[str], prompt_name: str | None = None, **arguments: Any) -> Any:
        """:meth:`encode` with the prompt ``document`` of the model, which may be empty, unless another is given."""
        return self._encode_as(DOCUMENT, inputs, prompt_name, arguments)

    def _encode_as(self, kind: str, inputs: Any, prompt_name: str | None, arguments: dict[str, Any]) -> Any:
        if prompt_name is None and arguments.get("prompt") is None:
            prompt_name = kind
        return self.encode(inputs, prompt_name, **arguments)

    def _rows(self, texts: Sequence[str], prompt: str, bar: Any) -> Iterator[list[PromptedRow]]:
        """The rows of texts, some at a time."""
        embedder = self._embedder
        left_out = embedder.left_out(prompt)
        with bar:
            for begin in range(0, len(texts), _CHUNK):
                chunk = [prompt + text for text in texts[begin : begin + _CHUNK]]
                yield embedder.rows_of(embedder.rows.tokenize(chunk), chunk, left_out, begin)
                bar.update(len(chunk))

    def _vectors(self, rows: Sequence[PromptedRow]) -> np.ndarray:
        return np.concatenate([part.outputs["embeddings"] for part in self._embedder.run(rows)])

    def _tokens(self, rows: Sequence[PromptedRow]) -> Iterator[np.ndarray]:
        """Vectors of the tokens of each row, shape (T, H)."""
        for part in self._pipeline.token_embedder.run(rows):
            yield from np.split(part.outputs["embeddings"], part.rows.begins[1:])

    def _everything(self, rows: Sequence[PromptedRow]) -> Iterator[dict[str, np.ndarray]]:
        """For each row its tokens, their vectors, and the pooled one as the model's folder makes it."""
        embedder = self._embedder
        for row, tokens in zip(rows, self._tokens(rows), strict=True):
            packed = pack_rows([row], embedder.rows.tokenizer)
            vectors = embedder.pool(tokens, packed.lengths, np.array([row.left_out]))
            cut = min(self.truncate_dim or sys.maxsize, vectors.shape[1])
            yield packed.arrays | {
                "token_embeddings": tokens,
                "sentence_embedding": embedder.finish(vectors, None, cut)[0],
            }

    # ---- what the model is -------------------------------------------------------------------------------------------

    @property
    def prompts(self) -> dict[str, str]:
        """Prompts by name; may be changed."""
        return self._embedder.prompts

    @property
    def default_prompt_name(self) -> str | None:
        """The prompt that :meth:`encode` uses where none is named."""
        return self._embedder.default_prompt_name

    @property
    def similarity_fn_name(self) -> str:
        """What :meth:`similarity` computes: ``"cosine"``, ``"dot"``, ``"euclidean"`` or ``"manhattan"``."""
        return self._similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: str) -> None:
        if value not in SIMILARITIES:
            raise InputError(f"similarity_fn_name must be one of {list(SIMILARITIES)}, got {value!r}")
        self._similarity = value

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a text, special tokens included; what is longer is cut."""
        return self._embedder.rows.sequence_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        set_limit(self._embedder.rows, value)

    @property
    def tokenizer(self) -> Any:
        """The ``tokenizers.Tokenizer`` of the model, which neither cuts nor pads."""
        return self._embedder.rows.tokenizer.backend

    @property
    def device(self) -> str:
        """Always ``"cpu"``."""
        return "cpu"

    def get_max_seq_length(self) -> int:
        """:attr:`max_seq_length`."""
        return self.max_seq_length

    def get_embedding_dimension(self) -> int:
        """Numbers of a vector that :meth:`encode` gives."""
        return min(self._embedder.dimension, self.truncate_dim or sys.maxsize)

    def get_sentence_embedding_dimension(self) -> int:
        """:meth:`get_embedding_dimension` by its name before version 6."""
        return self.get_embedding_dimension()

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """``input_ids``, ``attention_mask`` and ``token_type_ids`` of texts, padded to the longest; shape (n, T)."""
        tokenizer = self._embedder.rows.tokenizer
        _, chosen = _as_texts(texts)
        rows = [row for part in self._rows(chosen, "", progress(0, False)) for row in part]
        if not rows:
            return {name: np.zeros((0, 0), dtype=np.int64) for name in SEQUENCE_INPUTS}
        packed = pack_rows(rows, tokenizer)
        inside = np.arange(packed.lengths.max()) < packed.lengths[:, None]
        padding = {"input_ids": tokenizer.pad_id, "attention_mask": 0, "token_type_ids": tokenizer.pad_type}
        result = {name: np.full(inside.shape, padding[name]) for name in packed.arrays}
        for name, values in packed.arrays.items():
            result[name][inside] = values
        return result

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """How alike each embedding is to each other one, by :attr:`similarity_fn_name`; shape (n, m)."""
        return _like(embeddings1, similarity(_floats(embeddings1), _floats(embeddings2), self.similarity_fn_name))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """How alike ``embeddings1[i]`` and ``embeddings2[i]`` are; shape (n,)."""
        return _like(
            embeddings1, similarity_pairwise(_floats(embeddings1), _floats(embeddings2), self.similarity_fn_name)
        )

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Within this context, vectors are cut to ``truncate_dim`` numbers."""
        before, self.truncate_dim = self.truncate_dim, truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before


def _as_texts(inputs: Any) -> tuple[bool, list[str]]:
    """Whether it is a single text, and the texts as a list."""
    if isinstance(inputs, str):
        return True, [inputs]
    texts = inputs.tolist() if isinstance(inputs, np.ndarray) else inputs
    if isinstance(inputs, (bytes, Mapping)):
        raise InputTypeError(f"inputs must be a text or a list of texts, got {type(inputs).__name__}")
    try:
        texts = list(texts)
    except TypeError:
        raise InputTypeError(f"inputs must be a text or a list of texts, got {type(inputs).__name__}") from None
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputTypeError(f"inputs[{index}] must be a str, got {text!r:.80} ({type(text).__name__})")
    return False, texts


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _floats(embeddings: Any) -> Any:
    """Embeddings as arrays, if they are tensors."""
    if isinstance(embeddings, (list, tuple)):
        return [_floats(item) for item in embeddings]
    return embeddings.detach().cpu().numpy() if _is_tensor(embeddings) else embeddings


def _like(embeddings: Any, result: np.ndarray) -> Any:
    """A tensor for tensors, an array for anything else."""
    first = embeddings[0] if isinstance(embeddings, (list, tuple)) and len(embeddings) else embeddings
    return as_tensor(result) if _is_tensor(first) else result
