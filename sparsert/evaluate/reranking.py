"""How ``sparsert.evaluate`` scores text ranking: where the relevant documents of a query come to stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sparsert.errors import InputError
from sparsert.evaluate.ranking_metrics import ndcg, reciprocal_rank
from sparsert.pipelines.heads import top_k
from sparsert.pipelines.records import (
    check_object,
    collect,
    id_of,
    kind_of,
    list_of,
    read_records,
    text_of,
    value_of,
)
from sparsert.pipelines.row_model import RowOutputs
from sparsert.pipelines.text_ranking import TextRankingInput, TextRankingPipeline

__all__ = ["RankingExample", "RankingScorer", "read_rankings"]

_DEPTH = 10


@dataclass(frozen=True)
class RankingExample:
    """A query of a dataset with documents; ``answers`` are the gains of the relevant ones by their index."""

    id: str
    query: str
    documents: tuple[str, ...]
    answers: Mapping[int, float]


def read_rankings(path: str | Path, max_samples: int | None = None) -> list[RankingExample]:
    """Read records ``{"query", "documents", "relevant"}``, perhaps with ``"id"``: a JSON list, or JSON lines.

    ``relevant`` is a list of indices of documents, or an object of gains by index. Records without a relevant document
    are left out, since no ranking of them is better than another. Without ``id``, a record is called by its number.

    Parameters
    ----------
    path : str or Path
        The file, in UTF-8.
    max_samples : int, optional
        Read the first so many records only.

    Raises
    ------
    InputError
        The file cannot be read or is none of these; the message names file, record and key.
    """
    return collect(path, _examples(path), max_samples, "queries with a relevant document")


def _examples(path: str | Path) -> Iterator[tuple[str, RankingExample]]:
    for number, (name, record) in enumerate(read_records(path), 1):
        place = f"{path}: {name}"
        check_object(place, record)
        documents = list_of(place, record, "documents")
        for index, document in enumerate(documents):
            if not isinstance(document, str):
                raise InputError(f"{place}: 'documents' must hold strings, got {kind_of(document)} at {index}")
        gains = _gains(place, value_of(place, record, "relevant"), len(documents))
        if any(gains.values()):
            identity = id_of(place, record) if "id" in record else str(number)
            yield place, RankingExample(identity, text_of(place, record, "query"), tuple(documents), gains)


def _gains(place: str, relevant: Any, documents: int) -> dict[int, float]:
    """Gains of relevant documents by their index."""
    if not isinstance(relevant, (list, dict)):
        raise InputError(
            f"{place}: 'relevant' must be a list of indices, or an object of gains, got {kind_of(relevant)}"
        )
    gains = relevant if isinstance(relevant, dict) else dict.fromkeys(map(str, relevant), 1.0)
    for index, gain in gains.items():
        if not index.isdecimal() or int(index) >= documents:
            raise InputError(f"{place}: 'relevant' must have indices of the {documents} documents, got {index!r:.40}")
        if isinstance(gain, bool) or not isinstance(gain, (int, float)) or not gain >= 0:
            raise InputError(f"{place}: the gain of document {index} must be a number of at least 0, got {gain!r:.40}")
    return {int(index): float(gain) for index, gain in gains.items()}


class RankingScorer:
    """The rankings of one pipeline so far; see :class:`sparsert.evaluate.evaluation.Scorer`."""

    options: ClassVar[Mapping[str, Any]] = {}
    flags: ClassVar[Mapping[str, tuple[type, str]]] = {
        "batch_size": (int, "most pairs in one call of the engine (default: as many as keep the cores busy)"),
        "num_cores": (int, "cores of either engine (default: all)"),
        "sequence_length": (int, "most tokens of a pair (default: what the model takes)"),
    }
    datasets: ClassVar[str] = """\
Datasets are lists of records {"query", "documents", "relevant"}, JSON or JSON lines; relevant is a list of indices of
documents, or an object of gains by index. Metrics, in percent: nDCG@10 and MRR@10."""
    main: ClassVar[str] = f"ndcg@{_DEPTH}"
    read = staticmethod(read_rankings)

    def __init__(self, pipeline: TextRankingPipeline) -> None:
        self._pipeline = pipeline
        self._rankings: dict[str, list[int]] = {}

    @staticmethod
    def check(truths: Mapping[str, Mapping[int, float]], options: Mapping[str, Any]) -> None:
        """Refuse a dataset that cannot be scored."""
        if not all(any(gains.values()) for gains in truths.values()):
            raise InputError("each query of the dataset must have a relevant document; leave the others out")

    @staticmethod
    def request(example: RankingExample) -> TextRankingInput:
        """What the pipeline is asked."""
        return TextRankingInput(query=example.query, documents=list(example.documents))

    def add(self, examples: Sequence[RankingExample], parts: Sequence[RowOutputs]) -> tuple[int, int]:
        """Note the rankings of some queries' documents; the numbers of pairs and of tokens that were read for them."""
        scores = self._pipeline.encoder.activated(np.concatenate([part.outputs["logits"] for part in parts]))[:, 0]
        ends = np.cumsum([len(example.documents) for example in examples])
        for example, values in zip(examples, np.split(scores, ends[:-1]), strict=True):
            self._rankings[example.id] = top_k(values).tolist()
        return len(scores), sum(int(part.rows.lengths.sum()) for part in parts)

    def scores(
        self, truths: Mapping[str, Mapping[int, float]]
    ) -> tuple[dict[str, float], dict[str, str], dict[str, float] | None]:
        """Metrics, and for each query the index of the best document, once everything is answered."""
        ranked = [[truths[name].get(place, 0.0) for place in places] for name, places in self._rankings.items()]
        metrics = {
            f"ndcg@{_DEPTH}": 100 * float(np.mean([ndcg(gains, _DEPTH) for gains in ranked])),
            f"mrr@{_DEPTH}": 100 * float(np.mean([reciprocal_rank(gains, _DEPTH) for gains in ranked])),
        }
        return metrics, {name: str(places[0]) for name, places in self._rankings.items()}, None
