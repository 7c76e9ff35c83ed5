"""The regression guard: its decisions on made-up figures, and that it measures every kernel."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import kernel_guard as guards
import numpy as np
import pytest
from kernel_guard import FRACTION, Verdict, guard, judge, load_recorded, measure_ratios

from sparsert import cpu
from sparsert.bench.kernel_rates import CASES, GUARDED
from sparsert.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
RECORDED = {"a": 9.0, "b": 3.0}


def measurements(*turns: dict[str, float]) -> tuple[Callable[[list[str]], dict[str, float]], list[list[str]]]:
    """A function that gives these ratios in turn, and what it was asked for."""
    asked: list[list[str]] = []

    def measure(names: list[str]) -> dict[str, float]:
        asked.append(names)
        return {name: turns[len(asked) - 1][name] for name in names}

    return measure, asked


def test_a_third_is_enough() -> None:
    assert FRACTION == pytest.approx(1 / 3)
    assert judge({"a": 3.0, "b": 0.99}, RECORDED) == [Verdict("a", 3.0, 9.0, True), Verdict("b", 0.99, 3.0, False)]


def test_what_is_not_recorded_passes() -> None:
    assert judge({"c": 0.01}, RECORDED) == [Verdict("c", 0.01, None, True)]


def test_one_measurement_is_enough_when_all_is_well() -> None:
    measure, asked = measurements({"a": 8.0, "b": 2.0})
    assert all(verdict.passed for verdict in guard(measure, ["a", "b"], RECORDED))
    assert asked == [["a", "b"]]


def test_noise_is_measured_again_and_the_best_counts() -> None:
    measure, asked = measurements({"a": 1.0, "b": 2.0}, {"a": 0.5}, {"a": 4.0})
    assert [verdict.ratio for verdict in guard(measure, ["a", "b"], RECORDED)] == [4.0, 2.0]
    assert asked == [["a", "b"], ["a"], ["a"]]


def test_a_slow_kernel_fails_after_all_attempts() -> None:
    measure, asked = measurements({"a": 2.0, "b": 2.0}, {"a": 2.5}, {"a": 1.0})
    slow, fine = guard(measure, ["a", "b"], RECORDED, attempts=3)
    assert (slow.passed, slow.ratio, fine.passed) == (False, 2.5, True)
    assert len(asked) == 3


def test_recorded_ratios() -> None:
    """The committed file has every guarded kernel for the tiers that it has, and the guard watches real kernels."""
    tiers = json.loads((ROOT / "scripts" / "kernel_ratios.json").read_text())
    assert "avx2" in tiers
    for tier, ratios in tiers.items():
        assert ratios and set(ratios) <= set(GUARDED), tier
        assert load_recorded(ROOT / "scripts" / "kernel_ratios.json", tier) == ratios
    assert load_recorded(ROOT / "scripts" / "kernel_ratios.json", "no such tier") == {}
    assert set(GUARDED) <= {case.name for case in CASES}


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "ratios.json").write_text('{"avx2": [1]}')
    for path in (tmp_path / "ratios.json", tmp_path / "missing.json"):
        with pytest.raises(InputError, match=f"{path.name} holds no recorded ratios"):
            load_recorded(path, "avx2")


@pytest.mark.parametrize("name", ["sparse float, 90 %", "dense float", "attention int8"])
def test_the_plain_side_does_the_same_work(name: str) -> None:
    case = next(case for case in CASES if case.name == name)
    plain, macs = guards._plain(case)
    result = plain()
    if case.kernel == "attention":
        assert [part.shape for part in result] == [(case.shape[0], case.shape[0]), case.shape]
        assert macs == 2 * case.shape[0] ** 2 * case.shape[1]
        return
    assert result.shape == (case.shape[0], guards._TOKENS)
    assert macs == pytest.approx((1 - case.sparsity) * np.prod(case.shape) * guards._TOKENS, rel=0.01)
    if case.sparsity == 0.9:  # x is ones, so a row's result is the sum of its weights
        expected = guards_weight(name).sum(axis=1)
        np.testing.assert_allclose(result[:, 0], expected, rtol=1e-4, atol=1e-3)


def guards_weight(name: str) -> np.ndarray:
    from sparsert.bench.kernel_rates import random_weight

    return random_weight(next(case for case in CASES if case.name == name)).astype(np.float64)


def test_ratios_are_measured() -> None:
    ratios = measure_ratios(["4-block int8, 90 %", "dense float"], cpu.core_list()[0], budget=0.0)
    assert list(ratios) == ["4-block int8, 90 %", "dense float"]
    assert all(np.isfinite(ratio) and ratio > 0 for ratio in ratios.values())


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # restored afterwards: the script sets them for itself
    spec = importlib.util.spec_from_file_location("check_kernels", ROOT / "scripts" / "check_kernels.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RECORDED", tmp_path / "ratios.json")
    return module


def test_the_script(script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    speed = 9.0
    monkeypatch.setattr(guards, "measure_ratios", lambda names, core: dict.fromkeys(names, speed))
    monkeypatch.setattr("sys.argv", ["check_kernels.py", "--record"])
    assert script.main() == 0
    assert json.loads(script.RECORDED.read_text()) == {cpu.isa(): dict.fromkeys(GUARDED, 9.0)}
    monkeypatch.setattr("sys.argv", ["check_kernels.py"])
    assert script.main() == 0
    speed = 2.0
    assert script.main() == 1
    assert f"kernels of {cpu.isa()} are slow: {', '.join(GUARDED)}" in capsys.readouterr().err
