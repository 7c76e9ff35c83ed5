"""The metrics against the numbers that the published scripts give on the same awkward predictions.

``data/published-metrics.json`` holds the cases, what the scripts made of them, and where the scripts are from. The
cases are ours: articles, punctuation, accents, other scripts, odd spaces, several answers, none, and random mixtures.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsert.errors import InputError
from sparsert.evaluate import exact_match, f1_score, normalize_answer, squad_v1, squad_v2

PUBLISHED = json.loads((Path(__file__).parent / "data" / "published-metrics.json").read_text(encoding="utf-8"))
V1, V2 = PUBLISHED["v1.1"], PUBLISHED["v2.0"]

# Both add up the same floats, but sum() and fmean() round differently.
ROUNDING = {"rel": 1e-12, "abs": 1e-12}


def truths(cases: list[dict]) -> dict[str, list[str]]:
    return {case["id"]: case["answers"] for case in cases}


def predictions(cases: list[dict]) -> dict[str, str]:
    return {case["id"]: case["prediction"] for case in cases}


def null_odds(cases: list[dict]) -> dict[str, float]:
    return {case["id"]: case["null_odds"] for case in cases}


def test_each_answer_of_version_1_scores_as_published() -> None:
    for case in V1["cases"]:
        exact, f1 = V1["scores"][case["id"]]
        assert max(exact_match(case["prediction"], answer) for answer in case["answers"]) == exact, case
        assert max(f1_score(case["prediction"], answer) for answer in case["answers"]) == f1, case


def test_version_1_as_published() -> None:
    metrics = squad_v1(truths(V1["cases"]), predictions(V1["cases"]))
    assert metrics == pytest.approx(V1["expected"] | {"total": len(V1["cases"])}, **ROUNDING)


def test_a_missing_prediction_scores_0_in_version_1() -> None:
    given = {case["id"]: case["prediction"] for index, case in enumerate(V1["cases"]) if index % 5}
    metrics = squad_v1(truths(V1["cases"]), given | {"another question": "answer"})
    assert metrics == pytest.approx(V1["without_every_fifth"] | {"total": len(V1["cases"])}, **ROUNDING)


def test_version_2_as_published() -> None:
    assert squad_v2(truths(V2["cases"]), predictions(V2["cases"])) == pytest.approx(V2["expected"], **ROUNDING)


@pytest.mark.parametrize("case", V2["thresholds"], ids=lambda case: str(case["threshold"]))
def test_version_2_with_thresholds_as_published(case: dict) -> None:
    cases = V2["cases"]
    metrics = squad_v2(truths(cases), predictions(cases), null_odds(cases), case["threshold"])
    assert list(metrics) == list(case["expected"])
    assert metrics == pytest.approx(case["expected"], **ROUNDING)


@pytest.mark.parametrize(("answerable", "key"), [(True, "only_answerable"), (False, "only_unanswerable")])
def test_version_2_on_one_kind_alone_as_published(answerable: bool, key: str) -> None:
    cases = [case for case in V2["cases"] if bool(case["answers"]) == answerable]
    assert squad_v2(truths(cases), predictions(cases)) == pytest.approx(V2[key], **ROUNDING)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat, a.k.a. an 'Ann'!", "cat aka ann"),
        ("U.S. the", "us"),
        ("“the” the-end", "“ ” theend"),  # typographic quotes are no punctuation to the published script
        ("A\u00a0B\u2003c", "b c"),
        ("", ""),
    ],
)
def test_normalised_by_hand(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


def test_two_empty_answers_differ_between_the_versions() -> None:
    assert exact_match("the", "!")
    assert f1_score("the", "!") == 0
    assert f1_score("the", "!", empty_matches_empty=True) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: squad_v1({}, {}), "no questions"),
        (lambda: squad_v2({}, {}), "no questions"),
        (lambda: squad_v1({"a": ["x"], "b": []}, {"a": "x", "b": "x"}), "'b' has no answers.*version-2"),
        (lambda: squad_v2({"a": ["x"], "b": []}, {"a": "x"}), "1 of 2 questions have no prediction.*'b'"),
        (lambda: squad_v2({"a": ["x"]}, {"a": "x"}, {}), "no null odds.*'a'"),
    ],
)
def test_what_cannot_be_scored_is_refused(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()
