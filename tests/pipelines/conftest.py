"""Fixtures of the pipeline tests: the default model, real questions, tokenizers of two families."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from sparsert.pipelines import Pipeline
from sparsert.pipelines.question_answering import QuestionAnsweringPipeline

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = REPOSITORY / "sparsert" / "models" / "minilm-l6-squad-pruned60_quant"


@pytest.fixture(scope="session")
def model_directory() -> Path:
    """Directory of the default model."""
    return MODEL


@pytest.fixture(scope="session", params=["sparsert", "onnxruntime"])
def engine_type(request: pytest.FixtureRequest) -> str:
    """Every engine that a pipeline can run on."""
    if request.param == "onnxruntime":
        pytest.importorskip("onnxruntime")
    return request.param


@pytest.fixture(scope="session")
def pipeline(engine_type: str) -> QuestionAnsweringPipeline:
    """The default model at 128 tokens."""
    return Pipeline.create("question-answering", MODEL, engine_type=engine_type, num_cores=1)


@pytest.fixture(scope="session")
def paragraphs(squad_sample: Path) -> list[dict]:
    """Of SQuAD's development set: ``{"context": …, "qas": [{"id", "question", "answers"}]}``."""
    articles = json.loads(squad_sample.read_text(encoding="utf-8"))["data"]
    return [paragraph for article in articles for paragraph in article["paragraphs"]]


@pytest.fixture(scope="session")
def wordpiece() -> Tokenizer:
    """BERT's tokenizer."""
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


def byte_level(texts: Iterator[str] | list[str], post_processor: object) -> Tokenizer:
    """A byte-level BPE tokenizer as RoBERTa has it, trained on ``texts``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = post_processor
    return tokenizer


@pytest.fixture(scope="session")
def roberta(paragraphs: list[dict]) -> Tokenizer:
    """RoBERTa's layout, ``<s> A </s></s> B </s>``, with offsets that leave out the space before a word."""
    post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    return byte_level([paragraph["context"] for paragraph in paragraphs], post_processor)


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture
def toy_model(tmp_path: Path) -> Callable[..., Path]:
    """A factory of model directories whose logits are a table over tokens, and whose tokens are words of one letter.

    ``start`` and ``end`` map words to logits (0 for the others).
    """

    def make(
        start: dict[str, float],
        end: dict[str, float],
        *,
        inputs: Sequence[str] = ("input_ids", "attention_mask", "token_type_ids"),
        outputs: Sequence[str] = ("start_logits", "end_logits"),
        dtype: int = TensorProto.INT64,
        shape: Sequence[int | str] = ("batch", "sequence"),
        tokenizer_config: dict | None = None,
        config: dict | None = None,
        special_tokens: bool = True,
    ) -> Path:
        directory = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        directory.mkdir()
        nodes, constants = [], []
        for name, table in zip(outputs, (start, end, {}), strict=False):
            values = np.array([table.get(word, 0.0) for word in WORDS], dtype=np.float32)
            constants.append(numpy_helper.from_array(values, f"{name}.table"))
            nodes.append(helper.make_node("Gather", [f"{name}.table", "input_ids"], [name], name=f"{name}.gather"))
        graph = helper.make_graph(
            nodes,
            "toy",
            [helper.make_tensor_value_info(name, dtype, list(shape)) for name in inputs],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name in outputs],
            constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, directory / "model.onnx")
        tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        if special_tokens:
            tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        tokenizer.save(str(directory / "tokenizer.json"))
        settings = {"pad_token": "[PAD]"} | (tokenizer_config or {})
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
        if config is not None:
            (directory / "config.json").write_text(json.dumps(config))
        return directory

    return make
