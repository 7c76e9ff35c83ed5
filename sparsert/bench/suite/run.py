"""Running the suite: row after row, saved after each, whatever fails in between."""

from __future__ import annotations

import functools
import importlib.util
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sparsert.bench.compare import DEFAULT_TIMEOUT, run_rounds
from sparsert.bench.contestants import Contestant, make_contestants
from sparsert.bench.machine import describe_machine
from sparsert.bench.plots import require_matplotlib
from sparsert.bench.roofline import measure_roofline
from sparsert.bench.settings import make_settings
from sparsert.bench.suite.report import write_report
from sparsert.bench.suite.results import judge, load_results, row_result, save_results
from sparsert.bench.suite.rows import Entry, Row, select_rows, suite_rows
from sparsert.bench.table import comparison_export
from sparsert.errors import InputError

__all__ = ["run_suite"]

_log = logging.getLogger(__name__)

_ROOFLINE_SECONDS = 25.0

Progress = Callable[[str, float], None]


def run_suite(
    output: str | Path,
    quick: bool = False,
    rows: str | None = None,
    pythons: Mapping[str, str] | None = None,
    num_cores: int | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the suite, or some of its rows, and write ``results.json``, ``results.md`` and plots to a folder.

    What the folder already holds of other rows stays. A row that fails is recorded with its error, unless an earlier
    run of it succeeded; a run that is interrupted keeps the rows that it finished.

    Parameters
    ----------
    output : path
        Folder, made if it does not exist.
    quick : bool
        Small batches and short turns: minutes instead of an hour or more.
    rows : str, optional
        Names of rows or groups, separated by commas; ``"roofline"`` is one.
    pythons : mapping, optional
        Engine -> interpreter that has it. Engines that neither these nor this interpreter have are listed as skipped.
    num_cores : int, optional
        Threads of every engine; by default all physical cores that this process may use.
    timeout : float
        Seconds that loading, or one batch, may take.
    progress : callable, optional
        Called with what is going on and the finished fraction.

    Returns
    -------
    dict
        The content of ``results.json``; see ``sparsert.bench.suite.results.SUITE_KEYS``.

    Raises
    ------
    InputError
        Unknown rows, an interpreter that does not exist, or a folder with results of another machine.
    EngineError
        Matplotlib is not installed.
    """
    everything = suite_rows(quick)
    chosen = select_rows(everything, rows)
    names = None if rows is None else {name.strip() for name in rows.split(",")}
    with_roofline = names is None or "roofline" in names
    interpreters = _interpreters(pythons or {})
    require_matplotlib()
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    results = load_results(folder, describe_machine())
    total = sum(row.estimated_seconds() for row in chosen) + with_roofline * _ROOFLINE_SECONDS
    _log.info("%d rows, about %.0f minutes, more where a batch takes longer than its turn", len(chosen), total / 60)
    done = 0.0

    def say(seconds: float, label: str, fraction: float) -> None:
        if progress is not None:
            progress(label, (done + fraction * seconds) / total)

    try:
        if with_roofline:
            found = measure_roofline(num_cores, progress=functools.partial(say, _ROOFLINE_SECONDS))
            results["roofline"] = found.to_dict()
            save_results(results, folder)
            done += _ROOFLINE_SECONDS
        for row in chosen:
            seconds = row.estimated_seconds()
            _log.info("%s: %s", row.name, row.title)
            result = _run_row(row, quick, interpreters, num_cores, timeout, functools.partial(say, seconds))
            _keep(result, row, results)
            save_results(results, folder)
            done += seconds
    finally:
        for row in everything:
            if row.name in results["rows"]:
                results["rows"][row.name]["asks"] = judge(row, results)
        save_results(results, folder)
        write_report(results, folder)
    return results


def _interpreters(pythons: Mapping[str, str]) -> dict[str, str]:
    """Engine -> interpreter, of the engines that can be measured."""
    engines = ["sparsert", "onnxruntime", "deepsparse", "openvino"]
    for name in pythons:
        if name not in engines:
            raise InputError(f"--python names {name!r}; a suite knows the engines {', '.join(engines)}.")
    here = [e for e in engines if e == "sparsert" or (e not in pythons and importlib.util.find_spec(e) is not None)]
    there = make_contestants(list(pythons), "default", {}, pythons) if pythons else []
    return dict.fromkeys(here, sys.executable) | {c.engine: c.python for c in there}


def _run_row(
    row: Row, quick: bool, interpreters: Mapping[str, str], num_cores: int | None, timeout: float, progress: Progress
) -> dict[str, Any]:
    skipped: dict[str, str] = {}
    contestants = []
    base = {"num_cores": num_cores, **row.settings}
    for entry in row.entries:
        engine = entry.name.partition(":")[0]
        if engine not in interpreters:
            skipped[entry.name] = f"{engine} is not installed here; name an interpreter: --python {engine}=PATH"
            continue
        contestants.append(_contestant(entry, engine, interpreters[engine], base))
    try:
        settings = make_settings(**base)
        found = run_rounds(contestants, settings, row.rounds, timeout, progress)
        comparison = comparison_export(found, settings, row.rounds, ["python", "-m", "sparsert.bench", "--suite"])
        error = None
    except Exception as failure:  # whatever one row meets, the others are still worth measuring
        _log.warning("%s failed: %s: %s", row.name, type(failure).__name__, failure)
        comparison, error = None, f"{type(failure).__name__}: {failure}"
    return row_result(row, quick, comparison, skipped, error)


def _contestant(entry: Entry, engine: str, python: str, base: Mapping[str, Any]) -> Contestant:
    own = make_settings(**{**base, **entry.settings}) if entry.settings else None
    return Contestant(entry.name, engine, entry.model, python, own, entry.ragged)


def _keep(result: dict[str, Any], row: Row, results: dict[str, Any]) -> None:
    """Put a row's result in its place, unless it failed where an earlier one did not."""
    held = results["rows"].get(row.name)
    if not _succeeded(result) and held is not None and _succeeded(held):
        _log.warning("%s failed now; the earlier result stays", row.name)
        return
    rows = {**results["rows"], row.name: result}
    order = [known.name for known in suite_rows()]
    results["rows"] = {name: rows[name] for name in [*order, *rows] if name in rows}


def _succeeded(result: Mapping[str, Any]) -> bool:
    return result["comparison"] is not None and result["comparison"]["rows"][0]["error"] is None
