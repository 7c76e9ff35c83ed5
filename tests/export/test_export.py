"""The writer around the networks: files of weights in every form, the cache, the command line, broken folders."""

from __future__ import annotations

import json
import logging
import os
import struct
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from fusion_checks import onnxruntime_outputs
from onnx import numpy_helper
from recorded_networks import recorded, save_folder
from safetensors.numpy import save_file

from sparsert import Engine
from sparsert.errors import InputRangeError, ModelError, ModelFormatError, ModelNotFoundError, ShapeError
from sparsert.export import ARCHITECTURES, cached_export, export_folder, has_weights
from sparsert.export.__main__ import main
from sparsert.export.builder import ACTIVATIONS, GraphBuilder
from sparsert.export.mpnet import _bucket
from sparsert.export.save import save_model
from sparsert.export.weights import read_weights
from sparsert.zoo import resolve


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A folder with BERT and a head for sequences."""
    return recorded("bert", "sequences").save(tmp_path / "bert")


def rewrite_config(folder: Path, **changes: object) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def weights_of(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


# Forms of weights


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_become_float32(dtype: type, tmp_path: Path) -> None:
    case = recorded("bert", "sequences")
    tensors = {name: array.astype(dtype) for name, array in case.tensors.items()}
    one = export_folder(save_folder(tmp_path / "stored", case.config, tensors))
    rounded = {name: array.astype(np.float32) for name, array in tensors.items()}
    other = export_folder(save_folder(tmp_path / "rounded", case.config, rounded))
    assert one.read_bytes() == other.read_bytes()


def test_shards(bert: Path, tmp_path: Path) -> None:
    case = recorded("bert", "sequences")
    whole = export_folder(bert).read_bytes()
    folder = save_folder(tmp_path / "shards", case.config, {})
    (folder / "model.safetensors").unlink()
    names = sorted(case.tensors)
    places = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({name: np.ascontiguousarray(case.tensors[name]) for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert export_folder(folder).read_bytes() == whole
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="model-00002-of-00002.safetensors"):
        export_folder(folder, tmp_path / "m.onnx")
    index.write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(ModelFormatError, match="same folder"):
        has_weights(folder)
    index.write_text("{}")
    with pytest.raises(ModelFormatError, match="weight_map"):
        has_weights(folder)


def test_old_names_and_bare_names(bert: Path, tmp_path: Path) -> None:
    """LayerNorm's gamma and beta, and a base model's names without the prefix of those with a head."""
    case = recorded("bert", "sequences")
    whole = export_folder(bert).read_bytes()
    tensors = {}
    for name, array in case.tensors.items():
        name = name.removeprefix("bert.")
        if "LayerNorm" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        tensors[name] = array
    tensors["embeddings.position_ids"] = np.arange(48)[None]
    assert export_folder(save_folder(tmp_path / "old", case.config, tensors)).read_bytes() == whole


def test_more_than_one_file_holds(tmp_path: Path) -> None:
    """Beyond protobuf's 2 GB, here beyond 1000 bytes, the weights lie beside the graph."""
    case = recorded("bert", "sequences")
    folder = case.save(tmp_path)
    single = export_folder(folder)
    model = onnx.load(single)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    del model.graph.initializer[:]
    path = tmp_path / "other.onnx"
    save_model(model, arrays, path, largest=1000)
    assert path.stat().st_size < single.stat().st_size / 2
    onnx.checker.check_model(str(path))
    feeds, want = case.inputs[0], case.outputs[0]["logits"]
    np.testing.assert_allclose(onnxruntime_outputs(path, feeds)["logits"], want, rtol=0, atol=1e-4)
    got = Engine(path, batch_size=None).run(list(feeds.values()))[0]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


def test_the_same_folder_gives_the_same_bytes(bert: Path, tmp_path: Path) -> None:
    one, two = export_folder(bert, tmp_path / "one.onnx"), export_folder(bert, tmp_path / "two.onnx")
    assert one.read_bytes() == two.read_bytes()


# Details of networks


def reference_activation(name: str, x: np.ndarray) -> np.ndarray:
    """In float64, from the formulas of the transformers library's activations.py."""
    from scipy.special import ndtr

    x = x.astype(np.float64)
    if name.startswith("gelu"):
        if name in ("gelu", "gelu_python"):
            return x * ndtr(x)
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    sigmoid = 1 / (1 + np.exp(-x))
    formulas = {"relu": np.maximum(x, 0), "tanh": np.tanh(x), "sigmoid": sigmoid, "linear": x}
    return formulas.get(name, x * sigmoid)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str, bert: Path, tmp_path: Path) -> None:
    builder = GraphBuilder(read_weights(bert, "bert."))
    builder.inputs = ["x"]
    x = builder.op("Cast", ["x"], to=onnx.TensorProto.FLOAT)
    builder.rename(builder.activation(builder.op("Div", [x, builder.constant(8.0)]), name), "y")
    save_model(builder.finish({"y": ["batch", "sequence"]}), builder.initializers, tmp_path / "m.onnx")
    feed = np.arange(-64, 64)[None]
    got = onnxruntime_outputs(tmp_path / "m.onnx", {"x": feed})["y"]
    np.testing.assert_allclose(got, reference_activation(name, feed / 8), rtol=0, atol=1e-6)


