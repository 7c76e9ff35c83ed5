"""Labels and scores of logits against those of transformers, recorded for 20,000 rows by ``originals``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsert.errors import InputError, ModelError, ModelFormatError
from sparsert.model_config import ModelConfig
from sparsert.pipelines.heads import activate, head_function
from sparsert.pipelines.sequence_classifier import class_logits, class_names
from sparsert.pipelines.text_classification import TextClassificationOptions
from sparsert.pipelines.text_classification.pipeline import best_labels

DATA = Path(__file__).parent / "data"

# The options of originals/record_text_classification.py
PROBLEMS = [None, "regression", "single_label_classification", "multi_label_classification"]
FUNCTIONS = [None, "softmax", "sigmoid", "none"]
TOP_K = ["absent", None, 1, 2, 5, 100]
ALL_SCORES = [None, True, False]


@pytest.mark.parametrize("version", [4, 5])
def test_transformers(version: int) -> None:
    with np.load(DATA / f"text-classification-{version}.npz") as found:
        cases, logits, labels, scores = (found[name] for name in ("cases", "logits", "labels", "scores"))
    assert len(cases) == 10_000
    begin = place = different = 0
    for count, problem, function, top_k, all_scores, named, results in cases.tolist():
        row = logits[None, begin : begin + count].astype(np.float32)
        expected = labels[place : place + results].tolist(), scores[place : place + results]
        begin, place = begin + count, place + results
        options: dict[str, Any] = {
            "function_to_apply": FUNCTIONS[function],
            "return_all_scores": ALL_SCORES[all_scores],
        }
        if TOP_K[top_k] == "absent":
            ordered = not ALL_SCORES[all_scores]
        else:  # transformers then ignores return_all_scores; here both together may be a mistake
            options |= {"top_k": TOP_K[top_k], "return_all_scores": False}
            ordered = True
        chosen = TextClassificationOptions(model_path="x", **options)
        names = tuple(f"name {label}" for label in range(count)) if named else ()
        config = ModelConfig(Path("config.json"), labels=names, problem_type=PROBLEMS[problem])
        asked = activate(row, head_function(config.problem_type, count, chosen.function_to_apply))
        got_labels, got_scores = best_labels(asked, class_names(config, count), chosen.labels_asked)
        if chosen.labels_asked != 1:
            (got_labels,), (got_scores,) = got_labels, got_scores
        order = range(results) if ordered else np.argsort(-expected[1], kind="stable").tolist()
        form = "name {}" if named else "LABEL_{}"
        assert got_labels == [form.format(expected[0][index]) for index in order]
        # The same float32 formulas; exp may differ in the last bits between machines
        np.testing.assert_allclose(got_scores, expected[1][list(order)], rtol=1e-6, atol=1e-7)
        different += not ordered
    assert begin == len(logits) and place == len(labels)
    assert (different > 0) == (version == 4)


def test_return_all_scores_with_another_top_k() -> None:
    for top_k in (1, None):
        assert TextClassificationOptions(return_all_scores=True, top_k=top_k).labels_asked is None
    with pytest.raises(InputError, match="Mismatch: return_all_scores asks for all labels, top_k for 2"):
        TextClassificationOptions(return_all_scores=True, top_k=2)


@pytest.mark.parametrize("top_k", [0, -1, 1.0, True, "2"])
def test_top_k_that_is_no_number(top_k: Any) -> None:
    with pytest.raises(InputError, match="text_classification top_k must be an int of at least 1"):
        TextClassificationOptions(top_k=top_k)


def test_function_that_there_is_not() -> None:
    with pytest.raises(InputError, match="function_to_apply must be None or one of .*got 'tanh'"):
        TextClassificationOptions(function_to_apply="tanh")
    assert TextClassificationOptions(function_to_apply="Identity").function_to_apply == "none"


def test_labels_that_do_not_match() -> None:
    config = ModelConfig(Path("folder/config.json"), labels=("a", "b"))
    assert class_names(config, 2) == ("a", "b")
    with pytest.raises(ModelFormatError, match=r"folder/config.json names 2 labels .* gives 1 logits"):
        class_names(config, 1)
    assert class_names(ModelConfig(Path("config.json")), 2) == ("LABEL_0", "LABEL_1")


def test_scores_that_are_no_numbers() -> None:
    with pytest.raises(ModelError, match="NaN in 1 of 2 rows"):
        best_labels(np.array([[0.5, 0.5], [np.nan, 0.5]]), ("a", "b"), 1)


@pytest.mark.parametrize(
    ("outputs", "name"),
    [
        ({"logits": ("batch", 2)}, "logits"),
        ({"output_0": ("batch", 2)}, "output_0"),
        ({"scores": ("batch", 3), "hidden": ("batch", "sequence", 32)}, "scores"),
        ({"pooled": ("batch", 32), "logits": ("batch", 2)}, "logits"),
        ({"hidden": ("batch", "sequence", 32)}, None),
        ({"logits": ("batch", "sequence", 2)}, None),
        ({"a": ("batch", 32), "b": ("batch", 2)}, None),
        ({}, None),
    ],
)
def test_output_with_logits(outputs: dict[str, tuple[Any, ...]], name: str | None) -> None:
    if name is not None:
        assert class_logits(outputs) == {"logits": name}
        return
    with pytest.raises(ModelFormatError, match="export it with a head for sequence classification"):
        class_logits(outputs)
