"""Record what the CrossEncoder of sentence-transformers makes of 10,000 tables of logits, random, tied and extreme.

Run by a Python that has sentence-transformers; writes to the file that the first argument names:

    python tests/pipelines/originals/record_cross_encoder.py tests/pipelines/data/cross-encoder.npz
"""

import sys

import numpy as np
import torch
from sentence_transformers import CrossEncoder

CASES = 10_000
ACTIVATIONS = [None, torch.nn.Sigmoid(), torch.nn.Identity(), torch.nn.Softmax(dim=-1), torch.nn.Tanh()]


class Table(torch.nn.Module):
    """Gives the logits of a table instead of those of a model; documents are numbers of its rows."""

    logits = torch.zeros(0)

    def preprocess(self, inputs: list[tuple[str, str]], prompt: str | None = None, **_: object) -> dict:
        return {"rows": torch.tensor([int(document) for _, document in inputs])}

    def forward(self, features: dict, **_: object) -> dict:
        return {"scores": self.logits[features["rows"]]}


class Encoder(CrossEncoder):
    """The original, but for the model and its number of labels."""

    labels = 1

    @property
    def num_labels(self) -> int:
        return self.labels


def logits_of(random: np.random.Generator, rows: int, labels: int) -> np.ndarray:
    """Logits that float16 holds exactly, which keeps the file small."""
    kind = random.choice(["random", "tied", "extreme"], p=[0.6, 0.3, 0.1])
    if kind == "random":
        values = random.normal(0, 4, (rows, labels))
    elif kind == "tied":
        values = random.integers(-1, 2, (rows, labels)) * 1.5
    else:
        values = random.choice([-60000, -100, -89, 0, 2, 89, 100, 60000], (rows, labels))
    return values.astype(np.float16)


def main() -> None:
    random = np.random.default_rng(3)
    table = Table()
    encoders = {labels: Encoder(modules=[table], device="cpu") for labels in (1, 3)}
    for labels, encoder in encoders.items():
        encoder.labels = labels
        encoder.activation_fn = encoder.get_default_activation_fn()
    columns: dict[str, list] = {name: [] for name in ("rows", "labels", "activations", "softmax", "top_k")}
    logits, scores, orders = [], [], []
    for _ in range(CASES):
        rows, labels = int(random.integers(1, 9)), int(random.choice([1, 3], p=[0.7, 0.3]))
        activation, softmax = int(random.integers(len(ACTIVATIONS))), bool(random.random() < 0.3)
        top_k = int(random.integers(0, 6)) or None
        values = logits_of(random, rows, labels)
        table.logits = torch.from_numpy(values.astype(np.float32))
        chosen = {"activation_fn": ACTIVATIONS[activation], "show_progress_bar": False}
        documents = [str(row) for row in range(rows)]
        pairs = [("", document) for document in documents]
        scores.append(encoders[labels].predict(pairs, apply_softmax=softmax, batch_size=4, **chosen).ravel())
        if labels == 1:
            ranked = encoders[1].rank("", documents, top_k=top_k, batch_size=4, **chosen)
            orders.append([entry["corpus_id"] for entry in ranked])
        for name, value in zip(columns, (rows, labels, activation, softmax, top_k or 0), strict=True):
            columns[name].append(value)
        logits.append(values.ravel())
    np.savez_compressed(
        sys.argv[1],
        logits=np.concatenate(logits),
        scores=np.concatenate(scores),
        orders=np.concatenate(orders).astype(np.uint8),
        **{name: np.array(values, dtype=np.uint8) for name, values in columns.items()},
    )


if __name__ == "__main__":
    main()
