"""The way of a batch through the stages: what is in memory, who post-processes it, and how many tokens it counts as."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsert.errors import EngineError
from sparsert.pipelines import Pipeline, QuestionAnsweringInput
from sparsert.pipelines.runner import Runner
from sparsert.pipelines.timing import ENGINE_FORWARD, POST_PROCESS
from sparsert.pipelines.tokenization import estimated_tokens


class Part:
    """An output of the engine that can be seen to go."""

    def __init__(self, value: int) -> None:
        self.value = value


class Parts:
    """Stages whose engine gives so many parts, and which note the most parts that were there at once."""

    def __init__(self, count: int, size: int = 10) -> None:
        self.count = count
        self.size = size
        self.most = 0
        self.reduced = 0
        self._alive: weakref.WeakSet[Part] = weakref.WeakSet()

    def tokens(self, prepared: int) -> int:
        return self.size

    def preprocess(self, inputs: list[int]) -> list[int]:
        return inputs

    def forward(self, prepared: list[int]) -> Iterator[Part]:
        for value in range(1, self.count + 1):
            part = Part(value)
            self._alive.add(part)
            self.most = max(self.most, len(self._alive))
            yield part
            del part

    def postprocess(self, prepared: list[int], outputs: Iterator[Part]) -> list[int]:
        self.reduced = sum(part.value for part in outputs)
        return [self.reduced] * len(prepared)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("size", [10, 100_000])
def test_only_parts_of_very_many_tokens_are_finished_while_the_engine_runs(count: int, size: int) -> None:
    stages = Parts(count, size)
    runner = Runner(stages)
    batch = runner.begin([7, 8])
    # Else that is left to the thread that finishes, so that the engine may go on.
    assert (stages.reduced > 0) == (count > 0 and size > 10)
    assert runner.end(batch) == [count * (count + 1) // 2] * 2
    assert batch.timer.times[ENGINE_FORWARD] > 0 and batch.timer.times[POST_PROCESS] > 0
    if size > 10:
        assert stages.most <= 2  # the one that is made, and the one that the sum above holds on to


def test_outputs_that_are_no_iterator_are_finished_elsewhere() -> None:
    stages = Parts(0)
    stages.forward = lambda prepared: [Part(3)]  # type: ignore[assignment, method-assign, return-value]
    runner = Runner(stages)
    batch = runner.begin([1])
    assert stages.reduced == 0
    assert runner.end(batch) == [3]


def test_another_number_of_results_is_an_error() -> None:
    stages = Parts(1)
    stages.postprocess = lambda prepared, outputs: []  # type: ignore[method-assign]
    runner = Runner(stages)
    with pytest.raises(EngineError, match="gave 0 results for 1 requests"):
        runner.end(runner.begin([1]))


@pytest.mark.parametrize("middle", [1, 2])
def test_questions_count_the_tokens_that_the_engine_gets(toy_model: Callable[..., Path], middle: int) -> None:
    """RoBERTa has two special tokens between question and context, BERT one."""
    model = toy_model({"q": 5}, {"q": 5})
    path = model / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    pair = ["[CLS]", "$A", *["[SEP]"] * middle, "$B", "[SEP]"]

    def piece(name: str) -> dict:
        kind, key = ("Sequence", name.removeprefix("$")) if name.startswith("$") else ("SpecialToken", name)
        return {kind: {"id": key, "type_id": 0}}

    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [piece("$A")],
        "pair": [piece(name) for name in pair],
        "special_tokens": {
            name: {"id": name, "ids": [number], "tokens": [name]} for number, name in ((2, "[CLS]"), (3, "[SEP]"))
        },
    }
    path.write_text(json.dumps(tokenizer))
    pipeline = Pipeline.create("qa", model, num_cores=1, sequence_length=16, doc_stride=4)
    for words in (0, 3, 11, 90):
        prepared = pipeline.preprocess([QuestionAnsweringInput(question="a b", context="a " * words)])
        assert pipeline.tokens(prepared[0]) == sum(len(part.start) for part in pipeline.forward(prepared))


def test_tokens_of_what_nobody_counts() -> None:
    ids = np.zeros(12, dtype=np.int64)
    assert estimated_tokens({"input_ids": ids, "attention_mask": ids}) == 12
    assert estimated_tokens([ids, ids[:3]]) == 15
    assert estimated_tokens([1, 2, 3]) == 3
    assert estimated_tokens("word " * 40) == 51
    assert estimated_tokens([]) == estimated_tokens({}) == estimated_tokens("") == estimated_tokens(object()) == 1


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_whatever_is_prepared_has_a_token(prepared: object) -> None:
    assert estimated_tokens(prepared) >= 1
