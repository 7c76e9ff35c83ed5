"""The options of text ranking."""

from __future__ import annotations

from dataclasses import dataclass

from sparsert.pipelines.options import option
from sparsert.pipelines.row_model import TextOptions
from sparsert.pipelines.text_ranking.activations import check_activation

__all__ = ["TextRankingOptions"]


@dataclass(frozen=True, kw_only=True)
class TextRankingOptions(TextOptions):
    """The options of text ranking, checked as far as they do not depend on the model.

    Raises
    ------
    InputError
        An option makes no sense.
    """

    activation: str | None = option(
        None,
        'what makes scores of logits: `"sigmoid"`, `"identity"` or `"softmax"`',
        shown='what the model\'s folder says, else `"sigmoid"`',
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.activation is not None:
            self._set(activation=check_activation(self.activation))
