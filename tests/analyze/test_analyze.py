"""Analyses of small models: every step appears once, counts agree with the weights, and files say what was printed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import small_models
from onnx import TensorProto, helper, numpy_helper

from sparsert import Engine, synthetic
from sparsert.analyze import Analysis, analyze, measure
from sparsert.analyze.__main__ import main, make_parser
from sparsert.analyze.plot import analysis_figure
from sparsert.analyze.result import ANALYSIS_KEYS, KINDS, LAYER_KEYS, LayerAnalysis
from sparsert.errors import InputRangeError, InputShapeError, InputTypeError, ModelNotFoundError
from sparsert.ops import all_ops
from sparsert.ops.steps import Step
from sparsert.plan.profile import StepTiming
from sparsert.plan.report import StepReport

MODEL = "synthetic:bert-tiny-pruned90_quant"
BATCH, TOKENS = 2, 40


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyze(MODEL, BATCH, [[BATCH, TOKENS]] * 3, num_cores=1, time=0.05, roofline=False)


def matrices() -> list[np.ndarray]:
    """The twelve matrices of the encoder and the head, (out, in) as drawn, in order of their names."""
    weights = synthetic.weights.draw_weights(synthetic.parse(MODEL))
    encoder = [
        w for name, w in weights.items() if name.endswith(".weight") and w.ndim == 2 and "embeddings" not in name
    ]
    return [*encoder]


def test_shares_and_sums(analysis: Analysis) -> None:
    assert sum(layer.share for layer in analysis.layers) == pytest.approx(1)
    assert sum(kind.share for kind in analysis.kinds) == pytest.approx(1)
    assert sum(kind.layers for kind in analysis.kinds) == len(analysis.layers)
    assert analysis.sum_milliseconds == pytest.approx(sum(kind.milliseconds for kind in analysis.kinds))
    assert analysis.sum_milliseconds > 0
    assert analysis.whole_milliseconds > 0
    assert analysis.items_per_second == pytest.approx(BATCH * 1e3 / analysis.whole_milliseconds)
    assert analysis.iterations >= 3
    assert [layer.index for layer in analysis.layers] == list(range(len(analysis.layers)))


def test_every_node_of_the_report_is_in_one_layer(analysis: Analysis) -> None:
    """Layers count the ONNX nodes behind them; together they are all that the report lists."""
    report = Engine(MODEL, BATCH, num_cores=1, input_shapes=[[BATCH, TOKENS]] * 3).report()
    expected = sum(len(step.sources) or 1 for step in report)
    assert sum(layer.nodes for layer in analysis.layers) == expected
    linears = [layer for layer in analysis.layers if layer.kind == "Linear"]
    assert [layer.name for layer in linears] == [step.name for step in report if step.op == "Linear"]
    assert [layer.kernel for layer in linears] == [step.kernel for step in report if step.op == "Linear"]


def test_kinds_of_a_bert(analysis: Analysis) -> None:
    counts = {kind.kind: kind.layers for kind in analysis.kinds}
    assert set(counts) <= set(KINDS)
    assert (counts["Linear"], counts["Normalization"], counts["Embeddings"]) == (13, 5, 1)
    # attention may take a step that prepares its values besides
    assert sum(layer.op.startswith("Attention") for layer in analysis.layers if layer.kind == "Attention") == 2
    assert "Fallback" not in counts
    assert any(layer.op == "Linear+Gelu+Quantize" for layer in analysis.layers)


def test_every_op_is_of_a_kind_that_is_summed_up() -> None:
    assert {op.layer_kind for op in all_ops()} <= set(KINDS)


def test_sparsity_and_work_are_those_of_the_weights(analysis: Analysis) -> None:
    linears = [layer for layer in analysis.layers if layer.kind == "Linear"]
    for layer, weight in zip(linears, matrices(), strict=True):
        assert layer.shape == weight.shape[::-1]
        nonzero = np.count_nonzero(weight)
        if weight.shape[0] > 2:  # a weight of the head may round to zero in int8
            assert layer.sparsity == pytest.approx(1 - nonzero / weight.size, abs=1e-9)
            assert layer.macs == nonzero * BATCH * TOKENS
            blocks = weight.reshape(len(weight), -1, 4).any(axis=2)
            assert layer.block_sparsity == pytest.approx(1 - blocks.mean(), abs=1e-9)
        assert layer.gmacs == pytest.approx(layer.macs / layer.milliseconds / 1e6)
    hidden = synthetic.parse(MODEL).architecture.hidden
    for layer in analysis.layers:
        if layer.op.startswith("Attention"):  # scores and context: every query meets every key in every channel, twice
            assert layer.macs == 2 * BATCH * TOKENS * TOKENS * hidden


def test_without_a_roofline_there_is_no_limit(analysis: Analysis) -> None:
    assert all(layer.limit is None and layer.share_of_limit is None for layer in analysis.layers)
    assert all(kind.share_of_limit is None for kind in analysis.kinds)


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    from test_roofline import LIMITS

    monkeypatch.setattr("sparsert.analyze.measure.measure_limits", lambda cores, budget: LIMITS)
    found = analyze(MODEL, 1, [[1, 8]] * 3, num_cores=1, time=0.01)
    limited = [layer for layer in found.layers if layer.limit is not None]
    assert {layer.kind for layer in limited} == {"Linear", "Attention"}
    assert len(limited) == 15
    attention = next(layer for layer in limited if layer.kind == "Attention")
    assert attention.limit == pytest.approx(190), "all its products are int8"
    assert all(0 < layer.limit <= 190 for layer in limited)
    assert all(kind.share_of_limit for kind in found.kinds if kind.kind in ("Linear", "Attention"))


def test_timed_steps_compute_what_a_run_computes() -> None:
    """Step by step the arena holds what a tile's scratch holds otherwise; the outputs must not notice."""
    engine = Engine(MODEL, 3, num_cores=1, input_shapes=[[3, 70]] * 3)
    arrays = engine.generate_random_inputs()
    expected = engine.run(arrays)
    outputs: list[dict[str, Any]] = []

    from sparsert.plan import profile

    run_timed = profile._run_timed

    def watched(program: Any, feeds: Any, threads: int, instances: Any) -> Any:
        result = run_timed(program, feeds, threads, instances)
        values = program.start(feeds)
        for position, part in enumerate(program.parts):
            if position in instances:
                call = part.call_for(values, threads)
                values.update(instances[position].timed_call(values, call.layout, call.lead, call.items)[0])
            else:
                part.execute(values, threads)
        outputs.append({name: values[name] for name in engine.output_names})
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile, "_run_timed", watched)
        timings, whole = engine.profile(arrays, 0.0)
    assert len(whole) == 3
    assert all(timing.seconds.shape == (3,) and (timing.seconds > 0).all() for timing in timings)
    for found in outputs:
        for array, reference in zip(found.values(), expected, strict=True):
            np.testing.assert_array_equal(array, reference)


