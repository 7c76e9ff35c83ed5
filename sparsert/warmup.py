"""``python -m sparsert.warmup``: compile all kernels for this CPU and keep them on disk, ahead of the first request."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsert.errors import EngineError, SparsertError

__all__ = ["Warmup", "main", "warmup"]


@dataclass(frozen=True)
class Warmup:
    """What :func:`warmup` did."""

    isa: str
    directory: Path
    """Where the kernels are cached, in folders of which each belongs to one folder of sources."""
    seconds: float
    compiled: int
    """Functions that were compiled now; the rest was in the cache."""
    removed: int
    """Files of other versions of the kernels that were deleted."""


def warmup(progress: Callable[[str, int, int], None] | None = None) -> Warmup:
    """Compile, or load from the cache, all that running a model takes.

    Parameters
    ----------
    progress
        Called before each function with its name, its number from 1 on, and how many there are.

    Raises
    ------
    EngineError
        No folder for the cache can be written.
    """
    from numba.core import event

    from sparsert.kernels import cache
    from sparsert.kernels.jit import FINGERPRINT, TIER, cache_folders, jit

    if cache.directory(jit) is None:
        wanted = os.environ.get("NUMBA_CACHE_DIR")
        raise EngineError(
            "No folder for compiled kernels can be written: neither "
            + (f"NUMBA_CACHE_DIR ({wanted}), " if wanted else "")
            + f"{Path(cache.__file__).parent / '__pycache__'} nor the user's cache. Set NUMBA_CACHE_DIR to a folder "
            "that this user may write to, for this command and for the program that runs models"
        )
    start = time.perf_counter()
    jobs = list(_jobs())
    with event.install_recorder("numba:compile") as recorder:
        for number, (name, job) in enumerate(jobs, 1):
            if progress is not None:
                progress(name, number, len(jobs))
            job()
    names = {
        compiled.data["dispatcher"].py_func.__qualname__ for _, compiled in recorder.buffer if compiled.is_start
    }  # also inner functions, which are cached with those that call them
    folders = cache_folders()
    removed = sum(len(cache.remove_stale(folder, FINGERPRINT)) for folder in folders)
    ours = sum(FINGERPRINT in name for name in names)
    root = Path(os.path.commonpath(folders))
    return Warmup(TIER.name, root, time.perf_counter() - start, ours, removed)


def _jobs() -> Iterator[tuple[str, Callable[[], object]]]:
    """A name and a call for each function that is compiled for use from Python."""
    import numpy as np
    from numba import int64

    from sparsert import _team
    from sparsert.kernels.formats import FORMATS, matrix
    from sparsert.kernels.loop import linear, places, run

    integers, floats = np.ones((3, 8), np.int16), np.ones((3, 8), np.float32)
    yield "reading of integers", lambda: matrix.integer_rows(np.ones((8, 3), np.uint8), 0)
    yield "reading of floats", lambda: matrix.float_rows(floats)
    for record in FORMATS.values():
        yield f"packing as {record.name}", functools.partial(record.pack, floats if record.floating else integers)
    yield "pinning of threads", _team.compile_pinning
    yield "accumulators", linear.accumulator_entry
    yield "stages", places.stage_entry
    yield "kernels", run.run_entry
    table = int64[:, ::1]
    yield "run loop", lambda: run.run_regions.compile((table, table, table, table, int64, int64, int64, int64))


def main(argv: Sequence[str] | None = None) -> int:
    """Fill the cache; say what was done on stdout and progress on stderr; return the exit status."""
    argparse.ArgumentParser(
        prog="python -m sparsert.warmup",
        description="Compile all kernels for this CPU (or for the tier that SPARSERT_ISA names) and keep them on disk. "
        "They go to NUMBA_CACHE_DIR if that is set, else to __pycache__ beside the package if that can be written, "
        "else to the user's cache; a program finds them under the same setting.",
    ).parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    try:
        done = warmup(lambda name, number, count: print(f"[{number}/{count}] {name}", file=sys.stderr, flush=True))
    except (SparsertError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"tier       {done.isa}")
    print(f"cache      {done.directory}")
    print(f"compiled   {f'{done.compiled} functions' if done.compiled else 'nothing, all was there'}")
    print(f"seconds    {done.seconds:.1f}")
    if done.removed:
        print(f"removed    {done.removed} files of other versions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
