"""``CrossEncoder`` of sentence-transformers, on this engine: scores of pairs of texts, and ranked documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sparsert._drop_in import as_tensor, model_reference, progress, set_limit, with_meaning
from sparsert.errors import InputError, InputRangeError
from sparsert.pipelines.heads import softmax
from sparsert.pipelines.heads import top_k as best_first
from sparsert.pipelines.options import at_least
from sparsert.pipelines.row_model import PreparedRows, RowOutputs
from sparsert.pipelines.sequence_classifier import tokens_of_text
from sparsert.pipelines.text_ranking.activations import activated, check_activation
from sparsert.pipelines.text_ranking.encoder import Encoder
from sparsert.pipelines.text_ranking.options import TextRankingOptions
from sparsert.zoo import resolve

__all__ = ["CrossEncoder"]

Activation = str | Callable[[Any], Any]


class CrossEncoder:
    """Score pairs of texts with a model that reads both at once.

    Names, defaults and results are those of ``sentence_transformers.CrossEncoder`` 6; torch is not needed.

    Parameters
    ----------
    model_name_or_path : str or Path
        A model reference, see :mod:`sparsert.zoo`; ``ORG/REPO`` and the bare name of a repository of the library's
        authors mean the hub, unless they are paths.
    prompts : mapping of str to str, optional
        Texts that are put before the first text of a pair, by name, over those of the folder.
    default_prompt_name : str, optional
        The prompt that is used where none is named.
    num_labels : int, optional
        Numbers that the model gives for a pair; it is checked.
    max_length : int, optional
        Most tokens of a pair, special tokens included; by default what model and tokenizer take.
    activation_fn : str or callable, optional
        ``"sigmoid"``, ``"identity"`` or ``"softmax"``, or a function of an array of logits, shape (pairs, labels), or a
        module of torch. By default what the folder names, else sigmoid for one label and identity for several.
    revision : str, optional
        Of a repository on the hub.
    **options
        Options of the pipeline, such as ``num_cores`` and ``model_file``. Arguments of the library that have no meaning
        here, such as ``device``, are taken as well, with a warning.

    Attributes
    ----------
    num_labels, max_length, prompts, default_prompt_name, activation_fn
        As they are in the end.

    Raises
    ------
    ModelError
        The model cannot be found, read or run, or is no cross-encoder.
    InputError
        An argument makes no sense.
    """

    def __init__(
        self,
        model_name_or_path: str | Path,
        *,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: Activation | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> None:
        reference = model_reference(model_name_or_path, revision, "cross-encoder")
        options = with_meaning(options, type(self).__name__)
        chosen = TextRankingOptions(model_path=reference, sequence_length=max_length, **options)
        self._encoder = Encoder(resolve(reference, purpose="pipeline", file=chosen.model_file), chosen)
        for key, prompt in (prompts or {}).items():
            if not isinstance(prompt, str):
                raise InputError(f"prompts[{key!r}] must be a str, got {prompt!r:.80}")
            self._encoder.prompts[key] = prompt
        self._encoder.default_prompt_name = default_prompt_name or self._encoder.default_prompt_name
        self._encoder.prompt()  # refuses a default that does not exist
        if num_labels not in (None, self.num_labels):
            raise InputError(
                f"num_labels must be what the model has, {self.num_labels}, got {num_labels}; leave it out, since a "
                "head cannot be made anew"
            )
        if isinstance(activation_fn, str) or not callable(activation_fn or len):
            activation_fn = check_activation(activation_fn)
        self.activation_fn: Activation = activation_fn or self._encoder.activation

    @property
    def num_labels(self) -> int:
        """Numbers that the model gives for a pair."""
        return self._encoder.model.num_labels

    @property
    def max_length(self) -> int:
        """Most tokens of a pair, special tokens included; what is longer is cut."""
        return self._encoder.model.sequence_length

    @max_length.setter
    def max_length(self, value: int) -> None:
        set_limit(self._encoder.model, value)

    max_seq_length = max_length

    @property
    def prompts(self) -> dict[str, str]:
        """Texts that are put before the first text of a pair, by name."""
        return self._encoder.prompts

    @property
    def default_prompt_name(self) -> str | None:
        """The prompt that is used where none is named."""
        return self._encoder.default_prompt_name

    def predict(
        self,
        inputs: Sequence[Any] | np.ndarray,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
    ) -> Any:
        """Score pairs of texts.

        Parameters
        ----------
        inputs : sequence of pairs of str, or one pair
            May be empty.
        prompt_name, prompt : str, optional
            What is put before the first text of each pair: by its name, or itself.
        batch_size, device, pool, chunk_size
            Without a meaning: pairs of any length run together on all cores of the pipeline.
        show_progress_bar : bool, optional
            Show one on stderr.
        activation_fn : str or callable, optional
            As for the constructor, for this call.
        apply_softmax : bool
            Make probabilities of a pair's scores, where it has several.
        convert_to_numpy, convert_to_tensor : bool
            Give an array; a tensor of torch; or, with both false, a list of tensors, one for each pair.

        Returns
        -------
        float32 array, shape (pairs,) if the model has one label, else (pairs, labels)
            For one pair without its first dimension.

        Raises
        ------
        InputError
            Something is no pair of texts, or an argument makes no sense.
        """
        at_least("batch_size", batch_size, 1)
        pairs, single = _as_pairs(inputs)
        scores = self._scores(pairs, self._encoder.prompt(prompt, prompt_name), show_progress_bar, activation_fn)
        if self.num_labels == 1 and scores.ndim > 1:
            scores = scores[:, 0]
        if apply_softmax and scores.ndim > 1:
            scores = softmax(scores)
        result: Any = scores
        if convert_to_tensor or not convert_to_numpy:
            tensor = as_tensor(scores)
            result = tensor if convert_to_tensor else list(tensor)
        return result[0] if single else result

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """Rank documents by their relevance for a query; arguments are those of :meth:`predict`, and two more.

        Parameters
        ----------
        query : str
            What the documents are to be relevant for; it is tokenized once.
        documents : sequence of str
            May be empty.
        top_k : int, optional
            Give the first so many only; all by default.
        return_documents : bool
            Give the texts as well.

        Returns
        -------
        list of dict
            ``corpus_id``, ``score`` and perhaps ``text`` of each document, best first; of equal scores, the one that
            came first.

        Raises
        ------
        InputError
            The model has several labels, something is no text, or an argument makes no sense.
        ModelError
            The model gives NaN.
        """
        if self.num_labels != 1:
            raise InputError(
                f"CrossEncoder.rank() only works for models with num_labels=1, this one has {self.num_labels}. "
                "Consider using CrossEncoder.predict() with input pairs instead."
            )
        if top_k is not None:
            at_least("top_k", top_k, 1)
        documents = list(documents)
        scores = self.predict(
            [(query, document) for document in documents],
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            activation_fn,
        )
        results: list[dict[str, Any]] = [
            {"corpus_id": place, "score": float(scores[place])} for place in best_first(scores, top_k).tolist()
        ]
        if return_documents:
            for result in results:
                result["text"] = documents[result["corpus_id"]]
        return results

    def _scores(
        self,
        pairs: Sequence[tuple[str, str]],
        prompt: str,
        show_progress_bar: bool | None,
        activation: Activation | None,
    ) -> np.ndarray:
        """Scores of pairs after an activation, shape (pairs, labels) unless that makes another."""
        model = self._encoder.model
        pairs = [(prompt + first, second) for first, second in pairs]
        found = model.tokenize(chain(*pairs))
        rows = []
        for index, (first, second) in enumerate(pairs):
            ids = tokens_of_text(found, first, f"inputs[{index}][0]")
            beside = tokens_of_text(found, second, f"inputs[{index}][1]")
            try:
                rows.append(model.row(ids, beside))
            except InputRangeError as error:
                raise InputRangeError(f"inputs[{index}]: {error}") from error
        prepared = PreparedRows(pairs, rows)
        (logits,) = model.logits([prepared], _shown(model.forward([prepared]), len(pairs), show_progress_bar))
        return _activated(logits, self.activation_fn if activation is None else activation)


def _as_pairs(inputs: Sequence[Any] | np.ndarray) -> tuple[list[tuple[str, str]], bool]:
    """Pairs of texts as a list, and whether they came as one pair alone."""
    if isinstance(inputs, np.ndarray):
        inputs = inputs.tolist()
    if isinstance(inputs, str) or not isinstance(inputs, Iterable):
        raise InputError(f"inputs must be pairs of texts, or one pair, got {inputs!r:.80}")
    items = list(inputs)
    single = bool(items) and isinstance(items[0], str)
    pairs = []
    for index, pair in enumerate([items] if single else items):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise InputError(f"inputs[{index}] must be a pair of two str, got {pair!r:.80}")
        pairs.append((pair[0], pair[1]))
    return pairs, single


def _shown(parts: Iterable[RowOutputs], total: int, show: bool | None) -> Iterator[RowOutputs]:
    """Parts as they come, with a progress bar on stderr if that is asked for."""
    with progress(total, show, " pairs") as bar:
        for part in parts:
            yield part
            bar.update(len(part.rows.lengths))


def _activated(logits: np.ndarray, activation: Activation) -> np.ndarray:
    if isinstance(activation, str) or not callable(activation):
        return activated(logits, check_activation(activation))
    of_torch = str(getattr(activation, "__module__", None)).partition(".")[0] == "torch"
    result = np.asarray(activation(as_tensor(logits) if of_torch else logits), dtype=np.float32)
    if result.shape[:1] != logits.shape[:1]:
        raise InputError(f"activation_fn made {result.shape} of logits {logits.shape}; it must keep the pairs apart")
    return result
