"""The command line of ``python -m sparsert.bench``: its flags, and its help, which defines every figure."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from sparsert.bench.compare import DEFAULT_ROUNDS, DEFAULT_TIMEOUT
from sparsert.bench.engines import ENGINES
from sparsert.bench.results import EXPORT_KEYS, RESULT_KEYS
from sparsert.bench.roofline import ROOFLINE_KEYS
from sparsert.bench.settings import PINNINGS, SCENARIOS
from sparsert.bench.suite.results import SUITE_KEYS, SUITE_ROW_KEYS
from sparsert.bench.table import COMPARISON_KEYS, ROW_KEYS

__all__ = ["make_parser"]

_DESCRIPTION = """\
Measure how fast an engine runs a model, or compare several engines.

Inputs are made once: random token ids over the vocabulary and masks of ones, so that every token counts. Every engine
gets the same arrays, cores and threads, and runs in a process of its own. Results go to stdout, all else to stderr."""

_EXAMPLES = """\
examples:
  one engine:
    python -m sparsert.bench synthetic:bert-base-pruned90_quant -b 64 -i [64,384] -s sync -nstreams 1
  against ONNX Runtime on the same file and on the dense float model, and against DeepSparse in its own interpreter:
    python -m sparsert.bench synthetic:bert-base-pruned90_quant -b 64 -i [64,384] \\
        --compare onnxruntime,onnxruntime:dense,deepsparse \\
        --model-for onnxruntime:dense=synthetic:bert-base-dense \\
        --python deepsparse=/path/to/deepsparse-venv/bin/python
  what this machine can do, and how near the kernels come:
    python -m sparsert.bench --roofline --plot roofline.png
  the whole table, then one row of it again:
    python -m sparsert.bench --suite --output results --python deepsparse=/path/to/deepsparse-venv/bin/python
    python -m sparsert.bench --suite --output results --python deepsparse=... --rows batch64-unstructured90

comparison:
  Engines take turns, round by round (A B C A B C ...), and those that wait are suspended (SIGSTOP), so that a drift of
  the machine hits all alike and a spinning thread of one takes nothing from the others. The first row is the engine of
  -e. An engine that fails or dies keeps its row, with the reason. DeepSparse, which writes to the file that it loads,
  gets a copy.
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sparsert.bench",
        description=_DESCRIPTION,
        epilog=f"{_EXAMPLES}\n{_key_definitions()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "model_path",
        metavar="MODEL",
        nargs="?",
        default=None,
        help="a model reference: .onnx file, directory, zoo:, hf: or synthetic: (default: the model that ships inside)",
    )
    parser.add_argument("-b", "--batch_size", type=int, default=1, help="items in a batch (default: 1)")
    parser.add_argument(
        "-i",
        "-shapes",
        "--input_shapes",
        default="",
        help="shapes of the inputs, as [64,384] for all or [1,128],[1,128] for each; -b replaces the first dimension",
    )
    parser.add_argument(
        "-ncores", "--num_cores", type=int, default=None, help="threads in total (default: all physical cores)"
    )
    parser.add_argument(
        "-s",
        "--scenario",
        choices=list(SCENARIOS),
        default="sync",
        help="sync: one batch after the other; async, elastic: several at the same time, under the engine's "
        "multi-stream or elastic scheduler (default: sync)",
    )
    parser.add_argument("-t", "--time", type=float, default=10, help="seconds to measure each engine (default: 10)")
    parser.add_argument("-w", "--warmup_time", type=float, default=2, help="seconds to run before that (default: 2)")
    parser.add_argument(
        "-nstreams",
        "--num_streams",
        type=int,
        default=None,
        help="batches at the same time for async and elastic (default: half the cores); always 1 for sync",
    )
    parser.add_argument(
        "-pin",
        "--thread_pinning",
        choices=PINNINGS,
        default="core",
        help="core: one thread to a core; numa: threads stay on the chosen cores but move between them; none "
        "(default: core)",
    )
    parser.add_argument("-e", "--engine", default="sparsert", help=f"engine: {', '.join(ENGINES)} (default: sparsert)")
    parser.add_argument("-x", "--export_path", default=None, help="JSON file to write the results to")
    parser.add_argument("-q", "--quiet", action="store_true", help="log warnings only")
    parser.add_argument(
        "-seq_len",
        "--sequence_length",
        type=int,
        default=None,
        help="tokens, where -i does not say (default: the model's own, or 128)",
    )
    parser.add_argument(
        "-input_ids_len",
        "--input_ids_length",
        type=int,
        default=1,
        help="recorded beside -seq_len; encoders have no other use for it (default: 1)",
    )
    _add_comparison_options(parser)
    _add_suite_options(parser)
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT,
        help=f"seconds that loading or a batch may take before it counts as failed (default: {DEFAULT_TIMEOUT:g})",
    )
    return parser


def _key_definitions() -> str:
    return "\n".join(
        _definitions(title, meanings)
        for title, meanings in (
            ("JSON export of one engine (-x)", EXPORT_KEYS),
            ("benchmark_result", RESULT_KEYS),
            ("JSON export of a comparison (-x with --compare)", COMPARISON_KEYS),
            ("rows", ROW_KEYS),
            ("JSON export of a roofline (-x with --roofline)", ROOFLINE_KEYS),
            ("results.json of a suite", SUITE_KEYS),
            ("rows of a suite", SUITE_ROW_KEYS),
        )
    )


def _add_comparison_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compare",
        metavar="NAME,...",
        default=None,
        help="engines to compare with -e; NAME is ENGINE or, for several rows of one engine, ENGINE:LABEL",
    )
    parser.add_argument(
        "--python",
        metavar="NAME=PATH",
        action="append",
        default=[],
        help="interpreter that has the engine; NAME as in --compare, an ENGINE stands for all its rows (repeatable)",
    )
    parser.add_argument(
        "--model-for",
        metavar="NAME=MODEL",
        action="append",
        default=[],
        help="another model for one row, with the same inputs; NAME as for --python (repeatable)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=DEFAULT_ROUNDS,
        help=f"turns of each engine in a comparison (default: {DEFAULT_ROUNDS})",
    )


def _add_suite_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the machine and the whole table, instead of one model")
    group.add_argument(
        "--roofline",
        action="store_true",
        help="measure peak rates, bandwidths and every kernel under them, in less than a minute (-ncores, -x, --plot)",
    )
    group.add_argument(
        "--plot", metavar="FILE", default=None, help="where --roofline draws its plot: .png, .svg or .pdf"
    )
    group.add_argument(
        "--suite",
        action="store_true",
        help="run the table of docs/benchmarks.md with the engines that are installed (--python names others) and "
        "write results.json, results.md and plots to --output",
    )
    group.add_argument("--quick", action="store_true", help="--suite with small batches and short turns, in minutes")
    group.add_argument(
        "--rows",
        metavar="NAME,...",
        default=None,
        help="--suite for these rows or groups alone; others that are in --output already stay (--rows list: names)",
    )
    group.add_argument(
        "--output", metavar="DIR", default="bench-results", help="folder of --suite (default: bench-results)"
    )


def _definitions(title: str, meanings: Mapping[str, str]) -> str:
    lines = [f"  {key:26} {meaning}" for key, meaning in meanings.items()]
    return "\n".join([f"{title}:", *lines, ""])
