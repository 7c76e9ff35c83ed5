"""Encoders of every family with random weights, at three sizes, for exporting them.

Needs torch and transformers (5.24); the tests don't. ``tiny`` is for the tests' data, ``small`` for checking, ``base``
for timing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import published_models
import torch
import transformers
from torch import nn


@dataclass(frozen=True)
class Size:
    """Sizes that families share; a family may take others where it must."""

    vocab: int
    positions: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    window: int


SIZES = {
    "tiny": Size(60, 320, 16, 2, 2, 32, 16),
    "small": Size(1000, 512, 256, 3, 4, 512, 128),
    "base": Size(3000, 512, 768, 6, 12, 3072, 128),
}

IDS = ("input_ids", "attention_mask")
TYPED = (*IDS, "token_type_ids")


def _common(size: Size) -> dict[str, Any]:
    return {
        "vocab_size": size.vocab,
        "hidden_size": size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "intermediate_size": size.intermediate,
    }


def _bert(size: Size, attention: str) -> nn.Module:
    config = transformers.BertConfig(max_position_embeddings=size.positions, **_common(size))
    return _of(transformers.BertModel, config, attention, add_pooling_layer=False)


def _electra(size: Size, attention: str) -> nn.Module:
    config = transformers.ElectraConfig(
        max_position_embeddings=size.positions, embedding_size=size.hidden // 2, **_common(size)
    )
    return _of(transformers.ElectraModel, config, attention)


def _albert(size: Size, attention: str) -> nn.Module:
    config = transformers.AlbertConfig(
        max_position_embeddings=size.positions, embedding_size=size.hidden // 2, hidden_act="gelu_new", **_common(size)
    )
    return _of(transformers.AlbertModel, config, attention, add_pooling_layer=False)


def _roberta(size: Size, attention: str) -> nn.Module:
    config = transformers.RobertaConfig(
        max_position_embeddings=size.positions + 2, type_vocab_size=1, pad_token_id=1, **_common(size)
    )
    return _of(transformers.RobertaModel, config, attention, add_pooling_layer=False)


def _xlmr(size: Size, attention: str) -> nn.Module:
    config = transformers.XLMRobertaConfig(
        max_position_embeddings=size.positions + 2, type_vocab_size=1, pad_token_id=1, **_common(size)
    )
    return _of(transformers.XLMRobertaModel, config, attention, add_pooling_layer=False)


def _distilbert(size: Size, attention: str) -> nn.Module:
    config = transformers.DistilBertConfig(
        vocab_size=size.vocab,
        dim=size.hidden,
        n_layers=size.layers,
        n_heads=size.heads,
        hidden_dim=size.intermediate,
        max_position_embeddings=size.positions,
    )
    return _of(transformers.DistilBertModel, config, attention)


def _mpnet(size: Size, attention: str) -> nn.Module:
    config = transformers.MPNetConfig(max_position_embeddings=size.positions + 2, **_common(size))
    return _of(transformers.MPNetModel, config, attention, add_pooling_layer=False)


def _modernbert(size: Size, attention: str) -> nn.Module:
    sizes = _common(size) | {"intermediate_size": 3 * size.hidden // 2, "num_hidden_layers": max(size.layers, 3)}
    if size.hidden < 64:
        sizes["num_hidden_layers"] = 2  # a global layer and a local one
    config = transformers.ModernBertConfig(
        max_position_embeddings=size.positions,
        local_attention=size.window,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
        **sizes,
    )
    return _of(transformers.ModernBertModel, config, attention)


def _nomic(size: Size, attention: str) -> nn.Module:
    config = transformers.NomicBertConfig(max_position_embeddings=size.positions, **_common(size))
    return _of(transformers.NomicBertModel, config, attention, add_pooling_layer=False)


def _gte(size: Size, attention: str) -> nn.Module:
    config = transformers.GteConfig(max_position_embeddings=size.positions, **_common(size))
    return _of(transformers.GteModel, config, attention, add_pooling_layer=False)


def _eurobert(size: Size, attention: str) -> nn.Module:
    config = transformers.EuroBertConfig(
        max_position_embeddings=size.positions,
        num_key_value_heads=size.heads,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        mask_token_id=3,
        **_common(size),
    )
    return _of(transformers.EuroBertModel, config, attention)


def _deberta2(**changes: Any) -> Callable[[Size, str], nn.Module]:
    def build(size: Size, attention: str) -> nn.Module:
        settings = {
            "max_position_embeddings": size.positions,
            "relative_attention": True,
            "max_relative_positions": -1,
            "position_biased_input": False,
            "pos_att_type": ["p2c", "c2p"],
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "position_buckets": 2 * size.window,
            "type_vocab_size": 0,
        }
        config = transformers.DebertaV2Config(**(_common(size) | settings | changes))
        return _of(transformers.DebertaV2Model, config, attention)

    return build


def _t5(size: Size, attention: str, *, gated: bool = False) -> nn.Module:
    config = transformers.T5Config(
        vocab_size=size.vocab,
        d_model=size.hidden,
        d_kv=size.hidden // size.heads,
        d_ff=size.intermediate,
        num_layers=size.layers,
        num_heads=size.heads,
        feed_forward_proj="gated-gelu" if gated else "relu",
    )
    return _of(transformers.T5EncoderModel, config, attention)


def _clip(size: Size, attention: str) -> nn.Module:
    config = transformers.CLIPTextConfig(
        max_position_embeddings=77,
        projection_dim=size.hidden,
        bos_token_id=1,
        eos_token_id=size.vocab - 1,
        **_common(size),
    )
    return _of(transformers.CLIPTextModelWithProjection, config, attention)


def _vit(size: Size, attention: str) -> nn.Module:
    sizes = {name: value for name, value in _common(size).items() if name != "vocab_size"}
    image = 224 if size.hidden >= 64 else 32
    config = transformers.ViTConfig(image_size=image, patch_size=image // 14 if image == 224 else 8, **sizes)
    return _of(transformers.ViTModel, config, attention, add_pooling_layer=False)


def _published(kind: str, **changes: Any) -> Callable[[Size, str], nn.Module]:
    def build(size: Size, attention: str) -> nn.Module:
        sizes = published_models.Sizes(
            size.vocab,
            size.positions,
            size.hidden,
            size.layers,
            size.heads,
            size.intermediate,
            sdpa=attention == "sdpa",
            **changes,
        )
        return getattr(published_models, kind)(sizes)

    return build


@dataclass(frozen=True)
class Family:
    """How a family is built, and what it reads."""

    build: Callable[[Size, str], nn.Module]
    inputs: tuple[str, ...] = IDS
    output: str = "last_hidden_state"
    attentions: tuple[str, ...] = ("sdpa", "eager")


FAMILIES = {
    "bert": Family(_bert, TYPED),
    "bertpool": Family(_bert, TYPED, output="sentence_embedding"),
    "mpnetpool": Family(_mpnet, output="sentence_embedding", attentions=("eager",)),
    "roberta": Family(_roberta),
    "xlmr": Family(_xlmr),
    "distilbert": Family(_distilbert),
    "electra": Family(_electra, TYPED),
    "albert": Family(_albert, TYPED),
    "mpnet": Family(_mpnet, attentions=("eager",)),
    "modernbert": Family(_modernbert),
    "nomic": Family(_nomic, TYPED),
    "nomicpub": Family(_published("NomicBert", theta=1000.0), TYPED),
    "gte": Family(_gte),
    "gtepub": Family(_published("Gte", theta=160000.0), TYPED),
    "eurobert": Family(_eurobert),
    "jina2": Family(_published("JinaBert"), TYPED),
    "jina2calc": Family(_published("JinaBert", alibi_table=False), TYPED),
    "deberta3": Family(_deberta2(), attentions=("eager",)),
    "deberta2": Family(
        _deberta2(position_buckets=-1, share_att_key=False, norm_rel_ebd="none", type_vocab_size=2),
        TYPED,
        attentions=("eager",),
    ),
    "deberta2c2p": Family(_deberta2(pos_att_type=["c2p"]), attentions=("eager",)),
    "deberta2p2c": Family(_deberta2(pos_att_type=["p2c"]), attentions=("eager",)),
    "t5": Family(_t5),
    "t5gated": Family(lambda size, attention: _t5(size, attention, gated=True)),
    "clip": Family(_clip, output="text_embeds"),
    "vit": Family(_vit, ("pixel_values",)),
}


def _of(kind: Any, config: Any, attention: str, **options: Any) -> nn.Module:
    config._attn_implementation = attention
    return kind(config, **options)


def build(family: str, size_name: str, attention: str) -> nn.Module:
    """A model in eval mode, its weights random, seeded, and of few bits so that they compress well."""
    model = FAMILIES[family].build(SIZES[size_name], attention)
    generator = torch.Generator().manual_seed(0)
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                # Norms stay near 1, biases off 0.
                value = 0.2 * noise + (1.0 if name.endswith("weight") else 0.0)
            elif parameter in tables or parameter.ndim == 3:
                value = 0.5 * noise
            else:
                # Gain 1, so that tokens differ and scores spread by about 1; T5 doesn't divide its scores.
                value = noise / math.sqrt(math.prod(parameter.shape[1:]))
                if family.startswith("t5") and name.endswith(".q.weight"):
                    value /= math.sqrt(SIZES[size_name].hidden / SIZES[size_name].heads)
            step = 2.0 ** math.floor(math.log2(float(value.std())) - 5) if parameter.ndim > 1 else 2.0**-10
            parameter.copy_(torch.round(value / step) * step)
    return model.eval()


def _pooled(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the tokens that count, of length 1, with the operations of the sentence-transformers library."""
    wide = mask.unsqueeze(-1).expand(hidden.size()).to(hidden.dtype)
    mean = torch.sum(hidden * wide, 1) / torch.clamp(wide.sum(1), min=1e-9)
    return nn.functional.normalize(mean, p=2, dim=1)


def wrap(family: str, model: nn.Module) -> nn.Module:
    """A module of the arrays in the order of the family's inputs, giving the one output."""
    entry = FAMILIES[family]

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
            feeds = dict(zip(entry.inputs, arrays, strict=True))
            result = self.model(**feeds)
            if entry.output == "sentence_embedding":
                return _pooled(result["last_hidden_state"], feeds["attention_mask"])
            return result if isinstance(result, torch.Tensor) else result[entry.output]

    return Wrapper().eval()


def example(family: str, size_name: str, batch: int = 2, tokens: int = 12) -> tuple[torch.Tensor, ...]:
    """Arrays to export with: ids of every word, the first text padded."""
    size, generator = SIZES[size_name], torch.Generator().manual_seed(0)
    if family == "vit":
        edge = 224 if size.hidden >= 64 else 32
        return (torch.rand((batch, 3, edge, edge), generator=generator),)
    ids = torch.randint(5, size.vocab - 1, (batch, tokens), generator=generator)
    mask = torch.ones_like(ids)
    if batch > 1:
        mask[0, tokens * 2 // 3 :] = 0
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return tuple(arrays[name] for name in FAMILIES[family].inputs)
