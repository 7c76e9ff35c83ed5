"""What a server logs: loggers, system_logging, logging_config and data_logging of DeepSparse's files."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from questions import ANSWER, QUESTION

from sparsert.errors import InputError
from sparsert.pipelines.imports import load_module
from sparsert.server import load_config
from sparsert.server.logs import JsonFormatter

STAGES = {f"prediction_latency/{stage}_seconds" for stage in ("pre_process", "engine_forward", "post_process")}
TOTAL = "prediction_latency/total_inference_seconds"

OWN = """
from sparsert.pipelines.loggers import MetricLogger

values = []

class Recorder(MetricLogger):
    def __init__(self, prefix=""):
        self.prefix = prefix

    def log(self, identifier, value, category, pipeline_name):
        values.append((self.prefix + identifier, value, pipeline_name))

class Failing(MetricLogger):
    def log(self, identifier, value, category, pipeline_name):
        raise RuntimeError("full disk")

def words(text):
    return len(text.split())
"""


class Lines(logging.Handler):
    """Keeps each record as the JSON that a server writes, formatted in the thread that logs."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.found: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(json.loads(self.format(record), parse_constant=pytest.fail))


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """Lines of the logger that values go to."""
    logger, handler = logging.getLogger("sparsert.metrics"), Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.found
    logger.removeHandler(handler)
    logger.setLevel(level)


def endpoint(**keys: Any) -> list[dict[str, Any]]:
    return [{"task": "question-answering", "name": "bees", "route": "/predict", **keys}]


def test_python_logs_a_line_with_the_times_of_a_request(
    make_client: Callable[..., FlaskClient], lines: list[dict[str, Any]]
) -> None:
    client = make_client(endpoints=endpoint(), loggers={"python": None})
    assert lines == []  # nothing of what warms up
    assert client.post("/predict", json=QUESTION, headers={"X-Request-ID": "job-1"}).status_code == 200
    assert client.post("/predict", json={}).status_code == 422  # ran nothing
    (line,) = lines
    assert (line["request_id"], line["endpoint"], line["logger"]) == ("job-1", "bees", "sparsert.metrics")
    assert set(line["values"]) == STAGES | {TOTAL}
    assert all(line["values"][stage] > 0 for stage in STAGES)
    assert sum(line["values"][stage] for stage in STAGES) <= line["values"][TOTAL]


def test_a_batch_of_tensors_has_a_line_for_each_question(
    make_client: Callable[..., FlaskClient], lines: list[dict[str, Any]]
) -> None:
    functions = {"pipeline_inputs.context": [{"func": "string_length"}]}
    client = make_client(endpoints=endpoint(data_logging=functions), loggers={"python": {}})
    contexts = ["Ada keeps bees.", "Bo and Ada keep bees.", "Nobody."]
    inputs = [
        {"name": "question", "datatype": "BYTES", "shape": [3], "data": ["Who?"] * 3},
        {"name": "context", "datatype": "BYTES", "shape": [3], "data": contexts},
    ]
    assert client.post("/v2/models/bees/infer", json={"inputs": inputs}).status_code == 200
    found = [line["values"]["pipeline_inputs.context__string_length"] for line in lines]
    assert found == [len(context) for context in contexts]
    assert [TOTAL in line["values"] for line in lines] == [True, False, False]


def test_groups_and_data_are_chosen(make_client: Callable[..., FlaskClient], lines: list[dict[str, Any]]) -> None:
    client = make_client(
        num_cores=1,
        endpoints=endpoint(
            logging_config={"prediction_latency": {"enable": False}},
            data_logging={
                "predefined": [{"func": "question_answering"}],
                "re:pipeline_outputs\\.(start|end)": [{"func": "identity", "frequency": 2}],
                "engine_outputs": [{"func": "identity"}],
            },
        ),
        loggers={"python": {}},
        system_logging={"inference_details": {"enable": True}},
    )
    for _ in range(3):
        answer = client.post("/predict", json=QUESTION).get_json()
    first, second, third = (line["values"] for line in lines)
    assert first["inference_details/input_batch_size_total"] == 1
    assert not STAGES & set(first)
    assert first["pipeline_inputs.question__string_length"] == len(QUESTION["question"])
    assert first["pipeline_outputs__answer_length"] == len(ANSWER["answer"])  # type: ignore[arg-type]
    assert first["pipeline_outputs__answer_score"] == answer["score"]
    assert (first["pipeline_outputs.start__identity"], first["pipeline_outputs.end__identity"]) == (14, 46)
    assert "pipeline_outputs.start__identity" not in second
    assert "pipeline_outputs.start__identity" in third


def test_what_goes_into_the_engine(make_client: Callable[..., FlaskClient], lines: list[dict[str, Any]]) -> None:
    functions = {"engine_inputs.input_ids": [{"func": "np.max"}]}
    silent = {"enable": False}
    client = make_client(endpoints=endpoint(data_logging=functions, logging_config=silent), loggers={"python": {}})
    client.post("/predict", json=QUESTION)
    (line,) = lines
    assert line["values"]["engine_inputs.input_ids__np.max"] > 100  # ids of words; those below are special


WATCHFUL = """
import traceback

from sparsert.pipelines.loggers import MetricLogger

places = []

def place():
    return {frame.name for frame in traceback.extract_stack()} & {"begin", "end"}

class Watchful(MetricLogger):
    def log(self, identifier, value, category, pipeline_name):
        if identifier.startswith("engine_"):
            places.append(place())
"""


