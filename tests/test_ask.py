"""``python -m sparsert.ask``: what goes to stdout, what to stderr, and what the shell is told."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sparsert import ask
from sparsert._texts import arrived_lines
from sparsert.pipelines import Pipeline

TEXT = "Ada keeps bees in Turin. Bob, her neighbour, repairs old radios on Sundays."


@pytest.fixture(scope="module", autouse=True)
def answers() -> Callable[[str, str], dict]:
    """What the pipeline itself says, for comparison; and it keeps the compiled model alive for all tests."""
    pipeline = Pipeline.create("question-answering")
    return lambda question, context: pipeline(question=question, context=context).model_dump(exclude_none=True)


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], None]:
    """Set what comes on stdin."""

    def give(content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))

    return give


def lines(*records: object) -> str:
    return "".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records)


def test_one_line_for_each_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    assert ask.main(["--context-file", str(file), "Who keeps bees?", "What does Bob repair?"]) == 0
    assert capsys.readouterr() == ("Ada\nold radios\n", "")


def test_text_from_stdin_and_json(stdin: Callable, capsys: pytest.CaptureFixture[str], answers: Callable) -> None:
    stdin("\ufeff" + TEXT)
    assert ask.main(["--json", "Who keeps bees?"]) == 0
    question = "Who keeps bees?"
    assert json.loads(capsys.readouterr().out) == {"question": question} | answers(question, TEXT)


def test_an_answer_with_a_line_break_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert ask.main(["--context", "The capital is New\n  York.", "What is the capital?"]) == 0
    assert capsys.readouterr().out == "New York\n"


def test_several_answers_to_each_question(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--context", TEXT, "--top-k", "2", "Who keeps bees?", "Who repairs radios?"]
    assert ask.main(arguments) == 0
    first, second = capsys.readouterr().out.strip("\n").split("\n\n")
    for paragraph, best in ((first, "Ada"), (second, "Bob")):
        scores, texts = zip(*(line.split("\t") for line in paragraph.splitlines()), strict=True)
        assert texts[0] == best
        assert float(scores[0]) >= float(scores[1])
        assert len(texts) == 2
    assert ask.main(["--json", *arguments]) == 0
    for line, paragraph in zip(capsys.readouterr().out.splitlines(), (first, second), strict=True):
        listed = [f"{answer['score']:.4f}\t{answer['answer']}" for answer in json.loads(line)["answers"]]
        assert listed == paragraph.splitlines()


def test_json_lines_keep_their_order_and_report_errors_in_place(
    stdin: Callable, capsys: pytest.CaptureFixture[str], answers: Callable
) -> None:
    question = "Who keeps bees?"
    long = "why " * 200  # the pipeline cuts a question to 64 tokens, so it is answered nevertheless
    stdin(
        lines(
            {"id": 1, "question": question, "context": TEXT},
            "{oops",
            {"id": "two", "question": question},
            "",
            [1, 2],
            {"question": 5, "context": TEXT},
            '{"id": 3, "question": "\\ud800?", "context": "Ada"}',
            {"id": None, "question": long, "context": TEXT, "other": "ignored"},
            {"id": 4, "question": "Who is her neighbour?", "context": TEXT, "top_k": None},
        ).rstrip()
    )
    assert ask.main(["--jsonl", "--batch-size", "3"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    results = [json.loads(line) for line in out.splitlines()]
    assert results[0] == {"id": 1, "question": question} | answers(question, TEXT)
    assert [result.get("line") for result in results] == [None, 2, 3, 5, 6, 7, None, None]
    assert ["error" in result for result in results] == [False, True, True, True, True, True, False, False]
    assert "not JSON" in results[1]["error"]
    assert results[2]["id"] == "two"
    assert "'context' must be a string" in results[2]["error"]
    assert "object" in results[3]["error"]
    assert "'question' must be a string" in results[4]["error"]
    assert "surrogates" in results[5]["error"]
    assert results[5]["question"] == "\ud800?"
    assert results[6]["id"] is None
    assert results[7] == {"id": 4, "question": "Who is her neighbour?"} | answers("Who is her neighbour?", TEXT)


def test_json_lines_about_one_text(stdin: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    stdin(lines({"question": "Who keeps bees?"}, {"question": "Who keeps bees?", "context": "Eve keeps bees."}))
    assert ask.main(["--jsonl", "--context", TEXT]) == 0
    assert [json.loads(line)["answer"] for line in capsys.readouterr().out.splitlines()] == ["Ada", "Eve"]


class Trickle(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data, self._size = data, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        part, self._data = self._data[: min(self._size, len(buffer))], self._data[min(self._size, len(buffer)) :]
        buffer[: len(part)] = part
        return len(part)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("data", [b"", b"a", b"a\n", b"a\n\nbb\nccc", b"\n\n", "é\u2028\n日本".encode()])
def test_lines_come_whole_however_they_arrive(data: bytes, size: int) -> None:
    stream = io.BufferedReader(Trickle(data, size))
    got = [line for part in arrived_lines(stream) for line in part]
    expected = data.split(b"\n")
    assert got == (expected if expected[-1] else expected[:-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "QUESTION"),
        (["--jsonl", "Who?"], "leave out QUESTION"),
        (["--jsonl", "-f", "-"], "both want stdin"),
        (["-f", "a", "-c", "b", "Who?"], "not allowed with"),
        (["-c", "b", "--batch-size", "0", "Who?"], "--batch-size"),
        (["-c", "b", "--top-k", "0", "Who?"], "--top-k"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        ask.main(arguments)
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-f", "absent.txt"], "absent.txt cannot be read: No such file"),
        (["-f", "latin.txt"], "latin.txt is not UTF-8: .* at byte 3"),
        (["-c", "x", "-m", "absent"], "absent"),
        (["-c", "x", "-e", "none"], "none"),
    ],
)
def test_what_cannot_be_read_exits_with_1(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes("Café au lait".encode("latin-1"))
    assert ask.main([*arguments, "Who?"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sparsert.ask: error: ")
    assert re.search(message, err)


def test_a_question_without_room_leaves_an_empty_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-c", TEXT, "--sequence-length", "12", "--doc-stride", "2"]
    assert ask.main([*arguments, "Who keeps bees?", "why " * 30, "Who keeps bees?"]) == 1
    out, err = capsys.readouterr()
    assert [bool(line) for line in out.split("\n")] == [True, False, True, False]
    assert err.startswith("sparsert.ask: question 2: the question leaves no room")


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "sparsert.ask", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[1],
        env=os.environ | {"PYTHONUNBUFFERED": ""},
        # a job in the background ignores Ctrl-C, and its children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_it_answers_before_the_next_request_and_ends_quietly_when_interrupted() -> None:
    request = lines({"question": "Who keeps bees?", "context": TEXT}).encode()
    with start(["--jsonl"]) as process:
        assert process.stdin and process.stdout and process.stderr
        for _ in range(2):
            process.stdin.write(request)
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["answer"] == "Ada"
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
        assert b"Traceback" not in process.stderr.read()


def test_it_ends_quietly_when_nobody_reads_on() -> None:
    request = lines({"question": "Who keeps bees?", "context": TEXT}).encode()
    with start(["--jsonl"]) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(request)
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(request)
        process.stdin.close()
        assert process.wait(120) == 141
        assert process.stderr.read() == b""
