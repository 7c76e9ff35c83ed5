"""How the cores of a machine are divided among worker processes."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sparsert import cpu
from sparsert.context import pinning_asked

__all__ = ["core_groups", "default_workers", "free_slot", "place_worker"]

_MOST_CORES = 8
"""Cores of a worker by default. One Python process parses and answers a few thousand requests a second at most, which
eight cores of a small model can ask for; and larger caches are shared by eight cores on the CPUs that this is for."""


def default_workers(cores: int | None = None) -> int:
    """Number of workers where none is asked for: one for each last-level cache, more if that has over eight cores."""
    return sum(-(-len(group) // _MOST_CORES) for group in cpu.l3_groups(_usable(cores)))


def core_groups(workers: int, cores: int | None = None) -> list[list[int]]:
    """The logical CPUs of each worker: neighbouring cores with all their hyperthreads.

    Parameters
    ----------
    workers
        Number of workers. With more workers than cores, several share one.
    cores
        Physical cores to use, at most those that the process may use; :func:`sparsert.cpu.default_cores` by default.
    """
    usable = _usable(cores)
    workers_with_own = min(workers, len(usable))
    parts = [
        usable[part * len(usable) // workers_with_own : (part + 1) * len(usable) // workers_with_own]
        for part in range(workers_with_own)
    ]
    siblings = _siblings(usable)
    groups = [[logical for core in part for logical in siblings[core]] for part in parts]
    return [groups[worker % len(groups)] for worker in range(workers)]


def _usable(cores: int | None) -> list[int]:
    return cpu.core_list()[: min(cores or cpu.default_cores(), cpu.available_cores())]


def _siblings(cores: Sequence[int]) -> dict[int, list[int]]:
    """All logical CPUs of each core, the core's own first."""
    siblings = {core: [core] for core in cores}
    for logical in cpu.thread_list():
        for core in cores:
            if logical != core and len(cpu.core_list([core, logical])) == 1:
                siblings[core].append(logical)
    return siblings


def free_slot(taken: Sequence[int], slots: int) -> int:
    """The slot that the fewest live workers have; during a reload old and new workers exist side by side."""
    return min(range(slots), key=list(taken).count)


def place_worker(groups: Sequence[Sequence[int]], slot: int, pinning: str) -> None:
    """Give this process its share of the cores. Call after the fork, before any engine is built.

    The process is bound to its own logical CPUs if the workers take all there are. Otherwise other processes are meant
    to run beside them, perhaps another server, and then it only takes as many, wherever the system puts its threads.

    Parameters
    ----------
    groups
        The logical CPUs of all workers.
    slot
        Which of the groups is its own.
    pinning : {"core", "numa", "none"}
        A core for each thread; the worker's group for all of them; nothing.
    """
    own = groups[slot]
    take_all = {logical for group in groups for logical in group} >= set(cpu.thread_list())
    bind = pinning != "none" and (take_all or pinning_asked())
    os.environ["SPARSERT_NUM_THREADS"] = str(len(cpu.core_list(own)))
    if pinning != "core":
        os.environ["SPARSERT_PIN"] = "0"
    if bind and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, own)
