"""Accuracy of a model on a question-answering dataset, by the published metrics of SQuAD.

>>> from sparsert.evaluate import evaluate
>>> result = evaluate("default", "dev.json", compare="onnxruntime")
>>> result.f1, result.comparison.largest_logit_difference
"""

from __future__ import annotations

from sparsert.evaluate.evaluation import Comparison, EngineScores, Evaluation, Scorer, evaluate
from sparsert.pipelines.question_answering.dataset import Example, read_dataset
from sparsert.pipelines.question_answering.evaluation import SQUAD_OPTIONS
from sparsert.pipelines.question_answering.metrics import exact_match, f1_score, normalize_answer, squad_v1, squad_v2

__all__ = [
    "SQUAD_OPTIONS",
    "Comparison",
    "EngineScores",
    "Evaluation",
    "Example",
    "Scorer",
    "evaluate",
    "exact_match",
    "f1_score",
    "normalize_answer",
    "read_dataset",
    "squad_v1",
    "squad_v2",
]
