"""Synthetic models: the graph of the reference generator, the stated sparsity, the same bytes on any machine."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bert_files
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from sparsert import synthetic
from sparsert.errors import ModelError, ModelNotFoundError
from sparsert.synthetic.calibrate import calibrate
from sparsert.synthetic.graph import build_model
from sparsert.synthetic.recipe import ARCHITECTURES
from sparsert.synthetic.weights import Stream, draw_weights, keep_mask

THEIR_QUANTIZATION = {"none": "none", "quant": "sparseml", "qdq": "qdq", "dynamic": "dynamic"}


def skeleton(model: onnx.ModelProto) -> list[tuple]:
    """Each node's op, attributes and inputs, where an input is the number of its producer or the constant's kind."""
    source: dict[str, object] = {value.name: value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        source[tensor.name] = (tensor.data_type, tuple(tensor.dims))
    rows = []
    for number, node in enumerate(model.graph.node):
        attributes = [
            (a.name, (a.t.data_type, tuple(a.t.dims), a.t.raw_data) if a.type == onnx.AttributeProto.TENSOR else str(a))
            for a in node.attribute
        ]
        rows.append((node.op_type, node.domain, tuple(source[name] for name in node.input), sorted(attributes)))
        source.update({name: (number, output) for output, name in enumerate(node.output)})
    return rows


def small_model(form: str, **sizes: int) -> onnx.ModelProto:
    """The tiny architecture with other sizes."""
    recipe = synthetic.parse(f"bert-tiny-{form}")
    recipe = dataclasses.replace(recipe, architecture=dataclasses.replace(recipe.architecture, vocab=100, **sizes))
    weights = draw_weights(recipe)
    return build_model(recipe, weights, calibrate(recipe, weights))


def run_ort(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})


def random_feeds(batch: int, tokens: int, seed: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = np.ones((batch, tokens), np.int64)
    mask[-1, tokens // 2 :] = 0
    return {
        "input_ids": rng.integers(0, 30522, (batch, tokens)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (batch, tokens)),
    }


@pytest.mark.parametrize("form", ["pruned90", "pruned90_quant", "pruned80_quant_vnni", "dense_qdq", "dense_dynamic"])
def test_graph_is_that_of_the_reference_generator(form: str) -> None:
    recipe = synthetic.parse(f"bert-tiny-{form}")
    arch = recipe.architecture
    sizes = f"--layers {arch.layers} --hidden {arch.hidden} --heads {arch.heads} --ffn {arch.ffn}"
    quantization = THEIR_QUANTIZATION[recipe.quantization]
    expected = bert_files.build(bert_files.parse([*sizes.split(), "--quant", quantization]))
    ours = synthetic.generate_model(recipe.name)
    assert skeleton(ours) == skeleton(expected)
    assert [value.name for value in ours.graph.output] == [value.name for value in expected.graph.output]
    assert (ours.ir_version, ours.opset_import[0].version) == (expected.ir_version, expected.opset_import[0].version)


@pytest.mark.parametrize(
    ("form", "counts"),
    [
        ("dense_quant", {"MatMulInteger": 73, "QLinearMatMul": 24, "QuantizeLinear": 97, "DequantizeLinear": 27}),
        ("dense", {"MatMul": 97}),
    ],
)
def test_twelve_layers_have_the_zoo_files_node_counts(form: str, counts: dict[str, int]) -> None:
    """The exporters gave 1234 nodes for BERT-base in int8 and 1264 in float."""
    nodes = [node.op_type for node in small_model(form, layers=12).graph.node]
    assert {op: nodes.count(op) for op in counts} == counts
    assert len(nodes) == {"dense_quant": 1234, "dense": 1264}[form]


@pytest.mark.parametrize(
    "form", ["dense", "pruned90", "pruned80_quant_vnni", "pruned90_quant", "dense_qdq", "dense_dynamic"]
)
def test_onnx_accepts_and_runs_it(form: str) -> None:
    model = synthetic.generate_model(f"bert-tiny-{form}")
    onnx.checker.check_model(model, full_check=True)
    for output in run_ort(model, random_feeds(3, 37)):
        assert output.shape == (3, 37)
        assert np.isfinite(output).all() and output.std() > 0.01


@pytest.mark.parametrize("form", ["quant", "qdq", "dynamic"])
def test_quantized_logits_follow_the_float_model(form: str) -> None:
    """The bar of 0.99 leaves room for int8 itself: the reference generator's files reach 0.998 at twelve layers."""
    feeds = random_feeds(2, 64)
    exact = run_ort(synthetic.generate_model("bert-tiny-pruned80"), feeds)
    rounded = run_ort(synthetic.generate_model(f"bert-tiny-pruned80_{form}"), feeds)
    assert np.corrcoef(np.ravel(exact), np.ravel(rounded))[0, 1] > 0.99


def test_model_without_token_types() -> None:
    assert not ARCHITECTURES["distilbert"].token_types
    model = small_model("pruned80_quant_vnni", token_types=False)
    assert [value.name for value in model.graph.input] == ["input_ids", "attention_mask"]
    feeds = {name: values % 100 for name, values in random_feeds(1, 8).items()}
    assert np.isfinite(run_ort(model, feeds)).all()


