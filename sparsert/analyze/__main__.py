"""``python -m sparsert.analyze MODEL``: where the time goes, layer by layer."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sparsert.analyze.measure import analyze
from sparsert.analyze.result import ANALYSIS_KEYS, LAYER_KEYS
from sparsert.errors import InputError, SparsertError

__all__ = ["main", "make_parser"]


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    keys = "\n".join(_definitions(title, keys) for title, keys in (("JSON", ANALYSIS_KEYS), ("layers", LAYER_KEYS)))
    parser = argparse.ArgumentParser(
        prog="python -m sparsert.analyze",
        description="Time every layer of a model, with its kernel, sparsity, GMAC/s and share of the machine's limit.",
        epilog=f"{keys}\nCSV (one line a layer) has the keys of layers.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "model_path", metavar="MODEL", help=".onnx file, directory, or zoo:, hf: or synthetic: reference"
    )
    parser.add_argument("-b", "--batch_size", type=int, default=1, help="items in a batch (default: 1)")
    parser.add_argument(
        "-i", "-shapes", "--input_shapes", default="", help="shapes of the inputs, as [64,384]; -b replaces the first"
    )
    parser.add_argument("-ncores", "--num_cores", type=int, default=None, help="threads (default: all physical cores)")
    parser.add_argument("-t", "--time", type=float, default=5.0, help="seconds to measure (default: 5)")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the totals only, not every layer")
    parser.add_argument("--no-roofline", action="store_true", help="do not measure the machine's limits (saves 3 s)")
    parser.add_argument("--json", metavar="FILE", default=None, help="write everything as JSON")
    parser.add_argument("--csv", metavar="FILE", default=None, help="write the layers as CSV")
    parser.add_argument("--plot", metavar="FILE", default=None, help="draw the layers: .png, .svg or .pdf")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 for an error that stderr explains (wrong usage exits with 2)."""
    options = make_parser().parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    try:
        _check_files(options)
        analysis = analyze(
            options.model_path,
            options.batch_size,
            options.input_shapes,
            options.num_cores,
            options.time,
            not options.no_roofline,
        )
        lines = analysis.summary_lines() if options.quiet else [str(analysis)]
        sys.stdout.write("\n".join(lines) + "\n")
        for path, text in ((options.json, analysis.to_json() + "\n"), (options.csv, analysis.to_csv())):
            if path is not None:
                Path(path).write_text(text, encoding="utf-8")
        if options.plot is not None:
            from sparsert.analyze.plot import analysis_figure
            from sparsert.bench.plots import save_figure

            save_figure(analysis_figure(analysis), options.plot)
    except SparsertError as error:
        sys.stderr.write(f"sparsert.analyze: error: {error}\n")
        return 1
    return 0


def _check_files(options: argparse.Namespace) -> None:
    """Fail before the measuring, rather than after it, where a file could not be written."""
    for flag in ("json", "csv"):
        path = getattr(options, flag)
        if path is not None and (Path(path).is_dir() or not Path(path).parent.is_dir()):
            raise InputError(f"--{flag} {path} is not a file in an existing directory.")
    if options.plot is not None:
        from sparsert.bench.plots import check_plot_path

        check_plot_path(options.plot)


def _definitions(title: str, meanings: Mapping[str, str]) -> str:
    return "\n".join([f"{title}:", *(f"  {key:20} {meaning}" for key, meaning in meanings.items()), ""])


if __name__ == "__main__":
    raise SystemExit(main())
