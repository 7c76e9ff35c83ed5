"""What pipelines log, where to, and that a logger never spoils an answer."""

from __future__ import annotations

import logging
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel, ValidationError

from sparsert.errors import InputError
from sparsert.pipelines import Pipeline
from sparsert.pipelines.loggers import MetricLogger, PrometheusLogger
from sparsert.pipelines.logs import PipelineLogging

PREDEFINED = {"predefined": [{"func": "question_answering"}]}


class Recorder(MetricLogger):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.values: list[tuple[str, Any, str, str]] = []

    def log(self, identifier: str, value: Any, category: str, pipeline_name: str) -> None:
        self.values.append((identifier, value, category, pipeline_name))


RECORDER = """
from sparsert.pipelines.loggers import MetricLogger

values = []

class Recorder(MetricLogger):
    def __init__(self, factor=1):
        self.factor = factor

    def log(self, identifier, value, category, pipeline_name):
        values.append((identifier, value))

class Other:
    pass

def vowels(text):
    return sum(letter in "aeiou" for letter in text)
"""


@pytest.fixture
def model(toy_model: Callable[..., Path]) -> Path:
    return toy_model({"p": 3}, {"p": 3})


def create(model: Path, logger: Any, **options: Any) -> Pipeline:
    return Pipeline.create("qa", model, num_cores=1, logger=logger, **options)


def recorded(path: Path) -> list[tuple[str, Any]]:
    """What the Recorder of a file was given."""
    from sparsert.pipelines.imports import load_module

    return load_module(str(path)).values


@pytest.fixture
def unused_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def recorder(tmp_path: Path) -> Path:
    path = tmp_path / "recorder.py"
    path.write_text(RECORDER)
    return path


def test_a_logger_of_ones_own_gets_the_latencies(model: Path) -> None:
    logger = Recorder()
    create(model, logger, alias="mine")(question="z", context="a p")
    stages = ("pre_process", "engine_forward", "post_process", "total_inference")
    assert [value[0] for value in logger.values] == [f"prediction_latency/{stage}_seconds" for stage in stages]
    assert {value[2:] for value in logger.values} == {("system", "mine")}
    assert all(value[1] > 0 for value in logger.values)


def test_data_is_logged_as_configured(model: Path, recorder: Path) -> None:
    config = {
        "loggers": {"mine": {"path": f"{recorder}:Recorder", "factor": 2}},
        "system_logging": {"prediction_latency": {"enable": False}, "inference_details": {"enable": True}},
        "data_logging": PREDEFINED
        | {
            "pipeline_inputs.context": [{"func": f"{recorder}:vowels", "frequency": 2}],
            "engine_inputs.input_ids": [{"func": "np.max"}],
            "re:engine_outputs.*": [{"func": "numpy.linalg.norm", "target_loggers": ["mine"]}],
            "pipeline_outputs": [{"func": "identity"}],
        },
    }
    pipeline = create(model, config)
    outputs = pipeline(question=["z", "zz"], context=["a p", ""])
    found = recorded(recorder)
    assert found[:3] == [
        ("engine_inputs.input_ids__np.max", 29),
        ("engine_outputs.start_logits__numpy.linalg.norm", 3.0),
        ("engine_outputs.end_logits__numpy.linalg.norm", 3.0),
    ]
    assert found[3:5] == [("inference_details/input_batch_size_total", 2), ("inference_details/num_cores_total", 1)]

    def data(question: int, context: int, output: Any) -> list[tuple[str, Any]]:
        return [
            ("pipeline_inputs.question__string_length", question),
            ("pipeline_inputs.context__string_length", context),
            ("pipeline_outputs__answer_found", bool(output.answer)),
            ("pipeline_outputs__answer_length", len(output.answer)),
            ("pipeline_outputs__answer_score", output.score),
        ]

    every_second = (f"pipeline_inputs.context__{recorder}:vowels", 1)
    first = [*data(1, 3, outputs[0]), every_second, ("pipeline_outputs__identity", outputs[0])]
    second = [*data(2, 0, outputs[1]), ("pipeline_outputs__identity", outputs[1])]
    assert found[5:] == first + second
    assert (outputs[0].answer, outputs[1].answer) == ("p", "")


