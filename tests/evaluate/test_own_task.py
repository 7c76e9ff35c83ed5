"""A task of one's own is evaluated by its own scorer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from sparsert.errors import InputError
from sparsert.evaluate import evaluate
from sparsert.evaluate.__main__ import main
from sparsert.pipelines import Pipeline

OWN = Path(__file__).resolve().parents[1] / "server" / "own_task.py"
TASK = f"import:{OWN}"

SCORER = """
from types import SimpleNamespace

from sparsert.pipelines import Pipeline


class Share:
    options, flags, datasets, main = {"longest": 32}, {}, "A text a line.", "share"
    check = staticmethod(lambda truths, options: None)
    request = staticmethod(lambda example: Pipeline.class_of("beginnings").input_schema(texts=[example.text]))

    def __init__(self, pipeline):
        self.pipeline, self.words = pipeline, {}

    @staticmethod
    def read(path, max_samples):
        lines = open(path).read().splitlines()[:max_samples]
        return [SimpleNamespace(id=line, text=line, answers=line.split()[:1]) for line in lines]

    def add(self, examples, parts):
        prepared = self.pipeline.preprocess([self.request(example) for example in examples])
        found = self.pipeline.postprocess(prepared, iter(parts))
        self.words |= {example.id: words.words[0] for example, words in zip(examples, found)}
        return len(parts), sum(map(self.pipeline.tokens, prepared))

    def scores(self, truths):
        right = [self.words[name] in answers for name, answers in truths.items()]
        return {"share": 100 * sum(right) / len(right), "letters": len("".join(self.words.values()))}, self.words, None
"""


@dataclass(frozen=True)
class Line:
    """What the scorer reads."""

    id: str
    text: str
    answers: list[str]


LINES = [Line("a", "Ada keeps bees in Turin.", ["Ada"]), Line("b", "Bob repairs old radios.", ["Bob"])]


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "share.py").write_text(SCORER)
    monkeypatch.setattr(Pipeline.class_of(TASK), "scorer", f"{tmp_path}/share.py:Share")


@pytest.mark.usefixtures("scored")
def test_its_own_metrics_are_given_and_compared() -> None:
    pytest.importorskip("onnxruntime")
    result = evaluate("default", LINES, task=TASK, compare="onnxruntime", num_cores=1)
    assert result.comparison
    for scores in (result.scores, result.comparison.scores):
        pipeline = Pipeline.create(TASK, engine_type=scores.engine, num_cores=1, longest=32)
        words = {line.id: pipeline(texts=[line.text]).words[0] for line in LINES}
        right = sum(words[line.id] in line.answers for line in LINES)
        assert scores.predictions == words
        assert scores.metrics == {"share": 50 * right, "letters": sum(map(len, words.values()))}
    ours, theirs = result.scores.metrics, result.comparison.scores.metrics
    assert result.comparison.metric_differences == {name: ours[name] - theirs[name] for name in ours}
    assert (result.main_metric, result.windows) == ("share", 2)
    # Its outputs do not say what the engine gave.
    content = result.to_dict()["comparison"]
    assert (content["largest_logit_difference"], content["mean_logit_difference"]) == (None, None)
    assert "f1_difference" not in content
    for name in ("f1", "exact_match"):
        with pytest.raises(InputError, match=f"no metric {name}; its scorer gives share, letters"):
            getattr(result, name)


@pytest.mark.usefixtures("scored")
def test_the_command_line_shows_its_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(line.text for line in LINES))
    arguments = ["--task", TASK, "-d", f"{tmp_path}/lines.txt", "--compare", "sparsert"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "share " in out and "letters " in out
    assert "difference of share        +0.00" in out and "logit difference" not in out


def test_a_task_without_a_scorer_cannot_be_evaluated() -> None:
    with pytest.raises(InputError, match="cannot be evaluated: its pipeline Beginnings names no scorer"):
        evaluate("default", LINES, task=TASK)
