"""RoBERTa, XLM-RoBERTa and CamemBERT: BERT's layers, positions that count the tokens, no token types to choose."""

from __future__ import annotations

from sparsert.export.builder import GraphBuilder
from sparsert.export.config import NetworkConfig
from sparsert.export.encoder import BERT_LAYER, Architecture, add_layers, counted_positions, embed, layer_of

__all__ = ["ROBERTA"]


def _encode(builder: GraphBuilder, config: NetworkConfig) -> tuple[str, int]:
    hidden, epsilon = config.whole("hidden_size", 768), config.number("layer_norm_eps", 1e-12)
    # Files with two rows exist; the tokenizers of this family give every token type 0.
    types = builder.constant(
        builder.weights.take("embeddings.token_type_embeddings.weight", (None, hidden))[0],
        name="embeddings.token_type_embeddings.weight",
    )
    positions = builder.table("embeddings.position_embeddings", hidden)
    positions = counted_positions(builder, positions, config.whole("pad_token_id", 1))
    x = embed(builder, [types, positions], hidden, epsilon)
    heads, activation = config.whole("num_attention_heads", 12), config.text("hidden_act", "gelu")
    layer = layer_of(config, BERT_LAYER, hidden, heads, activation=activation, epsilon=epsilon)
    layers = range(config.whole("num_hidden_layers", 12))
    return add_layers(builder, x, layer, [f"encoder.layer.{number}." for number in layers]), hidden


ROBERTA = Architecture(
    "roberta.", _encode, pooler="pooler.dense", head=("classifier.dense", "tanh", "classifier.out_proj")
)
