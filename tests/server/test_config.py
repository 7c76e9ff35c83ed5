"""Configurations: DeepSparse's files, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparsert.errors import InputError
from sparsert.server import ServerConfig, load_config

# The founding document's file, to the letter.
FOUNDING = """\
# question-answering-config.yaml
endpoints:
  - task: question-answering
    model: zoo:nlp/question_answering/obert-base/pytorch/huggingface/squad/pruned90_quant-none 
    kwargs:
      sequence_length: 24       # uses sequence length 64
      max_question_length: 8
      doc_stride: 4
"""  # noqa: W291


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_founding_document(tmp_path: Path) -> None:
    (endpoint,) = load_config(write(tmp_path, FOUNDING)).endpoints
    assert endpoint.route == "/predict"
    assert endpoint.name == "question-answering-0"
    assert endpoint.pipeline_options() == {
        "task": "question-answering",
        "model_path": "zoo:nlp/question_answering/obert-base/pytorch/huggingface/squad/pruned90_quant-none",
        "sequence_length": 24,
        "max_question_length": 8,
        "doc_stride": 4,
    }


def test_every_key_of_deepsparse(tmp_path: Path) -> None:
    text = """\
num_cores: 2
num_workers: 1
integration: local
engine_thread_pinning: numa
pytorch_num_threads: 1
loggers:
  python:
  prometheus:
    port: 6101
endpoints:
  - name: first
    route: predict/first/
    task: question-answering
    model: default
    batch_size: 4
    bucketing:
      sequence_lengths: [64, 128]
    kwargs: {engine_type: onnxruntime}
  - task: qa
  - task: qa
"""
    config = load_config(write(tmp_path, text))
    assert config.loggers.python is not None
    assert config.loggers.prometheus is not None and config.loggers.prometheus.port == 6101
    assert [endpoint.name for endpoint in config.endpoints] == ["first", "qa-0", "qa-1"]
    assert [endpoint.route for endpoint in config.endpoints] == ["/predict/first", None, None]
    options = config.endpoints[0].pipeline_options()
    assert (options["batch_size"], options["sequence_length"], options["engine_type"]) == (4, [64, 128], "onnxruntime")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("endpoint: []\n", "line 1: endpoint: unknown key; did you mean endpoints?"),
        ("endpoints:\n- task: qa\n  rout: /x\n", "line 3: endpoints[0].rout: unknown key; did you mean route?"),
        ("endpoints:\n- task: qa\nlimits:\n  queue: 1\n", "line 4: limits.queue: unknown key; did you mean max_queue?"),
        (
            "endpoints:\n- task: qa\n  kwargs:\n    doc_strid: 1\n",
            "line 4: endpoints[0]: kwargs.doc_strid: unknown option",
        ),
        ("endpoints:\n- task: qa\n  bucketing: {sequence_lengths: []}\n", "Must specify at least one sequence length"),
        ("endpoints:\n- task: qa\n  bucketing: {image_sizes: []}\n", "unknown key; known are sequence_lengths"),
        ("endpoints:\n- task: yolo\n", "line 2: endpoints[0].task: Unknown Pipeline task yolo. Currently supported"),
        ("endpoints:\n- {task: qa, name: a}\n- {task: qa, name: a}\n", "Endpoint names must be unique if specified"),
        ("endpoints:\n- {task: qa, route: a}\n- {task: qa, route: /a/}\n", "/a specified 2 times for multiple"),
        ("endpoints:\n- {task: qa, route: /metrics}\n", "/metrics is a route of the server itself"),
        ("endpoints:\n- {task: qa, route: '/a b'}\n", "a route is a path of letters"),
        ("endpoints:\n- task: qa\n  task: qa\n", "line 3: endpoints[0].task: given twice, first in line 2"),
        ("endpoints:\n- task: qa\nengine_thread_pinning: socket\n", "line 3: engine_thread_pinning: Input should be"),
        (
            "endpoints:\n- task: qa\nintegration: openai\n",
            "line 3: integration: Input should be 'local' or 'sagemaker'",
        ),
        ("endpoints:\n- task: qa\nnum_workers: 0\n", "line 3: num_workers: Input should be greater than or equal to 1"),
        ("num_cores: 1\n", "endpoints: Field required"),
        ("- task: qa\n", "must hold a mapping with the key endpoints"),
        ("endpoints: [", "is not a readable YAML file"),
        ("[" * 1500, "is not a readable YAML file: it is nested too deeply"),
        ("endpoints:\n- task: qa\n  route: 2026-99-99\n", "is not a readable YAML file: month must be in 1..12"),
        ("endpoints:\n- task: !!python/name:os.system\n", "is not a readable YAML file"),
        ("? [endpoints]\n: []\n", "line 1: a key must be a name"),
        ("endpoints: &all\n- *all\n", "line 1: endpoints[0]: contains itself"),
        ("endpoints:\n- &a\n  task: qa\n  rout: /x\n- <<: *a\n", "line 4: endpoints[1].rout: unknown key"),
        ("endpoints:\n", "line 1: endpoints: Field required"),
        ("num_cores: 1\nendpoints: []\n", "line 2: endpoints: there must be one at least"),
        ("endpoints:\n- {task: qa}\ncors_origins: [https://a.org/]\n", "line 3: cors_origins: an origin is such as"),
        ("endpoints:\n- task: qa\n  kwargs:\n    logger: x\n", "line 4: endpoints[0]: kwargs.logger: a server has"),
        ("endpoints:\n- task: qa\nloggers:\n  python:\n  pyton: {}\n", "line 5: loggers: pyton: Unknown logger name"),
        (
            "endpoints:\n- task: qa\nloggers:\n  prometheus:\n    prt: 1\n",
            "line 5: loggers.prometheus.prt: unknown key; did you mean port?",
        ),
        (
            "endpoints:\n- task: qa\nloggers:\n  mine:\n    path: no class\n",
            "line 5: loggers.mine.path: String should match pattern",
        ),
        (
            "endpoints:\n- task: qa\n  data_logging:\n    engine_inputs:\n    - func: np.max\n      frequncy: 2\n",
            "line 6: endpoints[0].data_logging.engine_inputs[0].frequncy: unknown key; did you mean frequency?",
        ),
        (
            "endpoints:\n- task: qa\n  data_logging:\n    inputs.question: []\n",
            "line 4: endpoints[0].data_logging: inputs.question: a target is pipeline_inputs",
        ),
        ("endpoints:\n- task: qa\n  data_logging:\n    're:(': []\n", "not a regular expression"),
        (
            "loggers:\n  python:\nsystem_logging:\n  prediction_latency:\n    target_loggers: [pyton]\n"
            "endpoints:\n- task: qa\n",
            "line 5: system_logging.prediction_latency.target_loggers: there is no logger 'pyton' among loggers",
        ),
        (
            "endpoints:\n- task: qa\n  logging_config:\n    inference_detail: {}\n",
            "line 4: endpoints[0].logging_config.inference_detail: unknown key; did you mean inference_details?",
        ),
        ("", "must hold a mapping with the key endpoints"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load_config(write(tmp_path, text))
    assert message in str(error.value)
    assert "config.yaml" in str(error.value)


def test_bucketing_is_for_tasks_with_a_sequence_length(tmp_path: Path) -> None:
    own = Path(__file__).with_name("own_task.py")
    text = f"endpoints:\n- task: import:{own}\n  bucketing: {{sequence_lengths: [64]}}\n"
    place = r"config.yaml, line 3: endpoints\[0\]: bucketing: import.*"
    with pytest.raises(InputError, match=place + "has no sequence_length"):
        load_config(write(tmp_path, text))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        load_config(write(tmp_path, "endpoints:\n- task: qa\n  rout: /x\n  nam: y\nnum_worker: 2\n"))
    assert len(str(error.value).splitlines()) == 3


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.yaml"):
        load_config(tmp_path / "nothing.yaml")


def test_anchors_merges_and_keys_without_value(tmp_path: Path) -> None:
    text = """\
