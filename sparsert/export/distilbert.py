"""DistilBERT: BERT without token types, under names of its own."""

from __future__ import annotations

from sparsert.export.builder import GraphBuilder
from sparsert.export.config import NetworkConfig
from sparsert.export.encoder import Architecture, LayerNames, add_layers, embed, layer_of, plain_positions

__all__ = ["DISTILBERT"]

_LAYER = LayerNames(
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    context="attention.out_lin",
    attention_norm="sa_layer_norm",
    intermediate="ffn.lin1",
    output="ffn.lin2",
    output_norm="output_layer_norm",
)

_EPSILON = 1e-12
"""DistilBERT's configuration has none."""


def _encode(builder: GraphBuilder, config: NetworkConfig) -> tuple[str, int]:
    hidden = config.whole("dim", 768)
    positions = plain_positions(builder, builder.table("embeddings.position_embeddings", hidden))
    x = embed(builder, [positions], hidden, _EPSILON)
    heads, activation = config.whole("n_heads", 12), config.text("activation", "gelu")
    layer = layer_of(config, _LAYER, hidden, heads, activation=activation, epsilon=_EPSILON)
    layers = range(config.whole("n_layers", 6))
    return add_layers(builder, x, layer, [f"transformer.layer.{number}." for number in layers]), hidden


DISTILBERT = Architecture("distilbert.", _encode, pooler=None, head=("pre_classifier", "relu", "classifier"))
