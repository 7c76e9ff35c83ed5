"""Tests of sparsert.engine on small hand-made models: shapes, results, sharing, benchmark, threads."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_models

import sparsert
import sparsert.utils
from sparsert import Context, Engine, MultiModelEngine, Scheduler, compile_model, cpu, errors, report
from sparsert.benchmarking import BatchBenchmarkResult, BenchmarkResults
from sparsert.engine import benchmark_model
from sparsert.tiers import TIERS

TABLE = np.arange(40, dtype=np.float32).reshape(10, 4)
X = np.zeros((1, 8), np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def arithmetic(folder: Path) -> Path:
    return small_models.arithmetic(folder / "arithmetic.onnx")


@pytest.fixture(scope="module")
def relu(folder: Path) -> Path:
    return small_models.relu(folder / "relu.onnx")


@pytest.fixture(scope="module")
def fixed(folder: Path) -> Path:
    return small_models.relu(folder / "fixed.onnx", (1, 3, 4, 4))


@pytest.fixture(scope="module")
def embedding(folder: Path) -> Path:
    return small_models.embedding(folder / "embedding.onnx", TABLE)


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


# Construction


@pytest.mark.parametrize("model", ["", None, []])
def test_empty_model(model: Any) -> None:
    with pytest.raises(ValueError, match=r"^model must be a path, sparsezoo\.Model, or sparsezoo\.File$"):
        Engine(model)


def test_model_of_wrong_type() -> None:
    with pytest.raises(ValueError, match=r"^unsupported type for model: <class 'int'>") as caught:
        Engine(3)  # type: ignore[arg-type]
    assert isinstance(caught.value, errors.InputTypeError)


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="^model path must exist: given nowhere.onnx") as caught:
        Engine("nowhere.onnx")
    assert isinstance(caught.value, errors.ModelNotFoundError) and isinstance(caught.value, ValueError)
    with pytest.raises(OSError, match="model.onnx"):
        Engine(tmp_path)


@pytest.mark.parametrize("data", [b"", b"garbage", bytes(range(256)) * 20])
def test_garbage_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    with pytest.raises(errors.ModelFormatError, match="bad.onnx"):
        Engine(path)
    assert path.read_bytes() == data


def test_unknown_op_is_refused_at_load(tmp_path: Path) -> None:
    shape = ("batch", 8)
    path = small_models.save(
        tmp_path / "odd.onnx",
        [onnx.helper.make_node("Frobnicate", ["x"], ["y"], "odd_node")],
        [("x", small_models.FLOAT, shape)],
        [("y", small_models.FLOAT, shape)],
    )
    with pytest.raises(NotImplementedError, match="(?s)odd_node.*Frobnicate.*ai.onnx.*17") as caught:
        Engine(path)
    assert isinstance(caught.value, errors.UnsupportedOpError)


@pytest.mark.parametrize("kind", [str, Path])
def test_model_given_as(relu: Path, kind: type) -> None:
    engine = Engine(kind(relu))
    assert engine.model_path == str(relu)


def test_directories(tmp_path: Path) -> None:
    (tmp_path / "deployment").mkdir()
    path = small_models.relu(tmp_path / "deployment" / "model.onnx")
    assert Engine(tmp_path).model_path == Engine(tmp_path / "deployment").model_path == str(path)


@pytest.mark.parametrize("batch_size", [None, 0, -3])
def test_batch_size_below_one_disables_the_override(
    relu: Path, fixed: Path, batch_size: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(relu, batch_size=batch_size)
    warned = ["batch_size < 1 so disabling batch size override"]
    assert caplog.messages == ([] if batch_size is None else warned), "None is what one asks for, 0 may be a slip"
    assert engine.batch_size is None
    assert engine.input_shapes == [(None, 8)]
    for batch in (0, 1, 5):
        assert engine([floats(batch, 8)])[0].shape == (batch, 8)
    assert Engine(fixed, batch_size=batch_size).input_shapes == [(1, 3, 4, 4)]


def test_bad_arguments(relu: Path) -> None:
    with pytest.raises(ValueError, match="^unsupported Scheduler: foo$"):
        Engine(relu, scheduler="foo")
    with pytest.raises(ValueError, match="^num_cores must be greater than 0$"):
        Engine(relu, num_cores=-1)
    with pytest.raises(ValueError, match="^num_streams must be greater than 0$"):
        Engine(relu, num_streams=-1)
    with pytest.raises(errors.InputTypeError, match="batch_size must be an integer"):
        Engine(relu, batch_size="2")  # type: ignore[arg-type]
    with pytest.raises(errors.EngineError, match="cached_outputs"):
        Engine(relu, cached_outputs=[True])
    with pytest.raises(errors.InputTypeError, match="context must be"):
        MultiModelEngine(relu, 1, None)  # type: ignore[arg-type]


# Shapes


@pytest.mark.parametrize(
    "inputs", [None, 3, (array for array in ()), np.array(3)], ids=["None", "3", "generator", "0-d"]
)
def test_inputs_that_are_no_list(relu: Path, inputs: Any) -> None:
    with pytest.raises(errors.InputTypeError, match="inp must be a list of arrays"):
        Engine(relu).run(inputs, val_inp=False)


@pytest.mark.parametrize("size", [2**31, 10**23, 10**5000], ids=["2**31", "10**23", "10**5000"])
def test_sizes_that_no_array_has(relu: Path, size: int) -> None:
    with pytest.raises(errors.InputShapeError, match="batch_size must be at most 2147483647"):
        Engine(relu, batch_size=size)
    with pytest.raises(errors.InputShapeError, match="dimensions of at most 2147483647"):
        Engine(relu, input_shapes=[1, size])
    with pytest.raises(errors.InputRangeError, match="num_cores must be at most 9999"):
        Engine(relu, num_cores=size)


def test_shapes_of_too_many_digits_and_items(relu: Path) -> None:
    with pytest.raises(errors.InputShapeError, match="dimensions of at most"):
        Engine(relu, input_shapes="[1,12345678901234567890123]")
    with pytest.raises(errors.InputError, match="Can't parse input shapes"):
        Engine(relu, input_shapes=f"[1,{'9' * 5000}]")
    with pytest.raises(errors.InputShapeError, match="does not fit in memory"):
        sparsert.utils.example_inputs.random_arrays([("x", np.dtype(np.float32), [2**31 - 1] * 3)], {})


def test_disabled_jit_is_refused(relu: Path) -> None:
    code = f"""if True:
        import sparsert
        try:
            sparsert.Engine({str(relu)!r})
        except sparsert.EngineError as error:
            print(error)
    """
    environ = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environ)
    assert "NUMBA_DISABLE_JIT is set" in done.stdout, done.stderr


def test_dynamic_shapes(embedding: Path) -> None:
    engine = Engine(embedding, batch_size=2)
    assert engine.input_names == ["input_ids", "attention_mask"]
    assert engine.input_shapes == [(2, None), (2, None)]
    assert engine.output_names == ["masked"]
    assert engine.output_shapes == [(2, None, 4)]
    assert engine.input_types == [np.dtype(np.int64)] * 2
    for tokens in (1, 7, 100):
        ids = np.full((2, tokens), 3)
        np.testing.assert_array_equal(engine([ids, np.ones_like(ids)])[0], TABLE[ids])


@pytest.mark.parametrize("shapes", [[[2, 7], [2, 7]], [2, 7], [[2, 7]], "[2,7]", "[2,7],[2, 7]", ([2, 7], (2, 7))])
def test_input_shapes(embedding: Path, shapes: Any) -> None:
    engine = Engine(embedding, batch_size=None, input_shapes=shapes)
    assert engine.input_shapes == [(2, 7), (2, 7)]
    assert engine.output_shapes == [(2, 7, 4)]


def test_batch_size_wins_over_input_shapes(fixed: Path) -> None:
    before = fixed.read_bytes(), fixed.stat().st_mtime_ns
    engine = Engine(fixed, batch_size=5, input_shapes=[1, 3, 2, 6])
    assert engine.input_shapes == [(5, 3, 2, 6)]
    assert engine.output_shapes == [(5, 3, 2, 6)]
    x = floats(5, 3, 2, 6)
    np.testing.assert_array_equal(engine([x])[0], np.maximum(x, 0))
    assert (fixed.read_bytes(), fixed.stat().st_mtime_ns) == before


def test_mismatched_input_shapes(arithmetic: Path) -> None:
    with pytest.raises(errors.InputShapeError) as caught:
        Engine(arithmetic, input_shapes=[[1, 8]] * 3)
    assert str(caught.value) == "Mismatch of number of model inputs (2) and override shapes (3)"
    with pytest.raises(errors.InputShapeError, match="^Input 'x' shape doesn't match shape override: "):
        Engine(arithmetic, input_shapes=[1, 8, 1])
    with pytest.raises(errors.InputShapeError, match="dimension 'batch' is 3 here and 2 in another input"):
        Engine(arithmetic, batch_size=None, input_shapes=[[2, 8], [3, 8]])


# Running


def test_call_forms(arithmetic: Path) -> None:
    engine = Engine(arithmetic, batch_size=3)
    x, y = floats(3, 8), floats(3, 8)[::-1].copy()
    for total, product in (engine([x, y]), engine.run([x, y]), engine.timed_run([x, y])[0]):
        np.testing.assert_array_equal(total, x + y)
        np.testing.assert_array_equal(product, x * y)
    assert engine.timed_run([x, y])[1] > 0
    assert list(engine.mapped_run([x, y])) == ["total", "product"]


def test_outputs_are_new_arrays(folder: Path, arithmetic: Path) -> None:
    engine = Engine(small_models.identity(folder / "identity.onnx"))
    x = floats(1, 8)
    kept = x.copy()
    (first,) = engine([x])
    first[:] = 0
    np.testing.assert_array_equal(x, kept)
    engine = Engine(arithmetic)
    first, _ = engine([x, x])
    kept = first.copy()
    engine([x * 2, x])
    np.testing.assert_array_equal(first, kept)
    assert first.flags.writeable


def test_outputs_do_not_alias_each_other_or_constants(folder: Path) -> None:
    from onnx import helper

    shape = ("batch", 8)
    path = small_models.save(
        folder / "aliases.onnx",
        [
            helper.make_node("Relu", ["x"], ["first"], "relu"),
            helper.make_node("Identity", ["first"], ["second"], "identity"),
        ],
        [("x", small_models.FLOAT, shape)],
        [
            ("first", small_models.FLOAT, shape),
            ("second", small_models.FLOAT, shape),
            ("constant", small_models.FLOAT, (2,)),
        ],
        {"constant": np.array([1, 2], np.float32)},
    )
    engine = Engine(path, batch_size=None)
    x = np.abs(floats(1, 8))
    for _ in range(2):
        first, second, constant = engine([x])
        first[:] = -1
        np.testing.assert_array_equal(second, x)
        np.testing.assert_array_equal(constant, [1, 2])
        constant[:] = 0
    assert Engine(path, batch_size=5).output_shapes == [(5, 8), (5, 8), (2,)]


def test_nan_propagates(relu: Path) -> None:
    x = np.array([[np.nan, -1, 2, np.inf, -np.inf, 0, -0.0, 1]], np.float32)
    np.testing.assert_array_equal(Engine(relu)([x])[0], np.array([[np.nan, 0, 2, np.inf, 0, 0, 0, 1]], np.float32))


def test_read_only_inputs(relu: Path) -> None:
    x = floats(1, 8)
    x.flags.writeable = False
    np.testing.assert_array_equal(Engine(relu)([x])[0], np.maximum(x, 0))


@pytest.mark.parametrize("items", [1, 4, 6, 9])
def test_batched_run(arithmetic: Path, items: int) -> None:
    x, y = floats(items, 8), floats(items, 8) + 1
    for batch_size in (1, 4, None):
        total, product = Engine(arithmetic, batch_size=batch_size).batched_run([x, y])
        np.testing.assert_array_equal(total, x + y)
        np.testing.assert_array_equal(product, x * y)


# Introspection


def test_properties(arithmetic: Path) -> None:
    engine = Engine(arithmetic, batch_size=2, num_cores=1, scheduler="elastic")
    assert (engine.batch_size, engine.num_cores, engine.num_streams) == (2, 1, 1)
    assert engine.scheduler is Scheduler.elastic
    assert Engine(arithmetic, num_cores=100).num_cores == 100
    assert Engine(arithmetic).num_cores == cpu.default_cores()
    assert engine.isa in TIERS
    assert 0.0 <= engine.fraction_of_supported_ops <= 1.0


def test_str(arithmetic: Path) -> None:
    engine = Engine(arithmetic, num_cores=1)
    assert str(engine).split("\n") == [
        "sparsert.engine.Engine:",
        f"\tonnx_file_path: {arithmetic}",
        "\tbatch_size: 1",
        "\tnum_cores: 1",
        "\tnum_streams: 1",
        "\tscheduler: Scheduler.default",
        f"\tfraction_of_supported_ops: {engine.fraction_of_supported_ops}",
        f"\tcpu_avx_type: {engine.cpu_avx_type}",
        f"\tcpu_vnni: {engine.cpu_vnni}",
    ]
    assert repr(engine).startswith(f"<class 'sparsert.engine.Engine'>({{'onnx_file_path': {str(arithmetic)!r}, ")


def test_report_covers_every_source_node(arithmetic: Path) -> None:
    steps = Engine(arithmetic).report()
    assert steps.source_node_count == 2
    assert {source for step in steps for source in step.sources} == {"add", "mul"}
    assert steps.isa and steps.model_path == str(arithmetic)


def test_report_command(relu: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sparsert.report", str(relu)], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "relu" in done.stdout and "fraction_of_supported_ops" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "sparsert.report", "nowhere.onnx"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ModelNotFoundError: model path must exist: given nowhere.onnx")


def test_report_as_json(relu: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(relu), "--json", "-b", "4", "-i", "[4,8]"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["source_node_count"] == 1 and data["steps"][0]["sources"] == ["relu"]
    assert data["model_path"] == str(relu)


# Sharing, threads


def test_engines_share_a_program(tmp_path: Path) -> None:
    path = small_models.relu(tmp_path / "model.onnx")
    first = Engine(path)
    assert Engine(str(path), batch_size=64)._model is first._model
    assert Engine(tmp_path, batch_size=None)._model is first._model
    small_models.arithmetic(path)
    os.utime(path, ns=(1, 1))
    other = Engine(path)
    assert other._model is not first._model
    assert other.input_names == ["x", "y"]


def test_opened_dimensions_are_shared_too(tmp_path: Path) -> None:
    path = small_models.relu(tmp_path / "fixed.onnx", (1, 8))
    wide = Engine(path, batch_size=4)
    assert Engine(path, batch_size=7)._model is wide._model
    same = Engine(path, batch_size=None)
    # The program takes any batch; an engine that overrides nothing still keeps to the file.
    assert same.input_shapes == [(1, 8)] == same.output_shapes
    with pytest.raises(errors.InputShapeError, match="index: 0 Got: 4 Expected: 1"):
        same([floats(4, 8)])


def test_programs_are_freed_with_their_engines(tmp_path: Path) -> None:
    import gc
    import weakref

    engine = Engine(small_models.relu(tmp_path / "model.onnx"))
    engine([X])
    program = weakref.ref(engine._model)
    del engine
    gc.collect()
    assert program() is None


@pytest.mark.parametrize("scheduler", ["single", "multi", "elastic"])
def test_many_threads_on_several_engines(arithmetic: Path, relu: Path, embedding: Path, scheduler: str) -> None:
    context = Context()
    engines = [
        Engine(arithmetic, batch_size=3, scheduler=scheduler),
        Engine(relu, batch_size=3, scheduler=scheduler, num_cores=1),
        MultiModelEngine(embedding, 3, context),
        MultiModelEngine(arithmetic, 3, context),
    ]

    def request(number: int) -> None:
        rng = np.random.default_rng(number)
        x, y = rng.standard_normal((2, 3, 8)).astype(np.float32)
        ids, mask = rng.integers(0, 10, (3, 1 + number % 9)), rng.integers(0, 2, (3, 1 + number % 9))
        kind = number % len(engines)
        if kind == 1:
            np.testing.assert_array_equal(engines[kind]([x])[0], np.maximum(x, 0))
        elif kind == 2:
            np.testing.assert_array_equal(engines[kind]([ids, mask])[0], TABLE[ids] * mask[..., None])
        else:
            total, product = engines[kind]([x, y])
            np.testing.assert_array_equal(total, x + y)
            np.testing.assert_array_equal(product, x * y)

    with ThreadPoolExecutor(8) as callers:
        for future in [callers.submit(request, number) for number in range(200)]:
            future.result()


def test_errors_in_one_thread_leave_the_others_alone(embedding: Path) -> None:
    engine = Engine(embedding)
    wrong = threading.Barrier(4, timeout=30)

    def request(number: int) -> str:
        wrong.wait()
        ids = np.full((1, 3), 99 if number % 2 else 1)
        try:
            return str(engine([ids, np.ones_like(ids)])[0].tolist() == TABLE[ids].tolist())
        except errors.InputRangeError as error:
            return type(error).__name__

    with ThreadPoolExecutor(4) as callers:
        assert sorted(callers.map(request, range(4))) == ["InputRangeError", "InputRangeError", "True", "True"]


def test_multi_model_engine(arithmetic: Path) -> None:
    context = Context(1)
    engine = MultiModelEngine(arithmetic, 2, context)
    assert isinstance(engine, Engine)
    assert (engine.num_cores, engine.num_streams, engine.scheduler) == (1, 1, Scheduler.elastic)
    assert engine._pool is context.value
    assert str(engine).startswith("sparsert.engine.MultiModelEngine:\n")


def test_compile_model(arithmetic: Path) -> None:
    engine = compile_model(arithmetic, 2, num_cores=1, input_shapes=[1, 8])
    assert type(engine) is Engine and engine.input_shapes == [(2, 8), (2, 8)]


# Benchmark


def test_benchmark(arithmetic: Path) -> None:
    engine = Engine(arithmetic, batch_size=2)
    inputs = engine.generate_random_inputs()
    results = engine.benchmark(inputs, num_iterations=7, num_warmup_iterations=2, include_outputs=True)
    assert isinstance(results, BenchmarkResults)
    assert (len(results), results.num_batches, results.num_items) == (7, 7, 14)
    assert results.batch_sizes == [2] * 7 and results.inputs == [None] * 7
    np.testing.assert_array_equal(results.outputs[0][0], inputs[0] + inputs[1])
    assert results.items_per_second == pytest.approx(14 / sum(results.batch_times))
    assert results.ms_per_batch == pytest.approx(1000 * results.batch_times_mean)
    assert results.ms_per_item == pytest.approx(results.ms_per_batch / 2)
    assert isinstance(results[0], BatchBenchmarkResult) and list(results) == results.results
    assert [line.partition(":")[0] for line in str(results).split("\n")] == [
        "BenchmarkResults",
        "\titems_per_second",
        "\tms_per_batch",
        "\tbatch_times_mean",
        "\tbatch_times_median",
        "\tbatch_times_std",
    ]


def test_benchmark_loader_is_iterated_again(arithmetic: Path) -> None:
    engine = Engine(arithmetic)
    batches = [[X, X], [X + 1, X]]
    results = engine.benchmark_loader(batches, 5, 0, include_inputs=True)
    assert [float(batch[0][0, 0]) for batch in results.inputs if batch] == [0, 1, 0, 1, 0]
    with pytest.raises(errors.InputError, match="loader gave no more batches"):
        engine.benchmark_loader([])
    for arguments in ((0, 5), (5, -1)):
        with pytest.raises(errors.InputError, match="must be non negative for benchmarking"):
            engine.benchmark([X, X], *arguments)


def test_benchmark_model(relu: Path) -> None:
    assert len(benchmark_model(relu, [X], num_iterations=3, num_warmup_iterations=0)) == 3


def test_batch_result() -> None:
    result = BatchBenchmarkResult(1.0, 1.5, 4)
    assert (result.time_elapsed, result.ms_per_batch, result.ms_per_item) == (0.5, 500.0, 125.0)
    assert (result.items_per_second, result.batches_per_second) == (8.0, 2.0)
    assert str(result) == "BatchBenchmarkResult(ms_per_batch=500.0, items_per_second=8.0)"


def test_random_inputs(embedding: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(embedding, batch_size=2, input_shapes="[1,300]")
    with caplog.at_level(logging.INFO, logger="sparsert"):
        ids, mask = engine.generate_random_inputs()
    assert ids.shape == mask.shape == (2, 300)
    assert ids.dtype == np.int64 and set(np.unique(ids)) == set(range(10))
    assert (mask == 1).all()
    assert (
        "Generating input 'input_ids', type = int64, shape = [2, 300], values = random ids below 10" in caplog.messages
    )
    np.testing.assert_array_equal(engine.generate_random_inputs()[0], ids)
    np.testing.assert_array_equal(sparsert.utils.generate_random_inputs(embedding, 2, "[1,300]")[0], ids)
    assert engine.run([ids, mask])[0].shape == (2, 300, 4)
