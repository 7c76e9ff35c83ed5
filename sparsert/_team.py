"""Teams of Numba threads: which threading layer runs them, and which core each thread stays on."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic
from numba.np.ufunc import parallel as numba_parallel

from sparsert.errors import EngineError
from sparsert.kernels.jit import jit

__all__ = ["compile_pinning", "inherited_gnu_openmp", "max_threads", "parallel_guard", "prepare"]

_log = logging.getLogger(__name__)

_PRIORITY = ["omp", "tbb", "workqueue"]

# workqueue aborts the process when two Python threads enter parallel kernels at once, so one lock covers all of ours.
_workqueue_lock = threading.Lock()
_prepare_lock = threading.Lock()


def max_threads() -> int:
    """The most threads that one team may have (``NUMBA_NUM_THREADS``)."""
    return int(numba.config.NUMBA_NUM_THREADS)


def _choose_layer() -> None:
    """Prefer OpenMP, unless the user chose a layer: one region costs 1 us there, 100 us on workqueue."""
    user_chose = "NUMBA_THREADING_LAYER" in os.environ or "NUMBA_THREADING_LAYER_PRIORITY" in os.environ
    if not user_chose and numba.config.THREADING_LAYER == "default" and not numba_parallel._is_initialized:
        numba.config.THREADING_LAYER_PRIORITY = list(_PRIORITY)


def _layer() -> str:
    """The layer that was loaded, or ``""`` before any was."""
    return numba.threading_layer() if numba_parallel._is_initialized else ""


def inherited_gnu_openmp() -> bool:
    """Whether this process, just forked, carries a GNU OpenMP runtime that its parent had started."""
    return sys.platform.startswith("linux") and _layer() == "omp"


def parallel_guard() -> contextlib.AbstractContextManager[Any]:
    """What to hold while parallel kernels run: a process-wide lock on workqueue, nothing elsewhere."""
    return _workqueue_lock if _layer() == "workqueue" else contextlib.nullcontext()


@intrinsic
def _sched_setaffinity(typingctx, address, size, mask):  # type: ignore[no-untyped-def]
    """Call ``sched_setaffinity(0, size, mask)`` at ``address``: unlike a ctypes global, an address can be cached."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        function_type = ir.FunctionType(ir.IntType(32), [ir.IntType(32), ir.IntType(64), ir.IntType(64)])
        function = builder.inttoptr(args[0], function_type.as_pointer())
        return builder.call(function, [ir.Constant(ir.IntType(32), 0), args[1], args[2]])

    return types.int32(types.int64, types.int64, types.int64), codegen


@jit(parallel=True)
def _pin_team(address, masks, status):  # type: ignore[no-untyped-def]
    for item in prange(masks.shape[0]):
        thread = numba.get_thread_id()
        # OpenMP deals one item to each thread of the team, thread t the item t; anything else must show as a failure.
        status[item] = _sched_setaffinity(address, masks.shape[1], masks[thread].ctypes.data) + thread - item


def compile_pinning() -> None:
    """Compile, or load from the cache, what :func:`prepare` pins threads with."""
    _pin_team.compile((types.int64, types.uint8[:, ::1], types.int64[::1]))


@functools.lru_cache(maxsize=1)
def _libc_sched_setaffinity() -> int:
    function = ctypes.CDLL(None, use_errno=True).sched_setaffinity
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)


def _pin(cores: Sequence[int]) -> None:
    os.sched_setaffinity(0, {cores[0]})
    if len(cores) == 1 or _layer() != "omp" or numba.config.DISABLE_JIT:
        return
    masks = np.zeros((len(cores), 8 * (max(cores) // 64 + 1)), np.uint8)
    for thread, core in enumerate(cores):
        masks[thread, core // 8] = 1 << (core % 8)
    status = np.full(len(cores), -1, np.int64)
    _pin_team(_libc_sched_setaffinity(), masks, status)
    if status.any():
        _log.warning("threads could not all be pinned to cores %s; they may migrate, which costs speed", list(cores))


def prepare(threads: int, cores: Sequence[int] | None) -> None:
    """Make the calling thread the master of a team of ``threads``, pinned one by one to ``cores`` unless that is None.

    The number of threads of a team must not change afterwards: OpenMP would end the surplus threads, and start new ones
    on the master's only core.

    Raises
    ------
    EngineError
        Numba has no threading layer of the kind that the environment asks for.
    """
    with _prepare_lock:
        _choose_layer()
        try:
            # Loads the layer before any pinning: libgomp counts the cores of the thread that loads it.
            numba.set_num_threads(threads)
        except (ImportError, ValueError) as error:
            raise EngineError(
                f"Numba cannot start {threads} threads: {error}. Unset NUMBA_THREADING_LAYER, or set it to "
                "workqueue, which is always there"
            ) from error
    if cores is not None:
        try:
            _pin(cores)
        except OSError as error:
            _log.warning("cannot pin threads to cores %s: %s", list(cores), error)
