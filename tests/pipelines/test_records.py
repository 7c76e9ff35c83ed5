"""Records of CSV files, read back as they were written; JSON is tested with the datasets of question answering."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from sparsert.errors import InputError
from sparsert.pipelines.records import read_records


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".CSV"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_what_was_written(tmp_path: Path, suffix: str, ends: str, encoding: str) -> None:
    path = tmp_path / f"data{suffix}"
    rows = [["a, b", "good"], ['"quoted"\tand\nbroken', "bad"], ["é\u2028x", ""], ["", "x" * 200_000]]
    with path.open("w", encoding=encoding, newline="") as file:
        delimiter = "\t" if suffix == ".tsv" else ","
        csv.writer(file, delimiter=delimiter, lineterminator=ends).writerows([["text", "label"], *rows])
    expected = [{name: value for name, value in zip(("text", "label"), row, strict=True) if value} for row in rows]
    assert read_records(path) == list(zip(["line 2", "line 3", "line 5", "line 6"], expected, strict=True))


def test_blank_lines_and_short_rows(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,label\n\na\nb,1\n")
    assert read_records(path) == [("line 3", {"text": "a"}), ("line 4", {"text": "b", "label": "1"})]
    path.write_text("")
    assert read_records(path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,1\na, b,1\n", "line 3 has 3 values for the 2 names"),
        ('text,label\n"a,1\n', "line 2 is not CSV"),
        ('text,label\n"a"b,1\n', "line 2 is not CSV"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_records(path)
    assert str(path) in str(caught.value)
