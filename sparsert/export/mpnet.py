"""MPNet: BERT's layers under names of their own, positions that count the tokens, and a bias for relative positions."""

from __future__ import annotations

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
"""The id from which positions count, whatever the configuration says."""

_BUCKETS = 32
"""Of relative positions, whatever the configuration says."""


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
    table = builder.constant(builder.weights.take(name, (_BUCKETS, heads))[buckets], name=name)
    zero, one = builder.constant(0, np.int64), builder.constant(1, np.int64)
    length = builder.op("Squeeze", [builder.op("Shape", ["input_ids"], start=1, end=2)])
    places = builder.op("Range", [zero, length, one])
    columns = builder.op("Unsqueeze", [places, builder.constant([1], np.int64)])
    distances = builder.op("Add", [builder.op("Sub", [places, columns]), builder.constant(longest - 1, np.int64)])
    bias = builder.op("Transpose", [builder.op("Gather", [table, distances], axis=0)], perm=[2, 0, 1])
    return builder.op("Unsqueeze", [bias, builder.constant([0], np.int64)])


def _bucket(distances: np.ndarray) -> np.ndarray:
    """The bucket of key minus query: 16 for keys behind the query and 16 for others, of each 8 for exact distances.

    Distances d from 8 on share bucket 8 + floor(8 log(d / 8) / log(128 / 8)), at most 15, as in
    ``MPNetEncoder.relative_position_bucket`` of the transformers library. That is the number of k in 1 .. 7 with
    d^2 >= 64 * 2^k, in whole numbers, since logarithms of NumPy differ between processors.
    """
    far = np.abs(distances)
    logarithmic = 8 + np.searchsorted(64 << np.arange(1, 8), far * far, side="right")
    return np.where(distances > 0, 16, 0) + np.where(far < 8, far, logarithmic)


MPNET = Architecture("mpnet.", _encode, pooler="pooler.dense", head=("classifier.dense", "tanh", "classifier.out_proj"))
