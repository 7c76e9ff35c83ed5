"""Accuracy of a model on a question-answering dataset, by the published metrics of SQuAD.

>>> from sparsert.evaluate import evaluate
>>> result = evaluate("default", "dev.json", compare="onnxruntime")
>>> result.f1, result.comparison.largest_logit_difference
"""

from __future__ import annotations

from sparsert.evaluate.dataset import Example, read_dataset
from sparsert.evaluate.evaluation import SQUAD_OPTIONS, Comparison, EngineScores, Evaluation, evaluate
from sparsert.evaluate.metrics import exact_match, f1_score, normalize_answer, squad_v1, squad_v2

__all__ = [
    "SQUAD_OPTIONS",
    "Comparison",
    "EngineScores",
    "Evaluation",
    "Example",
    "evaluate",
    "exact_match",
    "f1_score",
    "normalize_answer",
    "read_dataset",
    "squad_v1",
    "squad_v2",
]
