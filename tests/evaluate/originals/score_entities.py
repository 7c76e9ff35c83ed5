"""Record precision, recall and F1 of entities as seqeval computes them, on random tags of IOB and IOBES.

Run by a Python that has it; writes to the file that the first argument names:

    python tests/evaluate/originals/score_entities.py tests/evaluate/data/entity-metrics.json.gz
"""

import gzip
import json
import sys
import warnings
from pathlib import Path

import numpy as np
from seqeval.metrics import classification_report
from seqeval.metrics.sequence_labeling import get_entities

TAGS = ["O", *(f"{letter}-{kind}" for letter in "BIES" for kind in ("PER", "LOC", "A-B"))]


def main() -> None:
    warnings.simplefilter("ignore")  # of what is divided by zero
    random = np.random.default_rng(7)
    datasets = []
    for _ in range(400):
        letters = random.choice(["BI", "IO", "BIES"])
        some = [place for place, tag in enumerate(TAGS) if tag[0] in f"O{letters}"]
        texts = []
        for _ in range(random.integers(1, 5)):
            true = [int(random.choice(some)) if random.random() < 0.7 else 0 for _ in range(random.integers(1, 15))]
            said = [tag if random.random() < 0.8 else int(random.choice(some)) for tag in true]
            texts.append([true, said])
        named = [[[TAGS[tag] for tag in tags] for tags in column] for column in zip(*texts, strict=True)]
        if not any(tag != "O" for column in named for tags in column for tag in tags):
            continue
        report = classification_report(*named, output_dict=True, zero_division=0)
        expected = {
            "" if kind == "micro avg" else f"{kind} ": [
                float(values[name]) for name in ("precision", "recall", "f1-score", "support")
            ]
            for kind, values in report.items()
            if kind not in ("macro avg", "weighted avg")
        }
        spans = [[[kind, first, last] for kind, first, last in get_entities(tags)] for tags in named[0]]
        datasets.append({"texts": texts, "spans": spans, "expected": expected})
    content = json.dumps({"tags": TAGS, "datasets": datasets}, separators=(",", ":"))
    Path(sys.argv[1]).write_bytes(gzip.compress(content.encode(), mtime=0))


if __name__ == "__main__":
    main()
