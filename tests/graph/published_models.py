"""Torch modules of encoders whose code is published with their weights, not in the transformers library.

Written after the published descriptions, with the operations in the order that shapes the exported graph: JinaBERT v2
(ALiBi, gated linear units), NomicBERT (one matrix for Q, K and V, rotary embeddings, SwiGLU), and GTE (one matrix for
Q, K and V, one for gate and up, rotary embeddings from a cached table).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """What a model is built from."""

    vocab: int
    positions: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    types: int = 2
    sdpa: bool = False
    theta: float = 10000.0
    alibi_table: bool = True

    @property
    def width(self) -> int:
        """Channels of a head."""
        return self.hidden // self.heads


def additive_mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A 0/1 mask as numbers added to scores, shape (batch, 1, 1, tokens)."""
    mask = attention_mask[:, None, None, :].to(dtype=dtype)
    return (1.0 - mask) * torch.finfo(dtype).min


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, sizes: Sizes, bias: Tensor | None = None) -> Tensor:
    """Attention of q, k, v, shape (batch, heads, tokens, width); tokens by channels."""
    if sizes.sdpa:
        both = mask if bias is None else mask + bias
        context = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=both)
    else:
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(sizes.width)
        scores = scores + mask
        if bias is not None:
            scores = scores + bias
        context = torch.matmul(nn.functional.softmax(scores, dim=-1), v)
    context = context.permute(0, 2, 1, 3).contiguous()
    return context.view(context.size(0), context.size(1), sizes.hidden)


def alibi_slopes(heads: int) -> list[float]:
    """Slopes of ALiBi: a geometric series for powers of two, every other of the next power beyond."""
    if math.log2(heads).is_integer():
        start = 2.0 ** (-(2.0 ** -(math.log2(heads) - 3)))
        return [start * start**index for index in range(heads)]
    power = 2 ** math.floor(math.log2(heads))
    return alibi_slopes(power) + alibi_slopes(2 * power)[0::2][: heads - power]


def alibi_bias(heads: int, tokens: int) -> Tensor:
    """Minus slope times distance, shape (1, heads, tokens, tokens)."""
    distance = torch.abs(torch.arange(tokens)[None, :] - torch.arange(tokens)[:, None])
    slopes = -torch.tensor(alibi_slopes(heads))
    return (slopes[:, None, None] * distance[None].expand(heads, -1, -1))[None]


