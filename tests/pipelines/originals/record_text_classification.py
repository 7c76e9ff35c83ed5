"""Record what the text classification of transformers makes of 10,000 rows of logits, random, tied and extreme.

Run by a Python that has transformers and torch; writes to the file that the first argument names. Version 4 also knows
``return_all_scores``, version 5 no longer does:

    python tests/pipelines/originals/record_text_classification.py tests/pipelines/data/text-classification-5.npz
    python tests/pipelines/originals/record_text_classification.py tests/pipelines/data/text-classification-4.npz
"""

import logging
import sys
import warnings

import numpy as np
import torch
import transformers
from transformers import BertConfig, TextClassificationPipeline

CASES = 10_000
PROBLEMS = [None, "regression", "single_label_classification", "multi_label_classification"]
FUNCTIONS = [None, "softmax", "sigmoid", "none"]
TOP_K = ["absent", None, 1, 2, 5, 100]
ALL_SCORES = [None, True, False] if transformers.__version__.startswith("4.") else [None]


class Pipeline(TextClassificationPipeline):
    """What comes after the model, without one."""

    def __init__(self, config: BertConfig) -> None:
        self.model = torch.nn.Module()
        self.model.config = config
        self.framework = "pt"  # asked by version 4 alone

    def classify(self, logits: np.ndarray, options: dict[str, object]) -> list[dict[str, object]]:
        """The labels of one row with their scores."""
        *_, postprocess = self._sanitize_parameters(**options)
        found = self.postprocess({"logits": torch.from_numpy(logits[None].astype(np.float32))}, **postprocess)
        return found if isinstance(found, list) else [found]


def logits_of(random: np.random.Generator, labels: int) -> np.ndarray:
    """Logits that float16 holds exactly, which keeps the file small.

    Extreme ones give scores that every exp rounds alike: none is so small that only some hold it.
    """
    kind = random.choice(["random", "tied", "extreme"], p=[0.5, 0.3, 0.2])
    if kind == "random":
        values = random.normal(0, 3, labels)
    elif kind == "tied":
        values = random.integers(-1, 2, labels) * 1.5
    else:
        values = random.choice([-60000, -300, -150, 0, 2, 150, 300, 60000], labels)
    return values.astype(np.float16)


def main() -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    random = np.random.default_rng(3)
    cases, logits, labels, scores = [], [], [], []
    for _ in range(CASES):
        count = int(random.choice([1, 2, 3, 4, 7, 12], p=[0.2, 0.3, 0.2, 0.1, 0.1, 0.1]))
        problem, function, top_k, all_scores, named = (
            int(random.integers(number)) for number in (len(PROBLEMS), len(FUNCTIONS), len(TOP_K), len(ALL_SCORES), 2)
        )
        if count == 1 and PROBLEMS[problem] == "single_label_classification":  # refused by version 5
            problem = 0
        names = {"id2label": {str(label): f"name {label}" for label in range(count)}} if named else {}
        config = BertConfig(problem_type=PROBLEMS[problem], **({"num_labels": count} | names))
        options: dict[str, object] = {"function_to_apply": FUNCTIONS[function]}
        if TOP_K[top_k] != "absent":
            options["top_k"] = TOP_K[top_k]
        if ALL_SCORES[all_scores] is not None:
            options["return_all_scores"] = ALL_SCORES[all_scores]
        row = logits_of(random, count)
        with np.errstate(all="ignore"):
            found = Pipeline(config).classify(row, options)
        expected = "name {}" if named else "LABEL_{}"
        places = [int(str(item["label"]).replace("_", " ").split()[1]) for item in found]
        assert [item["label"] for item in found] == [expected.format(place) for place in places]
        cases.append((count, problem, function, top_k, all_scores, named, len(found)))
        logits.append(row)
        labels.extend(places)
        scores.extend(item["score"] for item in found)
    np.savez_compressed(
        sys.argv[1],
        cases=np.array(cases, dtype=np.uint8),
        logits=np.concatenate(logits),
        labels=np.array(labels, dtype=np.uint8),
        scores=np.array(scores, dtype=np.float32),
    )


if __name__ == "__main__":
    main()