def test_distances_share_buckets() -> None:
    """The formula of T5 and MPNet in whole numbers: bucket 8 + k begins at a distance of 8 * 16 ** (k / 8)."""
    for distance in range(-600, 601):
        far = abs(distance)
        bucket = far if far < 8 else max(8 + k for k in range(8) if far**8 >= 8**8 * 16**k)
        assert _bucket(np.array([distance]))[0] == (16 if distance > 0 else 0) + bucket


def test_a_folder_without_token_types(tmp_path: Path) -> None:
    """A table of one row leaves no choice, so there is no input for it."""
    case = recorded("bert", "sequences")
    name = "bert.embeddings.token_type_embeddings.weight"
    folder = save_folder(tmp_path, case.config | {"type_vocab_size": 1}, case.tensors | {name: case.tensors[name][:1]})
    path = export_folder(folder)
    full = export_folder(case.save(tmp_path / "full"))
    feeds = {key: case.inputs[0][key] for key in ("input_ids", "attention_mask")}
    want = onnxruntime_outputs(full, feeds | {"token_type_ids": np.zeros_like(feeds["input_ids"])})["logits"]
    engine = Engine(path, batch_size=None)
    assert engine.supports_ragged and engine.fraction_of_supported_ops == 1.0
    np.testing.assert_allclose(engine.run(list(feeds.values()))[0], want, rtol=0, atol=1e-5)


# Which task


@pytest.mark.parametrize(
    ("architecture", "outputs"),
    [
        ("BertModel", ["last_hidden_state"]),
        ("BertForPreTraining", ["last_hidden_state"]),
        ("BertForSequenceClassification", ["logits"]),
        (None, ["last_hidden_state"]),
    ],
)
def test_the_architecture_says_the_task(architecture: str | None, outputs: list[str], bert: Path) -> None:
    rewrite_config(bert, architectures=architecture and [architecture])
    assert [output.name for output in onnx.load(export_folder(bert)).graph.output] == outputs


