"""Text ranking: a cross-encoder reads the query beside each document, and its logit is the document's score."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsert.errors import InputError, ModelFormatError
from sparsert.pipelines.base import Pipeline
from sparsert.pipelines.heads import top_k
from sparsert.pipelines.row_model import PreparedRows, RowOutputs, tokens_of
from sparsert.pipelines.sequence_classifier import tokens_of_text
from sparsert.pipelines.text_ranking.encoder import Encoder
from sparsert.pipelines.text_ranking.options import TextRankingOptions
from sparsert.pipelines.text_ranking.schemas import RankedDocument, TextRankingInput, TextRankingOutput

__all__ = ["TextRankingPipeline"]


@Pipeline.register("text_ranking", task_aliases=["rerank", "cross_encoder"])
class TextRankingPipeline(Pipeline):
    """Rank documents by their relevance for a query.

    All pairs of all requests of a batch run together, without padding where the engine allows that; each different
    query and document is tokenized once.

    Parameters
    ----------
    model_path, **options
        Fields of :class:`TextRankingOptions`.

    Raises
    ------
    ModelError
        The model cannot be found, read or run, or gives more than one number for a pair.
    InputError
        An option makes no sense.
    """

    options: TextRankingOptions
    options_type = TextRankingOptions
    input_schema = TextRankingInput
    output_schema = TextRankingOutput
    example = {"query": "Who keeps bees?", "documents": ["Bob repairs old radios.", "Ada keeps bees in Turin."]}
    scorer = "sparsert.evaluate.reranking:RankingScorer"
    metric_functions = {
        "pipeline_inputs.query": {"string_length": len},
        "pipeline_inputs.documents": {"count": len},
        "pipeline_outputs": {"best_score": lambda output: output.results[0].score},
    }

    def __init__(self, model_path: str | Path | None = None, **options: Any) -> None:
        super().__init__(model_path, **options)
        self.encoder = Encoder(self.resolve_model(), self.options)
        self.model = self.encoder.model
        if self.model.num_labels != 1:
            raise ModelFormatError(
                f"text ranking needs a model with one number for a pair, {self.model.config.path.parent} has "
                f"{self.model.num_labels}; task text_classification takes pairs as well, and "
                "sparsert.CrossEncoder.predict gives all numbers"
            )

    def preprocess(self, inputs: Sequence[TextRankingInput]) -> list[PreparedRows | InputError]:
        """Tokenize queries and documents, each different text once, and make a row of each pair."""
        queries = [self.encoder.prompt() + item.query for item in inputs]
        found = self.model.tokenize(queries + [text for item in inputs for text in item.documents])
        return [self._prepare(item, query, found) for item, query in zip(inputs, queries, strict=True)]

    def _prepare(
        self, item: TextRankingInput, query: str, found: Mapping[str, np.ndarray | InputError]
    ) -> PreparedRows | InputError:
        try:
            first = tokens_of_text(found, query, "query")
            documents = tokens_of(found, item.documents, "documents")
        except InputError as error:
            return error
        rows = []
        for index, second in enumerate(documents):
            try:
                rows.append(self.model.row(first, second))
            except InputError as error:
                return type(error)(f"documents[{index}]: {error}")
        return PreparedRows(item, rows)

    def tokens(self, prepared: PreparedRows) -> int:
        """Tokens of all pairs, each with the query and special tokens."""
        return self.model.tokens(prepared)

    def forward(self, prepared: Sequence[PreparedRows]) -> Iterator[RowOutputs]:
        """Run all pairs of all requests, a slice of them at a time, in order."""
        return self.model.forward(prepared)

    def postprocess(self, prepared: Sequence[PreparedRows], outputs: Iterable[RowOutputs]) -> list[TextRankingOutput]:
        """The ranking of each request's documents."""
        found = self.model.logits(prepared, outputs)
        return [self._ranking(item.inputs, logits) for item, logits in zip(prepared, found, strict=True)]

    def _ranking(self, inputs: TextRankingInput, logits: np.ndarray) -> TextRankingOutput:
        scores = (logits if inputs.raw_scores else self.encoder.activated(logits))[:, 0]
        places = top_k(scores, inputs.top_k)
        results = [
            RankedDocument(index=place, score=score, text=inputs.documents[place] if inputs.return_documents else None)
            for place, score in zip(places.tolist(), scores[places].tolist(), strict=True)
        ]
        return TextRankingOutput(results=results)