def test_the_python_logger_writes_deepsparses_line(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = create(model, "data_logging:\n  pipeline_inputs.question:\n    - func: string_length\n", alias="qa1")
    with caplog.at_level(logging.INFO, logger="sparsert.metrics"):
        pipeline(question="z z", context="a p")
    assert (
        "Identifier: qa1/pipeline_inputs.question__string_length | Category: data | Logged Data: 3 | "
        "Additional Info: {'pipeline_name': 'qa1'}"
    ) in caplog.messages


def test_prometheus_counts_on_a_port_and_in_a_file(model: Path, tmp_path: Path) -> None:
    registry = CollectorRegistry()
    logger = PrometheusLogger(0, tmp_path, 1, "log.prom", registry)
    PrometheusLogger(0, registry=registry)  # the port is open already
    for name in ("one", "two"):
        pipeline = create(model, logger, alias=name)
        pipeline(question=["z", "z"], context="a p")
        pipeline(question="z", context="a p")
    text = generate_latest(registry).decode()
    assert 'sparsert_prediction_latency__total_inference_seconds_count{pipeline_name="two"} 2.0' in text
    assert "# TYPE sparsert_prediction_latency__total_inference_seconds histogram" in text
    assert "sparsert_prediction_latency__total_inference_seconds_count" in (tmp_path / "log.prom").read_text()
    with pytest.raises(InputError, match="numbers only, got a str"):
        logger.log("pipeline_inputs", "text", "data", "one")
    with pytest.raises(InputError, match="is no directory"):
        PrometheusLogger(text_log_save_dir=tmp_path / "nowhere")
    with pytest.raises(InputError, match="text_log_save_frequency must be at least 1"):
        PrometheusLogger(text_log_save_frequency=0)


def test_prometheus_serves_its_metrics(model: Path, unused_port: int) -> None:
    registry = CollectorRegistry()
    create(model, PrometheusLogger(unused_port, registry=registry), alias="served")(question="z", context="p")
    with urllib.request.urlopen(f"http://127.0.0.1:{unused_port}/metrics") as response:
        assert 'pipeline_name="served"' in response.read().decode()


def test_a_failing_logger_is_reported_once_and_spoils_nothing(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MetricLogger):
        def log(self, identifier: str, value: Any, category: str, pipeline_name: str) -> None:
            raise OSError("disk full")

    pipeline = create(model, Broken())
    with caplog.at_level(logging.WARNING, logger="sparsert"):
        assert pipeline(question=["z", "z"], context="a p")[1].answer == "p"
        assert pipeline(question="z", context="a p").answer == "p"
    assert [record.getMessage() for record in caplog.records].count(
        "a logger of pipeline question_answering fails: disk full; further failures are not reported"
    ) == 1


class Pair(BaseModel):
    text: str


FUNCTIONS = {"pipeline_inputs": {"size": lambda value: len(value.text)}, "pipeline_outputs": {"size": lambda value: 7}}


@pytest.mark.parametrize("target", ["predefined", "pipeline_inputs", "re:pipeline_(in)puts"])
def test_functions_of_one_name_belong_to_their_targets(recorder: Path, target: str) -> None:
    """The one of the outputs comes last, and may not answer for both."""
    data = {target: [{"func": "echo" if target == "predefined" else "size"}]}
    config = {"loggers": {"mine": {"path": f"{recorder}:Recorder"}}, "data_logging": data}
    PipelineLogging(config, "mine", "echo", FUNCTIONS).call([Pair(text="ab")], [Pair(text="abc")], {})
    found = [("pipeline_inputs__size", 2), ("pipeline_outputs__size", 7)]
    assert recorded(recorder) == found[: 2 if target == "predefined" else 1]


def test_a_function_of_another_target_is_unknown() -> None:
    data = {"pipeline_inputs.text": [{"func": "size"}]}
    with pytest.raises(InputError, match="func must be one of"):
        PipelineLogging({"data_logging": data}, "mine", "echo", FUNCTIONS)


def test_data_that_cannot_be_had_is_reported_once_and_spoils_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        @property
        def engine_inputs(self) -> dict[str, Any]:
            raise OSError("gone")

    log = PipelineLogging({"data_logging": {"pipeline_outputs": [{"func": "identity"}]}}, "mine", "echo", {})
    with caplog.at_level(logging.WARNING, logger="sparsert"):
        log.call([Pair(text="ab")], [[]], {})  # no best answer
        log.engine(log.engine_values(Broken()))
    assert len(caplog.messages) == 1 and "pipeline mine fails" in caplog.messages[0]


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (
            {"loggers": {"nope": {}}},
            InputError,
            r"Unknown logger name: nope. supported logger names: \['python', 'prom",
        ),
        ({"loggers": {"own": {"path": "FILE:Other"}}}, InputError, "must be a subclass of MetricLogger"),
        ({"loggers": {"own": {"path": "FILE:Nothing"}}}, InputError, "with a name that exists there"),
        ({"loggers": {"own": {"path": "nowhere.py:Other"}}}, InputError, "no file 'nowhere.py'"),
        ({"data_logging": {"x": [{"func": "nope"}]}}, InputError, "func must be one of"),
        ({"data_logging": {"x": [{"func": "np.nope"}]}}, InputError, "func must be one of"),
        ({"data_logging": {"predefined": [{"func": "nope"}]}}, InputError, "predefined functions exist for"),
        (
            {"data_logging": {"x": [{"func": "identity", "frequency": 0}]}},
            ValidationError,
            "greater than or equal to 1",
        ),
        ({"system_logging": {"prediction_latency": {"target_loggers": ["x"]}}}, InputError, r"names \['x'\], which"),
        ({"colour": "blue"}, ValidationError, "Extra inputs are not permitted"),
        ("text", InputError, "logger must be a MetricLogger, or a mapping"),
    ],
)
def test_configurations_are_checked(
    model: Path, recorder: Path, config: Any, error: type[Exception], message: str
) -> None:
    if isinstance(config, dict) and "own" in config.get("loggers", {}):
        config["loggers"]["own"]["path"] = config["loggers"]["own"]["path"].replace("FILE", str(recorder))
    with pytest.raises(error, match=message):
        create(model, config)


def test_a_configuration_may_be_a_file_and_travels_with_the_pipeline(model: Path, recorder: Path) -> None:
    path = recorder.with_name("logging.yaml")
    path.write_text(f"loggers:\n  mine:\n    path: {recorder}:Recorder\n")
    for source in (path, str(path)):
        pipeline = create(model, source)
        before = len(recorded(recorder))
        Pipeline.from_config(pipeline.to_config())(question="z", context="p")
        assert len(recorded(recorder)) == before + 4
    assert create(model, Recorder()).to_config().logger is None
