"""A module of sentence-transformers that computes vectors with this engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsert._drop_in import model_reference, set_limit
from sparsert.errors import InputTypeError
from sparsert.pipelines.embedding_extraction import EmbeddingPipeline
from sparsert.pipelines.embedding_extraction.embedder import PromptedRow
from sparsert.pipelines.row_model import tokens_of
from sparsert.pipelines.rows import pack_rows

try:
    import torch
    from sentence_transformers import SentenceTransformer
except ImportError as error:
    raise ImportError(f"{__name__} needs sentence-transformers: pip install sentence-transformers") from error
try:
    from sentence_transformers.base.modules import InputModule
except ImportError:  # before version 6
    from sentence_transformers.models import InputModule

__all__ = ["SparsertModule", "load_sentence_transformer"]

# Before version 6 the library itself counts a prompt's tokens, and takes the token that ends a text for one of them,
# since a tokenizer of the tokenizers library does not tell which tokens are special.
_PREPROCESSES = hasattr(InputModule, "preprocess")


class SparsertModule(InputModule):
    """Text in, vectors out: all modules of an embedding model's folder as one, without padding.

    With the option ``pooling="none"`` it gives the vectors of tokens, for modules of the library that come after it.

    Parameters
    ----------
    model : str or Path
        A model reference, see :mod:`sparsert.zoo`; ``ORG/REPO`` means the hub, unless it is a path.
    options : mapping, optional
        Options of the pipeline, such as ``num_cores`` and ``model_file``.

    Attributes
    ----------
    embedder : Embedder
        The model, with its prompts.
    tokenizer : tokenizers.Tokenizer
        Neither cuts nor pads.

    Raises
    ------
    ModelError
        The model cannot be found, read or run.
    InputError
        An option makes no sense.
    """

    config_file_name = "sparsert_config.json"
    config_keys = ["model", "options"]

    def __init__(self, model: str | Path, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        path = Path(model).expanduser()
        self.model = str(path.resolve() if path.exists() else model)
        self.options = dict(options or {})
        reference = model_reference(self.model, None, "sentence-transformers")
        self.embedder = EmbeddingPipeline(reference, **self.options).embedder
        self.tokenizer = self.embedder.rows.tokenizer.backend

    def __reduce__(self) -> tuple[Any, ...]:
        # The library sends its models to other processes; there the module loads its own.
        return type(self), (self.model, self.options)

    def preprocess(self, inputs: Sequence[str], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """``input_ids`` and ``attention_mask`` of texts after their prompt, padded to the longest; shape (n, T).

        Raises
        ------
        InputError
            Something is no text.
        """
        for index, text in enumerate(inputs):
            if not isinstance(text, str):
                raise InputTypeError(f"inputs[{index}] must be a str, got {text!r:.80} ({type(text).__name__})")
        texts = [(prompt or "") + text for text in inputs]
        rows = self.embedder.rows
        tokens = tokens_of(rows.tokenize(texts), texts, "inputs")
        packed = pack_rows([rows.row(ids) for ids in tokens], rows.tokenizer)
        features: dict[str, Any] = {
            "input_ids": _padded(packed.arrays["input_ids"], packed.lengths, rows.tokenizer.pad_id),
            "attention_mask": _padded(packed.arrays["attention_mask"], packed.lengths, 0),
        }
        if prompt:
            features["prompt_length"] = self.embedder.left_out(prompt)
        return features

    def tokenize(self, texts: Sequence[str], **kwargs: Any) -> dict[str, Any]:
        """:meth:`preprocess` by its name before version 6."""
        return self.preprocess(texts, **kwargs)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add ``sentence_embedding``, shape (n, D), or, if nothing is pooled, ``token_embeddings``, shape (n, T, H)."""
        device = features["input_ids"].device
        parts = list(self.embedder.run(self._rows(features)))
        vectors = np.concatenate([part.outputs["embeddings"] for part in parts])
        if self.embedder.modes:
            features["sentence_embedding"] = torch.from_numpy(self.embedder.finish(vectors)).to(device)
        else:
            lengths = np.concatenate([part.rows.lengths for part in parts])
            features["token_embeddings"] = _padded(vectors, lengths, 0).to(device)
        return features

    def _rows(self, features: Mapping[str, Any]) -> list[PromptedRow]:
        """The rows that :meth:`preprocess` made arrays of."""
        single = self.embedder.rows.tokenizer.single
        begin, end = len(single.prefix_ids), len(single.suffix_ids)
        left_out = self.embedder.left_out("")
        if not self.embedder.folder.include_prompt and "prompt_length" in features:
            left_out = int(features["prompt_length"]) - (0 if _PREPROCESSES else end)
        lengths = features["attention_mask"].sum(dim=1).tolist()
        ids = features["input_ids"].cpu().numpy()
        return [
            PromptedRow(row[begin : length - end], left_out=left_out) for row, length in zip(ids, lengths, strict=True)
        ]

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a text, special tokens included; what is longer is cut."""
        return self.embedder.rows.sequence_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        set_limit(self.embedder.rows, value)
        self.options["sequence_length"] = value  # for what is saved or pickled

    def get_embedding_dimension(self) -> int:
        """Numbers of a vector."""
        return min(self.embedder.dimension, self.embedder.truncate_dim or self.embedder.dimension)

    def get_sentence_embedding_dimension(self) -> int:
        """:meth:`get_embedding_dimension` by its name before version 6."""
        return self.get_embedding_dimension()

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write ``sparsert_config.json``: the model reference and the options, not the model itself."""
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> SparsertModule:
        """The module that :meth:`save` wrote."""
        names = ("token", "cache_folder", "revision", "local_files_only")
        access = {name: kwargs[name] for name in names if name in kwargs}
        return cls(**cls.load_config(model_name_or_path, subfolder=subfolder, **access))


def load_sentence_transformer(model: str | Path, **options: Any) -> SentenceTransformer:
    """The library's own ``SentenceTransformer`` on this engine, with the prompts and the similarity of the folder.

    Parameters
    ----------
    model, **options
        As for :class:`SparsertModule`.
    """
    module = SparsertModule(model, options)
    return SentenceTransformer(
        modules=[module],
        device="cpu",
        prompts=dict(module.embedder.prompts),
        default_prompt_name=module.embedder.default_prompt_name,
        similarity_fn_name=module.embedder.folder.similarity,
    )


def _padded(values: np.ndarray, lengths: np.ndarray, fill: int) -> torch.Tensor:
    """Rows that lie one after another, shape (N, ...), as a tensor of shape (n, T, ...)."""
    inside = np.arange(lengths.max()) < lengths[:, None]
    padded = np.full((*inside.shape, *values.shape[1:]), fill, dtype=values.dtype)
    padded[inside] = values
    return torch.from_numpy(padded)
