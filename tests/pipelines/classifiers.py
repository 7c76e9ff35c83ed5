"""Small classifiers with random weights: graphs of real exporters and some in int8, tokenizers of two families."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bert_files
import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

EXPORTS = Path(__file__).resolve().parents[1] / "graph" / "data"

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LENGTH = 40
"""Tokens that each of these models takes."""

FORMS = {
    "bert": "bert-cls-sdpa-dynamo20",
    "distilbert": "distilbert-cls-eager-dynamo18",
    "distilbert-older": "distilbert-cls-sdpa-script14",
    "roberta": "roberta-cls-eager-script17",
    "int8": "sparseml",
    "dynamic": "dynamic",
}
"""Names of the classifiers, and of the exports or quantizations that they are; all have two labels."""


def random_texts(random: np.random.Generator, number: int, most: int = 2 * LENGTH) -> list[str]:
    """Texts of words of one letter, from none to so many."""
    return [" ".join(random.choice(list(LETTERS), random.integers(most + 1))) for _ in range(number)]


def make_classifier(folder: Path, name: str, width: int = 2, **config: Any) -> Path:
    """Write one of ``FORMS``, perhaps with its first logit alone, with its tokenizer and a ``config.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    words(name == "roberta").save(str(folder / "tokenizer.json"))
    settings = {"pad_token": "<pad>" if name == "roberta" else "[PAD]", "model_max_length": LENGTH}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    names = dict(zip("01"[:width], ("bad", "good"), strict=False))
    quantized = name in ("int8", "dynamic")
    family = {"model_type": "bert" if quantized else name.split("-")[0], "id2label": names}
    (folder / "config.json").write_text(json.dumps(family | config))
    model = _quantized(FORMS[name]) if quantized else onnx.load(EXPORTS / f"{FORMS[name]}.onnx")
    onnx.save(model, folder / "model.onnx")
    _balance(folder, width)
    return folder


def _balance(folder: Path, width: int) -> None:
    """Move and stretch the logits, so that random texts get all labels."""
    reference = Reference(folder)
    found = np.array([reference.logits(text) for text in random_texts(np.random.default_rng(0), 50)])
    model = onnx.load(folder / "model.onnx")
    graph = model.graph
    (output,) = graph.output
    for name, values in (("shift", np.median(found, axis=0)), ("stretch", found.std(axis=0))):
        graph.initializer.append(numpy_helper.from_array(values, name))
    graph.node.append(helper.make_node("Sub", [output.name, "shift"], ["moved"], "move"))
    graph.node.append(helper.make_node("Div", ["moved", "stretch"], ["balanced"], "balance"))
    graph.initializer.append(numpy_helper.from_array(np.arange(width), "places"))
    graph.node.append(helper.make_node("Gather", ["balanced", "places"], ["labels"], "choose", axis=1))
    output.name = "labels"
    output.type.tensor_type.shape.dim[1].dim_value = width
    onnx.save(model, folder / "model.onnx")


def words(roberta: bool = False) -> Tokenizer:
    """A tokenizer of words of one letter, with the special tokens of BERT or RoBERTa."""
    special = ["<s>", "<pad>", "</s>", "<unk>"] if roberta else ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate([*special, *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=special[3 if roberta else 1]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if roberta:
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    else:
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def _quantized(kind: str) -> onnx.ModelProto:
    """A model for question answering in int8, whose numbers for the first token become those of classes."""
    sizes = [
        "--layers",
        "2",
        "--hidden",
        "32",
        "--heads",
        "2",
        "--ffn",
        "64",
        "--vocab",
        "60",
        "--max-pos",
        str(LENGTH),
    ]
    model = bert_files.build(bert_files.parse([*sizes, "--quant", kind, "--sparsity", "0.5"]))
    graph = model.graph
    kept = [node for node in graph.node if node.op_type not in ("Split", "Squeeze")]
    (both,) = {name for node in graph.node if node.op_type == "Split" for name in node.input[:1]}
    del graph.node[:], graph.output[:]
    graph.node.extend([*kept, helper.make_node("Gather", [both, "first"], ["classes"], "first_token", axis=1)])
    graph.initializer.append(numpy_helper.from_array(np.array(0), "first"))
    graph.output.append(helper.make_tensor_value_info("classes", onnx.TensorProto.FLOAT, ["batch", 2]))
    return model


class Reference:
    """ONNX Runtime on rows of the tokenizers library's own making, one at a time, so that nothing is padded.

    Unless ``exact``, its products of bytes may saturate, as they do by default on a CPU without VNNI.
    """

    def __init__(self, folder: Path, sequence_length: int = LENGTH, exact: bool = True) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(sequence_length, strategy="longest_first")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if exact:
            options.add_session_config_entry("session.x64quantprecision", "1")
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

    def logits(self, text: str, pair: str | None = None) -> np.ndarray:
        """Of one text or pair, shape (L,)."""
        encoding = self.tokenizer.encode(text, pair)
        arrays = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        wanted = {value.name for value in self.session.get_inputs()}
        feeds = {name: np.array([values], dtype=np.int64) for name, values in arrays.items() if name in wanted}
        return self.session.run(None, feeds)[0][0]
