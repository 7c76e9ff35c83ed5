"""Models of pairs for tests: a real cross-encoder, float and int8, and tables whose logits follow from the words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper
from safetensors.numpy import load_file, save_file
from small_models import FLOAT, INT64, save
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from sparsert.export import export_folder

RECORDED = Path(__file__).parent / "data" / "cross-encoder"
"""Made and scored by sentence-transformers, see ``originals/make_cross_encoder.py``."""

FORMATS = ("float", "int8")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]


def make_encoder(folder: Path, form: str = "float", labels: Sequence[str] = ("LABEL_0",)) -> Path:
    """The recorded cross-encoder with its ONNX file, perhaps quantized, perhaps with another head of random weights."""
    shutil.copytree(RECORDED / "model", folder)
    if len(labels) > 1:
        tensors = load_file(folder / "model.safetensors")
        random = np.random.default_rng(7)
        for name, shape in (("classifier.weight", (len(labels), 32)), ("classifier.bias", (len(labels),))):
            tensors[name] = random.normal(0, 1, shape).astype(np.float32)
        save_file(tensors, folder / "model.safetensors")
        change_json(
            folder / "config.json", id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)}
        )
    path = export_folder(folder)
    if form == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        path.rename(folder / "float.onnx")
        quantize_dynamic(folder / "float.onnx", path, weight_type=QuantType.QInt8)
        (folder / "float.onnx").unlink()
    return folder


def naive_logits(folder: Path, pairs: Sequence[Sequence[str]], strategy: str = "longest_first") -> np.ndarray:
    """Logits by the tokenizer's own truncation and by ONNX Runtime, a pair at a time; shape (pairs, labels)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Without it, products of bytes saturate on CPUs without VNNI
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    limit = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["model_max_length"]
    tokenizer.enable_truncation(limit, strategy=strategy)
    rows = []
    for first, second in pairs:
        encoding = tokenizer.encode(first, second)
        arrays = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        feeds = {item.name: np.array([arrays[item.name]]) for item in session.get_inputs()}
        rows.append(session.run(["logits"], feeds)[0][0])
    return np.array(rows)


def make_table(
    folder: Path, values: Mapping[str, Sequence[float]], config: Mapping[str, Any] | None = None, longest: int = 16
) -> Path:
    """A model whose logits are the sum over words of their numbers; words are single letters, and others count 0."""
    folder.mkdir()
    labels = len(next(iter(values.values())))
    table = np.array([values.get(word, [0.0] * labels) for word in WORDS], dtype=np.float32)
    tokens = ("batch", "sequence")
    save(
        folder / "model.onnx",
        [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"], "gather"),
            helper.make_node("Cast", ["attention_mask"], ["mask"], "cast", to=FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["column"], "unsqueeze"),
            helper.make_node("Mul", ["rows", "column"], ["masked"], "mul"),
            helper.make_node("ReduceSum", ["masked", "axis"], ["logits"], "sum", keepdims=0),
        ],
        [("input_ids", INT64, tokens), ("attention_mask", INT64, tokens)],
        [("logits", FLOAT, ("batch", labels))],
        {"table": table, "last": np.array([-1]), "axis": np.array([1])},
    )
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"pad_token": "[PAD]", "model_max_length": longest}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config or {}), encoding="utf-8")
    return folder


def change_json(path: Path, **values: Any) -> None:
    """Set keys of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps(content), encoding="utf-8")
