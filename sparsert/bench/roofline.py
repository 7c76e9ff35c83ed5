"""The roofline of the host: peak rates, bandwidths, and every kernel under its limit (Williams et al., 2009).

A kernel is limited by the peak of its arithmetic and by the bandwidth of the cache that feeds it: attainable
MAC/s = min(peak, bandwidth / bytes loaded for each useful MAC). All figures of kernels are of one core.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sparsert import cpu
from sparsert.bench.machine import caption, describe_machine, now
from sparsert.bench.markdown import markdown_table
from sparsert.bench.rates import Rate
from sparsert.bench.timing import Team, alone, best_seconds

__all__ = [
    "ROOFLINE_KEYS",
    "KernelPoint",
    "Limits",
    "Roofline",
    "measure_limits",
    "measure_roofline",
    "roofline_lines",
]

ROOFLINE_KEYS = {
    "machine": "as in the export of a comparison",
    "date": "when it was measured, ISO 8601 with time zone",
    "cores": "cores behind the figures of all cores",
    "peaks": "GMAC/s of int8 and float multiply-accumulates in registers: one core, and all",
    "bandwidths": "GB/s read from L1, L2, L3 and memory: one core, and all",
    "caches": "bytes of L1 (data), L2 and L3; 0 if unknown",
    "kernels": "for each kernel, on one core: name, arithmetic, sparsity, shape, gmacs (useful GMAC/s), bytes_per_mac "
    "(bytes moved between registers and L1 for each useful MAC), level (cache that holds its activations), limit "
    "(GMAC/s, the lower of peak and bandwidth), bound (which of them), share (gmacs / limit)",
}
"""Keys of the JSON export of a roofline, with their meaning."""

_BUDGET = 0.35
"""Seconds for each figure by default: 12 peaks and bandwidths in two sizes of team, and 11 kernels, in about 15 s."""


@dataclass(frozen=True)
class Limits:
    """What the machine can do.

    Attributes
    ----------
    peaks, bandwidths : dict of str to Rate
        By arithmetic (GMAC/s) and by level of memory (GB/s).
    caches : dict of str to int
        Bytes of ``L1``, ``L2``, ``L3``; 0 if unknown.
    cores : int
        Cores behind ``Rate.all``.
    """

    peaks: dict[str, Rate]
    bandwidths: dict[str, Rate]
    caches: dict[str, int]
    cores: int

    def level(self, footprint: int) -> str:
        """The first cache that holds ``footprint`` bytes; one whose size is unknown holds nothing."""
        return next((name for name, size in self.caches.items() if footprint <= size), "memory")

    def limit(self, arithmetic: str, bytes_per_mac: float, footprint: int, several: bool = False) -> tuple[float, str]:
        """Attainable GMAC/s, and what sets it: an arithmetic or a level of memory.

        Parameters
        ----------
        arithmetic : str
        bytes_per_mac : float
            Bytes moved for each useful multiply-accumulate.
        footprint : int
            Bytes of activations that are read again and again.
        several : bool
            For all cores together instead of one.
        """
        level = self.level(footprint)
        rates = self.peaks[arithmetic], self.bandwidths[level]
        peak, feed = (rate.all if several else rate.one for rate in rates)
        feed /= bytes_per_mac
        return (peak, arithmetic) if peak <= feed else (feed, level)


@dataclass(frozen=True)
class KernelPoint:
    """One kernel under the roof; see the key ``kernels`` of `ROOFLINE_KEYS`."""

    name: str
    arithmetic: str
    sparsity: float
    shape: tuple[int, int]
    gmacs: float
    bytes_per_mac: float
    level: str
    limit: float
    bound: str

    @property
    def share(self) -> float:
        """Part of the limit that the kernel reaches."""
        return self.gmacs / self.limit


@dataclass(frozen=True)
class Roofline:
    """Limits of the machine and the kernels under them."""

    machine: dict[str, Any]
    date: str
    limits: Limits
    kernels: list[KernelPoint]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the keys of `ROOFLINE_KEYS`."""
        limits = dataclasses.asdict(self.limits)
        return {
            "machine": self.machine,
            "date": self.date,
            "cores": limits["cores"],
            "peaks": limits["peaks"],
            "bandwidths": limits["bandwidths"],
            "caches": limits["caches"],
            "kernels": [
                {**dataclasses.asdict(kernel), "shape": list(kernel.shape), "share": kernel.share}
                for kernel in self.kernels
            ],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Roofline:
        """The inverse of :meth:`to_dict`."""
        rates = [{name: Rate(**rate) for name, rate in values[key].items()} for key in ("peaks", "bandwidths")]
        names = [field.name for field in dataclasses.fields(KernelPoint)]
        kernels = [
            KernelPoint(**{name: kernel[name] for name in names} | {"shape": tuple(kernel["shape"])})
            for kernel in values["kernels"]
        ]
        limits = Limits(rates[0], rates[1], values["caches"], values["cores"])
        return cls(values["machine"], values["date"], limits, kernels)


def measure_limits(cores: int | None = None, budget: float = _BUDGET) -> Limits:
    """Measure peaks and bandwidths on one core and on the first ``cores``, ``budget`` s a figure.

    By default there are as many cores as :func:`~sparsert.cpu.default_cores` says.
    """
    # Imported here, since it brings Numba, which a comparison of engines does without.
    from sparsert.bench.peaks import measure_bandwidths, measure_peaks
    from sparsert.kernels.cache import announce_compilation

    announce_compilation(cpu.isa())
    chosen = cpu.core_list()[: cores or cpu.default_cores()]
    sizes = cpu.cache_sizes()
    with Team(chosen[:1]) as one, Team(chosen) as several:
        teams = (one, several)
        peaks, bandwidths = measure_peaks(teams, budget), measure_bandwidths(teams, budget)
    caches = {"L1": sizes["L1_data"], "L2": sizes["L2"], "L3": sizes["L3"]}
    return Limits(peaks, bandwidths, caches, len(chosen))


def measure_roofline(
    cores: int | None = None,
    budget: float = _BUDGET,
    progress: Callable[[str, float], None] | None = None,
) -> Roofline:
    """Measure the limits, then every kernel on one core.

    Parameters
    ----------
    cores : int, optional
        Cores for the figures of all cores; by default all that this process may use.
    budget : float
        Seconds for each figure.
    progress : callable, optional
        Called with what is going on and the finished fraction.
    """
    from sparsert.bench.kernel_rates import CASES, make_work

    say = progress or (lambda label, fraction: None)
    say("peak rates and bandwidths", 0.0)
    limits = measure_limits(cores, budget)
    points = []
    with Team(cpu.core_list()[:1]) as team:
        for index, case in enumerate(CASES):
            say(case.name, (14 + index) / (14 + len(CASES)))
            work = make_work(case)
            seconds = best_seconds(team, alone(work.run), budget)
            bytes_per_mac = work.nbytes / work.macs
            limit, bound = limits.limit(case.arithmetic, bytes_per_mac, work.footprint)
            points.append(
                KernelPoint(
                    name=case.name,
                    arithmetic=case.arithmetic,
                    sparsity=case.sparsity,
                    shape=case.shape,
                    gmacs=work.macs / seconds / 1e9,
                    bytes_per_mac=bytes_per_mac,
                    level=limits.level(work.footprint),
                    limit=limit,
                    bound=bound,
                )
            )
    return Roofline(describe_machine(), now(), limits, points)


def roofline_lines(roofline: Roofline) -> list[str]:
    """Tables of a roofline as Markdown."""
    limits = roofline.limits
    rates = [["limit", "one core", f"{limits.cores} cores", "unit"]]
    rates += [
        [f"{arithmetic} in registers", f"{r.one:.1f}", f"{r.all:.1f}", "GMAC/s"]
        for arithmetic, r in limits.peaks.items()
    ]
    rates += [[f"read from {level}", f"{r.one:.1f}", f"{r.all:.1f}", "GB/s"] for level, r in limits.bandwidths.items()]
    kernels = [["kernel, one core", "out x in", "GMAC/s", "bytes/MAC", "limit", "by", "share"]]
    for kernel in roofline.kernels:
        kernels.append(
            [
                kernel.name,
                "x".join(map(str, kernel.shape)),
                f"{kernel.gmacs:.1f}",
                f"{kernel.bytes_per_mac:.2f}",
                f"{kernel.limit:.1f}",
                kernel.bound,
                f"{kernel.share:.0%}",
            ]
        )
    return [
        f"Roofline of {caption(roofline.machine, roofline.date)}",
        "",
        *markdown_table(rates),
        "",
        *markdown_table(kernels),
        "",
        "GMAC/s: useful (nonzero) multiply-accumulates. bytes/MAC: moved between registers and L1. limit: the lower of "
        "the peak of the arithmetic and the bandwidth of the cache that holds the activations.",
    ]
