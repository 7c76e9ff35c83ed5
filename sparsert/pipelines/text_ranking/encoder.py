"""A cross-encoder as its folder describes it: the model, its prompts, and what becomes of its logits."""

from __future__ import annotations

import numpy as np

from sparsert.errors import InputError
from sparsert.model_config import read_config
from sparsert.pipelines.sentence_folder import read_sentence_folder
from sparsert.pipelines.sequence_classifier import SequenceClassifier
from sparsert.pipelines.text_ranking.activations import activated, folder_activation
from sparsert.pipelines.text_ranking.options import TextRankingOptions
from sparsert.zoo import ResolvedModel

__all__ = ["Encoder"]


class Encoder:
    """A cross-encoder. Safe to use from several threads.

    Parameters
    ----------
    model : ResolvedModel
        The files.
    options : TextRankingOptions
        Options of the pipeline.

    Attributes
    ----------
    model : SequenceClassifier
        Gives pairs their logits.
    activation : str
        One of :data:`~sparsert.pipelines.text_ranking.activations.ACTIVATIONS`.
    prompts : dict of str to str
        What is put before a query, by name.
    default_prompt_name : str, optional
        The prompt that is used where none is named.
    """

    def __init__(self, model: ResolvedModel, options: TextRankingOptions) -> None:
        folder = read_sentence_folder(model.root)
        self.model = SequenceClassifier(model, options, folder.max_seq_length, folder.do_lower_case)
        config = read_config(model.directory, model.root)
        self.activation = options.activation or folder_activation(config, self.model.num_labels)
        self.prompts = dict(folder.prompts)
        self.default_prompt_name = folder.default_prompt_name

    def prompt(self, prompt: str | None = None, name: str | None = None) -> str:
        """The prompt itself, else the one of that name, else the default one, else nothing.

        Raises
        ------
        InputError
            There is none of that name.
        """
        name = self.default_prompt_name if name is None else name
        if prompt is not None or name is None:
            return prompt or ""
        if name not in self.prompts:
            raise InputError(f"prompt_name must be one of {list(self.prompts)}, got {name!r}; give prompt itself")
        return self.prompts[name]

    def activated(self, logits: np.ndarray) -> np.ndarray:
        """Scores of logits, both of shape (W, L)."""
        return activated(logits, self.activation)