def test_while_the_engine_runs_nothing_is_finished_or_logged(
    make_client: Callable[..., FlaskClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "watchful.py").write_text(WATCHFUL)
    watchful = load_module(f"{tmp_path}/watchful.py")
    client = make_client(
        endpoints=endpoint(
            batch_size=2,
            kwargs={"sequence_length": 24, "doc_stride": 4},
            data_logging={"engine_outputs.start_logits": [{"func": "np.max"}]},
        ),
        loggers={"mine": {"path": f"{tmp_path}/watchful.py:Watchful"}},
    )
    pipeline = client.application.extensions["sparsert"].registry.endpoints[0]._pipeline
    finished: list[set[str]] = []
    original = pipeline.postprocess

    def postprocess(*stages: Any) -> Any:
        finished.append(watchful.place())
        return original(*stages)

    monkeypatch.setattr(pipeline, "postprocess", postprocess)
    answer = client.post("/predict", json={"question": "Who?", "context": "Ada keeps bees. " * 30})
    assert answer.status_code == 200
    assert finished == [{"end"}]
    # Several runs of two windows each; all are told of.
    assert len(watchful.places) > 2 and all(place == {"end"} for place in watchful.places)


def test_prometheus_adds_the_values_to_the_metrics(make_client: Callable[..., FlaskClient]) -> None:
    functions = {"pipeline_outputs": [{"func": "answer_length"}]}
    client = make_client(endpoints=endpoint(data_logging=functions), loggers={"prometheus": {"port": 0}})
    for _ in range(2):
        client.post("/predict", json=QUESTION)
    text = client.get("/metrics").text
    assert 'sparsert_prediction_latency__engine_forward_seconds_count{pipeline_name="bees"} 2.0' in text
    total = 2 * len(ANSWER["answer"])  # type: ignore[arg-type]
    assert f'sparsert_pipeline_outputs__answer_length_sum{{pipeline_name="bees"}} {total}.0' in text


def test_a_logger_of_ones_own(
    make_client: Callable[..., FlaskClient], tmp_path: Path, lines: list[dict[str, Any]]
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    client = make_client(
        endpoints=endpoint(
            data_logging={
                "pipeline_inputs.question": [{"func": f"{tmp_path}/own.py:words", "target_loggers": ["mine"]}]
            },
        ),
        loggers={
            "python": {},
            "mine": {"path": f"{tmp_path}/own.py:Recorder", "prefix": "x/"},
            "bad": {"path": f"{tmp_path}/own.py:Failing"},
        },
        system_logging={"target_loggers": ["python", "bad"]},
    )
    assert client.post("/predict", json=QUESTION).get_json()["answer"] == ANSWER["answer"]
    (module,) = (module for module in sys.modules.values() if getattr(module, "__file__", "") == f"{tmp_path}/own.py")
    assert module.values == [(f"x/pipeline_inputs.question__{tmp_path}/own.py:words", 3, "bees")]
    assert set(lines[0]["values"]) == STAGES | {TOTAL}
    # Neither a path nor what a logger is made with is shown.
    content = client.get("/config").get_json()
    assert content["loggers"] == {"python": {}, "mine": {}, "bad": {}}
    assert str(tmp_path) not in json.dumps(content)


@pytest.mark.parametrize("path", ["own.py:words", "own.py:Nothing", "nowhere.py:Class", "json:JSONDecoder"])
def test_a_logger_that_is_none(
    make_client: Callable[..., FlaskClient], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(path.rpartition(":")[0])):
        make_client(loggers={"mine": {"path": path}})


EVERYTHING_OLD = """\
pytorch_num_threads: 1
loggers:
  prometheus:
    port: 6101
    text_log_save_frequency: 10
system_logging:
  enable: true
  request_details:
    enable: true
    target_loggers: [prometheus]
  resource_utilization: {enable: false}
endpoints:
  - task: question-answering
    scheduler: multi_stream
    middlewares: [timer]
    logging_config: {prediction_latency: {enable: false}, inference_details: {enable: true}}
    data_logging:
      pipeline_inputs.question: [{func: string_length, frequency: 2, target_loggers: [prometheus]}]
    kwargs:
      trust_remote_code: true
      engine_type: deepsparse
"""


def test_keys_without_effect_are_named_with_their_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(EVERYTHING_OLD)
    config = load_config(path)
    found = [re.search(r"line (\d+): (\S+) has no effect here: .", message) for message in caplog.messages]
    assert [(int(match[1]), match[2]) for match in found if match] == [
        (1, "pytorch_num_threads"),
        (5, "loggers.prometheus.text_log_save_frequency"),
        (8, "system_logging.request_details"),
        (14, "endpoints[0].scheduler"),
        (15, "endpoints[0].middlewares"),
        (20, "endpoints[0].kwargs.trust_remote_code"),
    ]
    assert len(found) == 6
    assert set(config.endpoints[0].pipeline_options()) == {"task", "model_path", "engine_type"}
    caplog.clear()
    load_config(config, {"num_workers": 1})  # as workers do with what has been read
    assert caplog.messages == []


def test_times_of_lines_have_three_decimals() -> None:
    record = logging.makeLogRecord({"created": 0.0, "msecs": 999.7})
    assert json.loads(JsonFormatter().format(record))["time"] == "1970-01-01T00:00:00.999Z"
