"""Timing the steps of a program one by one, with the kernels, arrays and threads of a normal run."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from sparsert.ops.steps import PackedLinear, Step
from sparsert.plan.instance import Instance
from sparsert.plan.parts import SegmentPart
from sparsert.plan.program import Program
from sparsert.plan.report import StepReport

__all__ = ["StepTiming", "time_steps"]


@dataclass(frozen=True)
class StepTiming:
    """Seconds of one step, one number a pass.

    Attributes
    ----------
    reports : list of StepReport
        The nodes that it stands for; empty for a step that only moves an input or output.
    step : Step or None
        The step of the run loop; None for a node that runs on arrays.
    packed : PackedLinear or None
        Weights of a Linear.
    sequences : tuple of int
        Number of sequences, and tokens in each, that it ran over; (0, 0) for a node that runs on arrays.
    seconds : float64 array, shape (passes,)
    """

    reports: list[StepReport]
    step: Step | None
    packed: PackedLinear | None
    sequences: tuple[int, int]
    seconds: np.ndarray


def time_steps(
    threads: int, program: Program, feeds: dict[str, np.ndarray], budget: float
) -> tuple[list[StepTiming], np.ndarray]:
    """Run a program again and again for ``budget`` seconds, in turns as a whole and step by step.

    Steps that would run together, a tile after the other, run one after the other over all tiles, so a tile's values
    may have left the caches in between. What Python does around the run loop is part of the whole alone.

    Parameters
    ----------
    threads : int
        As for :meth:`Program.run`; the calling thread must be a stream's.
    program : Program
    feeds : dict
        One array per graph input.
    budget : float
        Seconds; at least three passes are made in any case.

    Returns
    -------
    list of StepTiming
        In the order of execution.
    float64 array
        Seconds of each whole run.
    """
    instances: dict[int, Instance] = {}
    program.run(feeds, threads)
    _run_timed(program, feeds, threads, instances)
    whole: list[float] = []
    passes: list[list[np.ndarray]] = []
    deadline = time.perf_counter() + budget
    while len(passes) < 3 or time.perf_counter() < deadline:
        begin = time.perf_counter()
        program.run(feeds, threads)
        whole.append(time.perf_counter() - begin)
        seconds, sequences = _run_timed(program, feeds, threads, instances)
        passes.append(seconds)
    return _describe(program, passes, sequences), np.array(whole)


def _run_timed(
    program: Program, feeds: dict[str, np.ndarray], threads: int, instances: dict[int, Instance]
) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """Seconds of every step of one pass, and over how many sequences and tokens each part of the program ran."""
    values = program.start(feeds)
    known = program.known(feeds)
    values.update(known or {})
    seconds, sequences = [], []
    for position, part in enumerate(program.parts):
        if isinstance(part, SegmentPart):
            call = part.call_for(values, threads)
            if position not in instances:
                instances[position] = Instance(part.segment, *call.limits, separate_steps=True)
            results, taken = instances[position].timed_call(values, call.layout, call.lead, call.items)
            values.update(results)
            sequences.append((call.items, call.tokens))
        else:
            begin = time.perf_counter()
            if known is None or not program.follows_from_shapes(part):
                with np.errstate(all="ignore"):  # as in a run
                    part.execute(values, threads)
            taken = np.array([time.perf_counter() - begin])
            sequences.append((0, 0))
        seconds.append(taken)
        for name in part.dead:
            values.pop(name, None)
    return seconds, sequences


def _describe(program: Program, passes: list[list[np.ndarray]], sequences: list[tuple[int, int]]) -> list[StepTiming]:
    timings = []
    reports = iter(program.reports)
    for position, part in enumerate(program.parts):
        seconds = np.stack([taken[position] for taken in passes])
        if not isinstance(part, SegmentPart):
            timings.append(StepTiming([next(reports)], None, None, sequences[position], seconds[:, 0]))
            continue
        segment = part.segment
        own = [next(reports) for _ in range(segment.node_count)]
        for index, (step, nodes) in enumerate(zip(segment.steps, segment.covered, strict=True)):
            named = [own[node] for node in nodes]
            timings.append(StepTiming(named, step, step.linear, sequences[position], seconds[:, index]))
    return timings
