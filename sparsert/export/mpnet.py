"""MPNet: BERT's layers under names of their own, positions that count the tokens, and a bias for relative positions."""

from __future__ import annotations

import math

import numpy as np

from sparsert.export.builder import GraphBuilder
from sparsert.export.config import NetworkConfig
from sparsert.export.encoder import Architecture, LayerNames, add_layers, counted_positions, embed, layer_of

__all__ = ["MPNET"]

_LAYER = LayerNames(
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    context="attention.attn.o",
    attention_norm="attention.LayerNorm",
    intermediate="intermediate.dense",
    output="output.dense",
    output_norm="output.LayerNorm",
)

_PADDING = 1
"""Whatever the configuration says."""

_BUCKETS, _FAR = 32, 128
"""Distances of 128 and more share a bucket; neither number is taken from the configuration."""


def _encode(builder: GraphBuilder, config: NetworkConfig) -> tuple[str, int]:
    hidden, epsilon = config.whole("hidden_size", 768), config.number("layer_norm_eps", 1e-12)
    table = builder.table("embeddings.position_embeddings", hidden)
    x = embed(builder, [counted_positions(builder, table, _PADDING)], hidden, epsilon)
    heads, activation = config.whole("num_attention_heads", 12), config.text("hidden_act", "gelu")
    layer = layer_of(config, _LAYER, hidden, heads, activation=activation, epsilon=epsilon)
    layers = [f"encoder.layer.{number}." for number in range(config.whole("num_hidden_layers", 12))]
    bias = _position_bias(builder, heads, len(builder.initializers[table]))
    return add_layers(builder, x, layer, layers, bias), hidden


def _position_bias(builder: GraphBuilder, heads: int, longest: int) -> str:
    """What is added to the scores, shape (1, heads, sequence, sequence): a row of a table for each distance."""
    name = "encoder.relative_attention_bias.weight"
    buckets = _bucket(np.arange(1 - longest, longest))
    weight = builder.weights.take(name, (None, heads))
    if len(weight) < _BUCKETS:
        builder.weights.take(name, (_BUCKETS, heads))  # raises, with the shape
    table = builder.constant(weight[buckets], name=name)
    zero, one = builder.constant(0, np.int64), builder.constant(1, np.int64)
    length = builder.op("Squeeze", [builder.op("Shape", ["input_ids"], start=1, end=2)])
    places = builder.op("Range", [zero, length, one])
    columns = builder.op("Unsqueeze", [places, builder.constant([1], np.int64)])
    distances = builder.op("Add", [builder.op("Sub", [places, columns]), builder.constant(longest - 1, np.int64)])
    bias = builder.op("Transpose", [builder.op("Gather", [table, distances], axis=0)], perm=[2, 0, 1])
    return builder.op("Unsqueeze", [bias, builder.constant([0], np.int64)])


def _bucket(distances: np.ndarray) -> np.ndarray:
    """The bucket of key minus query: half of them for keys behind; of each half, half exact and half by logarithm.

    https://github.com/huggingface/transformers, ``MPNetEncoder.relative_position_bucket``, in float32 as there.
    """
    half = _BUCKETS // 2
    exact = half // 2
    far = np.abs(distances)
    steps = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(_FAR / exact))
    logarithmic = exact + (steps * np.float32(half - exact)).astype(np.int64)
    return np.where(distances > 0, half, 0) + np.where(far < exact, far, np.minimum(logarithmic, half - 1))


MPNET = Architecture("mpnet.", _encode, pooler="pooler.dense", head=("classifier.dense", "tanh", "classifier.out_proj"))
