"""How well embeddings find what is relevant: datasets of queries and documents, and the metrics of a search by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sparsert.errors import InputError
from sparsert.evaluate.ranking_metrics import ndcg, recall, reciprocal_rank
from sparsert.pipelines.embedding_extraction import EmbeddingInput, EmbeddingPipeline
from sparsert.pipelines.embedding_extraction.embedder import DOCUMENT, QUERY
from sparsert.pipelines.embedding_extraction.similarity import similarity
from sparsert.pipelines.question_answering.dataset import read_dataset
from sparsert.pipelines.records import check_object, kind_of, read_records, text_of, value_of
from sparsert.pipelines.row_model import RowOutputs

__all__ = ["RetrievalScorer", "RetrievalText", "read_retrieval", "search"]

# Documents of a ranking that metrics look at.
_DEPTH = 100

# Queries that are compared with all documents at once: 25 MB of scores for 100,000 documents.
_QUERIES = 64


@dataclass(frozen=True)
class RetrievalText:
    """A query or a document of a dataset.

    Attributes
    ----------
    id : str
        Its name, which begins with the kind, since a query and a document may be called alike.
    text : str
        What is embedded.
    kind : {"query", "document"}
        Which prompt it gets.
    answers : mapping of str to float
        Of a query, the ids of relevant documents with their gains; empty for documents.
    """

    id: str
    text: str
    kind: str
    answers: Mapping[str, float] = field(default_factory=dict)


def read_retrieval(path: str | Path, max_samples: int | None = None) -> list[RetrievalText]:
    """Read a dataset of queries and documents.

    - ``{"queries": {id: text}, "corpus": {id: text}, "relevant": {query id: [document id]}}``: instead of a text a
      document may be ``{"title", "text"}``, and instead of a list ``relevant`` may give ``{document id: gain}``;
    - question answering, as of :func:`sparsert.evaluate.read_dataset`: the questions that have answers look for their
      contexts.

    Parameters
    ----------
    path : str or Path
        The file, JSON in UTF-8.
    max_samples : int, optional
        Take the first so many queries only, with all documents.

    Raises
    ------
    InputError
        The file cannot be read or is none of these; the message names file and key.
    """
    content = _sections(path)
    if content is None:
        queries, corpus, relevant = _of_questions(path)
    else:
        queries = {name: _text(path, "queries", name, value) for name, value in content["queries"].items()}
        corpus = {name: _text(path, "corpus", name, value) for name, value in content["corpus"].items()}
        relevant = {name: _gains(path, name, found, corpus) for name, found in content["relevant"].items()}
        unknown = next((name for name in relevant if name not in queries), None)
        if unknown is not None:
            raise InputError(f"{path}: relevant names the query {unknown!r}, which queries does not have")
    asked = [name for name in queries if any(relevant.get(name, {}).values())][:max_samples]
    if not asked:
        raise InputError(f"{path} has no query with a relevant document")
    texts = [
        RetrievalText(
            f"{QUERY} {name}",
            queries[name],
            QUERY,
            {f"{DOCUMENT} {found}": gain for found, gain in relevant[name].items()},
        )
        for name in asked
    ]
    return texts + [RetrievalText(f"{DOCUMENT} {name}", text, DOCUMENT) for name, text in corpus.items()]


def search(queries: np.ndarray, documents: np.ndarray, function: str = "cosine", depth: int = _DEPTH) -> np.ndarray:
    """Documents by their similarity to each query.

    Parameters
    ----------
    queries, documents : float32 array, shape (Q, D) and (M, D)
        Their embeddings.
    function : str
        One of the similarity functions of embeddings.
    depth : int
        How many documents of each ranking.

    Returns
    -------
    int array, shape (Q, min(depth, M))
        Indices of documents, the most alike first, of equal ones the first.
    """
    rankings = []
    for begin in range(0, len(queries), _QUERIES):
        scores = -similarity(queries[begin : begin + _QUERIES], documents, function)
        rankings.append(np.argsort(scores, axis=1, kind="stable")[:, :depth])
    return np.concatenate(rankings)


class RetrievalScorer:
    """The vectors of one pipeline so far; see :class:`sparsert.evaluate.evaluation.Scorer`."""

    options: ClassVar[Mapping[str, Any]] = {}
    flags: ClassVar[Mapping[str, tuple[type, str]]] = {
        "batch_size": (int, "most texts in one call of the engine (default: as many as keep the cores busy)"),
        "num_cores": (int, "cores of either engine (default: all)"),
        "sequence_length": (int, "most tokens of a text (default: what the model takes)"),
        "pooling": (str, "how tokens are pooled (default: what the model's folder says)"),
        "truncate_dim": (int, "keep the first so many numbers of a vector (default: all)"),
    }
    datasets: ClassVar[str] = """\
