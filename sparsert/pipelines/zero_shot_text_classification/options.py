"""The options of zero-shot classification, in DeepSparse's words and in those of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparsert.errors import InputError
from sparsert.pipelines.options import at_least, option
from sparsert.pipelines.row_model import TextOptions
from sparsert.pipelines.zero_shot_text_classification.hypotheses import check_template, parse_labels

__all__ = ["ZeroShotOptions", "one_of"]

_SCHEMES = ("mnli",)
_TEMPLATE = "This text is about {}"
_CONFIG_KEYS = ("hypothesis_template", "entailment_index", "contradiction_index", "multi_class")


@dataclass(frozen=True, kw_only=True)
class ZeroShotOptions(TextOptions):
    """The options of zero-shot classification, checked as far as they do not depend on the model.

    Raises
    ------
    InputError
        An option makes no sense.
    """

    labels: Sequence[str] | str | None = option(
        None,
        "the labels of requests that have none of their own, a list or a str with commas between them",
        config=list[str] | str | None,
    )
    candidate_labels: Sequence[str] | str | None = option(None, "another name of `labels`", config=None)
    hypothesis_template: str = option(_TEMPLATE, "what is asked of each label, which stands for `{}`")
    multi_label: bool = option(False, "score each label by itself; otherwise, one of them is right")
    multi_class: bool | None = option(None, "another name of `multi_label`, DeepSparse's", config=None)
    entailment_index: int | None = option(
        None, "which logit means that a text entails a hypothesis", shown="by `config.json`, see below"
    )
    contradiction_index: int | None = option(
        None, "which logit means that it contradicts it", shown="by `config.json`, see below"
    )
    model_scheme: str = option("mnli", "the kind of model; there is no other")
    model_config: Mapping[str, Any] | None = option(
        None, f"DeepSparse's way to give {', '.join(f'`{name}`' for name in _CONFIG_KEYS)}", config=None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model_scheme not in _SCHEMES:
            raise InputError(f"model_scheme must be one of {list(_SCHEMES)}, got {self.model_scheme!r}")
        given = {name: getattr(self, name) for name in _CONFIG_KEYS}
        for name, value in _checked_config(self.model_config).items():
            if given[name] not in (None, getattr(type(self), name)) and given[name] != value:
                raise InputError(f"{name} is {given[name]!r} and in model_config {value!r}; give it once")
            given[name] = value
        for name in ("entailment_index", "contradiction_index"):
            if given[name] is not None:
                at_least(name, given[name], 0)
        labels = one_of("labels", self.labels, "candidate_labels", self.candidate_labels)
        self._set(
            labels=None if labels is None else parse_labels(labels),
            hypothesis_template=check_template(given["hypothesis_template"]),
            multi_label=bool(self.multi_label or given["multi_class"]),
            entailment_index=given["entailment_index"],
            contradiction_index=given["contradiction_index"],
        )


def _checked_config(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """DeepSparse's ``model_config``, without what is None."""
    if config is None:
        return {}
    if not isinstance(config, Mapping):
        raise InputError(f"model_config must be a mapping of {list(_CONFIG_KEYS)}, got {config!r:.80}")
    unknown = sorted(set(config) - set(_CONFIG_KEYS), key=str)
    if unknown:
        raise InputError(f"model_config has {unknown}; it may have {list(_CONFIG_KEYS)}")
    return {name: value for name, value in config.items() if value is not None}


def one_of(name: str, value: Any, other_name: str, other: Any) -> Any:
    """What was given under one of two names; None if neither was.

    Raises
    ------
    InputError
        Both were given, and differ.
    """
    if value is not None and other is not None and value != other:
        raise InputError(
            f"{name} and {other_name} mean the same, got {value!r:.80} and {other!r:.80}; give one of them"
        )
    return value if value is not None else other
