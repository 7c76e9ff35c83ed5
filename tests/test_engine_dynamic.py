"""Files of quantize_dynamic in ragged batches: a sequence gives what it gives alone, here and in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
from fusion_checks import DATA, INT8_CORRELATION, VOCAB, onnxruntime_outputs
from onnx import helper

from sparsert import Engine

FORMS: dict[str, dict[str, Any]] = {
    "signed": {},
    "unsigned": {"weight_type": "QUInt8"},
    "per channel": {"per_channel": True},
    "reduced": {"reduce_range": True},
    "unsigned per channel": {"weight_type": "QUInt8", "per_channel": True, "reduce_range": True},
}
FILES = ["bert-cls-sdpa-dynamo20", "distilbert-tok-sdpa-dynamo20", "roberta-qa-sdpa-dynamo18"]
"""Values of sequences, of several channels a token, and of one; the last one's positions are computed on arrays."""

Make = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    tools = pytest.importorskip("onnxruntime.quantization")
    folder = tmp_path_factory.mktemp("dynamic")

    def write(file: str, form: str) -> Path:
        path = folder / f"{file} {form}.onnx"
        if not path.exists():
            options = {"weight_type": "QInt8", **FORMS[form]}
            options["weight_type"] = tools.QuantType[options["weight_type"]]
            tools.quantize_dynamic(DATA / f"{file}.onnx", path, **options)
        return path

    return write


def inputs(engine: Engine, lengths: np.ndarray, seed: int = 0) -> list[np.ndarray]:
    """Arrays of all tokens; a quarter of them is masked, which leaves them in their sequence's ranges."""
    rng = np.random.default_rng(seed)
    total = int(lengths.sum())
    arrays = {
        "input_ids": rng.integers(5, VOCAB, total),
        "attention_mask": (rng.random(total) < 0.75).astype(np.int64),
        "token_type_ids": rng.integers(0, 2, total),
    }
    return [arrays[name] for name in engine.input_names]


def cut(arrays: list[np.ndarray], lengths: np.ndarray) -> list[list[np.ndarray]]:
    """The inputs of each sequence, as a batch of one."""
    ends = np.cumsum(lengths)
    return [
        [array[None, end - length : end].copy() for array in arrays] for length, end in zip(lengths, ends, strict=True)
    ]


def joined(runs: list[list[np.ndarray]], of_tokens: bool) -> list[np.ndarray]:
    return [
        np.concatenate([array[0] if of_tokens else array for array in arrays]) for arrays in zip(*runs, strict=True)
    ]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("file", FILES)
def test_a_sequence_gives_what_it_gives_alone(file: str, form: str, make: Make) -> None:
    """To the bit here, whatever its neighbours, their order and the number of cores; correlated in ONNX Runtime.

    Floats differ in their last bits there, which flips bytes.
    """
    path, of_tokens = make(file, form), "cls" not in file
    engines = [Engine(path, batch_size=None, num_cores=cores) for cores in (1, 2)]
    assert all(engine.supports_ragged for engine in engines)
    assert not engines[0].report().fallbacks or "roberta" in file  # its positions
    lengths = np.random.default_rng(1).integers(1, 41, 30)
    arrays = inputs(engines[0], lengths)
    parts = cut(arrays, lengths)
    want = joined([engines[0].run(part) for part in parts], of_tokens)
    for engine in engines:
        for got, expected in zip(engine.run_ragged(arrays, lengths), want, strict=True):
            np.testing.assert_array_equal(got, expected)
    order = np.random.default_rng(2).permutation(len(parts))
    shuffled = [np.concatenate([part[0] for part in column]) for column in zip(*[parts[k] for k in order], strict=True)]
    results = engines[1].run_ragged(shuffled, lengths[order])
    for got, expected in zip(results, want, strict=True):
        rows = np.split(expected, np.cumsum(lengths)[:-1]) if of_tokens else np.split(expected, len(lengths))
        np.testing.assert_array_equal(got, np.concatenate([rows[k] for k in order]))
    reference = [
        list(onnxruntime_outputs(path, dict(zip(engines[0].input_names, part, strict=True))).values()) for part in parts
    ]
    for got, expected in zip(want, joined(reference, of_tokens), strict=True):
        assert np.corrcoef(got.ravel(), expected.ravel())[0, 1] >= INT8_CORRELATION


def test_the_report_says_whose_range_it_is(make: Make) -> None:
    report = Engine(make(FILES[0], "signed"), batch_size=None).report()
    notes = {step.op: step.note for step in report}
    assert "each sequence" in notes["DynamicQuantize"] and "dynamic quantization" in notes["Linear"]


def product(path: Path, table: np.ndarray, per_channel: bool) -> Path:
    """Rows of a table, quantized and multiplied."""
    rng = np.random.default_rng(3)
    constants = {
        "table": table,
        "w": rng.integers(0, 256, (table.shape[1], 24)).astype(np.uint8),
        "wz": (rng.integers(90, 160, 24) if per_channel else np.array(131)).astype(np.uint8),
        "ws": np.asarray(rng.uniform(1e-3, 1e-2, 24 if per_channel else ()), np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", "wz"], ["p"]),
        helper.make_node("Cast", ["p"], ["f"], to=small_models.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["m"]),
        helper.make_node("Mul", ["f", "m"], ["y"]),
    ]
    shape = ("batch", "sequence")
    ids, y = ("ids", small_models.INT64, shape), ("y", small_models.FLOAT, (*shape, 24))
    return small_models.save(path, nodes, [ids], [y], constants)


@pytest.mark.parametrize("per_channel", [False, True])
def test_integers_are_those_of_onnxruntime(tmp_path: Path, per_channel: bool) -> None:
    """A float result that is right to 1e-6 has its integer, of at most a million, right to the bit."""
    rng = np.random.default_rng(4)
    table = (rng.standard_normal((VOCAB, 64)) * np.exp(rng.uniform(-3, 3, (VOCAB, 1)))).astype(np.float32)
    path = product(tmp_path / "product.onnx", table, per_channel)
    engine = Engine(path, batch_size=None)
    assert engine.supports_ragged and not engine.report().fallbacks
    lengths = np.concatenate([[1, 32, 31, 33, 64, 300], rng.integers(1, 300, 60)])
    ids = rng.integers(0, VOCAB, lengths.sum())
    (got,) = engine.run_ragged([ids], lengths)
    want = [onnxruntime_outputs(path, {"ids": part})["y"][0] for (part,) in cut([ids], lengths)]
    np.testing.assert_allclose(got, np.concatenate(want), rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sequence_that_overflows_spoils_no_other(tmp_path: Path, value: float) -> None:
    """Its range does not reach those that share its tile; its own values are what comes of a scale without a bound."""
    table = np.random.default_rng(5).standard_normal((VOCAB, 16)).astype(np.float32)
    table[59, 7] = value
    engine = Engine(product(tmp_path / "product.onnx", table, per_channel=False), batch_size=None)
    lengths = np.array([3, 40, 1, 7, 33])
    ids = np.random.default_rng(6).integers(0, 59, lengths.sum())
    (clean,) = engine.run_ragged([ids], lengths)
    for spoilt, end in enumerate(np.cumsum(lengths)):
        changed = ids.copy()
        changed[end - 1] = 59
        (got,) = engine.run_ragged([changed], lengths)
        inside = np.repeat(np.arange(len(lengths)) == spoilt, lengths)
        assert not np.isfinite(got[inside]).any()
        np.testing.assert_array_equal(got[~inside], clean[~inside])
