"""``python -m sparsert.ask``: answer questions about a text from the shell."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from sparsert._command import json_line, progress_bar, run_apart, run_command
from sparsert._texts import arrived_lines, at_most
from sparsert.errors import InputError

__all__ = ["main"]

_EXAMPLES = """\
examples:
  python -m sparsert.ask --context-file report.txt "Who wrote it?" "When?"
  pdftotext paper.pdf - | python -m sparsert.ask --json --top-k 3 "What is proposed?"
  python -m sparsert.ask --jsonl < requests.jsonl > answers.jsonl

JSON lines (--jsonl):
  One request a line on stdin, {"question": ..., "context": ...}; with --context-file or --context, a request needs no
  context of its own. One result a line on stdout, in the same order: question, id if the request has one, and answer,
  score, start and end (answer == context[start:end], in code points); with --top-k, a list of these under answers. A
  request that cannot be answered gives {"line": ..., "error": ...} in its place, and the rest goes on. Results are
  written as soon as they are there, so the other end may wait for one before it sends the next request.

exit status:
  0  every question was answered (perhaps by nothing, with --allow-no-answer)
  1  some were not, or the text or the model could not be read
  2  wrong usage
"""


@dataclass(frozen=True)
class _Request:
    """A question, or the reason why there is none; ``echo`` goes into its result."""

    question: str = ""
    context: str = ""
    echo: dict[str, Any] = field(default_factory=dict)
    place: dict[str, Any] = field(default_factory=dict)
    """Where an error is reported to have come from."""
    error: str | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Answer questions: results on stdout, all else on stderr; return the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    _check_usage(parser, options)
    return run_command("sparsert.ask", lambda: _answer_all(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sparsert.ask",
        description="Answer questions with pieces of a text.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("questions", metavar="QUESTION", nargs="*", help="a question about the text; may be repeated")
    text = parser.add_mutually_exclusive_group()
    text.add_argument("-f", "--context-file", metavar="FILE", help="the text, in UTF-8; - is stdin (the default)")
    text.add_argument("-c", "--context", metavar="TEXT", help="the text itself")
    parser.add_argument("--jsonl", action="store_true", help="read requests from stdin as JSON lines, see below")
    parser.add_argument("--json", action="store_true", help="print one JSON object a question instead of its answer")
    parser.add_argument("-m", "--model", default="default", help="model reference (default: the one that ships inside)")
    parser.add_argument("-e", "--engine", default="sparsert", help="sparsert or onnxruntime (default: sparsert)")
    parser.add_argument("-k", "--top-k", type=int, help="print so many answers to each question, best first")
    parser.add_argument("--scoring", help="deepsparse or huggingface, see docs/pipelines.md (default: deepsparse)")
    parser.add_argument("--allow-no-answer", action="store_true", help='let "no answer" win; it is an empty line')
    parser.add_argument("--sequence-length", type=int, help="tokens of a window (default: 128)")
    parser.add_argument("--doc-stride", type=int, help="tokens that consecutive windows share (default: 64)")
    parser.add_argument("--max-answer-length", type=int, help="most tokens of an answer (default: 15)")
    parser.add_argument("--num-cores", type=int, help="cores to use (default: all)")
    parser.add_argument("--batch-size", type=int, default=64, help="most questions to answer together (default: 64)")
    return parser


def _check_usage(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.jsonl and options.questions:
        parser.error("--jsonl reads its questions from stdin; leave out QUESTION")
    if options.jsonl and options.context_file == "-":
        parser.error("--jsonl and --context-file - both want stdin")
    if not options.jsonl and not options.questions:
        parser.error("give a QUESTION, or --jsonl")
    if options.batch_size < 1:
        parser.error(f"--batch-size must be at least 1, got {options.batch_size}")
    if options.top_k is not None and options.top_k < 1:
        parser.error(f"--top-k must be at least 1, got {options.top_k}")


def _answer_all(options: argparse.Namespace) -> bool:
    """Answer everything and write the results; whether any request failed."""
    context = _shared_context(options)
    batches = _json_requests(sys.stdin.buffer, context) if options.jsonl else iter([_own_requests(options, context)])
    pipeline = _pipeline(options)
    listed = options.top_k is not None
    failed = False
    with progress_bar(None if options.jsonl else len(options.questions), "questions", sys.stdout.isatty()) as bar:
        for requests in at_most(batches, options.batch_size):
            for request, outcome in zip(requests, _outcomes(pipeline, requests), strict=True):
                failed |= isinstance(outcome, str)
                as_line = _as_json if options.jsonl or options.json else _as_text
                sys.stdout.write(f"{as_line(request, outcome, listed)}\n")
            sys.stdout.flush()
            bar.update(len(requests))
    return failed


def _pipeline(options: argparse.Namespace) -> Any:
    from sparsert.pipelines import Pipeline

    names = ("top_k", "scoring", "sequence_length", "doc_stride", "max_answer_length", "num_cores")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.allow_no_answer:
        chosen["version_2_with_negative"] = True
    return Pipeline.create("question-answering", options.model, engine_type=options.engine, **chosen)


# ---- requests --------------------------------------------------------------------------------------------------------


def _shared_context(options: argparse.Namespace) -> str | None:
    """The text that all questions are about; None if each request brings its own."""
    if options.context is not None:
        return str(options.context)
    path = options.context_file
    if path is None:
        if options.jsonl:
            return None
        path = "-"
    try:
        if path == "-":
            if sys.stdin.isatty():
                sys.stderr.write("sparsert.ask: type the text, then Ctrl-D\n")
            content = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                content = file.read()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        name = "stdin" if path == "-" else path
        raise InputError(f"{name} is not UTF-8: {error.reason} at byte {error.start}; convert it with iconv") from error


def _own_requests(options: argparse.Namespace, context: str | None) -> list[_Request]:
    return [
        _Request(question, context or "", echo={"question": question}, place={"number": number})
        for number, question in enumerate(options.questions, 1)
    ]


def _json_requests(stream: BinaryIO, context: str | None) -> Iterator[list[_Request]]:
    """The requests of JSON lines, as many at a time as have arrived."""
    number = 0
    for lines in arrived_lines(stream):
        requests = []
        for line in lines:
            number += 1
            if line.strip():
                requests.append(_json_request(line, number, context))
        if requests:
            yield requests


def _json_request(line: bytes, number: int, context: str | None) -> _Request:
    """Read one line; whatever is wrong with it becomes the request's error."""
    place: dict[str, Any] = {"line": number}
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        return _Request(place=place, error=f"not JSON: {error}")
    if not isinstance(content, dict):
        return _Request(
            place=place, error=f"expected a JSON object, got {line.strip()[:40].decode('utf-8', 'replace')}"
        )
    echo = {key: content[key] for key in ("id", "question") if key in content}
    texts: dict[str, Any] = {"context": context} | content
    for key in ("question", "context"):
        if not isinstance(texts.get(key), str):
            came = f"its keys are {sorted(content)}" if texts.get(key) is None else f"got {texts[key]!r:.40}"
            return _Request(echo=echo, place=place, error=f"{key!r} must be a string; {came}")
    return _Request(texts["question"], texts["context"], echo, place)


