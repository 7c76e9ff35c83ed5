"""What the machine can do: peak rates of multiply-accumulates in registers, and the read bandwidth of every cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sparsert import cpu
from sparsert.bench.rates import Rate
from sparsert.bench.timing import Team, best_seconds
from sparsert.kernels.jit import TIER, jit
from sparsert.kernels.simd import Simd, Value, micro_kernel
from sparsert.plan.memory import aligned

__all__ = ["measure_bandwidths", "measure_peaks", "working_sets"]

_CHAINS = 20 if TIER.registers >= 32 else 12
"""Independent sums in registers: enough to hide a latency of 5 cycles at two instructions a cycle, and they fit."""

_LOADS = 8
_TYPICAL = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}
_LARGEST = 512 << 20


def _in_registers(step: Callable[[Simd, Value, Value], Value], floating: bool) -> Any:
    """A loop of ``chain = step(chain, operand)`` over independent chains; nothing is loaded inside.

    Every chain is an operand of its own step, or a compiler would compute what does not change only once.
    """

    @micro_kernel(2)
    def peak(v: Simd, rounds: Value, place: Value) -> None:
        place = v.pointer(place)
        kind = v.f32 if floating else v.i32
        operand = v.load(place, kind)
        chains = [v.variable(v.load(v.at(place, (1 + i) * v.bytes), kind)) for i in range(_CHAINS)]
        with v.loop(rounds):
            for chain in chains:
                chain.set(step(v, chain.get(), operand))
        for i, chain in enumerate(chains):
            v.store(chain.get(), v.at(place, (1 + i) * v.bytes))

    return peak


def _pairs_step(v: Simd, chain: Value, operand: Value) -> Value:
    sums = v.builder.add(v.cast(chain, v.i16), v.multiply_pairs_u8s8(chain, operand))
    return v.cast(sums, v.i32)


def _dot4_step(v: Simd, chain: Value, operand: Value) -> Value:
    return v.dot4(chain, chain, operand)


_int8 = _in_registers(_pairs_step if TIER.pairs else _dot4_step, False)
_fma = _in_registers(lambda v, chain, operand: v.fma(chain, operand, operand), True)


@micro_kernel(4)
def _read(v: Simd, place: Value, size: Value, rounds: Value, out: Value) -> None:
    """Read ``size`` bytes ``rounds`` times with full vectors."""
    place, out = v.pointer(place), v.pointer(out)
    sums = [v.variable(v.zero(v.i32)) for _ in range(_LOADS)]
    with v.loop(rounds), v.loop(size, step=_LOADS * v.bytes) as offset:
        base = v.at(place, offset)
        for k, total in enumerate(sums):
            total.set(v.builder.add(total.get(), v.load(v.at(base, k * v.bytes), v.i32)))
    for k, total in enumerate(sums):
        v.store(total.get(), v.at(out, k * v.bytes))


@jit()
def _run_int8(rounds, place):  # type: ignore[no-untyped-def]
    _int8(rounds, place)


@jit()
def _run_fma(rounds, place):  # type: ignore[no-untyped-def]
    _fma(rounds, place)


@jit()
def _run_read(place, size, rounds, out):  # type: ignore[no-untyped-def]
    _read(place, size, rounds, out)


_ARITHMETIC: dict[str, tuple[Any, int]] = {
    "int8": (_run_int8, TIER.vector_bytes),
    "float": (_run_fma, TIER.vector_bytes // 4),
}
"""Kind of arithmetic -> a loop that does it, and multiply-accumulates of one vector instruction."""


def measure_peaks(teams: Sequence[Team], budget: float) -> dict[str, Rate]:
    """Peak GMAC/s of the instructions that this tier multiplies with, by arithmetic: ``int8`` and ``float``.

    Parameters
    ----------
    teams : sequence of Team
        One core, and all cores.
    budget : float
        Seconds for each measurement.
    """
    peaks = {}
    for arithmetic, (run, macs) in _ARITHMETIC.items():
        peaks[arithmetic] = Rate(*(_peak(team, run, macs, arithmetic == "float", budget) for team in teams))
    return peaks


def _peak(team: Team, run: Any, macs: int, floating: bool, budget: float) -> float:
    registers = [aligned(64 * (1 + _CHAINS)) for _ in range(len(team))]
    for array in registers:  # numbers that stay numbers however often they are multiplied
        array.view(np.float32)[:] = 0.5 if floating else 1.0
    inner = 1000
    seconds = best_seconds(team, lambda member, rounds: run(rounds * inner, registers[member].ctypes.data), budget)
    return len(team) * inner * _CHAINS * macs / seconds / 1e9


def working_sets(sizes: dict[str, int] | None = None) -> dict[str, int]:
    """Bytes to read for the bandwidth of each level: half of a cache for L1 and L2, of its share for L3.

    ``memory`` is several times the L3. Keys are ``L1``, ``L2``, ``L3`` and ``memory``.
    """
    known = cpu.cache_sizes() if sizes is None else sizes
    first, second, third = (known.get(name, 0) for name in ("L1_data", "L2", "L3"))
    first, second, third = first or _TYPICAL["L1"], second or _TYPICAL["L2"], third or _TYPICAL["L3"]
    last = max(2 * second, third // 2)
    sets = {"L1": first // 2, "L2": max(2 * first, second // 2), "L3": last}
    sets["memory"] = max(2 * last, min(4 * third, _LARGEST))
    return {level: -(-size // 4096) * 4096 for level, size in sets.items()}


def measure_bandwidths(teams: Sequence[Team], budget: float, sets: dict[str, int] | None = None) -> dict[str, Rate]:
    """Read bandwidth in GB/s of every level, by the names of :func:`working_sets`.

    The L3 and memory are shared: with several cores each one reads its part of the working set.
    """
    found = {}
    for level, size in (working_sets() if sets is None else sets).items():
        rates = []
        for team in teams:
            share = size // len(team) if level in ("L3", "memory") else size
            share = max(4096, share // 4096 * 4096)
            arrays = [aligned(share) for _ in range(len(team))]
            for array in arrays:
                array[:] = 1  # fresh zero pages of the system would all be one page
            out = [aligned(64 * _LOADS) for _ in range(len(team))]

            def work(member: int, rounds: int, arrays=arrays, out=out, share=share) -> None:  # type: ignore[no-untyped-def]
                _run_read(arrays[member].ctypes.data, share, rounds, out[member].ctypes.data)

            rates.append(len(team) * share / best_seconds(team, work, budget) / 1e9)
        found[level] = Rate(*rates)
    return found
