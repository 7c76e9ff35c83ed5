"""The options of text classification."""

from __future__ import annotations

from dataclasses import dataclass

from sparsert.errors import InputError
from sparsert.pipelines.heads import head_function
from sparsert.pipelines.options import at_least, option
from sparsert.pipelines.row_model import TextOptions

__all__ = ["TextClassificationOptions"]


@dataclass(frozen=True, kw_only=True)
class TextClassificationOptions(TextOptions):
    """The options of text classification, checked as far as they do not depend on the model.

    Raises
    ------
    InputError
        An option makes no sense.
    """

    top_k: int | None = option(
        1, "labels for each text, best first; None is all of them. More than one come as a list for each text"
    )
    return_all_scores: bool = option(False, "another way to say `top_k=None`")
    function_to_apply: str | None = option(
        None,
        'what makes scores of logits: `"softmax"`, `"sigmoid"` or `"none"`',
        shown="by the model's `config.json`, see below",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k is not None:
            at_least("text_classification top_k", self.top_k, 1)
        if self.return_all_scores and self.top_k not in (1, None):
            raise InputError(
                f"Mismatch: return_all_scores asks for all labels, top_k for {self.top_k}; leave one of them out"
            )
        function = self.function_to_apply
        self._set(
            return_all_scores=bool(self.return_all_scores),
            function_to_apply=None if function is None else head_function(None, 1, function),
        )

    @property
    def labels_asked(self) -> int | None:
        """How many labels each text gets; None for all."""
        return None if self.return_all_scores else self.top_k