def test_architectures_that_are_refused(bert: Path) -> None:
    for changes, message in (
        ({"model_type": "deberta-v2"}, r"model_type 'deberta-v2'; expected one of albert, bert, .*optimum"),
        ({"architectures": ["BertForNextSentencePrediction"]}, "BertForNextSentencePrediction"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "is_decoder"),
        ({"hidden_act": "laplace"}, "unknown activation 'laplace'.*expected one of gelu"),
        ({"num_attention_heads": 3}, "multiple of the number of heads"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers must be an integer"),
        ({"num_hidden_layers": -1}, "at least 0"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps must be a number"),
    ):
        config = (bert / "config.json").read_text()
        with pytest.raises(ModelFormatError, match=message):
            export_folder(rewrite_config(bert, **changes))
        (bert / "config.json").write_text(config)
    with pytest.raises(InputRangeError, match="unknown task 'summarization'; expected one of embedding-extraction"):
        export_folder(bert, task="summarization")
    with pytest.raises(ModelFormatError, match=r"tensor 'qa_outputs.weight'.*another head"):
        export_folder(bert, task="question-answering")
    with pytest.raises(ModelFormatError, match="no pooler"):
        export_folder(recorded("distilbert", "base").save(bert.parent / "distilbert"), task="pooling")
    assert not list(bert.glob("*.onnx*"))


def test_an_embedding_model_is_one_whatever_its_encoder_was(bert: Path, models_path: Path) -> None:
    """sentence-transformers loads the encoder of any folder; so do a model reference and the writer."""
    assert [output.name for output in onnx.load(resolve(str(bert)).onnx).graph.output] == ["logits"]
    modules = [{"idx": 0, "path": "", "type": "models.Transformer"}, {"idx": 1, "path": "1", "type": "models.Pooling"}]
    (bert / "modules.json").write_text(json.dumps(modules))
    model = resolve(str(bert))
    assert (model.directory, model.root, model.task) == (bert, bert, "embedding-extraction")
    assert models_path in model.onnx.parents
    for path in (model.onnx, export_folder(bert)):
        assert [output.name for output in onnx.load(path).graph.output] == ["last_hidden_state"]
    assert resolve(str(bert)).onnx == bert / "model.onnx"


# Broken folders


def test_what_a_folder_lacks(bert: Path) -> None:
    (bert / "model.safetensors").rename(bert / "pytorch_model.bin")
    with pytest.raises(ModelNotFoundError, match="it has pytorch_model.bin: load it with torch"):
        export_folder(bert)
    assert not has_weights(bert)
    (bert / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"config.json: no such file"):
        export_folder(bert)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff"])
def test_a_configuration_that_is_none(content: bytes, bert: Path) -> None:
    (bert / "config.json").write_bytes(content)
    with pytest.raises(ModelFormatError, match=r"config.json (is not JSON|must hold a JSON object)"):
        export_folder(bert)


def test_every_cut_of_the_weights_is_refused(bert: Path) -> None:
    path = bert / "model.safetensors"
    content = path.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for size in (0, 1, 7, 8, 9, header // 2, header, header + 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ModelFormatError, match=r"model.safetensors.*cut off"):
            export_folder(bert)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"not json",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [1]}}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}',
        b"\xff\xfe",
    ],
)
def test_a_header_that_makes_no_sense(header: bytes, bert: Path) -> None:
    (bert / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(ModelFormatError, match=r"model\.safetensors"):
        export_folder(bert)


def test_a_pointer_instead_of_weights(bert: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (bert / "model.safetensors").write_text(text)
    with pytest.raises(ModelFormatError, match="git lfs pull"):
        export_folder(bert)


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    case = recorded("bert", "sequences")
    name = "bert.encoder.layer.1.output.dense.weight"
    for number, (tensors, error, message) in enumerate(
        [
            ({k: v for k, v in case.tensors.items() if k != name}, ModelFormatError, f"'{name}'"),
            (
                case.tensors | {name: case.tensors[name].T},
                ShapeError,
                rf"'{name}': expected shape \(16, 24\), came \(2",
            ),
            (case.tensors | {name: case.tensors[name].astype(np.int8)}, ModelFormatError, f"'{name}'.*came I8"),
        ]
    ):
        with pytest.raises(error, match=message):
            export_folder(save_folder(tmp_path / str(number), case.config, tensors))


def test_what_is_odd_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Values that are no numbers, layers that the configuration leaves out, and another head's weights."""
    case = recorded("bert", "sequences")
    name = "bert.encoder.layer.0.output.dense.bias"
    bad = case.tensors[name].copy()
    bad[2:4] = np.nan, np.inf
    folder = save_folder(tmp_path, case.config | {"num_hidden_layers": 1}, case.tensors | {name: bad})
    with caplog.at_level(logging.INFO):
        export_folder(folder, task="embedding-extraction")
    said = {record.levelname: record.getMessage() for record in caplog.records if "wrote" not in record.message}
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert any("encoder.layer.0.output.dense.bias' has 2 values that are NaN" in text for text in warnings)
    assert any("16 tensors are not part of the model: bert.encoder.layer.1." in text for text in warnings)
    assert "4 tensors are not part of the model" in said["INFO"] and "classifier.bias" in said["INFO"]


# Files and the cache


def test_where_the_file_goes(bert: Path, tmp_path: Path) -> None:
    assert export_folder(bert, tmp_path) == tmp_path / "model.onnx"
    assert export_folder(bert, tmp_path / "new" / "x.onnx").is_file()
    assert export_folder(str(bert)) == bert / "model.onnx"
    with pytest.raises(ModelError, match="exists already"):
        export_folder(bert)
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot write a model of 0 MB"):
        export_folder(bert, tmp_path / "file" / "m.onnx")
    assert not list(tmp_path.rglob(".*"))


def test_the_cache_follows_the_folder(bert: Path, models_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = cached_export(bert)
    assert models_path in first.parents and f"made {first} of its weights" in caplog.text
    written = first.stat().st_mtime_ns
    caplog.clear()
    assert cached_export(bert) == first and first.stat().st_mtime_ns == written and not caplog.records
    assert cached_export(bert, "embedding-extraction") != first and first.is_file()

    stat = (bert / "model.safetensors").stat()
    os.utime(bert / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    second = cached_export(bert)
    assert second != first and not first.exists()
    rewrite_config(bert, layer_norm_eps=0.5)
    third = cached_export(bert)
    assert third != second and not second.exists()
    assert len(list(models_path.rglob("model.onnx"))) == 2  # one of each task

    other = recorded("distilbert", "base").save(bert.parent / "elsewhere" / "bert")
    assert cached_export(other).parents[2] != third.parents[2]


def test_processes_may_export_at_once(bert: Path, models_path: Path) -> None:
    code = f"from sparsert.export import cached_export; print(cached_export({str(bert)!r}))"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    found = {process.communicate(timeout=120)[0] for process in running}
    assert len(found) == 1 and onnx.load(found.pop().strip())


def test_no_torch(bert: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from sparsert.export import export_folder; "
        f"export_folder({str(bert)!r}, {str(tmp_path / 'm.onnx')!r}); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'safetensors', 'numba')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_command_line(bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(bert), "--output", str(tmp_path / "m.onnx"), "--task", "embedding-extraction"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'm.onnx'}\n"
    assert [output.name for output in onnx.load(tmp_path / "m.onnx").graph.output] == ["last_hidden_state"]
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(SystemExit, match="2"):
        main([str(bert), "--task", "summarization"])
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(kind in printed for kind in ARCHITECTURES)
