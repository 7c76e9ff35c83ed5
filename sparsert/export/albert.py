"""ALBERT: few layers used many times, embeddings of a width of their own, and a pooler without a dense part."""

from __future__ import annotations

from sparsert.export.builder import GraphBuilder
from sparsert.export.config import NetworkConfig
from sparsert.export.encoder import (
    Architecture,
    LayerNames,
    add_layers,
    embed,
    layer_of,
    plain_positions,
    token_types,
)

__all__ = ["ALBERT"]

_LAYER = LayerNames(
    query="attention.query",
    key="attention.key",
    value="attention.value",
    context="attention.dense",
    attention_norm="attention.LayerNorm",
    intermediate="ffn",
    output="ffn_output",
    output_norm="full_layer_layer_norm",
)


def _encode(builder: GraphBuilder, config: NetworkConfig) -> tuple[str, int]:
    width, hidden = config.whole("embedding_size", 128), config.whole("hidden_size", 4096)
    epsilon, activation = config.number("layer_norm_eps", 1e-12), config.text("hidden_act", "gelu_new")
    types = token_types(builder, builder.table("embeddings.token_type_embeddings", width))
    positions = plain_positions(builder, builder.table("embeddings.position_embeddings", width))
    x = embed(builder, [types, positions], width, epsilon)
    x = builder.linear(x, "encoder.embedding_hidden_mapping_in", width, hidden)
    heads = config.whole("num_attention_heads", 64)
    layer = layer_of(config, _LAYER, hidden, heads, activation=activation, epsilon=epsilon)
    layers, groups = config.whole("num_hidden_layers", 12), config.whole("num_hidden_groups", 1)
    prefixes = [
        f"encoder.albert_layer_groups.{number * groups // layers}.albert_layers.{inner}."
        for number in range(layers)
        for inner in range(config.whole("inner_group_num", 1))
    ]
    return add_layers(builder, x, layer, prefixes), hidden


ALBERT = Architecture("albert.", _encode, pooler="pooler", head=("pooler", "tanh", "classifier"))
