"""Requests and results of zero-shot classification as pydantic models: checked, JSON-able, describable over HTTP."""

from __future__ import annotations

from pydantic import BaseModel, Field, StrictBool

from sparsert.errors import InputError
from sparsert.pipelines.zero_shot_text_classification.hypotheses import check_template, parse_labels
from sparsert.pipelines.zero_shot_text_classification.options import ZeroShotOptions, one_of

__all__ = ["ZeroShotInput", "ZeroShotOutput"]


class ZeroShotInput(BaseModel):
    """Texts and labels, in DeepSparse's words or in those of transformers. Other fields are ignored."""

    sequences: str | list[str] = Field(description="The text, or a list of texts")
    labels: str | list[str] | None = Field(
        default=None,
        description="The labels, a list or a string with commas between them, unless the pipeline has some",
    )
    candidate_labels: str | list[str] | None = Field(default=None, description="Another name of labels")
    hypothesis_template: str | None = Field(
        default=None, description="What is asked of each label, which stands for {}; by default the pipeline's"
    )
    multi_label: StrictBool | None = Field(
        default=None, description="Score each label by itself, or take one to be right; by default as the pipeline does"
    )
    multi_class: StrictBool | None = Field(default=None, description="Another name of multi_label")

    def texts(self) -> list[str]:
        """The texts, at least one.

        Raises
        ------
        InputError
            There are none.
        """
        if not self.sequences and not isinstance(self.sequences, str):
            raise InputError("sequences is empty: expected a text, or a list of at least one")
        return [self.sequences] if isinstance(self.sequences, str) else self.sequences

    def asked(self, options: ZeroShotOptions) -> tuple[list[str], str, bool]:
        """Labels, template, and whether each label counts by itself, with what is left out from a pipeline's options.

        Raises
        ------
        InputError
            There are no labels, or two sets of them under two names, or something makes no sense.
        """
        labels = one_of("labels", self.labels, "candidate_labels", self.candidate_labels)
        if labels is None and options.labels is None:
            raise InputError("labels are missing: neither the request nor the pipeline has any")
        template = self.hypothesis_template
        multi_label = one_of("multi_label", self.multi_label, "multi_class", self.multi_class)
        return (
            list(options.labels or ()) if labels is None else parse_labels(labels),
            options.hypothesis_template if template is None else check_template(template),
            options.multi_label if multi_label is None else multi_label,
        )


class ZeroShotOutput(BaseModel):
    """The labels of each text with their scores, the best first; of equal scores, in the order of the request.

    For a list of texts, ``labels`` and ``scores`` are lists of lists, in the order of the texts.
    """

    sequences: str | list[str] = Field(description="The text, or the texts, of the request")
    labels: list[str] | list[list[str]] = Field(description="All labels, best first")
    scores: list[float] | list[list[float]] = Field(description="The probability of each")