def test_a_profile_checks_its_arguments() -> None:
    engine = Engine(MODEL, 1, num_cores=1, input_shapes=[[1, 8]] * 3)
    arrays = engine.generate_random_inputs()
    with pytest.raises(InputTypeError, match="must be a list"):
        engine.profile(dict(zip(engine.input_names, arrays, strict=True)), 0.0)  # type: ignore[arg-type]
    with pytest.raises(InputShapeError):
        engine.profile([array[:, :4].copy() for array in arrays], 0.0)
    with pytest.raises(InputRangeError, match="outside the vocabulary"):
        engine.profile([np.full_like(array, 10**6) for array in arrays], 0.0)
    for seconds in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputRangeError, match="seconds must be"):
            engine.profile(arrays, seconds)


def test_a_step_of_an_op_that_is_gone_has_a_kind() -> None:
    timing = StepTiming([StepReport(0, "Gone", "node")], Step("linear"), None, (1, 1), np.ones(1))
    assert measure._op_and_kind(timing) == ("Gone", "Other")


def test_nodes_without_a_kernel_are_timed_as_fallback(tmp_path: Path) -> None:
    shape = ("batch", 8)
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"], "add"),
        helper.make_node("Max", ["twice", "x"], ["y"], "max"),
    ]
    model = small_models.save(
        tmp_path / "max.onnx", nodes, [("x", TensorProto.FLOAT, shape)], [("y", TensorProto.FLOAT, shape)]
    )
    found = analyze(model, 4, num_cores=1, time=0.01, roofline=False)
    assert found.batch_size == 4
    kinds = {layer.op: layer.kind for layer in found.layers}
    assert kinds["Max"] == "Fallback"
    assert all(layer.milliseconds > 0 for layer in found.layers if layer.kind == "Fallback")


def test_a_dense_float_linear_of_a_plain_file(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((32, 48)).astype(np.float32)
    weight[np.abs(weight) < 0.5] = 0
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "product")]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 16, 32))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("batch", 16, 48))],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    found = analyze(tmp_path / "m.onnx", 2, num_cores=1, time=0.01, roofline=False)
    (linear,) = [layer for layer in found.layers if layer.kind == "Linear"]
    assert linear.sparsity == pytest.approx(1 - np.count_nonzero(weight) / weight.size)
    assert linear.macs == np.count_nonzero(weight) * 2 * 16
    assert {layer.kernel for layer in found.layers if layer.kind == "Other"} == {"copy"}


