"""Model references: every kind, every place that is searched, every way to miss."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sparsert import synthetic, zoo
from sparsert.errors import InputRangeError, InputTypeError, ModelNotFoundError
from sparsert.zoo import Model, catalogue, model_to_path, resolve

OBERT = "zoo:nlp/question_answering/obert-base/pytorch/huggingface/squad/"
DISTILBERT = "zoo:nlp/question_answering/distilbert-none/pytorch/huggingface/squad/pruned80_quant-none-vnni"
UNKNOWN = "zoo:nlp/question_answering/mobilebert-none/pytorch/huggingface/squad/base-none"


def put_model(directory: Path, config: dict | None = None) -> Path:
    """A stand-in for a downloaded model: resolving reads nothing of the ONNX file."""
    directory.mkdir(parents=True)
    (directory / "model.onnx").write_bytes(b"onnx")
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(autouse=True)
def _private_caches(models_path: Path) -> None:
    zoo._announce.cache_clear()


@pytest.mark.parametrize("reference", [None, "default"])
@pytest.mark.parametrize("purpose", ["engine", "pipeline", "benchmark"])
def test_default_model_is_in_the_package(reference: str | None, purpose: str) -> None:
    model = resolve(reference, purpose)
    assert model.onnx.is_relative_to(Path(zoo.__file__).parent)
    assert (model.task, model.source, model.reference) == ("question-answering", "default", "default")
    assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= {
        path.name for path in model.directory.iterdir()
    }


def test_default_model_is_the_one_that_its_card_describes() -> None:
    """Six layers of six matrices of uint8 with zero point 128: 60 % pruned, and some that round to it."""
    card = (resolve().directory / "README.md").read_text(encoding="utf-8")
    assert f"| SHA-256 | `{hashlib.sha256(resolve().onnx.read_bytes()).hexdigest()}` |" in card
    tensors = {tensor.name: tensor for tensor in onnx.load(resolve().onnx).graph.initializer}
    matrices = [numpy_helper.to_array(tensor) for name, tensor in tensors.items() if name.endswith("weight_quantized")]
    encoder = [matrix for matrix in matrices if matrix.shape != (384, 2)]
    assert Counter(matrix.shape for matrix in encoder) == {(384, 384): 24, (384, 1536): 6, (1536, 384): 6}
    assert all(matrix.dtype == np.uint8 and 0.5999 < (matrix == 128).mean() < 0.64 for matrix in encoder)


@pytest.mark.parametrize("kind", [str, Path])
def test_directories_and_files(tmp_path: Path, kind: type) -> None:
    plain = put_model(tmp_path / "plain", {"architectures": ["BertForSequenceClassification"]})
    zoo_root = tmp_path / "zoo"
    deployment = put_model(zoo_root / "deployment", {"architectures": ["BertForTokenClassification"]})
    (zoo_root / "model.onnx").write_bytes(b"the training export, not for serving")
    optimum = tmp_path / "optimum"
    put_model(optimum / "onnx")

    model = resolve(kind(plain))
    assert (model.onnx, model.directory, model.source) == (plain / "model.onnx", plain, "directory")
    assert model.task == "text-classification"
    model = resolve(kind(zoo_root))
    assert (model.onnx, model.directory, model.task) == (deployment / "model.onnx", deployment, "token-classification")
    model = resolve(kind(optimum))
    assert (model.onnx, model.directory, model.task) == (optimum / "onnx" / "model.onnx", optimum, None)
    model = resolve(kind(plain / "model.onnx"))
    assert (model.onnx, model.directory, model.source) == (plain / "model.onnx", plain, "file")
    assert model_to_path(kind(plain)) == str(plain / "model.onnx")


def test_home_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_model(Path(os.environ["HOME"]) / "mine")
    assert resolve("~/mine").onnx.is_file()
    put_model(tmp_path / "here" / "model")
    monkeypatch.chdir(tmp_path / "here")
    assert resolve("model").onnx.is_file()


def test_directory_without_model_names_the_files_that_it_has(tmp_path: Path) -> None:
    for name in ("int8.onnx", "fp16.onnx"):
        (tmp_path / name).write_bytes(b"onnx")
    with pytest.raises(ModelNotFoundError, match=r"Could not find the ONNX model file 'model.onnx'.*int8\.onnx"):
        resolve(tmp_path)


@pytest.mark.parametrize("broken", ["{", "[]", '{"architectures": []}', '{"architectures": null}'])
def test_unreadable_configuration_leaves_the_task_open(tmp_path: Path, broken: str) -> None:
    directory = put_model(tmp_path / "model")
    (directory / "config.json").write_text(broken)
    assert resolve(directory).task is None


@pytest.mark.parametrize("reference", ["", "   ", "a\0b"])
def test_empty_and_malformed_strings(reference: str) -> None:
    with pytest.raises(InputRangeError, match="default model"):
        resolve(reference)


@pytest.mark.parametrize("reference", [3, b"model.onnx", ["model.onnx"]])
def test_wrong_types(reference: object) -> None:
    with pytest.raises(InputTypeError, match="unsupported type for model"):
        resolve(reference)  # type: ignore[arg-type]


@pytest.mark.parametrize("reference", ["/no/such/model.onnx", "x" * 5000, "~no-such-user-here/model", "a\udc80b"])
def test_missing_paths(reference: str) -> None:
    with pytest.raises(ModelNotFoundError, match="model path"):
        resolve(reference)


def test_links_in_a_circle_and_a_folder_named_as_the_file(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder" / "model.onnx").mkdir(parents=True)
    for reference in (tmp_path / "loop", tmp_path / "folder"):
        with pytest.raises(ModelNotFoundError):
            resolve(reference)


def test_path_that_looks_like_a_stub_gets_a_hint() -> None:
    with pytest.raises(ModelNotFoundError, match=f"write '{OBERT}base-none'"):
        resolve(OBERT.removeprefix("zoo:") + "base-none")


def test_unknown_purpose() -> None:
    with pytest.raises(InputRangeError, match="engine, pipeline, benchmark"):
        resolve(None, "server")


@pytest.mark.parametrize("variable", ["SPARSERT_MODELS_PATH", "SPARSEZOO_MODELS_PATH", "home"])
@pytest.mark.parametrize("folder", ["deployment", "."])
@pytest.mark.parametrize("purpose", ["engine", "pipeline", "benchmark"])
def test_real_weights_in_a_cache_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, folder: str, purpose: str
) -> None:
    root = Path(os.environ["HOME"]) / ".cache" / "sparsezoo"
    if variable != "home":
        root = tmp_path / "elsewhere"
        monkeypatch.setenv(variable, str(root))
    stub = f"{OBERT}pruned90_quant-none"
    directory = put_model(root / stub.removeprefix("zoo:") / folder)
    model = resolve(stub, purpose)
    assert model.onnx.samefile(directory / "model.onnx")
    assert model.source == "cache"


def test_short_stub_by_namespace_and_by_id(models_path: Path) -> None:
    named = put_model(
        models_path / "neuralmagic" / "bert-large-squad_wikipedia_bookcorpus-pruned90_quantized" / "deployment"
    )
    by_id = put_model(models_path / "0f4ea31a-93a4-4b25-9b5b-2f2a2a6d9a10")
    assert resolve("zoo:bert-large-squad_wikipedia_bookcorpus-pruned90_quantized").onnx == named / "model.onnx"
    assert resolve("zoo:0f4ea31a-93a4-4b25-9b5b-2f2a2a6d9a10").onnx == by_id / "model.onnx"


@pytest.mark.parametrize("suffix", ["", "?recipe=original&checkpoint=postqat", "/", "?deployment=default"])
def test_query_of_a_stub_is_tolerated(models_path: Path, suffix: str) -> None:
    directory = put_model(models_path / UNKNOWN.removeprefix("zoo:"))
    assert resolve(UNKNOWN + suffix).onnx == directory / "model.onnx"


@pytest.mark.parametrize("stub", [f"{OBERT}base-none", f"{OBERT}pruned90_quant-none", DISTILBERT])
def test_pipelines_get_an_answering_model(stub: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sparsert"):
        model = resolve(stub, "pipeline")
        resolve(stub, "pipeline")
    assert (model.onnx, model.source, model.task) == (resolve().onnx, "catalogue", "question-answering")
    (record,) = caplog.records  # announced once
    assert "minilm-l6-squad-pruned60_quant" in record.getMessage() and stub in record.getMessage()


def test_a_task_without_a_default_model_gets_none_of_another_task() -> None:
    with pytest.raises(ModelNotFoundError, match="the task has no default model"):
        resolve(f"{OBERT}base-none", "pipeline", stand_in=None)


@pytest.mark.parametrize("purpose", ["engine", "benchmark"])
def test_engines_and_benchmarks_get_the_same_cost(
    purpose: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = f"{OBERT}pruned90_quant-none"
    assert catalogue()[stub] == "synthetic:bert-base-pruned90_quant"
    small = {stub: "synthetic:bert-tiny-pruned90_quant"}  # the real stand-in takes seconds to generate
    monkeypatch.setattr(zoo, "_stubs", lambda: small)
    with caplog.at_level(logging.WARNING, "sparsert"):
        model = resolve(stub, purpose)
    assert model.onnx == resolve("synthetic:bert-tiny-pruned90_quant").onnx
    assert model.source == "catalogue"
    assert "random weights" in caplog.text


def test_catalogue_is_complete_and_consistent() -> None:
    known = catalogue()
    assert {f"{OBERT}base-none", f"{OBERT}pruned90_quant-none", DISTILBERT, "default"} <= set(known)
    for stub, stand_in in known.items():
        if stub.startswith("zoo:"):
            recipe = synthetic.parse(stand_in)
            assert recipe.block4 == ("vnni" in stub or "4block" in stub)
            assert (recipe.quantization == "quant") == ("quant" in stub)
            assert recipe.sparsity == 0 or f"pruned{recipe.sparsity * 100:.0f}" in stub
            assert ("distilbert" in stub, "large" in stub) == ("distilbert" in recipe.name, "large" in recipe.name)


@pytest.mark.parametrize("reference", [UNKNOWN, "zoo:foo", "zoo:some-model-base"])
def test_a_miss_lists_what_is_known_and_where_it_looked(reference: str, models_path: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        resolve(reference)
    message = str(caught.value)
    assert reference in message and f"{OBERT}base-none" in message and str(models_path) in message
    assert str(Path(os.environ["HOME"]) / ".cache" / "sparsezoo") in message
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize(
    "stub", ["", "../secret", "a/../../b", "..", "a b", "a/b/c", "nlp/qa/../pytorch/hf/squad/base-none"]
)
def test_malformed_stubs_never_leave_the_cache(models_path: Path, stub: str) -> None:
    put_model(models_path.parent / "secret")
    with pytest.raises(ModelNotFoundError, match="no zoo stub"):
        resolve(f"zoo:{stub}")


def test_model_as_the_zoo_package_presents_it(models_path: Path) -> None:
    model = Model(DISTILBERT)
    assert resolve(f"{model.path}/deployment").onnx == resolve().onnx
    directory = put_model(models_path / UNKNOWN.removeprefix("zoo:") / "deployment")
    model = Model(UNKNOWN)
    assert Path(model.path) == directory.parent
    assert resolve(f"{model.path}/deployment").onnx == directory / "model.onnx"


def test_synthetic_reference() -> None:
    model = resolve("synthetic:bert-tiny-dense_quant")
    assert (model.source, model.task) == ("synthetic", "question-answering")
    assert (model.directory / "tokenizer.json").is_file()
    with pytest.raises(ModelNotFoundError, match="no synthetic model"):
        resolve("synthetic:gpt-dense")


def test_hugging_face_offline_is_a_typed_error(tmp_path: Path) -> None:
    program = "from sparsert.zoo import resolve\nresolve('hf:nobody/nothing')"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert "ModelNotFoundError: cannot get 'hf:nobody/nothing' from Hugging Face" in result.stderr


def test_hugging_face_snapshot_already_on_disk(tmp_path: Path) -> None:
    """The hub's own cache layout: a ref that names a snapshot; offline, the client must find it and so must we."""
    repository = tmp_path / "hub" / "models--some-org--qa-model"
    put_model(repository / "snapshots" / ("a" * 40), {"architectures": ["BertForQuestionAnswering"]})
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    program = "from sparsert.zoo import resolve\nprint(resolve('hf:some-org/qa-model'))"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert "source='huggingface'" in result.stdout and "task='question-answering'" in result.stdout


def test_importing_touches_neither_network_nor_hub() -> None:
    program = (
        "import sys, socket\n"
        "socket.socket.connect = lambda *a: sys.exit('network at import')\n"
        "import sparsert.zoo\n"
        "sparsert.zoo.resolve('default'); sparsert.zoo.catalogue()\n"
        "loaded = {'huggingface_hub', 'transformers', 'onnxruntime'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
