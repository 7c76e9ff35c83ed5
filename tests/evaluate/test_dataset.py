"""Reading datasets: every layout gives the same questions, and whatever is wrong is named by file, place and key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsert.errors import InputError
from sparsert.evaluate import Example, read_dataset

NESTED = {
    "version": "v2.0",
    "data": [
        {
            "title": "Bees",
            "paragraphs": [
                {
                    "context": "Ada keeps bees.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "Who keeps bees?",
                            "answers": [{"text": "Ada", "answer_start": 0}, {"text": "bees", "answer_start": 10}],
                        },
                        {
                            "id": "2",
                            "question": "Who keeps cats?",
                            "answers": [],
                            "plausible_answers": [{"text": "Ada", "answer_start": 0}],
                            "is_impossible": True,
                        },
                    ],
                }
            ],
        },
        {
            "title": "Radios",
            "paragraphs": [
                {"context": "", "qas": []},
                {
                    "context": "Bob repairs\u2028radios.",
                    "qas": [{"id": "3", "question": "What is repaired?", "answers": [{"text": "radios"}]}],
                },
            ],
        },
    ],
}
EXAMPLES = [
    Example("1", "Who keeps bees?", "Ada keeps bees.", ("Ada", "bees")),
    Example("2", "Who keeps cats?", "Ada keeps bees.", ()),
    Example("3", "What is repaired?", "Bob repairs\u2028radios.", ("radios",)),
]


def flat(answers: str) -> list[dict]:
    """The same as flat records, with answers in one of three forms."""
    forms = {
        "objects": lambda texts: [{"text": text, "answer_start": 0} for text in texts],
        "strings": list,
        "columns": lambda texts: {"text": list(texts), "answer_start": [0] * len(texts)},
    }
    return [
        {"id": item.id, "title": "x", "question": item.question, "context": item.context}
        | {"answers": forms[answers](item.answers)}
        for item in EXAMPLES
    ]


def json_lines(records: list[dict]) -> str:
    return "\n\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(NESTED),
        "\ufeff" + json.dumps(NESTED, indent=1),
        json.dumps(NESTED["data"]),
        json_lines(NESTED["data"]),
        json.dumps(flat("objects")),
        json.dumps({"version": "1", "data": flat("strings")}),
        json.dumps(flat("columns")),
        json_lines(flat("columns")),
        json_lines(flat("strings")).replace("\n", "\r\n"),
    ],
    ids=["squad", "squad-bom", "articles", "articles-lines", "flat", "flat-data", "columns", "lines", "crlf"],
)
def test_every_layout_gives_the_same(text: str, tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(text.encode("utf-8"))
    assert read_dataset(path) == EXAMPLES
    assert read_dataset(str(path), max_samples=2) == EXAMPLES[:2]


def test_a_single_record_and_a_number_as_id(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text('{"id": 7, "question": "q", "context": "c", "is_impossible": true}')
    assert read_dataset(path) == [Example("7", "q", "c", ())]


def test_real_questions(squad_sample: Path) -> None:
    examples = read_dataset(squad_sample)
    assert len(examples) == len({example.id for example in examples}) == 54
    assert len({example.context for example in examples}) == 21
    assert all(answer in example.context for example in examples for answer in example.answers)


def without(record: dict, key: str) -> dict:
    return {name: value for name, value in record.items() if name != key}


GOOD = flat("objects")[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not UTF-8.*byte 0"),
        (b"3", "must hold a list.*got a number"),
        (b'"text"', "got a string"),
        (b"[]", "holds no questions"),
        (b'{"data": []}', "holds no questions"),
        (b'{"data": 5}', "must hold a list.*got a number"),
        (b"[1]", "record 1 must be a JSON object, got a number"),
        (b"[{}]", r"record 1 has no 'context'; its keys are \[\]"),
        ([GOOD, without(GOOD, "id")], "record 2 has no 'id'; its keys are .*'answers', 'context'"),
        ([without(GOOD, "question")], "record 1 has no 'question'"),
        ([without(GOOD, "answers")], "record 1 has no 'answers'"),
        ([GOOD, GOOD], "record 2 has the id '1', which record 1 has already"),
        ([GOOD | {"question": None}], "record 1: 'question' must be a string, got null"),
        ([GOOD | {"id": True}], "record 1: 'id' must be a string, got a boolean"),
        ([GOOD | {"answers": "Ada"}], "record 1: 'answers' must be a list.*got a string"),
        ([GOOD | {"answers": {"texts": []}}], "record 1, answers has no 'text'"),
        ([GOOD | {"answers": [{"answer_start": 3}]}], "record 1, answer 1 has no 'text'"),
        ([GOOD | {"answers": ["Ada", 3]}], "record 1: answer 2 must be a string or an object"),
        ({"data": [{"paragraphs": 3}]}, "article 1: 'paragraphs' must be a list, got a number"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "article 1, paragraph 1 has no 'context'"),
        ({"data": [{"paragraphs": [{"context": "c"}]}]}, "article 1, paragraph 1 has no 'qas'"),
        (
            {"data": [{"paragraphs": []}, {"paragraphs": [{"context": "c", "qas": [{"id": "1", "question": "q"}]}]}]},
            "article 2, paragraph 1, question 1 has no 'answers'",
        ),
        (b'{"id": 1}\n{"id": 2\n', "line 2 is not JSON"),
        (json_lines([GOOD, without(GOOD, "id")]).encode(), "line 3 has no 'id'"),
        (b"question,context\nq,c\n", "is not JSON .*nor does its first line"),
    ],
)
def test_what_is_wrong_is_named(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(InputError, match=message) as caught:
        read_dataset(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_what_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_dataset(tmp_path / name)


@pytest.mark.parametrize("value", [0, -1, True])
def test_max_samples_must_be_a_number_of_questions(value: object, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_samples must be None or an int of at least 1"):
        read_dataset(tmp_path / "data.json", max_samples=value)
