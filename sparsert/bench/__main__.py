"""``python -m sparsert.bench``: measure an engine, or compare several."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsert.bench import benchmark_model, plots
from sparsert.bench.cli import make_parser
from sparsert.bench.compare import run_rounds
from sparsert.bench.contestants import make_contestants, parse_assignments
from sparsert.bench.machine import caption
from sparsert.bench.progress import ProgressBar
from sparsert.bench.results import report_lines
from sparsert.bench.roofline import measure_roofline, roofline_lines
from sparsert.bench.settings import make_settings
from sparsert.bench.table import comparison_export, table_lines
from sparsert.errors import InputError, SparsertError

__all__ = ["main"]

_log = logging.getLogger("sparsert.bench")

# Above this many runnable processes before the run, timings are not to be trusted.
_BUSY_LOAD = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 for an error that stderr explains (wrong usage exits with 2)."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = make_parser().parse_args(arguments)
    with ProgressBar() as bar, _logging(options.quiet, bar):
        try:
            _check_export_path(options.export_path)
            _check_modes(options)
            _warn_if_busy()
            export: dict[str, Any] | None
            if options.roofline:
                export, lines = _roofline(options, bar)
                code = 0
            elif options.suite:
                export, lines, code = None, _suite(options, bar), 0
            elif options.compare is None:
                export = _measure(options, bar)
                lines, code = report_lines(export, options.scenario), 0
            else:
                export = _compare(options, arguments, bar)
                lines, code = table_lines(export), int(export["rows"][0]["error"] is not None)
        except SparsertError as error:
            bar.clear()
            sys.stderr.write(f"sparsert.bench: error: {error}\n")
            return 1
        except KeyboardInterrupt:
            bar.clear()
            kept = f"; what was measured is in {options.output}" if options.suite else ""
            sys.stderr.write(f"sparsert.bench: interrupted{kept}\n")
            return 130
        bar.clear()
        sys.stdout.write("\n".join(lines) + "\n")
        if options.export_path is not None and export is not None:
            _log.info("Saving benchmark results to JSON file at %s", options.export_path)
            Path(options.export_path).write_text(json.dumps(export, indent=2) + "\n", encoding="utf-8")
    return code


def _measure(options: argparse.Namespace, bar: ProgressBar) -> dict[str, Any]:
    if options.model_for:
        raise InputError("--model-for belongs to --compare; give the model itself as MODEL.")
    pythons = parse_assignments(options.python, "--python")
    # Through the same checks as a comparison, so that a misspelt name does not pass unseen.
    (contestant,) = make_contestants([options.engine], options.model_path or "default", {}, pythons)
    return benchmark_model(
        options.model_path,
        options.batch_size,
        options.input_shapes,
        options.num_cores,
        options.scenario,
        options.time,
        options.warmup_time,
        options.num_streams,
        options.thread_pinning,
        options.engine,
        options.sequence_length,
        options.input_ids_length,
        python=contestant.python,
        timeout=options.timeout,
        progress=bar.show,
    )


def _check_modes(options: argparse.Namespace) -> None:
    modes = [name for name in ("roofline", "suite", "compare") if getattr(options, name)]
    if len(modes) > 1:
        raise InputError(f"--{modes[0]} and --{modes[1]} are two different runs; give one of them.")
    if (options.roofline or options.suite) and options.model_path is not None:
        raise InputError(f"--{modes[0]} takes no MODEL, given {options.model_path}")
    if options.plot is not None and not options.roofline:
        raise InputError("--plot belongs to --roofline; --suite writes its plots to --output.")
    if options.suite and options.export_path is not None:
        raise InputError("--suite writes results.json to --output; --export_path belongs to the other runs.")
    if (options.rows is not None or options.quick) and not options.suite:
        raise InputError("--rows and --quick belong to --suite.")


def _roofline(options: argparse.Namespace, bar: ProgressBar) -> tuple[dict[str, Any], list[str]]:
    if options.plot is not None:
        plots.check_plot_path(options.plot)
    roofline = measure_roofline(options.num_cores, progress=bar.show)
    if options.plot is not None:
        figure = plots.roofline_figure(roofline, caption(roofline.machine, roofline.date))
        _log.info("Drawing the roofline to %s", plots.save_figure(figure, options.plot))
    return roofline.to_dict(), roofline_lines(roofline)


def _suite(options: argparse.Namespace, bar: ProgressBar) -> list[str]:
    from sparsert.bench.suite import run_suite
    from sparsert.bench.suite.report import report_lines as suite_lines

    # who ends a long run by a signal wants what was measured, too
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        results = run_suite(
            options.output,
            options.quick,
            options.rows,
            parse_assignments(options.python, "--python"),
            options.num_cores,
            options.timeout,
            bar.show,
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    return suite_lines(results)


def _compare(options: argparse.Namespace, arguments: list[str], bar: ProgressBar) -> dict[str, Any]:
    others = [name.strip() for name in options.compare.split(",")]
    contestants = make_contestants(
        [options.engine, *others],
        options.model_path or "default",
        parse_assignments(options.model_for, "--model-for"),
        parse_assignments(options.python, "--python"),
    )
    settings = make_settings(
        options.batch_size,
        options.input_shapes,
        options.num_cores,
        options.scenario,
        options.time,
        options.warmup_time,
        options.num_streams,
        options.thread_pinning,
        options.sequence_length,
    )
    rows = run_rounds(contestants, settings, options.rounds, options.timeout, bar.show)
    return comparison_export(rows, settings, options.rounds, ["python", "-m", "sparsert.bench", *arguments])


def _check_export_path(path: str | None) -> None:
    if path is not None and (os.path.isdir(path) or not os.path.isdir(os.path.dirname(path) or ".")):
        raise InputError(f"--export_path {path} is not a file in an existing directory.")


def _warn_if_busy() -> None:
    load = os.getloadavg()[0]
    if load > _BUSY_LOAD:
        _log.warning("The machine is busy (load average %.1f): timings will be too long and uneven", load)


class _LogAboveBar(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to stderr, where the progress bar must not stand in the way."""

    def __init__(self, bar: ProgressBar) -> None:
        super().__init__(sys.stderr)
        self._bar = bar

    def emit(self, record: logging.LogRecord) -> None:
        self._bar.clear()
        super().emit(record)


@contextmanager
def _logging(quiet: bool, bar: ProgressBar) -> Iterator[None]:
    """Log to stderr while the command runs, in DeepSparse's format."""
    handler = _LogAboveBar(bar)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger("sparsert")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


if __name__ == "__main__":
    raise SystemExit(main())
