"""Answers against the originals' own code: DeepSparse 1.8 and transformers 4, on real questions.

Each original runs in a Python of its own, since neither installs beside what sparsert needs:
``SPARSERT_DEEPSPARSE_PYTHON`` names one with ``deepsparse[transformers]==1.8.0`` and ``pyarrow<18``,
``SPARSERT_TRANSFORMERS4_PYTHON`` one with ``transformers<5``, ``torch`` and ``onnxruntime``. Without it the test is
skipped.

What is compared is the code around the model: sparsert's pipeline gets the logits that the original's model gave. Run
anew they would differ: DeepSparse fixes the shapes of the graph, and ONNX Runtime then fuses and rounds it differently.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsert.pipelines import Pipeline
from sparsert.pipelines.engines import Padding
from sparsert.pipelines.question_answering import QuestionAnsweringPipeline

pytestmark = pytest.mark.slow

ORIGINALS = Path(__file__).parent / "originals"


@pytest.fixture(scope="module")
def questions(paragraphs: list[dict]) -> list[dict[str, str]]:
    """All questions of the sample."""
    return [
        {"question": entry["question"], "context": paragraph["context"]}
        for paragraph in paragraphs
        for entry in paragraph["qas"]
    ]


class RecordedEngine:
    """Gives each sequence the logits that an original's model gave it; knows no other sequence."""

    any_length = True
    pads = False

    def __init__(self, path: Path) -> None:
        with np.load(path) as found:
            cuts = np.cumsum(found["lengths"])[:-1]
            rows = zip(*(np.split(found[name], cuts) for name in ("ids", "start", "end")), strict=True)
            self._logits = {tuple(ids.tolist()): (start, end) for ids, start, end in rows}

    def run_packed(self, arrays: dict[str, np.ndarray], lengths: np.ndarray, padding: Padding) -> dict[str, np.ndarray]:
        rows = np.split(arrays["input_ids"], np.cumsum(lengths)[:-1])
        found = [self._logits[tuple(ids.tolist())] for ids in rows]
        start, end = zip(*found, strict=True)
        return {"start logits": np.concatenate(start), "end logits": np.concatenate(end)}


def answers_of_both(
    variable: str,
    script: str,
    model: Path,
    their_options: dict[str, Any],
    our_options: dict[str, Any],
    questions: list[dict[str, str]],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[list[Any], list[Any]]:
    """An original's answers, and those of sparsert's pipeline on the original's logits."""
    pytest.importorskip("onnxruntime")
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no Python that has the original")
    request = {"model": str(model), "options": their_options, "questions": questions}
    subprocess.run([python, str(ORIGINALS / script), str(folder)], input=json.dumps(request), text=True, check=True)
    pipeline = Pipeline.create("question-answering", model, engine_type="onnxruntime", num_cores=1, **our_options)
    assert isinstance(pipeline, QuestionAnsweringPipeline)
    monkeypatch.setitem(pipeline._engines, 128, RecordedEngine(folder / "logits.npz"))
    return json.loads((folder / "answers.json").read_text(encoding="utf-8")), pipeline(questions)


def test_deepsparse(
    questions: list[dict[str, str]], model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals, outputs = answers_of_both(
        "SPARSERT_DEEPSPARSE_PYTHON",
        "answer_with_deepsparse.py",
        model_directory,
        {},
        {},
        questions,
        tmp_path,
        monkeypatch,
    )
    different = 0
    for output, original in zip(outputs, originals, strict=True):
        if (output.start, output.end) == (original["start"], original["end"]):
            assert output.score == original["score"]
        else:
            # The only reason: padding, question and special tokens take places in DeepSparse's n-best lists, so that it
            # misses the best span.
            assert output.score > original["score"]
            different += 1
    assert different <= 1


def test_transformers(
    questions: list[dict[str, str]], model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"top_k": 3, "doc_stride": 48, "handle_impossible_answer": True}
    originals, outputs = answers_of_both(
        "SPARSERT_TRANSFORMERS4_PYTHON",
        "answer_with_transformers.py",
        model_directory,
        options | {"max_seq_len": 128},
        options | {"sequence_length": 128, "scoring": "huggingface"},
        questions,
        tmp_path,
        monkeypatch,
    )
    for output, original in zip(outputs, originals, strict=True):
        places = [(answer["answer"], answer["start"], answer["end"]) for answer in original]
        assert [(answer.answer, answer.start, answer.end) for answer in output] == places
        # Sums of float32 in another order
        assert [answer.score for answer in output] == pytest.approx([answer["score"] for answer in original], rel=1e-4)