def test_forward_pass_of_the_calibration_is_right() -> None:
    """Observed ranges are those that ONNX Runtime sees on the same ids, to the four digits that are kept."""
    recipe = synthetic.parse("bert-tiny-pruned80")
    ranges = calibrate(recipe, draw_weights(recipe))
    ids = (Stream(1).raw(128) % 30522).astype(np.int64).reshape(2, 64)
    feeds = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.broadcast_to(np.arange(64) >= 32, (2, 64)).astype(np.int64),
    }
    model = synthetic.generate_model(recipe.name)
    nodes = {op: [node for node in model.graph.node if node.op_type == op] for op in ("MatMul", "Softmax")}
    observed = {
        "L0.scores": nodes["MatMul"][3].output[0],
        "L1.probs": nodes["Softmax"][1].output[0],
        "L1.mid": nodes["MatMul"][15].input[0],
        "qa.in": nodes["MatMul"][16].input[0],
    }
    for name in observed.values():
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    for point, values in zip(observed, run_ort(model, feeds)[2:], strict=True):
        np.testing.assert_allclose(ranges[point], (values.min(), values.max()), rtol=2e-3)


@pytest.mark.parametrize(("form", "block"), [("pruned90_quant", 1), ("pruned80_quant_vnni", 4), ("pruned97_quant", 1)])
def test_sparsity_survives_quantization(form: str, block: int) -> None:
    recipe = synthetic.parse(f"bert-tiny-{form}")
    model = synthetic.generate_model(recipe.name)
    matrices = [
        numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name.endswith(".weight_quantized") and tensor.dims[1] > 2
    ]
    assert len(matrices) == 6 * recipe.architecture.layers
    for matrix in matrices:  # (K, N) with zero point 128; a block is four rows of one column
        blocks = matrix.reshape(-1, block, matrix.shape[1])
        zero = (blocks == 128).all(axis=1)
        assert zero.mean() == pytest.approx(recipe.sparsity, abs=0.5 / zero.size)
        assert (blocks == 128).any(axis=1).sum() == zero.sum(), "a block is either all zero or all nonzero"


def test_mask_keeps_an_exact_count_and_a_ragged_last_block() -> None:
    mask = keep_mask(Stream(3), 7, 10, 0.5, adjacent=4)
    assert mask.shape == (7, 10)
    groups = [mask[:, 0:4], mask[:, 4:8], mask[:, 8:10]]
    assert all((group.all(axis=1) | ~group.any(axis=1)).all() for group in groups)
    assert sum(int(group.any(axis=1).sum()) for group in groups) == 21 - round(21 * 0.5)


def test_normal_numbers_have_the_stated_moments() -> None:
    sample = Stream(0).normal((1 << 21,), std=0.5, mean=2.0).astype(np.float64)
    assert sample.mean() == pytest.approx(2.0, abs=0.002)
    assert sample.std() == pytest.approx(0.5, rel=0.002)


HASH_PROGRAM = """
import hashlib, sys
from sparsert import synthetic
print(hashlib.sha256(synthetic.generate_model(sys.argv[1]).SerializeToString()).hexdigest())
"""


@pytest.mark.parametrize("name", ["bert-tiny-pruned90_quant_vnni", "bert-tiny-pruned90_qdq"])
def test_same_bytes_whatever_the_blas_and_simd(name: str) -> None:
    """An old core's BLAS kernels and NumPy without AVX2 sum in another order; the file must not show it."""
    here = hashlib.sha256(synthetic.generate_model(name).SerializeToString()).hexdigest()
    plain = {"OPENBLAS_CORETYPE": "Prescott", "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX2 FMA3", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HASH_PROGRAM, name],
        env={**os.environ, **plain, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert result.stdout.split() == [here]


def test_generated_once_and_complete(models_path: Path) -> None:
    directory = synthetic.generate("synthetic:bert-tiny-pruned90_quant")
    assert directory.is_relative_to(models_path)
    files = {path.name for path in directory.iterdir()}
    assert files == {"model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json"}
    stamp = (directory / "model.onnx").stat().st_mtime_ns
    assert synthetic.generate("bert-tiny-pruned90_quant") == directory
    assert (directory / "model.onnx").stat().st_mtime_ns == stamp


def test_generating_at_once_is_safe(models_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        directories = set(pool.map(synthetic.generate, ["bert-tiny-dense_quant"] * 4))
    (directory,) = directories
    onnx.checker.check_model(onnx.load(directory / "model.onnx"))
    assert not [path for path in directory.iterdir() if path.name.startswith(".")]


def test_unwritable_folder_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelError, match="SPARSERT_MODELS_PATH"):
        synthetic.generate("bert-tiny-dense_quant", tmp_path / "file" / "model")


@pytest.mark.parametrize(
    "name", ["", "bert-base", "bert-huge-dense", "bert-base-pruned0", "bert-base-pruned100", "bert-base-dense_vnni"]
)
def test_unknown_names_list_what_is_known(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match="synthetic:bert-base-pruned90_quant"):
        synthetic.parse(name)


def test_every_listed_name_parses() -> None:
    assert len(synthetic.names()) == len(set(synthetic.names()))
    for name in synthetic.names():
        assert synthetic.parse(name).name == name.removeprefix("synthetic:")


def test_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sparsert.synthetic"]
    result = subprocess.run(
        [*command, "bert-tiny-dense_quant", "--out", str(tmp_path / "model")], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout.strip()) == (0, str(tmp_path / "model"))
    assert (tmp_path / "model" / "model.onnx").is_file()
    result = subprocess.run([*command, "bert-base-fast"], capture_output=True, text=True)
    assert result.returncode == 1 and "synthetic:ARCHITECTURE-FORM" in result.stderr and not result.stdout
