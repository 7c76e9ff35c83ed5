"""Embeddings: a vector for each text, as sentence-transformers makes it, whatever its neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsert.errors import InputError
from sparsert.pipelines.base import Pipeline
from sparsert.pipelines.embedding_extraction.embedder import Embedder
from sparsert.pipelines.embedding_extraction.options import EmbeddingOptions
from sparsert.pipelines.embedding_extraction.precision import quantize_embeddings
from sparsert.pipelines.embedding_extraction.schemas import EmbeddingInput, EmbeddingOutput
from sparsert.pipelines.row_model import PreparedRows, RowOutputs, gather, tokens_of

__all__ = ["EmbeddingPipeline"]


@Pipeline.register(
    "embedding_extraction", task_aliases=["transformers_embedding_extraction", "embedding", "sentence_embedding"]
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
                left_out = self.embedder.left_out(prompt)
                rows = [self.embedder.row(ids, left_out) for ids in tokens_of(found, prompted, "inputs")]
                prepared.append(PreparedRows(item, rows))
            except InputError as error:
                prepared.append(error)
        return prepared

    def _with_prompt(self, item: EmbeddingInput) -> tuple[str, list[str]] | InputError:
        """A request's prompt, and its texts after it; or why it cannot be answered."""
        texts = _texts(item.inputs)
        if not texts:
            return InputError("inputs: expected at least one text, got an empty list")
        if len(texts) == 1 and self.options.precision in ("int8", "uint8"):
            return InputError(
                f"inputs: precision {self.options.precision!r} takes its ranges from the texts of a request, and one "
                "text has none; send several, or use binary or float32"
            )
        try:
            self.embedder.check_truncate_dim(item.truncate_dim)
            prompt = self.embedder.prompt(item.prompt, item.prompt_name)
        except InputError as error:
            return error
        return prompt, [prompt + text for text in texts] if prompt else texts

    def tokens(self, prepared: PreparedRows) -> int:
        """Tokens of all texts with their prompts and special tokens."""
        return self.embedder.rows.tokens(prepared)

    def forward(self, prepared: Sequence[PreparedRows]) -> Iterator[RowOutputs]:
        """Vectors of all texts of all requests, a slice of them at a time, in order; pooled ones, unless none are."""
        return self.embedder.run([row for item in prepared for row in item.rows])

    def postprocess(self, prepared: Sequence[PreparedRows], outputs: Iterator[RowOutputs]) -> list[EmbeddingOutput]:
        """The vectors of each request."""
        results = []
        pooled = bool(self.embedder.modes)
        for item, vectors in zip(prepared, gather(prepared, outputs, "embeddings"), strict=True):
            found: np.ndarray | list[np.ndarray]
            if pooled:
                found = self.embedder.finish(np.stack(vectors), item.inputs.normalize, item.inputs.truncate_dim)
                found = quantize_embeddings(found, self.options.precision)
            else:
                found = [values.reshape(-1, values.shape[-1]) for values in vectors]
            results.append(EmbeddingOutput.of(found, self.options.return_numpy))
        return results


def _texts(inputs: str | list[str]) -> list[str]:
    return [inputs] if isinstance(inputs, str) else inputs
