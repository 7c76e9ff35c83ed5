"""What the command lines share: exit status, errors on stderr, requests that fail alone, JSON lines, a progress bar."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sparsert.errors import SparsertError

__all__ = ["json_line", "progress_bar", "run_apart", "run_command"]

# What a shell reports for a process that died of SIGINT and SIGPIPE.
_INTERRUPTED, _BROKEN_PIPE = 130, 141


def run_command(name: str, work: Callable[[], bool]) -> int:
    """Run what a command is there for, which says whether something failed; return the exit status.

    Results go to stdout, all else to stderr.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    try:
        try:
            failed = work()
            sys.stdout.flush()
        except SparsertError as error:
            sys.stderr.write(f"{name}: error: {error}\n")
            return 1
        return int(failed)
    except BrokenPipeError:
        # Python flushes stdout once more on its way out, and would complain on stderr.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED


def progress_bar(total: int | None, unit: str, quiet: bool = False) -> Any:
    """A bar on stderr, if that is a terminal; ``quiet`` where it would stand between results."""
    from tqdm import tqdm

    hidden = quiet or total == 1 or not sys.stderr.isatty()
    return tqdm(total=total, unit=f" {unit}", leave=False, disable=hidden, file=sys.stderr)


def run_apart(pipeline: Any, inputs: Sequence[Any]) -> list[Any]:
    """The result of each request, or the error that belongs to it."""
    try:
        return list(pipeline.run_many(inputs, return_exceptions=True))
    except SparsertError as error:
        if len(inputs) == 1:
            return [error]
        # An error of the engine does not say whose it is; one at a time it does.
        return [result for item in inputs for result in run_apart(pipeline, [item])]


def json_line(content: Mapping[str, Any]) -> str:
    """One line of JSON, with letters as they are."""
    text = json.dumps(content, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can say
        return json.dumps(content)
    return text
