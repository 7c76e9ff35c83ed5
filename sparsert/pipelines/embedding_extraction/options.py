"""The options of embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparsert.errors import InputError
from sparsert.pipelines.embedding_extraction.pooling import POOLING_MODES
from sparsert.pipelines.embedding_extraction.precision import check_precision
from sparsert.pipelines.options import at_least, option
from sparsert.pipelines.row_model import TextOptions

__all__ = ["EXTRACTION_STRATEGIES", "EmbeddingOptions"]

EXTRACTION_STRATEGIES = ("per_token", "reduce_mean", "reduce_max", "cls_token")

# A short name, and what text-embeddings-inference and fastembed call it
_OTHER_NAMES = {"last": "lasttoken"}


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptions(TextOptions):
    """The options of embeddings, checked as far as they do not depend on the model.

    Raises
    ------
    InputError
        An option makes no sense.
    """

    pooling: str | Sequence[str] | None = option(
        None,
        'how the vectors of tokens become one: `"mean"`, `"cls"`, `"max"`, `"last"`, `"weightedmean"`, '
        '`"mean_sqrt_len_tokens"`, or a list whose vectors stand one after another; `"none"` keeps a vector for each '
        "token",
        shown='what the model\'s folder says, else `"mean"`',
    )
    normalize: bool | None = option(
        None,
        "True: vectors of length 1, after `truncate_dim`; False: not even where the folder says so",
        shown="what the model's folder says",
    )
    prompts: Mapping[str, str] | None = option(
        None,
        "prompts by name, put before a text; they come on top of those of the folder",
        config=dict[str, str] | None,
    )
    prompt_name: str | None = option(
        None, "the prompt of requests that name none", shown="the folder's default prompt, if it has one"
    )
    truncate_dim: int | None = option(
        None, "keep the first so many numbers of a vector", shown="what the model's folder says, else all"
    )
    precision: str = option(
        "float32", 'or `"int8"`, `"uint8"`, `"binary"`, `"ubinary"`, see [embeddings](embeddings.md#fewer-bits)'
    )
    return_numpy: bool = option(False, "results hold arrays instead of lists")
    extraction_strategy: str | None = option(
        None,
        'DeepSparse\'s way of pooling: `"per_token"`, `"reduce_mean"`, `"reduce_max"` or `"cls_token"`; see '
        "[embeddings](embeddings.md#what-deepsparse-does)",
    )
    emb_extraction_layer: int | str | None = option(
        -1, "the value of the graph that is taken: -1 is the last hidden states, a name any other"
    )
    model_size: int = option(768, "taken for the sake of DeepSparse, without a meaning", config=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        strategy = self.extraction_strategy
        if strategy is not None and strategy not in EXTRACTION_STRATEGIES:
            raise InputError(f"extraction_strategy must be one of {list(EXTRACTION_STRATEGIES)}, got {strategy!r}")
        if strategy is not None and self.pooling is not None:
            raise InputError("extraction_strategy and pooling say the same; give one of them")
        layer = self.emb_extraction_layer
        if layer is not None and not isinstance(layer, str) and layer != -1:
            raise InputError(
                f"emb_extraction_layer must be -1, the last hidden states, or the name of a value of the graph, got "
                f"{layer!r}; layers have no numbers in an ONNX file"
            )
        if self.prompts is not None and not isinstance(self.prompts, Mapping):
            raise InputError(f"prompts must map names to texts, got {self.prompts!r:.80}")
        for name, text in (self.prompts or {}).items():
            if not isinstance(name, str) or not isinstance(text, str):
                raise InputError(f"prompts must map names to texts, got {name!r}: {text!r}")
        if self.truncate_dim is not None:
            at_least("truncate_dim", self.truncate_dim, 1)
        check_precision(self.precision)
        self._set(
            pooling=_pooling(self.pooling),
            normalize=None if self.normalize is None else bool(self.normalize),
            prompts=None if self.prompts is None else dict(self.prompts),
            return_numpy=bool(self.return_numpy),
            emb_extraction_layer=-1 if layer is None else layer,
        )


def _pooling(value: str | Sequence[str] | None) -> str | list[str] | None:
    """Check ``pooling``: "none", a mode, or a list of modes."""
    if value is None or value == "none":
        return value  # type: ignore[return-value]
    values = [value] if isinstance(value, str) else value
    modes = [_OTHER_NAMES.get(str(mode), mode) for mode in values] if isinstance(values, Sequence) else []
    if not modes or any(mode not in POOLING_MODES for mode in modes):
        raise InputError(
            f"pooling must be 'none', one of {[*POOLING_MODES, *_OTHER_NAMES]}, or a list of them, got {value!r}"
        )
    return modes[0] if len(modes) == 1 else modes