def test_wrong_arguments() -> None:
    with pytest.raises(InputRangeError, match="time must be more than 0"):
        analyze(MODEL, time=0.0)
    with pytest.raises(ModelNotFoundError):
        analyze("synthetic:nothing")


# -- output ----------------------------------------------------------------------------------------------------------


def made_up() -> Analysis:
    """One Linear that reaches half of its limit, and a layer without products."""
    common = {"name": "a", "kernel": "k", "weight_format": "", "block_sparsity": None, "nodes": 2}
    layers = [
        LayerAnalysis(0, op="Linear", kind="Linear", shape=(4, 8), sparsity=0.5, milliseconds=3.0, share=0.75,
                      macs=150_000_000, limit=100.0, **common),
        LayerAnalysis(1, op="LayerNorm", kind="Normalization", shape=(), sparsity=None, milliseconds=1.0,
                      share=0.25, macs=0, limit=None, **common),
    ]  # fmt: skip
    machine = {"cpu": "Test CPU", "cores": 2, "isa": "avx2"}
    return Analysis("models/x/model.onnx", 4, [[4, 8]], 2, "avx2", "1.0", machine, "2026-01-02", 7, 5.0, layers)


def test_rates_of_a_made_up_analysis() -> None:
    linear, norm = made_up().layers
    assert (linear.gmacs, linear.share_of_limit) == (pytest.approx(50.0), pytest.approx(0.5))
    assert (norm.gmacs, norm.share_of_limit) == (None, None)
    kinds = {kind.kind: kind for kind in made_up().kinds}
    assert kinds["Linear"].share_of_limit == pytest.approx(0.5)
    assert kinds["Normalization"].gmacs is None


def test_table() -> None:
    text = str(made_up())
    assert text.startswith("Analyzing model: models/x/model.onnx")
    assert "| 0 | a    | Linear    | k      |         | 4x8   | 50.0%    | 3.000 | 75.0% | 50.0   | 50.0%    |" in text
    assert "Sum of the layers: 4.000 ms; a run as a whole: 5.000 ms" in text
    assert "Items per second: 800.00" in text


def test_json_and_csv() -> None:
    exported = json.loads(made_up().to_json())
    assert list(exported) == list(ANALYSIS_KEYS)
    assert [list(layer) for layer in exported["layers"]] == [list(LAYER_KEYS)] * 2
    assert exported["layers"][0]["gmacs"] == pytest.approx(50.0)
    assert exported["kinds"][1]["kind"] == "Normalization"
    rows = list(csv.DictReader(io.StringIO(made_up().to_csv())))
    assert list(rows[0]) == list(LAYER_KEYS)
    assert (rows[0]["shape"], float(rows[0]["share_of_limit"]), rows[1]["gmacs"]) == ("4x8", pytest.approx(0.5), "")


def test_figure() -> None:
    figure = analysis_figure(made_up())
    layers, kinds = figure.axes
    assert [patch.get_height() for patch in layers.patches] == [3.0, 1.0]
    assert [patch.get_width() for patch in kinds.patches] == [25.0, 75.0]
    assert [label.get_text() for label in kinds.get_yticklabels()] == ["Normalization", "Linear"]
    assert (layers.get_xlabel(), layers.get_ylabel(), kinds.get_xlabel()) == ("layer", "time for the batch, ms", "%")
    assert "Test CPU (avx2), sparsert 1.0, 2026-01-02" in figure.get_supxlabel()
    assert "x, 4 x 8, 5.0 ms" in figure.get_suptitle()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {flag: tmp_path / f"out.{flag}" for flag in ("json", "csv")}
    arguments = [MODEL, "-b", "2", "-i", "[2,16]", "-ncores", "1", "-t", "0.02", "--no-roofline"]
    plot = tmp_path / "out.png"
    arguments += ["--json", str(files["json"]), "--csv", str(files["csv"]), "--plot", str(plot)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    exported = json.loads(files["json"].read_text())
    assert exported["input_shapes"] == [[2, 16]] * 3
    assert f"Items per second: {exported['items_per_second']:.2f}" in printed
    assert len(files["csv"].read_text().splitlines()) == 1 + len(exported["layers"])
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert main([*arguments[:9], "--no-roofline", "-q"]) == 0
    assert "| #" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["synthetic:nothing"], "no synthetic model"),
        ([MODEL, "--json", "/no/such/folder/a.json"], "--json"),
        ([MODEL, "--plot", "a.txt"], "cannot take a plot"),
        ([MODEL, "-t", "-1"], "time must be more than 0"),
    ],
)
def test_errors_on_the_command_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_help_defines_every_key() -> None:
    text = make_parser().format_help()
    for keys in (ANALYSIS_KEYS, LAYER_KEYS):
        for key, meaning in keys.items():
            assert f"  {key:20} {meaning}" in text
