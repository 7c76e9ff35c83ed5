"""``python -m sparsert.evaluate``: score a model on a dataset, perhaps on two engines."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sparsert.errors import InputError, SparsertError
from sparsert.evaluate import Evaluation, Scorer, evaluate
from sparsert.evaluate.evaluation import scorer_of

__all__ = ["main"]

_EXAMPLE = """
See docs/evaluation.md.

example:
  python -m sparsert.evaluate default --dataset dev-v1.1.json --compare onnxruntime --json result.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line: results on stdout, all else on stderr; return the exit status."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--task", default="question-answering", help="what the model is for (default: %(default)s)")
    try:
        scorer = scorer_of(first.parse_known_args(argv)[0].task)
    except SparsertError as error:
        first.error(str(error))
    parser = _parser(first, scorer)
    options = parser.parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    pipeline_options = {name: getattr(options, name) for name in scorer.flags}
    if options.null_odds is not None and not pipeline_options.get("version_2_with_negative"):
        parser.error("--null-odds belongs to --version-2-with-negative")
    try:
        _check_writable(options.json, options.predictions, options.null_odds)
        # A bar on stderr, if that is a terminal.
        quiet = True if options.quiet else None
        with tqdm(unit=" questions", leave=False, disable=quiet, file=sys.stderr) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            result = evaluate(
                options.model,
                options.dataset,
                task=options.task,
                engine=options.engine,
                compare=options.compare,
                max_samples=options.max_samples,
                progress=progress,
                **pipeline_options,
            )
        _write(options.predictions, result.scores.predictions)
        _write(options.null_odds, result.scores.null_odds)
        _write(options.json, result.to_dict())
    except (SparsertError, OSError) as error:
        print(f"sparsert.evaluate: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if options.json != "-":
        print("\n".join(_table(result)))
    return 0


def _parser(first: argparse.ArgumentParser, scorer: type[Scorer]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sparsert.evaluate",
        description="Score the answers of a model on a dataset.",
        epilog=scorer.datasets + _EXAMPLE,
        parents=[first],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", default="default", help="model reference (default: default)"
    )
    parser.add_argument("-d", "--dataset", metavar="FILE", required=True, help="the dataset, JSON or JSON lines")
    parser.add_argument("-e", "--engine", default="sparsert", help="sparsert or onnxruntime (default: sparsert)")
    parser.add_argument("--compare", metavar="ENGINE", help="run this engine on the same windows as well")
    parser.add_argument("-n", "--max-samples", metavar="N", type=int, help="take the first N questions only")
    for name, (kind, text) in scorer.flags.items():
        how: dict[str, Any] = {"action": "store_true"}
        if kind is not bool:
            how = {"type": kind, "metavar": {int: "N", float: "X"}.get(kind)}
        parser.add_argument(f"--{name.replace('_', '-')}", help=text, **how)
    parser.add_argument("--json", metavar="FILE", help="write results, settings and versions as JSON; - is stdout")
    parser.add_argument("--predictions", metavar="FILE", help="write {id: answer}, as the published scripts take it")
    parser.add_argument("--null-odds", metavar="FILE", help="write {id: odds of no answer}, likewise")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    return parser


def _check_writable(*paths: str | None) -> None:
    """Complain before minutes of work, not after them."""
    for path in paths:
        if path not in (None, "-") and (Path(path).is_dir() or not Path(path).parent.is_dir()):
            raise InputError(f"{path} is not a file in an existing directory")


def _write(path: str | None, content: Any) -> None:
    if path is None:
        return
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
    else:
        Path(path).write_text(text, encoding="utf-8")


def _table(result: Evaluation) -> list[str]:
    """The result for reading: a column for each engine."""
    columns = [result.scores, *([result.comparison.scores] if result.comparison else [])]
    rows: list[tuple[str, list[str]]] = [("engine", [scores.engine for scores in columns])]
    for key in result.scores.metrics:
        style = "{:.0f}" if key.endswith("total") else "{:.2f}"
        rows.append((key, [style.format(scores.metrics[key]) for scores in columns]))
    rows.append(("questions/s", [f"{scores.questions_per_second:.1f}" for scores in columns]))
    rows.append(("seconds in engine", [f"{scores.engine_seconds:.1f}" for scores in columns]))
    lines = [
        f"model   {result.model}",
        f"dataset {result.dataset}: {result.questions} questions, {result.windows} windows, {result.tokens} tokens",
        "",
        *(f"{name:<18}" + "".join(f"{value:>14}" for value in values) for name, values in rows),
    ]
    if result.comparison:
        main = result.main_metric
        lines += [
            "",
            f"equal answers              {result.comparison.equal_answers:.2%}",
            f"difference of {main:<13}{result.comparison.metric_differences[main]:+.2f}",
        ]
        for name in ("largest", "mean"):
            value = getattr(result.comparison, f"{name}_logit_difference")
            if value is not None:
                lines.append(f"{name + ' logit difference':<27}{value:.3g}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
