"""Pipelines: text in, answer out.

>>> from sparsert.pipelines import Pipeline
>>> pipeline = Pipeline.create(task="question-answering")
>>> pipeline(question="Who keeps bees?", context="Ada keeps bees.").answer
'Ada'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sparsert.pipelines.base import Pipeline
from sparsert.pipelines.options import PipelineConfig

if TYPE_CHECKING:
    from sparsert.pipelines.question_answering import (
        QuestionAnsweringInput,
        QuestionAnsweringOutput,
        QuestionAnsweringProbabilityOutput,
    )

__all__ = [
    "Pipeline",
    "PipelineConfig",
    "QuestionAnsweringInput",
    "QuestionAnsweringOutput",
    "QuestionAnsweringProbabilityOutput",
]

# Names of tasks begin as their folders' do, which are imported when one is first used.
_FOLDERS = {"QuestionAnswering": "question_answering"}


def __getattr__(name: str) -> Any:
    folder = next((folder for prefix, folder in _FOLDERS.items() if name.startswith(prefix)), None)
    if folder is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{folder}"), name)
