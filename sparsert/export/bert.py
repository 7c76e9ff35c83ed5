"""BERT, and ELECTRA, which is BERT with embeddings of a width of their own and another head."""

from __future__ import annotations

from sparsert.export.builder import GraphBuilder
from sparsert.export.config import NetworkConfig
from sparsert.export.encoder import BERT_LAYER, Architecture, add_layers, embed, layer_of, plain_positions, token_types

__all__ = ["BERT", "ELECTRA"]


def _encode_bert(builder: GraphBuilder, config: NetworkConfig) -> tuple[str, int]:
    hidden = config.whole("hidden_size", 768)
    return _encode(builder, config, hidden, hidden, config.whole("num_attention_heads", 12))


def _encode_electra(builder: GraphBuilder, config: NetworkConfig) -> tuple[str, int]:
    width, hidden = config.whole("embedding_size", 128), config.whole("hidden_size", 256)
    return _encode(builder, config, width, hidden, config.whole("num_attention_heads", 4))


def _encode(builder: GraphBuilder, config: NetworkConfig, width: int, hidden: int, heads: int) -> tuple[str, int]:
    epsilon = config.number("layer_norm_eps", 1e-12)
    types = token_types(builder, builder.table("embeddings.token_type_embeddings", width))
    positions = plain_positions(builder, builder.table("embeddings.position_embeddings", width))
    x = embed(builder, [types, positions], width, epsilon)
    if width != hidden:
        x = builder.linear(x, "embeddings_project", width, hidden)
    activation = config.text("hidden_act", "gelu")
    layer = layer_of(config, BERT_LAYER, hidden, heads, activation=activation, epsilon=epsilon)
    layers = range(config.whole("num_hidden_layers", 12))
    return add_layers(builder, x, layer, [f"encoder.layer.{number}." for number in layers]), hidden


BERT = Architecture("bert.", _encode_bert, pooler="pooler.dense", head=("pooler.dense", "tanh", "classifier"))
ELECTRA = Architecture(
    "electra.", _encode_electra, pooler=None, head=("classifier.dense", "gelu", "classifier.out_proj")
)
