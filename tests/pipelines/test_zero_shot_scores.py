"""Scores of labels against the zero-shot pipeline of transformers; ``originals/record_zero_shot.py`` recorded it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from sparsert.errors import InputRangeError, ModelFormatError
from sparsert.pipelines.heads import top_k
from sparsert.pipelines.zero_shot_text_classification.scores import entailment_and_contradiction, label_scores

NLI = {"contradiction": 0, "neutral": 1, "entailment": 2}
LABEL2ID = [
    NLI,
    {"entailment": 0, "neutral": 1, "contradiction": 2},
    {"ENTAILMENT": 0, "NOT_ENTAILMENT": 1},
    {"not_entailment": 0, "entailment": 1},
]


def exact_scores(logits: np.ndarray, label2id: dict[str, int], multi_label: bool) -> np.ndarray:
    """From the definition, in float64, for one text; what overflows is the limit that it goes to."""
    wide = logits.astype(np.float64)
    entailment = next(place for name, place in label2id.items() if name.lower() == "entailment")
    if multi_label or len(wide) == 1:
        other = 0 if entailment else -1
        return 1 / (1 + np.exp(np.clip(wide[:, other] - wide[:, entailment], -700, 700)))
    column = wide[:, entailment]
    return np.array([1 / np.exp(np.clip(column - value, -700, 700)).sum() for value in column])


def test_scores_of_transformers() -> None:
    with np.load(Path(__file__).parent / "data" / "zero-shot.npz") as found:
        recorded = dict(found)
    logits = recorded["logits"].astype(np.float32)
    classes = np.array([len(names) for names in LABEL2ID])[recorded["kinds"]]
    cases = zip(
        np.split(logits, np.cumsum(recorded["counts"] * classes)[:-1]),
        np.split(recorded["scores"], np.cumsum(recorded["counts"])[:-1]),
        recorded["kinds"].tolist(),
        recorded["multi_label"].tolist(),
        strict=True,
    )
    overflows = 0
    for values, theirs, kind, multi_label in cases:
        names = LABEL2ID[kind]
        table = values.reshape(len(theirs), len(names))
        scores = label_scores(table, *entailment_and_contradiction(names, len(names)), multi_label)
        assert scores.dtype == np.float32
        # Powers of float32 are off by 1e-7 of their size; transformers takes those of logits up to 88
        np.testing.assert_allclose(scores, exact_scores(table, names, multi_label), atol=1e-6)
        finite = np.isfinite(theirs)
        overflows += not finite.all()
        if finite.all():
            np.testing.assert_allclose(scores, theirs, atol=1e-6)
            best = top_k(scores)
            # The same order, but for ties: there transformers has the last label first
            assert (np.diff(theirs[best]) <= 1e-6).all()
            equal = np.flatnonzero(np.diff(scores[best]) == 0)
            assert (best[equal] < best[equal + 1]).all()
    assert len(recorded["counts"]) == 10_000 and 0 < overflows < 1000


def test_classes_by_their_names(caplog: pytest.LogCaptureFixture) -> None:
    found = [entailment_and_contradiction(names, len(names)) for names in LABEL2ID]
    assert found == [(2, 0), (0, 2), (0, 1), (1, 0)]
    # transformers would take the class 0, whatever it means
    assert entailment_and_contradiction({"neutral": 0, "Entail": 1, "CONTRA": 2}, 3) == (1, 2)
    assert entailment_and_contradiction(NLI, 3, entailment=1, contradiction=2) == (1, 2)
    assert entailment_and_contradiction(NLI, 3, contradiction=1) == (2, 1)
    assert not caplog.messages


def test_names_that_say_nothing_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "sparsert")
    assert entailment_and_contradiction({f"LABEL_{place}": place for place in range(3)}, 3, source="a.json") == (0, 2)
    assert caplog.messages == ["no name in label2id of a.json begins with 'entail'; class 0 is taken, as in DeepSparse"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((NLI, 1), ModelFormatError, "2 classes or more, this one has 1"),
        ((NLI, 2), ModelFormatError, "label2id in x.json has 'entail' at 2, but the model has 2 classes"),
        ((NLI, 3, 3), InputRangeError, "entailment_index must be from 0 to 2, as the model has 3 classes: 3"),
        ((NLI, 3, None, -1), InputRangeError, "contradiction_index must be from 0 to 2"),
        ((NLI, 3, 1, 1), InputRangeError, "must differ, both are 1"),
        ((NLI, 3, 0), InputRangeError, "must differ, both are 0"),
    ],
)
def test_classes_that_make_no_sense(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        entailment_and_contradiction(*arguments, source="x.json")
