"""The registry, the options that all pipelines share, and pipelines as data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from sparsert.errors import InputError, ModelNotFoundError
from sparsert.pipelines import Pipeline, PipelineConfig
from sparsert.pipelines import registry as tasks


class Text(BaseModel):
    text: str


class EchoBase(Pipeline):
    """A pipeline without an engine: says its text again, ``times`` times."""

    input_schema = Text
    output_schema = Text

    def __init__(self, model_path: str | Path | None = None, *, times: int = 1, **options: Any) -> None:
        super().__init__(model_path, **options)
        self.times = times

    def task_options(self) -> dict[str, Any]:
        return {"times": self.times}

    def preprocess(self, inputs: list[Text]) -> list[str | InputError]:
        return [InputError("nothing to say") if not item.text else item.text for item in inputs]

    def forward(self, prepared: list[str]) -> list[str]:
        return [text * self.times for text in prepared]

    def postprocess(self, prepared: list[str], outputs: list[str]) -> list[Text]:
        return [Text(text=text) for text in outputs]


@pytest.fixture
def echo() -> type[EchoBase]:
    """A class of this test alone, since registering writes to it."""
    return type("Echo", (EchoBase,), {})


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A registry of this test alone."""
    monkeypatch.setattr(tasks, "_classes", dict(tasks._classes))
    yield


@pytest.mark.usefixtures("registry")
def test_a_registered_task_is_created_by_any_of_its_names(echo: type[EchoBase]) -> None:
    Pipeline.register("say-again", task_aliases=["echo"], default_model_path="somewhere")(echo)
    for name in ("say-again", "say_again", "Say_Again", "echo"):
        pipeline = Pipeline.create(name, times=2)
        assert pipeline(text="ab").text == "abab"
    assert (pipeline.task, pipeline.task_aliases, pipeline.model_path) == ("say_again", ("echo",), "somewhere")
    assert {"echo", "say_again", "qa", "question_answering"} <= set(Pipeline.supported_tasks())


@pytest.mark.usefixtures("registry")
def test_a_task_is_registered_once(echo: type[EchoBase]) -> None:
    with pytest.raises(RuntimeError, match="task qa already registered by Pipeline.register"):
        Pipeline.register("something", task_aliases=["qa"])(echo)
    assert "something" not in Pipeline.supported_tasks()
    with pytest.raises(InputError, match="subclass of Pipeline"):
        Pipeline.register("other")(dict)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("name", ["say again", "a/b", "-a", "été", "", "a" * 81])
def test_a_name_must_do_for_an_endpoint_too(echo: type[EchoBase], name: str) -> None:
    for names in ((name, []), ("fine", [name])):
        with pytest.raises(InputError, match="the name of a task"):
            Pipeline.register(*names)(echo)
    assert "fine" not in Pipeline.supported_tasks()


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("schema", ["input_schema", "output_schema"])
@pytest.mark.parametrize("value", [dict, "text", None])
def test_a_task_needs_both_schemas(echo: type[EchoBase], schema: str, value: Any) -> None:
    setattr(echo, schema, value)
    with pytest.raises(InputError, match=f"task fine: {schema} of Echo must be a pydantic model"):
        Pipeline.register("fine")(echo)


@pytest.mark.usefixtures("registry")
def test_a_task_derived_from_another_is_one_of_its_own() -> None:
    base = Pipeline.class_of("qa")
    Pipeline.register("derived")(type("Derived", (base,), {}))
    assert Pipeline.class_of("Derived") is not base is Pipeline.class_of("question-answering")
    assert Pipeline.class_of("derived").task == "derived"


@pytest.mark.usefixtures("registry", "models_path")
def test_a_model_of_the_closed_zoo_is_stood_in_for_by_the_tasks_own(echo: type[EchoBase], tmp_path: Path) -> None:
    """Another task's default could not answer."""
    stub = "zoo:nlp/question_answering/obert-base/pytorch/huggingface/squad/pruned90_quant-none"
    own = tmp_path / "own" / "model.onnx"
    own.parent.mkdir()
    own.write_bytes(b"onnx")
    Pipeline.register("echo", default_model_path=str(own))(echo)
    for given in (None, "default", str(own), stub):
        assert Pipeline.create("echo", given).resolve_model().onnx == own
    with pytest.raises(ModelNotFoundError):
        Pipeline.create("echo", "zoo:foo").resolve_model()


def test_unknown_tasks_and_options() -> None:
    with pytest.raises(ValueError, match=r"Unknown Pipeline task nope\. Currently supported tasks are \[.*'qa'"):
        Pipeline.create("nope")
    with pytest.raises(InputError, match="task must be a str"):
        Pipeline.create(None)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        Pipeline.create("qa", colour="blue")
    with pytest.raises(
        ValueError, match="Only one of model and model_path may be supplied, found a and b respectively"
    ):
        Pipeline.create("qa", model="a", model_path="b")


def test_shared_options_are_checked(echo: type[EchoBase]) -> None:
    with pytest.raises(
        ValueError, match=r"Unknown engine_type foo\. Supported values include: \['sparsert', 'onnxruntime'\]"
    ):
        echo("x", engine_type="foo")
    assert echo("x", engine_type="ONNXRuntime").engine_type == "onnxruntime"
    assert echo("x", engine_type="deepsparse").engine_type == "sparsert"
    with pytest.raises(ValueError, match="No model_path provided for pipeline"):
        echo()
    context = SimpleNamespace(num_cores=1, num_streams=1, scheduler=None)
    with pytest.raises(ValueError, match="num_cores mismatch. Expected 1 from passed context, but got 2 while"):
        echo("x", context=context, num_cores=2)


@pytest.mark.usefixtures("registry")
def test_a_config_makes_the_same_pipeline_again(tmp_path: Path, echo: type[EchoBase]) -> None:
    Pipeline.register("echo")(echo)
    pipeline = echo(Path("x"), times=3, num_cores=2, scheduler="sync", alias="mine")
    config = pipeline.to_config()
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json())
    for source in (config, config.model_dump(), config.model_dump_json(), path, str(path)):
        assert Pipeline.from_config(source).to_config() == config
    assert json.loads(config.model_dump_json())["kwargs"] == {"times": 3}
    assert Pipeline.from_config(config, times=5).times == 5
    context = SimpleNamespace(num_cores=1, num_streams=4, scheduler="elastic")
    shared = Pipeline.from_config(config, context=context)
    assert shared.context is context
    assert (shared.to_config().num_cores, shared.to_config().num_streams) == (1, 4)
    with pytest.raises(ValidationError):
        Pipeline.from_config({"task": "echo", "colour": "blue"})
    assert PipelineConfig(task="echo").model_path is None