# ---- results ---------------------------------------------------------------------------------------------------------


def _outcomes(pipeline: Any, requests: Sequence[_Request]) -> list[list[dict[str, Any]] | str]:
    """For each request its answers, best first, or what is wrong with it."""
    from sparsert.pipelines import QuestionAnsweringInput

    inputs = [
        QuestionAnsweringInput(question=request.question, context=request.context)
        for request in requests
        if request.error is None
    ]
    results = iter(run_apart(pipeline, inputs))
    return [_outcome(next(results)) if request.error is None else request.error for request in requests]


def _outcome(result: Any) -> list[dict[str, Any]] | str:
    if isinstance(result, Exception):
        return str(result)
    return [output.model_dump(exclude_none=True) for output in (result if isinstance(result, list) else [result])]


def _as_json(request: _Request, outcome: list[dict[str, Any]] | str, listed: bool) -> str:
    """One line of JSON."""
    content = dict(request.echo)
    if isinstance(outcome, str):
        content |= request.place | {"error": outcome}
    else:
        content |= {"answers": outcome} if listed else outcome[0]
    return json_line(content)


def _as_text(request: _Request, outcome: list[dict[str, Any]] | str, listed: bool) -> str:
    """One line an answer, whatever spaces and line breaks are in it; of several answers, with scores, a paragraph."""
    number = request.place["number"]
    if isinstance(outcome, str):
        sys.stderr.write(f"sparsert.ask: question {number}: {outcome}\n")
        outcome = [] if listed else [{"answer": ""}]
    if not listed:
        return " ".join(outcome[0]["answer"].split())
    lines = [f"{answer['score']:.4f}\t{' '.join(answer['answer'].split())}" for answer in outcome]
    return "\n".join(lines if number == 1 else ["", *lines])


if __name__ == "__main__":
    sys.exit(main())
