"""Questions and answers as pydantic models: checked, JSON-able, and describable over HTTP."""

from __future__ import annotations

import html

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from sparsert.pipelines.question_answering.highlight import highlight

__all__ = ["QuestionAnsweringInput", "QuestionAnsweringOutput", "QuestionAnsweringProbabilityOutput"]


class QuestionAnsweringInput(BaseModel):
    """One question about one context. Fields that are not listed here are ignored."""

    question: str = Field(description="The question to answer")
    context: str = Field(description="The text that the answer is taken from")
    id: str | None = Field(default=None, description="A name for this question, kept with its answer in dumps")


class QuestionAnsweringOutput(BaseModel):
    """An answer and where it stands: ``answer == context[start:end]``, in code points.

    In a notebook it shows itself as the context with the answer marked.
    """

    # Tells a page where to show the answer: start and end are places in this field of the request.
    model_config = ConfigDict(json_schema_extra={"x-span-of": "context"})

    score: float = Field(
        description="Sum of the raw start and end logits, or a probability: see the pipeline's scoring"
    )
    answer: str = Field(description="The answer, a piece of the context; empty if there is none")
    start: int = Field(description="Index of the answer's first code point in the context")
    end: int = Field(description="Index after the answer's last code point in the context")

    _context: str | None = PrivateAttr(default=None)

    def in_context(self, context: str) -> QuestionAnsweringOutput:
        """Remember the context, for notebooks only: it is neither compared nor written to JSON."""
        self._context = context
        return self

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def _repr_html_(self) -> str | None:
        if self._context is None:
            return None
        title = html.escape(f"{self.answer or 'no answer'} (score {self.score:.4g})")
        return f"<p><strong>{title}</strong></p>{highlight(self._context, [(self.start, self.end)])}"


class QuestionAnsweringProbabilityOutput(QuestionAnsweringOutput):
    """An answer with its probability, which ``return_probability=True`` asks for."""

    probability: float = Field(description="Share of this answer among the best ones, from 0 to 1")
