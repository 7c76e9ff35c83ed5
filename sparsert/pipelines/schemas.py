"""What goes into a pipeline and what comes out, as pydantic models: checked, JSON-able, and describable over HTTP."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "PipelineConfig",
    "QuestionAnsweringInput",
    "QuestionAnsweringOutput",
    "QuestionAnsweringProbabilityOutput",
]


class QuestionAnsweringInput(BaseModel):
    """One question about one context. Fields that are not listed here are ignored."""

    question: str = Field(description="The question to answer")
    context: str = Field(description="The text that the answer is taken from")
    id: str | None = Field(default=None, description="A name for this question, kept with its answer in dumps")


class QuestionAnsweringOutput(BaseModel):
    """An answer and where it stands: ``answer == context[start:end]``, in code points."""

    score: float = Field(description="Sum of the raw start and end logits; not a probability")
    answer: str = Field(description="The answer, a piece of the context; empty if there is none")
    start: int = Field(description="Index of the answer's first code point in the context")
    end: int = Field(description="Index after the answer's last code point in the context")


class QuestionAnsweringProbabilityOutput(QuestionAnsweringOutput):
    """An answer with its probability, which ``return_probability=True`` asks for."""

    probability: float = Field(description="Share of this answer among the best ones, from 0 to 1")


class PipelineConfig(BaseModel):
    """A pipeline as data: ``Pipeline.from_config(config)`` builds it, ``pipeline.to_config()`` gives it back."""

    # The field is called model_path; pydantic reserves the prefix "model_" for itself unless told otherwise.
    model_config = ConfigDict(protected_namespaces=(), extra="forbid")

    task: str
    model_path: str | None = None
    engine_type: str = "sparsert"
    batch_size: int | None = None
    num_cores: int | None = None
    num_streams: int | None = None
    scheduler: str | None = None
    alias: str | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Options of the task, such as ``sequence_length`` and ``doc_stride`` for question answering."""
