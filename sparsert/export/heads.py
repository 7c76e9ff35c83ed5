"""Tasks: which one a folder is for, and what each adds to the encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsert.errors import InputRangeError, ModelFormatError
from sparsert.export.builder import GraphBuilder
from sparsert.export.encoder import Architecture
from sparsert.model_config import ModelConfig

__all__ = ["TASKS", "add_head", "choose_task"]

Outputs = dict[str, Sequence[str | int]]
"""Names and shapes."""

TASKS = {
    "embedding-extraction": "last_hidden_state",
    "pooling": "last_hidden_state and pooler_output",
    "text-classification": "logits of every sequence",
    "text-ranking": "logits of every sequence",
    "token-classification": "logits of every token",
    "question-answering": "start_logits and end_logits",
}
"""Each with the outputs of its model."""

_PRETRAINED = ("ForMaskedLM", "ForPreTraining")
"""Endings of architectures with heads for training alone: what is wanted of them is the encoder."""


def choose_task(config: ModelConfig, task: str | None) -> str:
    """The task that someone asks for, else that of the folder.

    Raises
    ------
    InputRangeError
        There is no such task.
    ModelFormatError
        The architecture is for none of them.
    """
    if task is not None:
        if task not in TASKS:
            raise InputRangeError(f"unknown task {task!r}; expected one of {', '.join(TASKS)}")
        return task
    if config.task is None and config.architecture and not config.architecture.endswith(_PRETRAINED):
        raise ModelFormatError(
            f"{config.path}: architecture {config.architecture!r} is for none of the tasks {', '.join(TASKS)}; name "
            "the task if its weights are there, or export the model to ONNX with optimum or torch"
        )
    return config.task or "embedding-extraction"


def add_head(builder: GraphBuilder, architecture: Architecture, task: str, x: str, hidden: int) -> Outputs:
    """Add what a task needs behind the hidden states ``x``; return the outputs, whose values have their names.

    Raises
    ------
    ModelFormatError
        The architecture or the weights have no such head.
    """
    tokens = ["batch", "sequence"]
    if task == "question-answering":
        return _answer(builder, x, hidden)
    if task == "token-classification":
        builder.rename(builder.linear(x, "classifier", hidden), "logits")
        return {"logits": [*tokens, builder.initializers["classifier.bias"].size]}
    if task in ("text-classification", "text-ranking"):
        dense, activation, last = architecture.head
        value = builder.activation(builder.linear(_first(builder, x), dense, hidden, hidden), activation)
        builder.rename(builder.linear(value, last, hidden), "logits")
        return {"logits": ["batch", builder.initializers[f"{last}.bias"].size]}
    outputs: Outputs = {"last_hidden_state": [*tokens, hidden]}
    if task == "pooling":
        if architecture.pooler is None:
            raise ModelFormatError(
                f"{builder.weights.source.parent}: this architecture has no pooler; expected task embedding-extraction"
            )
        value = builder.linear(_first(builder, x), architecture.pooler, hidden, hidden)
        builder.rename(builder.activation(value, "tanh"), "pooler_output")
        outputs["pooler_output"] = ["batch", hidden]
    builder.rename(x, "last_hidden_state")
    return outputs


def _first(builder: GraphBuilder, x: str) -> str:
    return builder.op("Gather", [x, builder.constant(0, np.int64)], axis=1)


def _answer(builder: GraphBuilder, x: str, hidden: int) -> Outputs:
    logits = builder.linear(x, "qa_outputs", hidden, 2)
    names = ("start_logits", "end_logits")
    for place, name in enumerate(names):
        builder.rename(builder.op("Gather", [logits, builder.constant(place, np.int64)], axis=2), name)
    return {name: ["batch", "sequence"] for name in names}
