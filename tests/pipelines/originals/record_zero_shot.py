"""Record what the zero-shot pipeline of transformers makes of 10,000 tables of logits, random, tied and extreme.

Run by a Python that has transformers and torch; writes to the file that the first argument names:

    python tests/pipelines/originals/record_zero_shot.py tests/pipelines/data/zero-shot.npz
"""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import torch
from transformers import ZeroShotClassificationPipeline

CASES = 10_000
LABEL2ID = [
    {"contradiction": 0, "neutral": 1, "entailment": 2},
    {"entailment": 0, "neutral": 1, "contradiction": 2},
    {"ENTAILMENT": 0, "NOT_ENTAILMENT": 1},
    {"not_entailment": 0, "entailment": 1},
]


def logits_of(random: np.random.Generator, labels: int, classes: int) -> np.ndarray:
    """Logits that float16 holds exactly, which keeps the file small."""
    kind = random.choice(["random", "tied", "extreme"], p=[0.6, 0.3, 0.1])
    if kind == "random":
        values = random.normal(0, 4, (labels, classes))
    elif kind == "tied":
        values = random.integers(-1, 2, (labels, classes)) * 1.5
    else:
        values = random.choice([-60000, -100, -89, 0, 2, 89, 100, 60000], (labels, classes))
    return values.astype(np.float16)


def main() -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    random = np.random.default_rng(2)
    counts, kinds, independent, logits, scores = [], [], [], [], []
    for _ in range(CASES):
        count, kind, multi_label = (
            int(random.integers(1, 8)),
            int(random.integers(len(LABEL2ID))),
            random.random() < 0.5,
        )
        table = logits_of(random, count, len(LABEL2ID[kind]))
        pipeline = ZeroShotClassificationPipeline.__new__(ZeroShotClassificationPipeline)
        pipeline.model = SimpleNamespace(config=SimpleNamespace(label2id=LABEL2ID[kind]))
        pipeline.framework = "pt"  # asked by version 4 alone
        outputs = [
            {"candidate_label": label, "sequence": "", "logits": torch.from_numpy(row[None].astype(np.float32))}
            for label, row in enumerate(table)
        ]
        with np.errstate(all="ignore"):
            found = pipeline.postprocess(outputs, multi_label=multi_label)
        by_label = np.empty(count, dtype=np.float32)
        by_label[found["labels"]] = found["scores"]
        counts.append(count)
        kinds.append(kind)
        independent.append(multi_label)
        logits.append(table.ravel())
        scores.append(by_label)
    np.savez_compressed(
        sys.argv[1],
        counts=np.array(counts, dtype=np.uint8),
        kinds=np.array(kinds, dtype=np.uint8),
        multi_label=np.array(independent),
        logits=np.concatenate(logits),
        scores=np.concatenate(scores),
    )


if __name__ == "__main__":
    main()
