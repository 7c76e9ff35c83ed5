"""What the encoders share: embeddings, positions, the mask, and a layer with attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto

from sparsert.export.builder import GraphBuilder
from sparsert.export.config import NetworkConfig

__all__ = [
    "BERT_LAYER",
    "Architecture",
    "Layer",
    "LayerNames",
    "add_layers",
    "counted_positions",
    "embed",
    "layer_of",
    "plain_positions",
    "token_types",
]


@dataclass(frozen=True)
class Architecture:
    """What tells one architecture from another."""

    prefix: str
    """Of the base model's tensors in files of models with a head."""
    encode: Callable[[GraphBuilder, NetworkConfig], tuple[str, int]]
    """Adds the network; returns its hidden states, shape (batch, sequence, hidden), and hidden."""
    pooler: str | None
    """The Linear before tanh that makes ``pooler_output`` of the first token; None if there is none."""
    head: tuple[str, str, str]
    """How sequences are classified by their first token: a Linear, an activation, a Linear."""


@dataclass(frozen=True)
class LayerNames:
    """The tensors of a layer, after its own prefix."""

    query: str
    key: str
    value: str
    context: str
    attention_norm: str
    intermediate: str
    output: str
    output_norm: str


BERT_LAYER = LayerNames(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    context="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    intermediate="intermediate.dense",
    output="output.dense",
    output_norm="output.LayerNorm",
)


@dataclass(frozen=True)
class Layer:
    """What all layers of a network have in common."""

    names: LayerNames
    hidden: int
    heads: int
    activation: str
    epsilon: float


def layer_of(config: NetworkConfig, names: LayerNames, hidden: int, heads: int, **other: Any) -> Layer:
    """A layer whose sizes fit each other.

    Raises
    ------
    ModelFormatError
        The heads do not share the hidden size evenly.
    """
    if not heads or hidden % heads:
        raise config.error(
            f"expected a hidden size that is a multiple of the number of heads, came {hidden} and {heads}"
        )
    return Layer(names, hidden, heads, **other)


def plain_positions(builder: GraphBuilder, table: str) -> str:
    """Position embeddings of 0, 1, 2, ..., shape (1, sequence, width)."""
    every = builder.constant(np.arange(len(builder.initializers[table]))[None], np.int64, "position_ids")
    length = builder.op("Shape", ["input_ids"], start=1, end=2)
    zero, one = builder.constant([0], np.int64), builder.constant([1], np.int64)
    return builder.op("Gather", [table, builder.op("Slice", [every, zero, length, one])], axis=0)


def counted_positions(builder: GraphBuilder, table: str, padding: int) -> str:
    """RoBERTa's: the tokens that are not padding count from ``padding + 1`` on, padding itself is at ``padding``."""
    counts = builder.op("Equal", ["input_ids", builder.constant(padding, np.int64)])
    counts = builder.op("Cast", [builder.op("Not", [counts])], to=TensorProto.INT64)
    positions = builder.op("Mul", [builder.op("CumSum", [counts, builder.constant(1, np.int64)]), counts])
    positions = builder.op("Add", [positions, builder.constant(padding, np.int64)])
    return builder.op("Gather", [table, positions], axis=0)


def token_types(builder: GraphBuilder, table: str) -> str:
    """Token type embeddings; with a table of one row no input chooses."""
    if len(builder.initializers[table]) == 1:
        return builder.op("Squeeze", [table, builder.constant([0], np.int64)])
    builder.inputs.append("token_type_ids")
    return builder.op("Gather", [table, "token_type_ids"], axis=0)


def embed(builder: GraphBuilder, terms: Sequence[str], width: int, epsilon: float) -> str:
    """The normalized sum of word embeddings and other terms, in their order."""
    x = builder.op("Gather", [builder.table("embeddings.word_embeddings", width), "input_ids"], axis=0)
    for term in terms:
        x = builder.op("Add", [x, term])
    return builder.layer_norm(x, "embeddings.LayerNorm", width, epsilon)


def add_layers(builder: GraphBuilder, x: str, layer: Layer, prefixes: Sequence[str], bias: str | None = None) -> str:
    """Add layers one after another.

    Parameters
    ----------
    builder
    x
        The embeddings, shape (batch, sequence, hidden).
    layer
    prefixes
        Of each layer's tensors; the same one twice is one layer's weights used twice.
    bias
        Added to the scores of every layer, shape (1, heads, sequence, sequence).
    """
    mask = _mask(builder)
    for prefix in prefixes:
        names = layer.names
        context = _attention(builder, x, layer, prefix, mask, bias)
        context = builder.linear(context, prefix + names.context, layer.hidden, layer.hidden)
        x = builder.layer_norm(
            builder.op("Add", [context, x]), prefix + names.attention_norm, layer.hidden, layer.epsilon
        )
        inner = builder.linear(x, prefix + names.intermediate, layer.hidden)
        width = builder.initializers[f"{prefix}{names.intermediate}.bias"].size
        inner = builder.linear(builder.activation(inner, layer.activation), prefix + names.output, width, layer.hidden)
        x = builder.layer_norm(builder.op("Add", [inner, x]), prefix + names.output_norm, layer.hidden, layer.epsilon)
    return x


def _mask(builder: GraphBuilder) -> str:
    """0 for tokens that count and float32's minimum for others, shape (batch, 1, 1, sequence)."""
    mask = builder.op("Unsqueeze", ["attention_mask", builder.constant([1, 2], np.int64)])
    mask = builder.op("Cast", [mask], to=TensorProto.FLOAT)
    lowest = builder.constant(np.finfo(np.float32).min)
    return builder.op("Mul", [builder.op("Sub", [builder.constant(1.0), mask]), lowest])


def _attention(builder: GraphBuilder, x: str, layer: Layer, prefix: str, mask: str, bias: str | None) -> str:
    size = layer.hidden // layer.heads
    split = builder.constant([0, 0, layer.heads, size], np.int64)

    def heads(name: str, order: list[int]) -> str:
        value = builder.linear(x, prefix + name, layer.hidden, layer.hidden)
        return builder.op("Transpose", [builder.op("Reshape", [value, split])], perm=order)

    query, key = heads(layer.names.query, [0, 2, 1, 3]), heads(layer.names.key, [0, 2, 3, 1])
    scores = builder.op("Div", [builder.op("MatMul", [query, key]), builder.constant(math.sqrt(size))])
    if bias is not None:
        scores = builder.op("Add", [scores, bias])
    weights = builder.op("Softmax", [builder.op("Add", [scores, mask])], axis=-1)
    context = builder.op("MatMul", [weights, heads(layer.names.value, [0, 2, 1, 3])])
    context = builder.op("Transpose", [context], perm=[0, 2, 1, 3])
    return builder.op("Reshape", [context, builder.constant([0, 0, layer.hidden], np.int64)])