class JinaLayer(nn.Module):
    """Post-norm layer with ALiBi and a gated linear unit."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.query, self.key, self.value, self.out = (nn.Linear(sizes.hidden, sizes.hidden) for _ in range(4))
        self.norm = nn.LayerNorm(sizes.hidden, eps=1e-12)
        self.gated = nn.Linear(sizes.hidden, 2 * sizes.intermediate, bias=False)
        self.down = nn.Linear(sizes.intermediate, sizes.hidden)
        self.mlp_norm = nn.LayerNorm(sizes.hidden, eps=1e-12)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(x.size()[:-1] + (self.sizes.heads, self.sizes.width)).permute(0, 2, 1, 3)

    def forward(self, x: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
        """One layer."""
        q, k, v = self._heads(self.query(x)), self._heads(self.key(x)), self._heads(self.value(x))
        x = self.norm(self.out(attend(q, k, v, mask, self.sizes, bias)) + x)
        hidden = self.gated(x)
        gate = hidden[:, :, : self.sizes.intermediate]
        up = hidden[:, :, self.sizes.intermediate :]
        return self.mlp_norm(self.down(nn.functional.gelu(gate) * up) + x)


class JinaBert(nn.Module):
    """JinaBERT v2: word and token type embeddings, ALiBi from a table as long as the longest text, or computed."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.words = nn.Embedding(sizes.vocab, sizes.hidden)
        self.types = nn.Embedding(sizes.types, sizes.hidden)
        self.norm = nn.LayerNorm(sizes.hidden, eps=1e-12)
        self.layers = nn.ModuleList(JinaLayer(sizes) for _ in range(sizes.layers))
        if sizes.alibi_table:
            self.register_buffer("alibi", alibi_bias(sizes.heads, sizes.positions), persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Hidden states of the last layer."""
        x = self.norm(self.words(input_ids) + self.types(token_type_ids))
        mask = additive_mask(attention_mask, x.dtype)
        tokens = x.size(1)
        if self.sizes.alibi_table:
            bias = self.alibi[:, :, :tokens, :tokens]
        else:
            bias = alibi_bias(self.sizes.heads, tokens)
        for layer in self.layers:
            x = layer(x, mask, bias)
        return x


def rotate_half(x: Tensor) -> Tensor:
    """The second half negated before the first."""
    first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-second, first), dim=-1)


def rotary_table(sizes: Sizes, tokens: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, shape (tokens, width / 2)."""
    inverse = 1.0 / (sizes.theta ** (torch.arange(0, sizes.width, 2, dtype=torch.float32) / sizes.width))
    angles = torch.outer(torch.arange(tokens, dtype=torch.float32), inverse)
    return torch.cos(angles), torch.sin(angles)


class NomicLayer(nn.Module):
    """Post-norm layer with one matrix for Q, K and V, rotary embeddings and SwiGLU, no biases."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.packed = nn.Linear(sizes.hidden, 3 * sizes.hidden, bias=False)
        self.out = nn.Linear(sizes.hidden, sizes.hidden, bias=False)
        self.norm, self.mlp_norm = nn.LayerNorm(sizes.hidden), nn.LayerNorm(sizes.hidden)
        self.up = nn.Linear(sizes.hidden, sizes.intermediate, bias=False)
        self.gate = nn.Linear(sizes.hidden, sizes.intermediate, bias=False)
        self.down = nn.Linear(sizes.intermediate, sizes.hidden, bias=False)

    def _rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        cos = torch.cat((cos, cos), dim=-1)[:, None, :]
        sin = torch.cat((sin, sin), dim=-1)[:, None, :]
        return x * cos + rotate_half(x) * sin

    def forward(self, x: Tensor, mask: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        """One layer; Q, K and V are (batch, tokens, 3, heads, width) until the product."""
        packed = self.packed(x)
        packed = packed.view(x.size(0), x.size(1), 3, self.sizes.heads, self.sizes.width)
        tokens = x.size(1)
        cos, sin = table[0][:tokens], table[1][:tokens]
        q, k = self._rotate(packed[:, :, 0], cos, sin), self._rotate(packed[:, :, 1], cos, sin)
        packed = torch.stack([q, k, packed[:, :, 2]], dim=2)
        q, k, v = packed.permute(0, 3, 2, 1, 4).unbind(dim=2)
        x = self.norm(self.out(attend(q, k, v, mask, self.sizes)) + x)
        return self.mlp_norm(self.down(self.up(x) * nn.functional.silu(self.gate(x))) + x)


class NomicBert(nn.Module):
    """NomicBERT as published with its weights: tables of cosines computed once for as many tokens as there are."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.words = nn.Embedding(sizes.vocab, sizes.hidden)
        self.types = nn.Embedding(sizes.types, sizes.hidden)
        self.norm = nn.LayerNorm(sizes.hidden)
        self.layers = nn.ModuleList(NomicLayer(sizes) for _ in range(sizes.layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Hidden states of the last layer."""
        x = self.norm(self.words(input_ids) + self.types(token_type_ids))
        mask = additive_mask(attention_mask, x.dtype)
        table = rotary_table(self.sizes, x.size(1))
        for layer in self.layers:
            x = layer(x, mask, table)
        return x


class GteLayer(nn.Module):
    """Post-norm layer with one matrix for Q, K and V, rotary embeddings and GeGLU from one matrix."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.packed = nn.Linear(sizes.hidden, 3 * sizes.hidden)
        self.out = nn.Linear(sizes.hidden, sizes.hidden)
        self.norm, self.mlp_norm = nn.LayerNorm(sizes.hidden, eps=1e-12), nn.LayerNorm(sizes.hidden, eps=1e-12)
        self.up_gate = nn.Linear(sizes.hidden, 2 * sizes.intermediate, bias=False)
        self.down = nn.Linear(sizes.intermediate, sizes.hidden)

    def forward(self, x: Tensor, mask: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        """One layer."""
        shape = (x.size(0), x.size(1), self.sizes.heads, self.sizes.width)
        q, k, v = (part.view(shape) for part in self.packed(x).split(self.sizes.hidden, dim=-1))
        cos, sin = table
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        context = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), mask, self.sizes)
        x = self.norm(x + self.out(context))
        up, gate = torch.split(self.up_gate(x), self.sizes.intermediate, dim=-1)
        return self.mlp_norm(x + self.down(nn.functional.gelu(gate) * up))


class Gte(nn.Module):
    """GTE as published with its weights: a table of cosines for the longest text, read at the positions."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.words = nn.Embedding(sizes.vocab, sizes.hidden)
        self.types = nn.Embedding(sizes.types, sizes.hidden)
        self.norm = nn.LayerNorm(sizes.hidden, eps=1e-12)
        self.layers = nn.ModuleList(GteLayer(sizes) for _ in range(sizes.layers))
        cos, sin = rotary_table(sizes, sizes.positions)
        self.register_buffer("cos", torch.cat((cos, cos), dim=-1), persistent=False)
        self.register_buffer("sin", torch.cat((sin, sin), dim=-1), persistent=False)
        self.register_buffer("positions", torch.arange(sizes.positions), persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Hidden states of the last layer."""
        tokens = input_ids.size(1)
        positions = self.positions[:tokens].unsqueeze(0).expand(input_ids.size(0), -1)
        x = self.words(input_ids) + self.types(token_type_ids)
        table = self.cos[:tokens][positions].unsqueeze(2), self.sin[:tokens][positions].unsqueeze(2)
        x = self.norm(x)
        mask = additive_mask(attention_mask, x.dtype)
        for layer in self.layers:
            x = layer(x, mask, table)
        return x
