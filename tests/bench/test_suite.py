"""The suite: its rows, verdicts, merging, and a whole run on a tiny model with engines that fail."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ks_2samp

from sparsert import synthetic
from sparsert.bench.__main__ import main
from sparsert.bench.settings import make_settings
from sparsert.bench.suite import Ask, Entry, Row, report, run, run_suite, suite_rows
from sparsert.bench.suite.report import report_lines
from sparsert.bench.suite.results import (
    SUITE_KEYS,
    SUITE_ROW_KEYS,
    best_buckets,
    judge,
    load_results,
    row_result,
    save_results,
)
from sparsert.bench.suite.rows import SPARSITIES, SQUAD_LENGTHS, select_rows
from sparsert.errors import InputError
from sparsert.evaluate import read_dataset

ROW_KEYS = [key for key in SUITE_ROW_KEYS if key != "latency_ms"]
"""Those that are not of an entry inside."""

MACHINE = {"cpu": "Test CPU", "cores": 2, "isa": "avx2", "system": "", "python": "", "load_average": [0.0] * 3}


@pytest.mark.parametrize("quick", [False, True])
def test_rows_can_run(quick: bool) -> None:
    """Every row has settings that hold, models that can be generated, and asks about entries that it has."""
    rows = suite_rows(quick)
    names = [row.name for row in rows]
    assert len(names) == len(set(names))
    for row in rows:
        settings = make_settings(**row.settings)
        entries = [entry.name for entry in row.entries]
        assert entries[0].partition(":")[0] == "sparsert"
        assert len(entries) == len(set(entries))
        for entry in row.entries:
            own = make_settings(**{**row.settings, **entry.settings})
            assert own.batch_size == settings.batch_size
            assert len(own.lengths) in (0, own.batch_size)
            if entry.model != "default":
                synthetic.parse(entry.model)
        for ask in row.asks:
            assert ask.against in (*entries, "")
            assert ask.entry in (*entries, "")
            assert ask.row in (*names, "")
        assert row.estimated_seconds() > 0


def test_the_table_is_complete() -> None:
    rows = {row.name: row for row in suite_rows()}
    for percent, pattern in itertools.product(SPARSITIES[1:], ("unstructured", "block")):
        row = rows[f"curve-{pattern}-{percent}"]
        assert row.entries[0].model.endswith(f"pruned{percent}_quant" + ("_vnni" if pattern == "block" else ""))
        assert [ask.against for ask in row.asks][:1] == ["sparsert:dense"]
        assert len(row.asks) == (4 if percent >= 70 else 1)
    asked = {(ask.against, ask.bar) for ask in rows["batch64-unstructured90"].asks}
    assert asked == {("deepsparse", 2.0), ("onnxruntime:dense float", 14.0), ("openvino:QDQ", 3.0)}
    assert len(SQUAD_LENGTHS) == 64


def test_lengths_are_like_those_of_real_questions(squad_sample: Path) -> None:
    """The Kolmogorov-Smirnov distance to a sample of the articles that they are from: p = 0.05 is 0.25."""
    from tokenizers import Tokenizer

    from sparsert._paths import DEFAULT_MODEL

    tokenizer = Tokenizer.from_file(str(DEFAULT_MODEL / "tokenizer.json"))
    tokenizer.no_truncation()
    pairs = [(example.question, example.context) for example in read_dataset(squad_sample)]
    lengths = [min(len(encoding.ids), 384) for encoding in tokenizer.encode_batch(pairs)]
    assert ks_2samp(lengths, SQUAD_LENGTHS).statistic < 0.25


def test_rows_are_selected_by_name_and_group() -> None:
    rows = suite_rows()
    assert select_rows(rows, None) == rows
    chosen = select_rows(rows, "latency-128, ragged,batch64")
    assert [row.name for row in chosen][-2:] == ["latency-128", "ragged"]
    assert len(chosen) == 8
    assert select_rows(rows, "roofline") == []
    with pytest.raises(InputError, match="no row or group 'latency-129'.*latency-128"):
        select_rows(rows, "latency-129")


# -- verdicts --------------------------------------------------------------------------------------------------------


def measured(name: str, median: float, ratio: float, by_round: tuple[float, ...] = (), **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "engine": name.partition(":")[0],
        "version": "1.0",
        "orig_model_path": "synthetic:x",
        "model_path": "model.onnx",
        "input_shapes": [[64, 384]],
        "error": None,
        "load_seconds": 1.5,
        "peak_rss_bytes": 250,
        "file_bytes": 100,
        "benchmark_result": {"median": median, "items_per_sec": 1e3 / median},
        "median_items_per_sec": 64e3 / median,
        "time_ratio": ratio,
        "time_ratio_by_round": list(by_round or (ratio,)),
        "latency_ms": [median],
        **more,
    }


def results_of(**rows: list[dict[str, Any]]) -> dict[str, Any]:
    held = {
        name: {
            "group": "batch64",
            "title": name,
            "quick": False,
            "comparison": {"date": "2026-01-02T03:04:05", "rounds": 3, "rows": entries},
            "skipped": {},
            "error": None,
            "asks": [],
        }
        for name, entries in rows.items()
    }
    return {"format": 1, "machine": MACHINE, "rows": held}


def row_of(name: str, entries: list[str], *asks: Ask) -> Row:
    return Row(name, "batch64", name, tuple(Entry(entry, "default") for entry in entries), asks, {}, 3)


@pytest.mark.parametrize(
    ("ask", "expected", "verdict"),
    [
        (Ask("faster", 2.0, "deepsparse"), 2.5, "pass"),
        (Ask("faster", 3.0, "deepsparse"), 2.5, "short"),
        (Ask("faster", 1.0, "openvino"), None, "not measured"),
        (Ask("throughput", 1.8, "deepsparse", entry="sparsert"), 2.5, "pass"),
        (Ask("load", 2.0), 1.5, "pass"),
        (Ask("load", 1.0), 1.5, "short"),
        (Ask("memory", 2.5), 2.5, "pass"),
        (Ask("memory", 2.4), 2.5, "short"),
    ],
)
def test_verdicts(ask: Ask, expected: float | None, verdict: str) -> None:
    failed = measured("openvino", 1.0, 1.0, error="it died")
    results = results_of(a=[measured("sparsert", 100.0, 1.0), measured("deepsparse", 250.0, 2.5, (2.25, 2.75)), failed])
    (found,) = judge(row_of("a", ["sparsert", "deepsparse", "openvino"], ask), results)
    assert found["measured"] == (None if expected is None else pytest.approx(expected))
    assert found["verdict"] == verdict
    assert found["by_round"] == ([2.25, 2.75] if ask.kind == "faster" and expected else None)


@pytest.mark.parametrize(("ratio", "verdict"), [(1.85, "pass"), (1.75, "short")])
def test_the_same_ratio_as_another_row(ratio: float, verdict: str) -> None:
    results = results_of(
        all=[measured("sparsert", 1.0, 1.0), measured("deepsparse", 2.0, 2.0)],
        one=[measured("sparsert", 2.0, 1.0), measured("deepsparse", 2 * ratio, ratio)],
    )
    row = row_of("one", ["sparsert", "deepsparse"], Ask("same", 0.9, "deepsparse", row="all"))
    (found,) = judge(row, results)
    assert (found["verdict"], found["asked"]) == (verdict, ">= 1.80")
    del results["rows"]["all"]
    assert judge(row, results)[0]["verdict"] == "not measured"


def test_best_buckets_are_the_best_of_all_choices() -> None:
    times = {128: 1.0, 256: 2.5, 384: 4.5}
    lengths = [100, 120, 200, 300]
    # one bucket: 4.5 each; {128, 384}: 1+1+4.5+4.5; {256, 384}: 3 * 2.5 + 4.5; all three: 1+1+2.5+4.5
    assert best_buckets(times, lengths) == ((128, 256, 384), pytest.approx(9.0 / 4))
    assert best_buckets({128: 5.0, 384: 4.0}, lengths) == ((384,), 4.0)


def test_ragged_against_the_best_buckets() -> None:
    entries = [measured("sparsert:ragged", 64.0, 1.0)]
    entries += [measured(f"deepsparse:{tokens}", 64.0 * tokens / 100, 1.0) for tokens in (128, 384)]
    row = row_of("r", [entry["name"] for entry in entries], Ask("buckets", 3.5))
    (found,) = judge(row, results_of(r=entries))
    short = sum(length <= 128 for length in SQUAD_LENGTHS)
    assert found["measured"] == pytest.approx((short * 1.28 + (64 - short) * 3.84) / 64)
    assert judge(row, results_of(r=entries[:2]))[0]["verdict"] == "not measured"  # no bucket takes the longest


# -- files -----------------------------------------------------------------------------------------------------------


def test_results_survive_a_round_trip(tmp_path: Path) -> None:
    results = results_of(a=[measured("sparsert", 1.0, 1.0)])
    save_results(results, tmp_path)
    assert load_results(tmp_path, MACHINE) == results
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_results_of_another_machine_are_refused(tmp_path: Path) -> None:
    save_results(results_of(), tmp_path)
    with pytest.raises(InputError, match="another machine: Test CPU"):
        load_results(tmp_path, {**MACHINE, "cpu": "Other CPU"})
    (tmp_path / "results.json").write_text('{"machine": []}')
    with pytest.raises(InputError, match="holds no results"):
        load_results(tmp_path, MACHINE)


def test_samples_become_quantiles() -> None:
    samples = [[[0.0, float(i)] for i in range(1001)]]
    comparison = {"rows": [{"samples_ms": samples, "model_path": "/somewhere/model.onnx"}]}
    (entry,) = row_result(suite_rows()[0], False, comparison, {}, None)["comparison"]["rows"]
    assert len(entry["latency_ms"]) == 200
    assert (entry["latency_ms"][0], entry["latency_ms"][-1]) == (0.0, 1000.0)
    assert entry["model_path"] == "model.onnx"


def test_report_shows_verdicts_failures_and_what_was_skipped() -> None:
    results = results_of(
        a=[measured("sparsert", 100.0, 1.0), measured("deepsparse", 250.0, 2.5, (2.25, 2.75))],
        b=[measured("sparsert", 100.0, 1.0, error="it died")],
    )
    results["rows"]["a"]["asks"] = judge(row_of("a", ["sparsert"], Ask("faster", 2.0, "deepsparse")), results)
    results["rows"]["b"] |= {"skipped": {"openvino:QDQ": "openvino is not installed here"}}
    text = "\n".join(report_lines(results, ["throughput.png"]))
    assert "1 of 1 pass" in text
    assert "| a   | a, 64 x 384 | sparsert against deepsparse | >= 2  | 2.50     | 2.25-2.75 | pass    |" in text
    assert "- b: sparsert: failed: it died" in text
    assert "- b: openvino:QDQ: skipped, openvino is not installed here" in text
    assert "![throughput](throughput.png)" in text
    assert "Test CPU (avx2), sparsert 1.0, DeepSparse 1.0, 2026-01-02" in text


def test_the_curve_is_relative_to_the_dense_kernel_of_its_row() -> None:
    results = results_of(
        **{
            "curve-0": [measured("sparsert", 10.0, 1.0), measured("deepsparse", 15.0, 1.5)],
            "curve-unstructured-90": [measured("sparsert", 4.0, 1.0), measured("sparsert:dense", 20.0, 5.0)],
            "curve-block-90": [measured("sparsert", 3.0, 1.0)],  # its dense kernel failed
        }
    )
    panels = report._curve(results["rows"])
    assert panels == {"unstructured zeros": {"sparsert": [(0.0, 1.0), (90.0, 0.2)], "deepsparse": [(0.0, 1.5)]}}


# -- runs ------------------------------------------------------------------------------------------------------------

SETTINGS = {
    "batch_size": 2,
    "sequence_length": 6,
    "num_cores": 1,
    "seconds": 0.1,
    "warmup_seconds": 0,
    "pinning": "none",
}


def tiny_rows(model: Path) -> list[Row]:
    """Two rows of one group on a model, with a failing and a missing engine; sparsert stands in for nobody here."""
    entries = (
        Entry("onnxruntime", str(model)),
        Entry("onnxruntime:longer", str(model), {"sequence_length": 9}),
        Entry("deepsparse", str(model)),
        Entry("openvino", str(model)),
    )
    asks = (Ask("faster", 1e-9, "onnxruntime:longer"), Ask("faster", 1.0, "openvino"))
    return [
        Row("first", "batch64", "first", entries, asks, SETTINGS, 2),
        Row("second", "batch64", "second", (Entry("onnxruntime", str(model.parent / "no.onnx")),), (), SETTINGS, 1),
        Row("third", "latency", "third", entries[:1], (), SETTINGS, 1),
    ]


@pytest.fixture
def tiny_suite(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "suite_rows", lambda quick=False: tiny_rows(tiny_model))
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: object() if name == "onnxruntime" else None)


def test_a_run_survives_failures(tiny_suite: None, tmp_path: Path, stand_in: Callable[..., str]) -> None:
    dies = stand_in(at_run="os.abort()")
    results = run_suite(tmp_path / "out", rows="first,second,third", pythons={"deepsparse": dies})
    assert list(results) == [key for key in SUITE_KEYS if key != "roofline"]
    assert list(results["rows"]) == ["first", "second", "third"]
    assert all(list(row) == ROW_KEYS for row in results["rows"].values())
    first, second, third = results["rows"].values()
    assert [row["error"] is None for row in first["comparison"]["rows"]] == [True, True, False]
    assert "SIGABRT" in first["comparison"]["rows"][2]["error"]
    assert first["comparison"]["rows"][1]["input_shapes"] == [[2, 9], [2, 9]]  # a shape of its own
    assert list(first["skipped"]) == ["openvino"]
    assert [ask["verdict"] for ask in first["asks"]] == ["pass", "not measured"]
    assert "no.onnx" in second["error"]
    assert third["comparison"]["rows"][0]["latency_ms"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"results.json", "results.md", "throughput.png", "latency.png"}
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results


def test_runs_merge_and_a_failure_keeps_what_was_there(tiny_suite: None, tmp_path: Path, tiny_model: Path) -> None:
    run_suite(tmp_path, rows="third")
    run_suite(tmp_path, rows="second")
    results = run_suite(tmp_path, rows="batch64", timeout=1e-6)  # nothing answers so fast
    assert list(results["rows"]) == ["first", "second", "third"]
    assert "no answer within" in results["rows"]["first"]["comparison"]["rows"][0]["error"]
    third = results["rows"]["third"]
    again = run_suite(tmp_path, rows="third", timeout=1e-6)
    assert again["rows"]["third"] == third


def test_an_interrupted_run_keeps_its_rows(
    tiny_suite: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = run.run_rounds
    calls = iter([measure, None])

    def interrupted(*arguments: Any) -> Any:
        turn = next(calls)
        if turn is None:
            raise KeyboardInterrupt
        return turn(*arguments)

    monkeypatch.setattr(run, "run_rounds", interrupted)
    assert main(["--suite", "-q", "--rows", "first,third", "--output", str(tmp_path)]) == 130
    assert f"interrupted; what was measured is in {tmp_path}" in capsys.readouterr().err
    held = json.loads((tmp_path / "results.json").read_text())
    assert list(held["rows"]) == ["first"]
    assert held["rows"]["first"]["asks"]
    assert (tmp_path / "results.md").exists()


def test_command_line_prints_the_page(tiny_suite: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--suite",
        "-q",
        "--rows",
        "third",
        "--output",
        str(tmp_path),
        "--python",
        f"onnxruntime={sys.executable}",
    ]
    assert main(arguments) == 0
    page = (tmp_path / "results.md").read_text()
    printed = capsys.readouterr().out
    assert printed.startswith("# Results")
    assert [line for line in page.splitlines() if not line.startswith("![")][-3:] == printed.splitlines()[-3:]
