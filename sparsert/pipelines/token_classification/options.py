"""The options of token classification."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sparsert.errors import InputError
from sparsert.pipelines.options import at_least, option
from sparsert.pipelines.row_model import TextOptions
from sparsert.pipelines.token_classification.entities import STRATEGIES

__all__ = ["TokenClassificationOptions"]


@dataclass(frozen=True, kw_only=True)
class TokenClassificationOptions(TextOptions):
    """The options of token classification, checked as far as they do not depend on the model.

    Raises
    ------
    InputError
        An option makes no sense.
    """

    truncation: bool = option(False, "read only what fits into one row; False reads the whole text through windows")
    aggregation_strategy: str = option(
        "none", 'how tokens become entities: `"none"`, `"simple"`, `"first"`, `"average"` or `"max"`; see below'
    )
    ignore_labels: Sequence[str] | None = option(
        None,
        "labels that are not reported; with aggregation, names of groups",
        shown='`["O"]`',
        config=list[str] | None,
    )
    stride: int | None = option(
        None,
        "tokens that windows share, each of which is then aggregated by itself, as transformers does",
        shown="see below",
    )
    delimiter: str = option(" ", "what stands between words that are given one by one")

    def __post_init__(self) -> None:
        super().__post_init__()
        strategy = self.aggregation_strategy
        strategy = strategy.strip().lower() if isinstance(strategy, str) else strategy
        if strategy not in STRATEGIES:
            raise InputError(
                f"aggregation_strategy must be one of {list(STRATEGIES)}, got {self.aggregation_strategy!r}"
            )
        ignored = ["O"] if self.ignore_labels is None else self.ignore_labels
        if (
            not isinstance(ignored, Collection)
            or isinstance(ignored, str)
            or not all(isinstance(label, str) for label in ignored)
        ):
            raise InputError(f"ignore_labels must be a list of strings, got {self.ignore_labels!r}")
        if not isinstance(self.delimiter, str):
            raise InputError(f"delimiter must be a string, got {self.delimiter!r}")
        if self.stride is not None:
            at_least("stride", self.stride, 0)
            if strategy == "none":
                raise InputError(
                    "stride chooses among the entities of windows, so it needs an aggregation_strategy other than "
                    "'none'; leave stride out: the whole text is read without it as well"
                )
            if self.truncation:
                raise InputError("truncation reads one window, stride several; leave one of them out")
        self._set(aggregation_strategy=strategy, ignore_labels=list(ignored))
