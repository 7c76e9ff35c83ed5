"""Metrics of entities against what seqeval gave, and cases by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from sparsert.pipelines.token_classification.metrics import entity_metrics, spans_of_tags

RECORDED = Path(__file__).parent / "data" / "entity-metrics.json.gz"


def test_equal_to_seqeval() -> None:
    record = json.loads(gzip.decompress(RECORDED.read_bytes()))
    assert len(record["datasets"]) > 300
    for dataset in record["datasets"]:
        named = [[[record["tags"][tag] for tag in tags] for tags in text] for text in dataset["texts"]]
        truths, found = ([spans_of_tags(tags) for tags in column] for column in zip(*named, strict=True))
        assert truths == [[(first, last + 1, kind) for kind, first, last in spans] for spans in dataset["spans"]]
        expected = {}
        for prefix, (precision, recall, f1, support) in dataset["expected"].items():
            values = {"f1": 100 * f1, "precision": 100 * precision, "recall": 100 * recall, "total": support}
            expected |= {prefix + name: value for name, value in values.items()}
        assert entity_metrics(truths, found) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("", []),
        ("O O", []),
        ("B-X I-X O", [(0, 2, "X")]),
        ("I-X I-X", [(0, 2, "X")]),
        ("B-X B-X I-Y", [(0, 1, "X"), (1, 2, "X"), (2, 3, "Y")]),
        ("B-X I-X E-X I-X S-X", [(0, 3, "X"), (3, 4, "X"), (4, 5, "X")]),
        ("B-X L-X U-X", [(0, 2, "X"), (2, 3, "X")]),
        ("PER PER LOC O PER", [(0, 2, "PER"), (2, 3, "LOC"), (4, 5, "PER")]),
        ("B-PER-X I-PER-X", [(0, 2, "PER-X")]),
        ("A-X A-X", [(0, 2, "A-X")]),  # no letter of any scheme
    ],
)
def test_spans(tags: str, spans: list) -> None:
    assert spans_of_tags(tags.split()) == spans


def test_metrics_by_hand() -> None:
    truths = [[(0, 1, "PER"), (3, 5, "LOC")], [(0, 2, "PER")], []]
    found = [[(0, 1, "PER"), (3, 4, "LOC")], [(0, 2, "LOC")], [(0, 1, "PER")]]
    metrics = entity_metrics(truths, found)
    assert (metrics["precision"], metrics["recall"], metrics["total"]) == (25, pytest.approx(100 / 3), 3)
    assert metrics["f1"] == pytest.approx(200 * 1 / 7)
    assert (metrics["PER f1"], metrics["LOC f1"], metrics["LOC total"]) == (50, 0, 1)
    assert entity_metrics([[]], [[]]) == {"f1": 0, "precision": 0, "recall": 0, "total": 0}
    with pytest.raises(ValueError, match="zip"):
        entity_metrics([[]], [])
