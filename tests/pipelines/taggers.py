"""Small models for token classification with random weights, a tokenizer of subwords, and what ONNX Runtime says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bert_files
import naive_entities
import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

EXPORTS = Path(__file__).resolve().parents[1] / "graph" / "data"

LENGTH = 32
"""Tokens that each of these models takes."""

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")

FORMS = {"bert": "bert-tok-eager-script14", "distilbert": "distilbert-tok-sdpa-dynamo20", "int8": ""}
"""Names of the models, and of the exports that they are."""

LETTERS = "abcdefghij"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def make_tagger(folder: Path, name: str, **config: Any) -> Path:
    """Write one of ``FORMS`` with its tokenizer and a ``config.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    subwords().save(str(folder / "tokenizer.json"))
    settings = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": LENGTH}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    family = {"model_type": "bert", "id2label": {str(place): label for place, label in enumerate(LABELS)}}
    (folder / "config.json").write_text(json.dumps(family | config))
    onnx.save(
        _five_labels(_int8() if name == "int8" else onnx.load(EXPORTS / f"{FORMS[name]}.onnx")), folder / "model.onnx"
    )
    return folder


def subwords() -> Tokenizer:
    """BERT's tokenizer with a vocabulary of letters and pairs of letters."""
    pieces = [*LETTERS, *(f"##{letter}" for letter in LETTERS), *(f"{one}a" for one in LETTERS), "##bc", "##de"]
    vocabulary = {piece: place for place, piece in enumerate([*SPECIAL, *pieces])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def random_text(random: np.random.Generator, words: int) -> str:
    """Words of one to five letters of which the vocabulary has most, between all kinds of spaces."""
    found = ["".join(random.choice(list(LETTERS), random.integers(1, 6))) for _ in range(words)]
    odd = ["é", "字", "😀", "İ", "a\0b", "a-b", "...", "zz"]
    found = [str(random.choice(odd)) if random.random() < 0.1 else word for word in found]
    return "".join(word + str(random.choice([" ", " ", " ", "  ", "\n"])) for word in found)


def _five_labels(model: onnx.ModelProto) -> onnx.ModelProto:
    """The two numbers of each token become logits of five labels, each the highest in its direction."""
    graph = model.graph
    (output,) = graph.output
    angles = 2 * np.pi * np.arange(len(LABELS)) / len(LABELS)
    directions = np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    session = _session(model)
    ids = np.random.default_rng(0).integers(4, 36, (50, LENGTH))
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    (numbers,) = session.run(None, {value.name: arrays[value.name] for value in session.get_inputs()})
    spread = numbers.reshape(-1, 2)
    for name, values in (
        ("shift", np.median(spread, axis=0)),
        ("stretch", spread.std(axis=0) / 2),
        ("directions", directions),
    ):
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    graph.node.append(helper.make_node("Sub", [output.name, "shift"], ["moved"], "move"))
    graph.node.append(helper.make_node("Div", ["moved", "stretch"], ["balanced"], "balance"))
    graph.node.append(helper.make_node("MatMul", ["balanced", "directions"], ["tags"], "label"))
    graph.output[0].CopyFrom(
        helper.make_tensor_value_info("tags", onnx.TensorProto.FLOAT, ["batch", "sequence", len(LABELS)])
    )
    return model


def _int8() -> onnx.ModelProto:
    """A model for question answering in SparseML's int8, before its two numbers of each token are told apart."""
    sizes = {"layers": 2, "hidden": 32, "heads": 2, "ffn": 64, "vocab": 60, "max-pos": LENGTH}
    arguments = [text for name, size in sizes.items() for text in (f"--{name}", str(size))]
    model = bert_files.build(bert_files.parse([*arguments, "--quant", "sparseml", "--sparsity", "0.5"]))
    graph = model.graph
    kept = [node for node in graph.node if node.op_type not in ("Split", "Squeeze")]
    (both,) = {name for node in graph.node if node.op_type == "Split" for name in node.input[:1]}
    del graph.node[:], graph.output[:]
    graph.node.extend(kept)
    graph.output.append(helper.make_tensor_value_info(both, onnx.TensorProto.FLOAT, ["batch", "sequence", 2]))
    return model


def _session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Reference:
    """ONNX Runtime on windows that the tokenizers library makes, one at a time, and the naive twin.

    ``run`` is what gives the logits of a window's token ids in place of ONNX Runtime, shape (T, L).
    """

    def __init__(self, folder: Path, run: Callable[[list[int]], np.ndarray] | None = None) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._session = _session(onnx.load(folder / "model.onnx"))
        self._run = run or self._run_onnxruntime

    def _run_onnxruntime(self, ids: list[int]) -> np.ndarray:
        row = np.array([ids], dtype=np.int64)
        arrays = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
        (logits,) = self._session.run(None, {value.name: arrays[value.name] for value in self._session.get_inputs()})
        return logits[0]

    def windows(self, text: str, sequence_length: int, overlap: int) -> list[list[naive_entities.Token]]:
        """The tokens of each window without special ones."""
        self.tokenizer.enable_truncation(sequence_length, stride=overlap)
        encoding = self.tokenizer.encode(text)
        self.tokenizer.no_truncation()
        windows = []
        for window in [encoding, *encoding.overflowing]:
            windows.append(
                [
                    naive_entities.Token(token, start, end, row, naive_entities.probabilities(values))
                    for row, (token, (start, end), values) in enumerate(
                        zip(window.ids, window.offsets, self._run(window.ids).tolist(), strict=True)
                    )
                    if not window.special_tokens_mask[row]
                ]
            )
        return windows

    def entities(self, text: str, strategy: str, ignored: Sequence[str] = ("O",)) -> list[dict[str, Any]]:
        """Entities of a text that is read as a whole, as the naive twin finds them."""
        budget = LENGTH - 2
        overlap = min(64, budget // 4)
        windows = self.windows(text, LENGTH, overlap)
        step = budget - overlap
        ranges = [(place * step, place * step + len(window)) for place, window in enumerate(windows)]
        tokens = ranges[-1][1]
        chosen = [
            windows[window][token - ranges[window][0]]
            for token, window in enumerate(naive_entities.deepest(tokens, ranges))
        ]
        for place, token in enumerate(chosen):
            token.row = place + 1
        return naive_entities.entities(self.tokenizer, 1, text, chosen, LABELS, strategy, ignored)
