"""What the command lines share: errors on stderr, and the exit status that shells expect."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from sparsert.errors import SparsertError

__all__ = ["run_command"]

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
