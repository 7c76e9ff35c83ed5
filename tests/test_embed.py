"""``python -m sparsert.embed``: vectors of the texts of files and pipes, whatever goes wrong with some."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsert import SentenceTransformer
from sparsert._texts import TextRecord
from sparsert.embed.__main__ import main
from sparsert.embed.files import NpyFile

FOLDER = Path(__file__).parent / "pipelines" / "data" / "tiny-sentences"
MODEL = ["--model", str(FOLDER), "--num-cores", "1"]
TEXTS = ["Ada keeps bees.", "", "Bob repairs radios, on Sundays", "日本"]


@pytest.fixture(scope="module")
def model() -> SentenceTransformer:
    return SentenceTransformer(FOLDER, num_cores=1)


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], None]:
    """Set what comes on stdin."""

    def give(content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))

    return give


def lines(*records: object) -> str:
    return "".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records)


FILES = {
    "texts.txt": "\n".join(TEXTS) + "\n",
    "texts.jsonl": lines(*({"text": text, "id": index} for index, text in enumerate(TEXTS)), ""),
    "strings.jsonl": lines(*(json.dumps(text) for text in TEXTS)),
    "texts.csv": "\ufeffid,text\n1,Ada keeps bees.\n2,\n3,\"Bob repairs radios, on Sundays\"\n4,日本\n",
    "texts.tsv": "text\tid\nAda keeps bees.\t1\n\t2\nBob repairs radios, on Sundays\t3\n日本\t4\n",
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_vectors_of_its_texts(name: str, tmp_path: Path, model: SentenceTransformer) -> None:
    source, target = tmp_path / name, tmp_path / "vectors.npy"
    source.write_text(FILES[name], encoding="utf-8")
    assert main([*MODEL, "-i", str(source), "-o", str(target), "--batch", "3"]) == 0
    found = np.load(target)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, model.encode(TEXTS), atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "vectors.npy"])


def test_from_pipe_to_pipe(stdin: Callable, capsys: pytest.CaptureFixture[str], model: SentenceTransformer) -> None:
    stdin(lines({"text": "Ada keeps bees.", "id": "a", "more": 1}, "", {"text": "b"}))
    assert main([*MODEL, "--format", "jsonl", "--prompt-name", "query", "--truncate-dim", "5"]) == 0
    out, err = capsys.readouterr()
    first, second = map(json.loads, out.splitlines())
    expected = model.encode(["Ada keeps bees.", "b"], prompt_name="query", truncate_dim=5)
    assert (first["id"], sorted(second)) == ("a", ["embedding"])
    np.testing.assert_allclose([first["embedding"], second["embedding"]], expected, atol=1e-6)
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["--prompt", "to be or "], {"prompt": "to be or "}),
        (["--normalize", "--truncate-dim", "4"], {"normalize_embeddings": True, "truncate_dim": 4}),
        (["--precision", "ubinary"], {"precision": "ubinary"}),
        (["--precision", "binary"], {"precision": "binary"}),
    ],
)
def test_options(
    arguments: list[str], asked: dict[str, Any], stdin: Callable, tmp_path: Path, model: SentenceTransformer
) -> None:
    stdin("\n".join(TEXTS))
    target = tmp_path / "vectors.npy"
    assert main([*MODEL, "-o", str(target), *arguments]) == 0
    expected = model.encode(TEXTS, **asked)
    found = np.load(target)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_ranges(stdin: Callable, tmp_path: Path, model: SentenceTransformer) -> None:
    vectors = model.encode(TEXTS)
    ranges, target = tmp_path / "ranges.npy", tmp_path / "vectors.npy"
    np.save(ranges, [vectors.min(axis=0), vectors.max(axis=0)])
    stdin("\n".join(TEXTS))
    assert main([*MODEL, "-o", str(target), "--precision", "int8", "--ranges", str(ranges)]) == 0
    found, expected = np.load(target), model.encode(TEXTS, precision="int8")
    assert found.dtype == np.int8
    assert np.abs(found.astype(int) - expected).max() <= 1  # at the edge of a bucket


BAD = lines({"text": "a"}, "nonsense", {"texts": "b"}, {"text": None}, '{"text": "\\ud800"}', [1], {"text": "c"})


def test_a_bad_text_is_reported_and_the_rest_goes_on(
    stdin: Callable, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: SentenceTransformer
) -> None:
    stdin(BAD)
    assert main([*MODEL, "--format", "jsonl"]) == 1
    out, err = capsys.readouterr()
    results = [json.loads(line) for line in out.splitlines()]
    assert [result.get("line") for result in results] == [None, 2, 3, 4, 5, 6, None]
    for result, message in zip(
        results[1:6],
        [
            "not JSON",
            "'text' must be a string; its keys are ['texts']",
            "got None",
            "surrogates",
            "expected a JSON object",
        ],
        strict=True,
    ):
        assert message in result["error"]
        assert f"line {result['line']}: {result['error']}" in err
    stdin(BAD)
    target = tmp_path / "vectors.npy"
    assert main([*MODEL, "--format", "jsonl", "-o", str(target)]) == 1
    found = np.load(target)
    assert np.isnan(found).all(axis=1).tolist() == [False, True, True, True, True, True, False]
    np.testing.assert_allclose(found[[0, 6]], model.encode(["a", "c"]), atol=1e-6)
    stdin(BAD)
    assert main([*MODEL, "--format", "jsonl", "-o", str(target), "--precision", "ubinary"]) == 1
    assert not np.load(target)[1:6].any()


def test_bytes_that_are_no_text(stdin: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    stdin(b"a\ncaf\xe9\nb")
    assert main(MODEL) == 1
    out, err = capsys.readouterr()
    assert [sorted(json.loads(line)) for line in out.splitlines()] == [["embedding"], ["error", "line"], ["embedding"]]
    assert "line 2: not UTF-8" in err


@pytest.mark.parametrize("name", ["vectors.npy", "vectors.jsonl"])
def test_no_texts(name: str, stdin: Callable, tmp_path: Path) -> None:
    stdin("")
    target = tmp_path / name
    assert main([*MODEL, "-o", str(target)]) == 0
    if name.endswith(".npy"):
        assert np.load(target).shape == (0, 24)
    else:
        assert target.read_text() == ""


@pytest.mark.parametrize("broken", [False, True])
def test_parquet(broken: bool, stdin: Callable, tmp_path: Path, model: SentenceTransformer) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    records = [{"text": "a", "id": 1}, {"text": "b"}, *(["nonsense"] if broken else [])]
    stdin(lines(*records))
    target = tmp_path / "vectors.parquet"
    assert main([*MODEL, "--format", "jsonl", "-o", str(target), "--batch", "1"]) == int(broken)
    table = parquet.read_table(target).to_pydict()
    assert table["id"][:2] == ["1", None]
    np.testing.assert_allclose(table["embedding"][:2], model.encode(["a", "b"]), atol=1e-6)
    assert [error is None for error in table["error"]] == [True, True, False][: len(records)]
    assert table["embedding"][2:] == [None] * broken


def test_parquet_needs_pyarrow(
    monkeypatch: pytest.MonkeyPatch, stdin: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    stdin("a")
    assert main([*MODEL, "-o", str(tmp_path / "vectors.parquet")]) == 1
    assert "Parquet needs pyarrow" in capsys.readouterr().err


def test_a_file_that_was_not_finished_holds_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "vectors.npy"
    file = NpyFile(str(target))
    rows = np.arange(1200, dtype=np.float32).reshape(400, 3)
    for begin in range(0, 400, 7):
        part = rows[begin : begin + 7]
        file.add([TextRecord(1)] * len(part), part, [None] * len(part))
    file.close(False)
    assert not target.exists()
    np.testing.assert_array_equal(np.load(f"{target}.part"), rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--model"),
        ([*MODEL, "--batch", "0"], "--batch must be at least 1"),
        ([*MODEL, "--precision", "int8"], "needs --ranges"),
        ([*MODEL, "-o", "vectors.txt"], "must end in .npy"),
        ([*MODEL, "--pooling", "none"], "no vector for a text"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main(arguments)
    assert status.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*MODEL, "-i", "absent.txt"], "absent.txt cannot be read: No such file"),
        ([*MODEL, "-i", "other.csv"], "other.csv has no column 'text'; it has name, age"),
        ([*MODEL, "-i", "latin.csv"], "latin.csv is not UTF-8"),
        ([*MODEL, "-i", "quote.csv"], "quote.csv: line 2 is not CSV"),
        ([*MODEL, "-o", "absent/vectors.npy"], "absent/vectors.npy cannot be written"),
        ([*MODEL, "--prompt-name", "nobody"], "prompt_name must be one of"),
        ([*MODEL, "--precision", "int9"], "precision must be one of"),
        ([*MODEL, "--precision", "int8", "--ranges", "other.csv"], "other.csv cannot be read"),
        ([*MODEL, "--precision", "int8", "--ranges", "ranges.npy"], "must hold an array of shape (2, 24)"),
        ([*MODEL, "--precision", "int8", "--ranges", "ranges.npz"], "must hold an array of shape (2, 24)"),
        ([*MODEL, "-o", "full.npy"], "full.npy cannot be written: No space left"),
        ([*MODEL, "-o", "full.jsonl"], "full.jsonl cannot be written: No space left"),
        (["--model", "absent"], "absent"),
    ],
)
def test_what_cannot_be_done_exits_with_1(
    arguments: list[str],
    message: str,
    stdin: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.csv").write_text("name,age\nAda,36\n")
    (tmp_path / "latin.csv").write_bytes("text\nCafé\n".encode("latin-1"))
    (tmp_path / "quote.csv").write_text('text\n"a" b\n')
    np.save(tmp_path / "ranges.npy", np.zeros((2, 5)))
    np.savez(tmp_path / "ranges.npz", np.zeros((2, 24)))
    for name in ("full.npy.part", "full.jsonl"):
        (tmp_path / name).symlink_to("/dev/full")
    stdin("a")
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("sparsert.embed: error: ") and message in err


def test_it_answers_before_the_next_text_and_ends_quietly_when_interrupted() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "sparsert.embed", *MODEL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[1],
        env=os.environ | {"PYTHONUNBUFFERED": ""},
        # a job in the background ignores Ctrl-C, and its children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        for _ in range(2):
            process.stdin.write(b"Ada keeps bees.\n")
            process.stdin.flush()
            assert len(json.loads(process.stdout.readline())["embedding"]) == 24
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
        assert b"Traceback" not in process.stderr.read()
