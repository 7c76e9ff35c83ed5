"""Embeddings: a vector for each text, as sentence-transformers makes it, whatever its neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sparsert.errors import InputError
from sparsert.pipelines.base import Pipeline
from sparsert.pipelines.embedding_extraction.embedder import Embedder
from sparsert.pipelines.embedding_extraction.options import EmbeddingOptions
from sparsert.pipelines.embedding_extraction.precision import quantize_embeddings
from sparsert.pipelines.embedding_extraction.schemas import EmbeddingInput, EmbeddingOutput
from sparsert.pipelines.row_model import PreparedRows, RowOutputs, gather
from sparsert.pipelines.rows import Row

__all__ = ["EmbeddingPipeline"]


@Pipeline.register(
    "embedding_extraction",
    task_aliases=["transformers_embedding_extraction", "embedding", "embeddings", "sentence_embedding"],
)
class EmbeddingPipeline(Pipeline):
    """Turn texts into vectors.

    A model's folder says how: pooling, layers after it, normalization, prompts, as sentence-transformers writes it. All
    texts of all requests of a batch run together, without padding where the engine allows that, and a vector does not
    depend on the others.

    Parameters
    ----------
    model_path, **options
        Fields of :class:`EmbeddingOptions`. ``batch_size`` is the number of texts that the engine runs at once.

    Attributes
    ----------
    embedder : Embedder
        The model.
    model : RowModel
        Its tokenizer and engine.
    pooling : tuple of str
        How the vectors of tokens become one, or ``("none",)``.

    Raises
    ------
    ModelError
        The model cannot be found, read or run, or has no vectors to give.
    InputError
        An option makes no sense.
    """

    options: EmbeddingOptions
    options_type = EmbeddingOptions
    input_schema = EmbeddingInput
    output_schema = EmbeddingOutput
    main_field = "inputs"
    example = {"inputs": ["The weather is lovely today.", "He drove to the stadium."]}
    scorer = "sparsert.evaluate.retrieval:RetrievalScorer"
    metric_functions = {"pipeline_inputs.inputs": {"number_of_texts": lambda inputs: len(_texts(inputs))}}

    def __init__(self, model_path: str | Path | None = None, **options: Any) -> None:
        super().__init__(model_path, **options)
        self.embedder = Embedder(self.resolve_model(), self.options)
        self.model = self.embedder.rows
        self.pooling = self.embedder.modes or ("none",)

    @cached_property
    def token_embedder(self) -> Embedder:
        """The same model without pooling; built when it is first asked for."""
        if not self.embedder.modes:
            return self.embedder
        return Embedder(self.resolve_model(), replace(self.options, pooling="none", extraction_strategy=None))

    def preprocess(self, inputs: Sequence[EmbeddingInput]) -> list[PreparedRows | InputError]:
        """The texts of each request as rows, after their prompt; each different text is tokenized once."""
        requests = [self._with_prompt(item) for item in inputs]
        texts = (text for request in requests if not isinstance(request, InputError) for text in request[1])
        found = self.embedder.rows.tokenize(texts)
        prepared: list[PreparedRows | InputError] = []
        for item, request in zip(inputs, requests, strict=True):
            try:
                if isinstance(request, InputError):
                    raise request
                prompt, prompted = request
                rows = self.embedder.rows_of(found, prompted, self.embedder.left_out(prompt))
                prepared.append(PreparedRows(item, rows))
            except InputError as error:
                prepared.append(error)
        return prepared

    def _with_prompt(self, item: EmbeddingInput) -> tuple[str, list[str]] | InputError:
        """A request's prompt, and its texts after it; or why it cannot be answered."""
        texts = _texts(item.inputs)
        if not texts:
            return InputError("inputs: expected at least one text, got an empty list")
        if len(texts) == 1 and self.options.precision in ("int8", "uint8") and self._pools(item):
            return InputError(
                f"inputs: precision {self.options.precision!r} takes its ranges from the texts of a request, and one "
                "text has none; send several, or use binary or float32"
            )
        try:
            if not self._pools(item):
                self.token_embedder  # noqa: B018 - built here, since a model may have no vectors of tokens
            self.embedder.check_truncate_dim(item.truncate_dim)
            prompt = self.embedder.prompt(item.prompt, item.prompt_name)
        except InputError as error:
            return error
        return prompt, [prompt + text for text in texts] if prompt else texts

    def tokens(self, prepared: PreparedRows) -> int:
        """Tokens of all texts with their prompts and special tokens."""
        return self.embedder.rows.tokens(prepared)

    def _pools(self, item: EmbeddingInput) -> bool:
        """Whether a request wants one vector for each text."""
        return bool(self.embedder.modes) and item.pooling is None

    def _order(self, prepared: Sequence[PreparedRows]) -> list[int]:
        """Requests in the order in which they run: first those whose vectors are pooled."""
        return sorted(range(len(prepared)), key=lambda place: not self._pools(prepared[place].inputs))

    def forward(self, prepared: Sequence[PreparedRows]) -> Iterator[RowOutputs]:
        """Vectors of all texts of all requests, a slice of them at a time: pooled ones, then those of tokens."""
        rows: tuple[list[Row], list[Row]] = ([], [])
        for place in self._order(prepared):
            rows[not self._pools(prepared[place].inputs)].extend(prepared[place].rows)
        parts = self.embedder.run(rows[0])
        return chain(parts, self.token_embedder.run(rows[1])) if rows[1] else parts

    def postprocess(self, prepared: Sequence[PreparedRows], outputs: Iterator[RowOutputs]) -> list[EmbeddingOutput]:
        """The vectors of each request."""
        order = self._order(prepared)
        of_tokens = [not self._pools(prepared[place].inputs) for place in order]
        found = gather([prepared[place] for place in order], outputs, "embeddings", of_tokens)
        results = {
            place: self._output(prepared[place].inputs, vectors) for place, vectors in zip(order, found, strict=True)
        }
        return [results[place] for place in range(len(prepared))]

    def _output(self, item: EmbeddingInput, found: Sequence[np.ndarray]) -> EmbeddingOutput:
        vectors: np.ndarray | list[np.ndarray]
        if self._pools(item):
            vectors = self.embedder.finish(np.stack(found), item.normalize, item.truncate_dim)
            vectors = quantize_embeddings(vectors, self.options.precision)
        else:
            vectors = list(found)
        return EmbeddingOutput.of(vectors, self.options.return_numpy)


def _texts(inputs: str | list[str]) -> list[str]:
    return [inputs] if isinstance(inputs, str) else inputs
