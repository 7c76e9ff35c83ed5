"""Make a small cross-encoder with sentence-transformers, and record what it makes of questions and paragraphs.

Its weights are random. Run by a Python that has sentence-transformers; writes into the folder that the first argument
names, the model to ``model/`` and scores to ``scores.json``; the second is the sample of SQuAD:

    cd tests/pipelines
    python originals/make_cross_encoder.py data/cross-encoder ../data/squad-sample.json
"""

import json
import sys
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

WORDS = 700
LONGEST = 96


def save_transformer(folder: Path, texts: list[str]) -> None:
    """A BERT with random weights, large enough for scores that differ, and a tokenizer trained on the texts."""
    trained = BertWordPieceTokenizer(lowercase=True)
    trained.train_from_iterator(texts, vocab_size=WORDS, show_progress=False)
    tokenizer = BertTokenizerFast(tokenizer_object=trained._tokenizer, model_max_length=LONGEST)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=LONGEST,
        num_labels=1,
        initializer_range=0.25,
    )
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    folder, sample = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    paragraphs = [paragraph for article in sample["data"] for paragraph in article["paragraphs"]]
    documents = [paragraph["context"] for paragraph in paragraphs[:8]]
    queries = [paragraph["qas"][0]["question"] for paragraph in paragraphs[:4]]
    save_transformer(folder / "model", [*documents, *queries])
    encoder = CrossEncoder(
        str(folder / "model"),
        device="cpu",
        activation_fn=torch.nn.Identity(),
        prompts={"ask": "please rank for: "},
    )
    encoder.save_pretrained(str(folder / "model"))
    (folder / "model" / "README.md").unlink()

    encoder = CrossEncoder(str(folder / "model"), device="cpu")
    # Short ones, long ones that are cut, and empty ones
    pairs = [[query, document[:length]] for query in queries for document in documents for length in (40, 900)]
    pairs += [["", ""], ["bees", ""], ["", documents[0]], [documents[0], documents[1]], [documents[2], "radios"]]
    recorded = {
        "pairs": pairs,
        "max_seq_length": encoder.max_seq_length,
        "scores": encoder.predict(pairs).tolist(),
        "sigmoid": encoder.predict(pairs, activation_fn=torch.nn.Sigmoid()).tolist(),
        "prompted": encoder.predict(pairs, prompt_name="ask").tolist(),
        "single": float(encoder.predict(pairs[3])),
        "queries": queries,
        "documents": documents,
        "ranked": [encoder.rank(query, documents) for query in queries],
        "first_two": [encoder.rank(query, documents, top_k=2, return_documents=True) for query in queries],
    }
    (folder / "scores.json").write_text(json.dumps(recorded, indent=1, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