integration:
loggers:
limits:
endpoints:
  - &first
    task: qa
    kwargs: {doc_stride: 64}
    data_logging:
  - <<: *first
    route: /second
    bucketing:
"""
    config = load_config(write(tmp_path, text))
    assert config.integration == "local"
    assert [endpoint.kwargs for endpoint in config.endpoints] == [{"doc_stride": 64}] * 2
    assert [(endpoint.name, endpoint.route) for endpoint in config.endpoints] == [("qa-0", None), ("qa-1", "/second")]


def test_names_that_are_made_up_avoid_those_given() -> None:
    config = load_config({"endpoints": [{"task": "qa"}, {"task": "qa", "name": "qa-0"}, {"task": "qa"}]})
    assert [endpoint.name for endpoint in config.endpoints] == ["qa-1", "qa-0", "qa-2"]


def test_an_endpoint_left_alone_takes_no_route() -> None:
    config = load_config({"endpoints": [{"task": "qa", "route": "/predict"}, {"task": "qa"}]})
    (left,) = load_config(config, {"endpoints": config.endpoints[1:]}).endpoints
    assert left == config.endpoints[1]
    assert left.route is None


def test_overrides_replace_keys_and_leave_the_rest(tmp_path: Path) -> None:
    base = load_config(write(tmp_path, FOUNDING))
    changed: Any = load_config(base, {"num_workers": 3})
    assert changed == base.model_copy(update={"num_workers": 3})
    assert changed.loggers.prometheus is None


def test_the_default_configuration_of_a_deployment() -> None:
    folder = Path(__file__).resolve().parents[2] / "deploy"
    assert isinstance(load_config(folder / "config.yaml"), ServerConfig)
