"""``python -m sparsert.classify``: labels, or entities, of texts from the shell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from sparsert._command import json_line, progress_bar, run_apart, run_command
from sparsert._texts import FORMATS, TextRecord, at_most, format_of, read_texts
from sparsert.errors import InputError

__all__ = ["main"]

_EXAMPLES = """\
examples:
  python -m sparsert.classify --model FOLDER "I like bees." "I do not like wasps."
  python -m sparsert.classify --model FOLDER --input reviews.jsonl --field review > labels.jsonl
  python -m sparsert.classify --model FOLDER --labels "sports, politics" --input headlines.txt
  cat texts.txt | python -m sparsert.classify --model FOLDER --task ner --aggregation-strategy simple

input:
  Texts as arguments, or a text a line (.txt, and stdin unless --format says else), JSON lines (.jsonl: objects with the
  text under "text" and in a pair the other one under "text_pair", or strings), or a table with a line of names (.csv,
  .tsv).

output, one JSON object a line, in the order of the texts:
  id (if the record has one), text, text_pair (of a pair), and
  label and score; with --top-k and for zero-shot, labels and scores, best first; for entities, a list of entities.
  A text that cannot be read gives {"line": ..., "error": ...} in its place, and the rest goes on. Results are written
  as soon as they are there, so the other end may wait for one before it sends the next text.

exit status:
  0  every text has its labels
  1  some have none, or the texts or the model could not be read
  2  wrong usage
"""

_ZERO_SHOT = "zero_shot_text_classification"

# Options of the pipelines; those that a task does not have are refused.
_PIPELINE_OPTIONS = (
    "engine_type", "model_file", "num_cores", "sequence_length", "top_k", "function_to_apply", "labels", "multi_label",
    "hypothesis_template", "aggregation_strategy",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Classify texts: results on stdout, all else on stderr; return the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.texts and options.input is not None:
        parser.error("give TEXT or --input, not both")
    if options.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, got {options.batch_size}")
    return run_command("sparsert.classify", lambda: _classify_all(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sparsert.classify",
        description="Give texts their labels.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="a text; may be repeated")
    parser.add_argument("-m", "--model", required=True, help="model reference, such as a folder")
    parser.add_argument(
        "-t",
        "--task",
        help="text-classification, zero-shot-text-classification or token-classification, or another name of these "
        "(default: zero-shot with --labels, else what the model's folder says)",
    )
    parser.add_argument("-i", "--input", metavar="FILE", help="the texts, in UTF-8; - is stdin (the default)")
    parser.add_argument("--format", choices=FORMATS, help="of the input (default: by its name)")
    parser.add_argument("--field", default="text", help="key or column that has the text (default: text)")
    parser.add_argument("--pair-field", default="text_pair", help="key or column of a second text (default: text_pair)")
    parser.add_argument("-k", "--top-k", help="so many labels of each text, best first, or all (default: the best one)")
    parser.add_argument("--function-to-apply", help="softmax, sigmoid or none (default: as config.json says)")
    parser.add_argument("--labels", help="zero-shot: the labels to choose from, with commas between them")
    parser.add_argument("--multi-label", action="store_true", default=None, help="zero-shot: each label by itself")
    parser.add_argument("--hypothesis-template", help="zero-shot: what is asked of each label, which stands for {}")
    parser.add_argument("--aggregation-strategy", help="entities: none (default), simple, first, average or max")
    parser.add_argument("--sequence-length", metavar="N", type=int, help="most tokens of a row")
    parser.add_argument("--batch-size", metavar="N", type=int, default=64, help="most texts at a time (default: 64)")
    parser.add_argument("--model-file", metavar="FILE", help="which ONNX file of the model")
    parser.add_argument("-e", "--engine", dest="engine_type", help="sparsert or onnxruntime (default: sparsert)")
    parser.add_argument("--num-cores", metavar="N", type=int, help="cores to use (default: all)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    return parser


def _classify_all(options: argparse.Namespace) -> bool:
    """Classify everything and write the results; whether any text failed."""
    pipeline = _pipeline(options)
    schema, field = pipeline.input_schema, pipeline.main_field
    failed = False
    with progress_bar(len(options.texts) or None, "texts", options.quiet or sys.stdout.isatty()) as bar:
        for records in at_most(_records(options), options.batch_size):
            requests = [_request(record, pipeline.task, options.pair_field) for record in records]
            inputs = [schema(**{field: request}) for request in requests if not isinstance(request, str)]
            outcomes = iter(run_apart(pipeline, inputs))
            for record, request in zip(records, requests, strict=True):
                outcome = request if isinstance(request, str) else next(outcomes)
                failed |= isinstance(outcome, (str, Exception))
                sys.stdout.write(f"{_line(record, request, outcome)}\n")
            sys.stdout.flush()
            bar.update(len(records))
    return failed


def _pipeline(options: argparse.Namespace) -> Any:
    from sparsert.pipelines import Pipeline

    task = options.task or _task_of(options)
    known = {item.name for item in fields(Pipeline.class_of(task).options_type)}
    chosen = {name: getattr(options, name) for name in _PIPELINE_OPTIONS if getattr(options, name) is not None}
    for name in chosen:
        if name not in known:
            raise InputError(f"--{name.replace('_', '-')} does not belong to task {task}; leave it out")
    if "top_k" in chosen:
        chosen["top_k"] = _number_or_all(options.top_k)
    return Pipeline.create(task, options.model, **chosen)


def _task_of(options: argparse.Namespace) -> str:
    """The task where none is given."""
    from sparsert.model_config import read_config
    from sparsert.zoo import resolve

    if options.labels is not None:
        return _ZERO_SHOT
    found = read_config(resolve(options.model, purpose="pipeline", file=options.model_file).directory).task
    return "token_classification" if found == "token-classification" else "text_classification"


def _number_or_all(value: str) -> int | None:
    if value == "all":
        return None
    try:
        return int(value)
    except ValueError:
        raise InputError(f"--top-k must be a number or all, got {value!r}") from None


def _records(options: argparse.Namespace) -> Iterator[list[TextRecord]]:
    if options.texts:
        return iter([[TextRecord(number, text) for number, text in enumerate(options.texts, 1)]])
    path = options.input or "-"
    if path == "-" and sys.stdin.isatty():
        sys.stderr.write("sparsert.classify: type texts, one a line, then Ctrl-D\n")
    return read_texts(path, options.format or format_of(path), options.field)


def _request(record: TextRecord, task: str, pair_field: str) -> list[Any] | str:
    """What the pipeline is asked: its texts, of which there is one, or what is wrong with it."""
    if record.error is not None:
        return record.error
    pair = record.content.get(pair_field) if task == "text_classification" else None
    if pair in (None, ""):
        return [record.text]
    return [[record.text, pair]] if isinstance(pair, str) else f"{pair_field!r} must be a string; got {pair!r:.40}"


def _line(record: TextRecord, request: list[Any] | str, outcome: Any) -> str:
    """One line of JSON."""
    content: dict[str, Any] = {"id": record.content["id"]} if "id" in record.content else {}
    if isinstance(outcome, (str, Exception)):
        return json_line(content | {"line": record.line, "error": str(outcome)})
    content["text"] = record.text
    if isinstance(request[0], list):
        content["text_pair"] = request[0][1]
    found = outcome.model_dump()
    if "predictions" in found:
        return json_line(content | {"entities": found["predictions"][0]})
    several = "s" if isinstance(found["labels"][0], list) else ""
    return json_line(content | {f"label{several}": found["labels"][0], f"score{several}": found["scores"][0]})


if __name__ == "__main__":
    sys.exit(main())
