"""A tiny sentence-transformers folder with random weights, and what sentence-transformers 6 makes of texts with it.

Run by a Python that has sentence-transformers 6, onnx and onnxscript, from anywhere::

    python make_sentence_folder.py tests/data/squad-sample.json tests/pipelines/data

writes ``tiny-sentences/``, the folder as the library saves it with ``onnx/model.onnx`` as torch exports it, and
``sentences.npz``, the library's vectors of the cases of ``sentence_cases.py``.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sentence_cases import FOLDERS, cases, sample_texts, write_changes  # noqa: E402

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    found = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    found.normalizer = normalizers.BertNormalizer(lowercase=True)
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=600, special_tokens=SPECIAL))
    found.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{name.strip('[]').lower()}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=found, model_max_length=64, **names)


class Exported(torch.nn.Module):
    """A BertModel whose arguments and results stand in the order of the file's inputs and outputs."""

    def __init__(self, model: BertModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.model(input_ids=ids, attention_mask=mask, token_type_ids=types)
        return found.last_hidden_state, found.pooler_output


def export(model: BertModel, path: Path) -> None:
    path.parent.mkdir()
    names = ["input_ids", "attention_mask", "token_type_ids"]
    shape = {0: "batch", 1: "sequence"}
    example = torch.ones(2, 5, dtype=torch.int64)
    with torch.no_grad():
        torch.onnx.export(
            Exported(model).eval(),
            (example, example, torch.zeros_like(example)),
            str(path),
            input_names=names,
            output_names=["last_hidden_state", "pooler_output"],
            dynamic_axes=dict.fromkeys([*names, "last_hidden_state"], shape),
            opset_version=17,
            dynamo=False,
        )


def make(texts: list[str], folder: Path) -> None:
    torch.manual_seed(0)
    shutil.rmtree(folder, ignore_errors=True)
    config = BertConfig(
        vocab_size=600,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,  # else every text looks like every other
        attn_implementation="eager",
    )
    with tempfile.TemporaryDirectory() as bare:
        BertModel(config).eval().save_pretrained(bare)
        tokenizer(texts).save_pretrained(bare)
        transformer = Transformer(bare, max_seq_length=40, model_kwargs={"attn_implementation": "eager"})
        modules = [transformer, Pooling(32, "mean"), Dense(32, 24), Normalize()]
        model = SentenceTransformer(modules=modules, prompts={"query": "what is ", "document": "text about: "})
        model.save(str(folder), create_model_card=False)
        export(transformer.model, folder / "onnx" / "model.onnx")


def vectors(folder: Path, texts: list[str]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for name, changes in FOLDERS.items():
        with tempfile.TemporaryDirectory() as place:
            copy = Path(shutil.copytree(folder, Path(place) / "model"))
            write_changes(copy, changes)
            model = SentenceTransformer(str(copy), device="cpu", backend="torch")
            for case in cases(name):
                method = getattr(model, case.method)
                result: Any = method(texts, **case.arguments)
                if isinstance(result, list):  # token embeddings
                    result = np.concatenate([values.numpy() for values in result])
                found[case.key] = np.asarray(result)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    data = json.loads(source.read_text(encoding="utf-8"))
    found = sample_texts(data)
    make(found, target / "tiny-sentences")
    np.savez_compressed(target / "sentences.npz", **vectors(target / "tiny-sentences", found))