Datasets are JSON objects {"queries": {id: text}, "corpus": {id: text}, "relevant": {query id: [document ids]}}, or
files of questions as for question answering, whose contexts are to be found. Metrics are nDCG@10, MRR@10 and recall at
1, 10 and 100, in percent, of a search through all documents by the model's own similarity."""
    main: ClassVar[str] = "ndcg@10"
    read = staticmethod(read_retrieval)

    def __init__(self, pipeline: EmbeddingPipeline) -> None:
        self._embedder = pipeline.embedder
        if not self._embedder.modes:
            raise InputError("pooling 'none' gives no vectors of texts to search with; choose another, such as 'mean'")
        self._names: dict[str, list[str]] = {QUERY: [], DOCUMENT: []}
        self._vectors: dict[str, list[np.ndarray]] = {QUERY: [], DOCUMENT: []}

    @staticmethod
    def check(truths: Mapping[str, Mapping[str, float]], options: Mapping[str, Any]) -> None:
        """Refuse a dataset that cannot be scored."""
        if not any(truths.values()):
            raise InputError("the dataset has no query with a relevant document")

    @staticmethod
    def request(example: RetrievalText) -> EmbeddingInput:
        """What the pipeline is asked."""
        return EmbeddingInput(inputs=example.text, prompt_name=example.kind)

    def add(self, examples: Sequence[RetrievalText], parts: Sequence[RowOutputs]) -> tuple[int, int]:
        """Note the vectors of some texts; the numbers of texts and of tokens."""
        vectors = self._embedder.finish(np.concatenate([part.outputs["embeddings"] for part in parts]))
        for example, vector in zip(examples, vectors, strict=True):
            self._names[example.kind].append(example.id)
            self._vectors[example.kind].append(vector)
        return len(examples), sum(int(part.rows.lengths.sum()) for part in parts)

    def scores(
        self, truths: Mapping[str, Mapping[str, float]]
    ) -> tuple[dict[str, float], dict[str, str], dict[str, float] | None]:
        """Metrics, and for each query the document that was found first."""
        documents = self._names[DOCUMENT]
        vectors = {kind: np.stack(found) for kind, found in self._vectors.items()}
        rankings = search(vectors[QUERY], vectors[DOCUMENT], self._embedder.folder.similarity)
        values: dict[str, list[float]] = {}
        predictions = {}
        for name, ranking in zip(self._names[QUERY], rankings.tolist(), strict=True):
            truth = truths[name]
            predictions[name.removeprefix(f"{QUERY} ")] = documents[ranking[0]].removeprefix(f"{DOCUMENT} ")
            ranked = [truth.get(documents[place], 0) for place in ranking]
            relevant = list(truth.values())
            values.setdefault("ndcg@10", []).append(ndcg(ranked, 10, relevant))
            values.setdefault("mrr@10", []).append(reciprocal_rank(ranked, 10))
            for depth in (1, 10, 100):
                values.setdefault(f"recall@{depth}", []).append(recall(ranked, depth, relevant))
        return {name: 100 * float(np.mean(found)) for name, found in values.items()}, predictions, None


def _sections(path: str | Path) -> dict[str, dict[str, Any]] | None:
    """The three sections of a file that has them; None for one of another kind."""
    (place, content), *others = read_records(path) or [("", None)]
    if others or not isinstance(content, dict) or "queries" not in content:
        return None
    for name in ("queries", "corpus", "relevant"):
        check_object(f"{path}: {name}", value_of(f"{path}: {place}", content, name))
    return content


def _of_questions(path: str | Path) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, float]]]:
    """Questions that look for their contexts; equal contexts are one document."""
    examples = read_dataset(path)
    corpus = {context: str(number) for number, context in enumerate(dict.fromkeys(item.context for item in examples))}
    answered = [item for item in examples if item.answers]
    queries = {item.id: item.question for item in answered}
    relevant = {item.id: {corpus[item.context]: 1.0} for item in answered}
    return queries, {name: context for context, name in corpus.items()}, relevant


def _text(path: str | Path, section: str, name: str, value: Any) -> str:
    """What is embedded of a query or a document."""
    if isinstance(value, str):
        return value
    place = f"{path}: {section}, {name!r}"
    check_object(place, value)
    title = text_of(place, value, "title") if "title" in value else ""
    return f"{title} {text_of(place, value, 'text')}".strip()


def _gains(path: str | Path, query: str, found: Any, corpus: Mapping[str, str]) -> dict[str, float]:
    """Relevant documents of a query with their gains."""
    place = f"{path}: relevant, {query!r}"
    gains = dict.fromkeys(map(str, found), 1.0) if isinstance(found, list) else found
    if not isinstance(gains, dict):
        raise InputError(f"{place} must be a list of ids, or an object of gains, got {kind_of(found)}")
    for name, gain in gains.items():
        if name not in corpus:
            raise InputError(f"{place} names the document {name!r}, which corpus does not have")
        if isinstance(gain, bool) or not isinstance(gain, (int, float)) or not gain >= 0:
            raise InputError(f"{place}: the gain of {name!r} must be a number of at least 0, got {gain!r:.40}")
    return {name: float(gain) for name, gain in gains.items()}
