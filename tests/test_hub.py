"""``hf:`` references, through the hub's own client and a hub on this machine: what is fetched, and that only once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from fake_hub import COMMIT, FakeHub, serving
from onnx import TensorProto, helper, numpy_helper

from sparsert.graph.load import load_graph

MODULES = [
    {"path": "", "type": "a.Transformer"},
    {"path": "1_Pooling", "type": "a.Pooling"},
    {"path": "2_Dense", "type": "a.Dense"},
]


def save_onnx(path: Path, value: float) -> None:
    """A model that adds a number, which lies in a file beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensor = numpy_helper.from_array(np.full((1, 512), value, np.float32), "c")
    floats = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 512]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "c"], ["y"])], "g", floats[:1], floats[1:], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}_data")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    """A repository as sentence-transformers and Optimum leave it."""
    root = tmp_path / "repository"
    save_onnx(root / "onnx" / "model.onnx", 1)
    save_onnx(root / "onnx" / "model_int8.onnx", 2)
    files = {
        "config.json": '{"architectures": ["BertModel"]}',
        "modules.json": json.dumps(MODULES),
        "tokenizer.json": "{}",
        "vocab.txt": "a",
        "1_Pooling/config.json": '{"a": 1}',  # all different: the client fetches equal content once
        "2_Dense/config.json": '{"a": 2}',
        "2_Dense/model.safetensors": "dense",
        "2_Dense/pytorch_model.bin": "no",
        "model.safetensors": "weights",
        "pytorch_model.bin": "no",
        "openvino/openvino_model.xml": "no",
        "README.md": "no",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    with serving(root) as found:
        yield found


SETTINGS = {
    "config.json",
    "modules.json",
    "tokenizer.json",
    "vocab.txt",
    "1_Pooling/config.json",
    "2_Dense/config.json",
}


def resolve(hub: FakeHub, home: Path, reference: str, offline: bool = False) -> str:
    """What a process of its own prints of a reference: the file below the snapshot, root and source, or its error."""
    program = (
        "import sys; from sparsert.zoo import resolve; from sparsert.errors import SparsertError\n"
        "try:\n"
        "    model = resolve(sys.argv[1])\n"
        "    print(model.onnx.relative_to(model.root).as_posix(), model.task, model.root.name)\n"
        "except SparsertError as error: print(type(error).__name__, error)\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": str(int(offline))}
    hub.requests.clear()
    result = subprocess.run([sys.executable, "-c", program, reference], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_only_what_is_needed_is_fetched_and_only_once(hub: FakeHub, tmp_path: Path) -> None:
    expected = f"onnx/model.onnx embedding-extraction {COMMIT}"
    assert resolve(hub, tmp_path, "hf:org/model") == expected
    absent = {name for name in hub.fetched if name not in hub.names()}
    assert hub.fetched - absent == SETTINGS | {
        "2_Dense/model.safetensors",
        "onnx/model.onnx",
        "onnx/model.onnx_data",
    }
    assert resolve(hub, tmp_path, "hf:org/model") == expected and not hub.requests
    assert resolve(hub, tmp_path, "hf:org/model", offline=True) == expected
    assert resolve(hub, tmp_path, f"hf:org/model@{COMMIT}") == expected and not hub.requests


def test_a_file_by_its_path_and_by_a_word(hub: FakeHub, tmp_path: Path) -> None:
    for name in ("onnx/model_int8.onnx", "model_int8.onnx", "int8", "quantized"):
        found = resolve(hub, tmp_path / name.replace("/", "-"), f"hf:org/model@main:{name}")
        assert found == f"onnx/model_int8.onnx embedding-extraction {COMMIT}"
        assert {"onnx/model_int8.onnx_data"} <= hub.fetched and "onnx/model.onnx" not in hub.fetched
    found = resolve(hub, tmp_path, "hf:org/model:fp16")
    assert "ModelNotFoundError" in found and "onnx/model.onnx, onnx/model_int8.onnx" in found


def test_a_second_file_joins_the_first(hub: FakeHub, tmp_path: Path) -> None:
    resolve(hub, tmp_path, "hf:org/model")
    assert resolve(hub, tmp_path, "hf:org/model:int8").startswith("onnx/model_int8.onnx")
    assert {name for name in hub.fetched if name in hub.names()} == {
        "onnx/model_int8.onnx",
        "onnx/model_int8.onnx_data",
    }
    assert resolve(hub, tmp_path, "hf:org/model:int8").startswith("onnx/model_int8.onnx") and not hub.requests


def test_a_cache_that_may_lack_files_is_completed(hub: FakeHub, tmp_path: Path) -> None:
    """Another program fetched the ONNX file alone: taking it would pool in the wrong way."""
    snapshot = tmp_path / "hub" / "models--org--model" / "snapshots" / COMMIT
    save_onnx(snapshot / "onnx" / "model.onnx", 1)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    assert resolve(hub, tmp_path, "hf:org/model", offline=True).startswith("onnx/model.onnx None")
    assert resolve(hub, tmp_path, "hf:org/model") == f"onnx/model.onnx embedding-extraction {COMMIT}"
    assert (snapshot / "1_Pooling" / "config.json").is_file()


def test_external_data_behind_the_links_of_the_cache(hub: FakeHub, tmp_path: Path) -> None:
    resolve(hub, tmp_path, "hf:org/model")
    path = tmp_path / "hub" / "models--org--model" / "snapshots" / COMMIT / "onnx" / "model.onnx"
    assert path.is_symlink() and path.with_name("model.onnx_data").is_symlink()
    (constant,) = load_graph(path).constants.values()
    assert np.array_equal(np.asarray(constant), np.ones((1, 512), np.float32))


def test_weights_are_fetched_where_no_onnx_file_is(hub: FakeHub, tmp_path: Path) -> None:
    for path in (hub.root / "onnx").iterdir():
        path.unlink()
    found = resolve(hub, tmp_path, "hf:org/model")
    assert "model.safetensors" in hub.fetched
    assert found.startswith("ModelFormatError") and "no export for model_type" in found  # it was tried
    (hub.root / "model.safetensors").unlink()
    found = resolve(hub, tmp_path / "other", "hf:org/model")
    assert found.startswith("ModelNotFoundError") and "no ONNX file" in found


def test_what_the_hub_does_not_have(hub: FakeHub, tmp_path: Path) -> None:
    found = resolve(hub, tmp_path, "hf:org/other")
    assert found.startswith("ModelNotFoundError cannot get 'hf:org/other' from Hugging Face: RepositoryNotFound")
