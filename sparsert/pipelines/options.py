"""The options of a pipeline as data."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["PipelineConfig"]


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
    executor: int | None = None
    benchmark: bool = False
    alias: str | None = None
    logger: dict[str, Any] | str | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict)
    """Options of the task, such as ``sequence_length`` and ``doc_stride`` for question answering."""
