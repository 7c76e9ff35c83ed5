"""Peaks, bandwidths and kernels under them: bookkeeping against counts by hand, and sane figures on tiny budgets."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from sparsert.bench import kernel_rates, peaks
from sparsert.bench.__main__ import main
from sparsert.bench.kernel_rates import CASES, make_work, random_weight
from sparsert.bench.rates import Rate
from sparsert.bench.roofline import ROOFLINE_KEYS, KernelPoint, Limits, Roofline, roofline_lines
from sparsert.bench.timing import Team, best_seconds
from sparsert.kernels.jit import TILE
from sparsert.plan.memory import aligned

LIMITS = Limits(
    peaks={"int8": Rate(100.0, 190.0), "float": Rate(25.0, 48.0)},
    bandwidths={"L1": Rate(120.0, 240.0), "L2": Rate(60.0, 120.0), "L3": Rate(30.0, 50.0), "memory": Rate(10.0, 15.0)},
    caches={"L1": 32 << 10, "L2": 512 << 10, "L3": 32 << 20},
    cores=2,
)
MACHINE = {"cpu": "Test CPU", "cores": 2, "isa": "avx2", "system": "", "python": "", "load_average": [0.0] * 3}
POINT = KernelPoint("dense int8", "int8", 0.0, (768, 768), 75.0, 1.0, "L1", 100.0, "int8")
ROOFLINE = Roofline(MACHINE, "2026-01-02T03:04:05+00:00", LIMITS, [POINT])


@pytest.mark.parametrize(
    ("arithmetic", "bytes_per_mac", "footprint", "expected"),
    [
        ("int8", 1.0, 24 << 10, (100.0, "int8")),  # L1 could feed 120
        ("int8", 1.0, 96 << 10, (60.0, "L2")),  # 60 GB/s at a byte each
        ("int8", 2.0, 24 << 10, (60.0, "L1")),
        ("float", 4.0, 96 << 10, (15.0, "L2")),
        ("float", 0.5, 64 << 20, (20.0, "memory")),
    ],
)
def test_the_lower_roof_counts(
    arithmetic: str, bytes_per_mac: float, footprint: int, expected: tuple[float, str]
) -> None:
    assert LIMITS.limit(arithmetic, bytes_per_mac, footprint) == expected


def test_limit_of_all_cores() -> None:
    assert LIMITS.limit("int8", 1.0, 96 << 10, several=True) == (120.0, "L2")


def test_an_unknown_cache_holds_nothing() -> None:
    unknown = Limits(LIMITS.peaks, LIMITS.bandwidths, {"L1": 0, "L2": 0, "L3": 1 << 20}, 2)
    assert unknown.level(1000) == "L3"


def test_export_and_its_inverse() -> None:
    exported = json.loads(json.dumps(ROOFLINE.to_dict()))
    assert list(exported) == list(ROOFLINE_KEYS)
    assert exported["kernels"][0]["share"] == 0.75
    assert Roofline.from_dict(exported) == ROOFLINE


def test_lines_name_every_rate_and_kernel() -> None:
    text = "\n".join(roofline_lines(ROOFLINE))
    assert "Test CPU (avx2)" in text
    assert "| int8 in registers  | 100.0    | 190.0   | GMAC/s |" in text
    assert "| read from memory   | 10.0     | 15.0    | GB/s   |" in text
    assert "| dense int8       | 768x768  | 75.0   | 1.00      | 100.0 | int8 | 75%   |" in text


def test_working_sets_lie_inside_their_caches() -> None:
    sizes = {"L1_data": 48 << 10, "L2": 1 << 20, "L3": 32 << 20}
    sets = peaks.working_sets(sizes)
    assert sets["L1"] < sizes["L1_data"] < sets["L2"] < sizes["L2"] < sets["L3"] < sizes["L3"] < sets["memory"]
    assert all(size % 4096 == 0 for size in sets.values())
    unknown = peaks.working_sets({})
    assert unknown["L1"] < unknown["L2"] < unknown["L3"] < unknown["memory"]


def test_best_seconds_is_that_of_one_round() -> None:
    calls: list[int] = []
    clock = 0.0

    class Fake(Team):
        """A team whose work takes a millisecond a round, on a clock of its own."""

        def __init__(self) -> None:
            pass

        def seconds(self, work) -> float:
            nonlocal clock
            work(0)
            clock += calls[-1] * 1e-3
            return calls[-1] * 1e-3

    assert best_seconds(Fake(), lambda member, rounds: calls.append(rounds), 0.0) == pytest.approx(1e-3)


def test_a_team_runs_every_member_and_passes_errors_on() -> None:
    with Team([0, 0]) as team:
        seen: list[int] = []
        assert team.seconds(seen.append) >= 0
        assert sorted(seen) == [0, 1]
        with pytest.raises(ZeroDivisionError):
            team.seconds(lambda member: 1 // 0)


@pytest.mark.parametrize("cores", [1, 2])
def test_rates_are_finite_and_positive(cores: int) -> None:
    with Team([0]) as one, Team([0] * cores) as several:
        found = peaks.measure_peaks((one, several), 0.0)
        read = peaks.measure_bandwidths((one, several), 0.0, {"L1": 8192, "memory": 1 << 20})
    assert list(found) == ["int8", "float"]
    assert list(read) == ["L1", "memory"]
    for rate in [*found.values(), *read.values()]:
        assert math.isfinite(rate.one)
        assert rate.one > 0
        assert math.isfinite(rate.all)
        assert rate.all > 0


def test_reading_reads_everything() -> None:
    """The loop that measures bandwidth really sums all bytes: int32 sums of every vector, as NumPy finds them."""
    data = aligned(8192)
    data.view(np.int32)[:] = np.random.default_rng(0).integers(-1000, 1000, 2048)
    out = aligned(64 * 8)
    peaks._run_read(data.ctypes.data, data.nbytes, 3, out.ctypes.data)
    lanes = TILE // 4 * 8
    expected = 3 * data.view(np.int32).reshape(-1, lanes).sum(axis=0)
    np.testing.assert_array_equal(out.view(np.int32)[:lanes], expected)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_work_of_a_case(case: kernel_rates.Case) -> None:
    work = make_work(case)
    if case.kernel == "attention":
        expected = 2 * kernel_rates._HEADS * case.shape[0] ** 2 * case.shape[1]
    else:
        weight = random_weight(case)
        assert weight.shape == case.shape
        zeros = 1 - np.count_nonzero(weight) / weight.size
        assert zeros == pytest.approx(case.sparsity, abs=0.005)  # dense int8 may round a weight or two to zero
        tiles = kernel_rates._LINEAR_TILES
        expected = np.count_nonzero(weight) * TILE * tiles
    assert work.macs == expected
    assert work.nbytes > work.footprint > 0
    work.run(2)  # every kernel runs on its data


@pytest.mark.parametrize(("name", "low", "high"), [("unstructured int8, 90 %", 1, 1.5), ("sparse float, 90 %", 4, 5)])
def test_bytes_of_a_product(name: str, low: float, high: float) -> None:
    """A byte for each product where rows are read one by one, four where they hold floats, and some for the weights."""
    work = make_work(next(case for case in CASES if case.name == name))
    assert low < work.nbytes / work.macs < high


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsert.bench.__main__.measure_roofline", lambda cores, progress: ROOFLINE)
    target, plot = tmp_path / "roofline.json", tmp_path / "roofline.png"
    assert main(["--roofline", "-q", "-x", str(target), "--plot", str(plot)]) == 0
    assert "Roofline of 2 cores of Test CPU (avx2)" in capsys.readouterr().out
    assert Roofline.from_dict(json.loads(target.read_text())) == ROOFLINE
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--roofline", "--suite"], "two different runs"),
        (["--roofline", "default"], "--roofline takes no MODEL"),
        (["--plot", "a.png"], "--plot belongs to --roofline"),
        (["--roofline", "--plot", "roofline.txt"], "cannot take a plot"),
        (["--roofline", "--plot", "/no/such/folder/a.png"], "cannot take a plot"),
        (["--suite", "-x", "a.json"], "--suite writes results.json"),
        (["--quick"], "belong to --suite"),
        (["--suite", "--rows", "nothing"], "no row or group 'nothing'"),
        (["--suite", "--python", "tensorflow=/usr/bin/python3"], "--python names 'tensorflow'"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "-q"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
