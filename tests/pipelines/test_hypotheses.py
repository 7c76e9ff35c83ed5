"""Labels and templates of zero-shot classification."""

from __future__ import annotations

from typing import Any

import pytest

from sparsert.errors import InputError
from sparsert.pipelines.zero_shot_text_classification.hypotheses import check_template, hypotheses, parse_labels


def test_labels_in_a_list_or_with_commas() -> None:
    assert parse_labels(["bees", "a, b", " c "]) == ["bees", "a, b", " c "]
    assert parse_labels(" bees, old radios ,, ") == ["bees", "old radios"]
    assert parse_labels("bees") == ["bees"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "labels must hold at least one label, got none"),
        (" , ", "labels must hold at least one label, got none"),
        (["a", ""], r"labels\[1\] must be a str that is not empty, got ''"),
        (["a", None], r"labels\[1\] must be a str that is not empty, got None"),
        (["a", "b", "a"], r"labels\[2\] is 'a', as labels\[0\]; give each label once"),
        (3, "labels must be a list of str, or a str with commas between them, got 3"),
    ],
)
def test_labels_that_make_no_sense(labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_labels(labels)


@pytest.mark.parametrize("template", ["This is {}.", "{}", "{{{}}} {{x}}", "{0} or {0}"])
def test_hypotheses_are_those_of_format(template: str) -> None:
    labels = ["bees", "{}", "{x} and, {0}"]
    assert hypotheses(labels, check_template(template)) == [template.format(label) for label in labels]


@pytest.mark.parametrize(
    "template",
    ["", "This.", "{{}}", "{", "}", "{} {}", "{label}", "{1}", "{0.__class__}", "{:>99}", "{!r}", "{} {0}", 3],
)
def test_templates_that_cannot_be_filled(template: Any) -> None:
    with pytest.raises(InputError, match="hypothesis_template"):
        check_template(template)
