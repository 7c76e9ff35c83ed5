"""Comparisons: several engines in rounds, their table and their export."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import sparsert
from sparsert.bench.compare import Row, run_rounds
from sparsert.bench.contestants import Contestant, make_contestants
from sparsert.bench.settings import make_settings
from sparsert.bench.table import COMPARISON_KEYS, ROW_KEYS, comparison_export, table_lines
from sparsert.errors import EngineError, InputError, ModelNotFoundError

SHORT = make_settings(batch_size=2, sequence_length=6, num_cores=1, seconds=0.2, warmup_seconds=0, pinning="none")


def contestants(names: Sequence[str], model: Path, models: dict[str, str] | None = None, **pythons: str):
    return make_contestants(names, str(model), models or {}, pythons)


def test_rounds_are_interleaved(tiny_model: Path) -> None:
    rows = run_rounds(contestants(["onnxruntime", "onnxruntime:again"], tiny_model), SHORT, rounds=3)
    assert [row.error for row in rows] == [None, None]
    assert [row.version for row in rows] == [onnxruntime.__version__] * 2
    first, second = rows
    assert len(first.rounds) == len(second.rounds) == 3
    # perf_counter is one clock for all processes here: A1 B1 A2 B2 A3 B3, no two at the same time.
    turns = [turn for pair in zip(first.rounds, second.rounds, strict=True) for turn in pair]
    for earlier, later in zip(turns, turns[1:], strict=False):
        assert earlier[-1][1] < later[0][0]


def test_every_engine_gets_the_same_arrays(tiny_model: Path, stand_in: Callable[..., str]) -> None:
    # The stand-in returns twice its first input, so its outputs tell what it was given.
    rows = run_rounds(contestants(["deepsparse", "onnxruntime"], tiny_model, deepsparse=stand_in()), SHORT, rounds=1)
    ids = (rows[0].outputs[0] / 2).astype(np.int64)
    session = onnxruntime.InferenceSession(str(tiny_model), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    np.testing.assert_allclose(rows[1].outputs[0], expected, rtol=1e-5)  # another batch order of float sums


def test_the_file_of_the_user_is_never_written(tiny_model: Path, stand_in: Callable[..., str]) -> None:
    before = tiny_model.read_bytes()
    (row,) = run_rounds(contestants(["deepsparse"], tiny_model, deepsparse=stand_in()), SHORT, rounds=1)
    assert row.error is None
    assert row.model_path == str(tiny_model)
    assert tiny_model.read_bytes() == before


def test_a_fixed_model_runs_with_another_batch(fixed_model: Path) -> None:
    before = fixed_model.read_bytes()
    (row,) = run_rounds(contestants(["onnxruntime"], fixed_model), SHORT, rounds=1)
    assert row.error is None
    assert row.outputs[0].shape == (2, 6, 3)
    assert fixed_model.read_bytes() == before


def test_an_engine_that_dies_keeps_its_row(tiny_model: Path, stand_in: Callable[..., str]) -> None:
    dies = stand_in(at_run="self.calls < 4 or os.abort()")
    names = ["onnxruntime", "deepsparse", "onnxruntime:last"]
    rows = run_rounds(contestants(names, tiny_model, deepsparse=dies), SHORT, rounds=2)
    assert [row.error is None for row in rows] == [True, False, True]
    assert [len(row.rounds) for row in (rows[0], rows[2])] == [2, 2]
    export = comparison_export(rows, SHORT, 2, [])
    lines = table_lines(export)
    assert any(line.startswith("| deepsparse ") and "| failed " in line for line in lines)
    assert lines[-1].startswith("failed: deepsparse: the process died: killed by SIGABRT")


def test_sparsert_against_onnx_runtime(tiny_model: Path) -> None:
    rows = run_rounds(contestants(["sparsert", "onnxruntime"], tiny_model), SHORT, rounds=2)
    assert [row.error for row in rows] == [None, None]
    assert rows[0].version == sparsert.__version__
    assert 0.0 <= rows[0].fraction_of_supported_ops <= 1.0
    export = comparison_export(rows, SHORT, 2, [])
    assert export["rows"][1]["outputs_correlation"] > 0.99999  # float sums in another order
    assert all(row["peak_rss_bytes"] > 20e6 for row in export["rows"])


def test_models_with_other_inputs_are_refused(tiny_model: Path) -> None:
    names = ["onnxruntime", "onnxruntime:other"]
    with pytest.raises(InputError, match="does not take the same arrays"):
        run_rounds(contestants(names, tiny_model, {"onnxruntime:other": "default"}), SHORT)


def test_a_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        run_rounds(contestants(["onnxruntime"], tmp_path / "no.onnx"), SHORT)


def test_rounds_must_be_positive(tiny_model: Path) -> None:
    with pytest.raises(InputError, match="rounds must be 1 or more"):
        run_rounds(contestants(["onnxruntime"], tiny_model), SHORT, rounds=0)


def test_progress_rises_to_the_end(tiny_model: Path) -> None:
    seen: list[tuple[str, float]] = []
    run_rounds(
        contestants(["onnxruntime"], tiny_model),
        SHORT,
        rounds=2,
        progress=lambda label, part: seen.append((label, part)),
    )
    parts = [part for _, part in seen]
    assert parts == sorted(parts)
    assert 0 <= parts[0]
    assert parts[-1] <= 1
    assert seen[-1][0] == "round 2/2: onnxruntime"


def made_up_row(name: str, milliseconds: list[list[float]], outputs: np.ndarray, model: str = "m.onnx") -> Row:
    rounds = []
    for durations in milliseconds:
        begins = np.concatenate([[0.0], np.cumsum(durations)[:-1]]) / 1e3
        rounds.append([(begin, begin + ms / 1e3) for begin, ms in zip(begins, durations, strict=True)])
    row = Row(
        Contestant(name, name.partition(":")[0], model, "python"), model_path=model, shapes=[[2, 6]], rounds=rounds
    )
    row.version, row.load_seconds, row.peak_rss_bytes, row.outputs = "1.0", 0.5, 123_000_000, [outputs]
    return row


def test_ratios_and_correlations_of_known_timings() -> None:
    logits = np.array([1.0, 2.0, 3.0, 5.0])
    rows = [
        made_up_row("sparsert", [[2.0, 2.0, 4.0], [2.0]], logits),
        made_up_row("onnxruntime", [[8.0, 6.0, 6.0], [10.0]], logits[::-1].copy()),
        made_up_row("onnxruntime:dense", [[20.0], [30.0]], logits, model="dense.onnx"),
    ]
    export = comparison_export(rows, SHORT, 2, ["python", "-m", "sparsert.bench"])
    assert list(export) == list(COMPARISON_KEYS)
    assert all(list(row) == list(ROW_KEYS) for row in export["rows"])
    ours, theirs, dense = export["rows"]
    assert [row["benchmark_result"]["median"] for row in export["rows"]] == pytest.approx([2.0, 7.0, 25.0])
    assert [row["time_ratio"] for row in export["rows"]] == pytest.approx([1.0, 3.5, 12.5])
    assert theirs["time_ratio_by_round"] == pytest.approx([3.0, 5.0])
    assert ours["median_items_per_sec"] == pytest.approx(1000.0)  # two items in 2 ms
    assert ours["min"] == pytest.approx(2.0)
    assert ours["outputs_correlation"] is None
    assert theirs["outputs_correlation"] == pytest.approx(-8.25 / 8.75)
    assert dense["outputs_correlation"] is None  # another model: nothing to agree with
    assert theirs["samples_ms"][0] == [pytest.approx([0.0, 8.0]), pytest.approx([8.0, 6.0]), pytest.approx([14.0, 6.0])]
    json.dumps(export)
    lines = table_lines(export)
    assert [cell.strip() for cell in lines[5].strip("|").split("|")] == (
        ["onnxruntime", "1.0", "m.onnx", "7.00", "6.00", "285.71", "3.50", "3.00-5.00", "123", "0.5", "-0.94286"]
    )
    assert len({len(line) for line in lines[2:7]}) == 1  # aligned


def test_a_first_row_that_failed_leaves_no_ratios() -> None:
    rows = [made_up_row("sparsert", [], np.zeros(2)), made_up_row("onnxruntime", [[1.0]], np.zeros(2))]
    rows[0].error = EngineError("sparsert: no")
    rows[0].outputs = None
    export = comparison_export(rows, SHORT, 1, [])
    assert export["rows"][0]["benchmark_result"] is None
    assert export["rows"][1]["time_ratio"] is None
    assert any("| failed " in line for line in table_lines(export))


def test_models_of_one_shape_but_other_weights_compare(tiny_model: Path, other_weights: Path) -> None:
    names = ["onnxruntime", "onnxruntime:other"]
    rows = run_rounds(contestants(names, tiny_model, {"onnxruntime:other": str(other_weights)}), SHORT, rounds=1)
    assert [row.model_path for row in rows] == [str(tiny_model), str(other_weights)]
    assert not np.allclose(rows[0].outputs[0], rows[1].outputs[0])


def test_ragged_sequences_beside_padded_ones() -> None:
    """The same tokens, without their padding: equal outputs at every real token, in the same order."""
    model = "synthetic:bert-tiny-pruned90_quant"
    settings = make_settings(
        batch_size=3,
        sequence_length=40,
        num_cores=1,
        seconds=0.1,
        warmup_seconds=0,
        pinning="none",
        lengths=(40, 7, 25),
    )
    ragged = Contestant("sparsert:ragged", "sparsert", model, sys.executable, ragged=True)
    padded = Contestant("sparsert:padded", "sparsert", model, sys.executable)
    rows = run_rounds([ragged, padded], settings, rounds=1)
    assert [row.error for row in rows] == [None, None]
    inside = np.arange(40) < np.array([[40], [7], [25]])
    for short, long in zip(rows[0].outputs, rows[1].outputs, strict=True):
        assert short.shape == (72,)
        # quantized activations may flip by one where tiles are packed otherwise, which moves a logit by about 0.01
        np.testing.assert_allclose(short, long[inside], atol=0.05)


def test_a_contestant_with_settings_of_its_own(tiny_model: Path) -> None:
    own = make_settings(
        batch_size=2, sequence_length=9, num_cores=1, seconds=0.2, warmup_seconds=0, pinning="none",
        scenario="async", num_streams=2,
    )  # fmt: skip
    first, second = contestants(["onnxruntime", "onnxruntime:own"], tiny_model)
    rows = run_rounds([first, dataclasses.replace(second, settings=own)], SHORT, rounds=1)
    assert [row.error for row in rows] == [None, None]
    assert [row.shapes[0] for row in rows] == [[2, 6], [2, 9]]
    export = comparison_export(rows, SHORT, 1, [])["rows"][1]
    assert export["benchmark_result"]["scenario"] == "multistream"
    assert export["median_items_per_sec"] == pytest.approx(2 * 2 * 1e3 / export["benchmark_result"]["median"])
