"""Entities that the token-classification pipeline of transformers 4 or 5 finds, run by a Python that has it and torch.

``python record_entities.py FOLDER`` writes, for the tokenizer of the default model and for four small ones that it
trains if the folder does not have them, 2,000 cases of ``entity_cases.py`` each. Tokenizing, windows, aggregation and
overlaps are the pipeline's own; logits are given.
"""

import gzip
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import entity_cases
import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForTokenClassification,
    PreTrainedTokenizerFast,
    TokenClassificationPipeline,
)

CASES, TEXTS = 2000, 150
REPOSITORY = Path(__file__).resolve().parents[3]
SQUAD = REPOSITORY / "tests" / "data" / "squad-sample.json"
UNCASED = REPOSITORY / "sparsert" / "models" / "minilm-l6-squad-pruned60_quant" / "tokenizer.json"


def contexts() -> list[str]:
    """The contexts of the sample of SQuAD."""
    articles = json.loads(SQUAD.read_text(encoding="utf-8"))["data"]
    return [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]


def cased() -> Tokenizer:
    """BERT's for text with capital letters."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(
        contexts(), trainers.WordPieceTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer


def roberta() -> Tokenizer:
    """RoBERTa's, of bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(contexts(), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def unigram() -> Tokenizer:
    """XLM-R's, of pieces with their likelihoods."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=700, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(contexts(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 2)])
    return tokenizer


def whole_words() -> Tokenizer:
    """Words of a list, with neither decoder nor special tokens around a text."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=400, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(contexts(), trainer)
    return tokenizer


def uncased() -> Tokenizer:
    """BERT's own."""
    tokenizer = Tokenizer.from_file(str(UNCASED))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def make_pipeline(backend: Tokenizer, side: str) -> TokenClassificationPipeline:
    """A pipeline whose model is never run."""
    unknown, padding = ("[UNK]", "[PAD]") if backend.token_to_id("[UNK]") is not None else ("<unk>", "<pad>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token=unknown, pad_token=padding, truncation_side=side
    )
    config = BertConfig(
        vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4, num_labels=2
    )
    return TokenClassificationPipeline(model=BertForTokenClassification(config), tokenizer=tokenizer)


def entities_of(pipeline: TokenClassificationPipeline, text: str, number: int, case: dict[str, Any]) -> list[list[Any]]:
    """Label, score, word, start, end and, without aggregation, index of each entity."""
    labels = entity_cases.LABELS[case["labels"]]
    pipeline.model.config.id2label = dict(enumerate(labels))
    tokenizer = pipeline.tokenizer
    tokenizer.model_max_length = case["max_length"] or 10**30
    before, _, after = pipeline._sanitize_parameters(
        ignore_labels=list(entity_cases.IGNORED[case["ignored"]]),
        aggregation_strategy=case["strategy"],
        is_split_into_words=case["split"] is not None,
        stride=case["stride"],
        delimiter=case["split"],
    )
    sentence: Any = text if case["split"] is None else text.split(" ")
    windows = [dict(inputs) for inputs in pipeline.preprocess(sentence, **before)]
    ordinary = [inputs["special_tokens_mask"][0].numpy() == 0 for inputs in windows]
    logits = entity_cases.window_logits(case, number, [int(found.sum()) for found in ordinary])
    for inputs, places, values in zip(windows, ordinary, logits, strict=True):
        everywhere = np.zeros((len(places), len(labels)), dtype=np.float32)
        everywhere[places] = values
        inputs["logits"] = torch.from_numpy(everywhere)[None]
        for name in ("offset_mapping", "word_ids", "word_to_chars_map"):
            inputs.setdefault(name, None)
    found = pipeline.postprocess(windows, **after)
    return [
        [
            entity.get("entity", entity.get("entity_group")),
            round(float(entity["score"]), 7),
            entity["word"],
            int(entity["start"]),
            int(entity["end"]),
            *([int(entity["index"])] if "index" in entity else []),
        ]
        for entity in found
    ]


def main() -> None:
    folder = Path(sys.argv[1])
    warnings.simplefilter("ignore")
    for order, make in enumerate((uncased, cased, roberta, unigram, whole_words)):
        path = folder / f"{make.__name__}.json"
        if make is not uncased and not path.is_file():  # training is not the same each time
            make().save(str(path), pretty=False)
        backend = make() if make is uncased else Tokenizer.from_file(str(path))
        pipeline = make_pipeline(backend, entity_cases.SIDES.get(make.__name__, "right"))
        texts = entity_cases.texts(contexts(), TEXTS, order)
        found = []
        for number in range(order * CASES, (order + 1) * CASES):
            case = entity_cases.case(number, TEXTS)
            found.append(entities_of(pipeline, texts[case["text"]], number, case))
        content = json.dumps({"first": order * CASES, "texts": texts, "entities": found}, separators=(",", ":"))
        # Without a time in it, so that the same entities are the same file
        (folder / f"{make.__name__}.entities.json.gz").write_bytes(gzip.compress(content.encode(), mtime=0))


if __name__ == "__main__":
    main()
