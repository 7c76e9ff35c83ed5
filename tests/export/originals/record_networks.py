"""Record what tiny networks of the transformers library compute: ``python record_networks.py`` rewrites ``../data/``.

Needs torch and transformers (made with torch 2.13, transformers 5.24); the tests read the files without them. A file
is one ``model_type``: inputs, and for each head what ``save_pretrained`` wrote and what torch answered. Weights that
several heads share are stored once.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import transformers

DATA = Path(__file__).resolve().parents[1] / "data"
VOCAB, HIDDEN, INNER, HEADS, LAYERS = 60, 16, 24, 2, 2
BERT_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": 48,
}
DISTILBERT_SIZES = {
    "vocab_size": VOCAB,
    "dim": HIDDEN,
    "hidden_dim": INNER,
    "n_heads": HEADS,
    "n_layers": LAYERS,
    "max_position_embeddings": 48,
}
ROBERTA_SIZES = {**BERT_SIZES, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
ALBERT_SIZES = {"embedding_size": 8, "num_hidden_layers": 3, "num_hidden_groups": 2, "inner_group_num": 2}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "albert": ("Albert", {**BERT_SIZES, **ALBERT_SIZES}),
    "bert": ("Bert", {**BERT_SIZES, "num_labels": 3}),
    "electra": ("Electra", {**BERT_SIZES, "embedding_size": 8, "num_labels": 1}),
    "distilbert": ("DistilBert", {**DISTILBERT_SIZES, "activation": "relu"}),
    "roberta": ("Roberta", {**ROBERTA_SIZES, "hidden_act": "gelu_new", "num_labels": 4}),
    "xlm-roberta": ("XLMRoberta", {**ROBERTA_SIZES, "hidden_act": "silu", "pad_token_id": 3}),
    "camembert": ("Camembert", {**ROBERTA_SIZES, "hidden_act": "gelu_pytorch_tanh"}),
    # longer than the 128 tokens from which on distances share a bucket
    "mpnet": ("MPNet", {**BERT_SIZES, "max_position_embeddings": 160, "layer_norm_eps": 1e-5}),
}
"""Name of the classes, and options of the configuration."""

CLASSES = {
    "base": "Model",
    "sequences": "ForSequenceClassification",
    "tokens": "ForTokenClassification",
    "answers": "ForQuestionAnswering",
    "words": "ForMaskedLM",
}
OUTPUTS = ("last_hidden_state", "pooler_output", "logits", "start_logits", "end_logits")


def make_network(name: str, options: dict[str, Any], base: torch.nn.Module | None, head: str) -> torch.nn.Module:
    """A network whose weights are large enough that nothing in it is without effect."""
    architecture = f"{name}{CLASSES[head]}"
    config = getattr(transformers, f"{name}Config")(**options)
    if head == "answers":
        config.num_labels = 2
    network = getattr(transformers, architecture)(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in network.named_parameters():
            mean = 1.0 if "norm" in parameter_name.lower() and parameter_name.endswith("weight") else 0.0
            parameter.normal_(mean, 0.5 if "embeddings" in parameter_name or "bias" in parameter_name else 0.3)
    if base is not None:
        network.base_model.load_state_dict(base.state_dict(), strict=False)
    return network


def make_inputs(padding: int, lengths: list[int], types: bool) -> dict[str, np.ndarray]:
    """Random tokens; shorter rows are padded, the last of several on the left."""
    generator = np.random.default_rng(len(lengths))
    longest = max(lengths)
    ids, mask = np.full((len(lengths), longest), padding), np.zeros((len(lengths), longest), np.int64)
    for row, length in enumerate(lengths):
        left = len(lengths) > 1 and row == len(lengths) - 1
        place = slice(longest - length, longest) if left else slice(0, length)
        ids[row, place], mask[row, place] = generator.integers(5, VOCAB, length), 1
    found = {"input_ids": ids, "attention_mask": mask}
    if types:
        found["token_type_ids"] = generator.integers(0, 2, ids.shape)
    return found


def record(model_type: str) -> None:
    """Write the file of one kind of network."""
    torch.manual_seed(0)
    name, options = NETWORKS[model_type]
    stored: dict[bytes, int] = {}
    flat: list[np.ndarray] = []
    layout: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    base = None
    longest = options["max_position_embeddings"] - 8
    for head in CLASSES:
        network = make_network(name, options, base, head)
        base = base or network
        with tempfile.TemporaryDirectory() as folder:
            network.save_pretrained(folder)
            config = json.loads((Path(folder) / "config.json").read_text())
            tensors = safetensors.torch.load_file(Path(folder) / "model.safetensors")
        places = {}
        for tensor_name, tensor in sorted(tensors.items()):
            array = tensor.numpy()
            key = array.tobytes()
            if key not in stored:
                stored[key] = sum(part.size for part in flat)
                flat.append(array.ravel())
            places[tensor_name] = [stored[key], list(array.shape)]
        layout[head] = {"config": config, "tensors": places}
        if head == "words":
            continue  # its folder means the base model
        for case, lengths in enumerate([[12, 7, 1, 9], [longest]]):
            inputs = make_inputs(config.get("pad_token_id") or 0, lengths, model_type in ("albert", "bert", "electra"))
            with torch.no_grad():
                answer = network(**{key: torch.from_numpy(value) for key, value in inputs.items()})
            arrays |= {f"{case}/{key}": value.astype(np.int16) for key, value in inputs.items()}
            arrays |= {f"{case}/{head}/{key}": answer[key].numpy() for key in OUTPUTS if key in answer}
    path = DATA / f"{model_type}.npz"
    np.savez_compressed(path, weights=np.concatenate(flat), layout=json.dumps(layout), **arrays)
    sys.stderr.write(f"{path.name}: {path.stat().st_size} bytes\n")


def main() -> None:
    """Record every kind."""
    DATA.mkdir(exist_ok=True)
    for model_type in NETWORKS:
        record(model_type)


if __name__ == "__main__":
    main()
