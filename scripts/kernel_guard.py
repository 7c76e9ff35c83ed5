"""A guard against slow kernels: their speed over that of plain NumPy and SciPy on the same work, and recorded ratios.

Two programs on one machine at one time slow down alike, so a ratio holds where a time would not. It still depends on
the CPU, hence the generous bar, and the retries.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparsert.bench.timing import Team, alone, best_seconds
from sparsert.errors import InputError

__all__ = ["FRACTION", "Verdict", "guard", "judge", "load_recorded", "measure_ratios"]

_log = logging.getLogger(__name__)

FRACTION = 1 / 3
"""Part of the recorded ratio below which a kernel counts as slow: noise and other CPUs stay above, a lost vector
instruction or a kernel that fell back to another form does not."""

ATTEMPTS = 3
"""Measurements of a kernel before it fails; the best counts."""

_TOKENS = 128
_BUDGET = 0.8
_TURNS = 4


@dataclass(frozen=True)
class Verdict:
    """One kernel: its ratio now, the recorded one (None where nothing is recorded), and whether it is fast enough."""

    name: str
    ratio: float
    recorded: float | None
    passed: bool


def judge(ratios: Mapping[str, float], recorded: Mapping[str, float], fraction: float = FRACTION) -> list[Verdict]:
    """Hold ratios against the recorded ones; what is not recorded passes."""
    verdicts = []
    for name, ratio in ratios.items():
        bar = recorded.get(name)
        verdicts.append(Verdict(name, ratio, bar, bar is None or ratio >= fraction * bar))
    return verdicts


def guard(
    measure: Callable[[list[str]], Mapping[str, float]],
    names: list[str],
    recorded: Mapping[str, float],
    fraction: float = FRACTION,
    attempts: int = ATTEMPTS,
) -> list[Verdict]:
    """Measure kernels, and those that seem slow again, up to ``attempts`` times; the best ratio counts.

    Parameters
    ----------
    measure : callable
        Names of kernels -> their ratios.
    names : list of str
    recorded : mapping
        Name -> ratio on a machine of this tier.
    """
    best = dict(measure(names))
    for attempt in range(1, attempts):
        slow = [verdict.name for verdict in judge(best, recorded, fraction) if not verdict.passed]
        if not slow:
            break
        _log.warning("attempt %d: slower than expected, measuring again: %s", attempt, ", ".join(slow))
        best |= {name: max(best[name], ratio) for name, ratio in measure(slow).items()}
    return judge(best, recorded, fraction)


def load_recorded(path: Path, tier: str) -> dict[str, float]:
    """Recorded ratios of a tier; empty where none were.

    Raises
    ------
    InputError
        The file is not of the form ``{tier: {kernel: ratio}}``.
    """
    try:
        tiers = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): float(ratio) for name, ratio in tiers.get(tier, {}).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path} holds no recorded ratios ({error}). Write them with --record.") from error


def measure_ratios(names: list[str], core: int, budget: float = _BUDGET) -> dict[str, float]:
    """Useful GMAC/s of kernels over those of a float32 product in SciPy (sparse) or NumPy (dense), on one core.

    The libraries' own threads must have been limited to one before NumPy was imported.
    """
    from sparsert.bench.kernel_rates import CASES, make_work

    cases = {case.name: case for case in CASES}
    ratios = {}
    with Team([core]) as team:
        for name in names:
            work = make_work(cases[name])
            plain, macs = _plain(cases[name])
            both = [alone(work.run), alone(functools.partial(_repeat, plain))]
            # in turns, so that a quiet moment serves both sides
            seconds = [[best_seconds(team, side, budget / _TURNS) for side in both] for _ in range(_TURNS)]
            ours, theirs = (min(side) for side in zip(*seconds, strict=True))
            ratios[name] = (theirs / macs) / (ours / work.macs)
    return ratios


def _plain(case: object) -> tuple[Callable[[], object], int]:
    """The same product in float32: a CSR matrix or a dense one times `_TOKENS` columns, and its useful MACs."""
    from scipy import sparse

    from sparsert.bench.kernel_rates import Case, random_weight

    assert isinstance(case, Case)
    if case.kernel == "attention":  # one head: scores and context, without the softmax between them
        tokens, size = case.shape
        rows, square = np.ones((tokens, size), np.float32), np.ones((tokens, tokens), np.float32)
        return lambda: (rows @ rows.T, square @ rows), 2 * tokens * tokens * size
    left = random_weight(case).astype(np.float32)
    x = np.ones((case.shape[1], _TOKENS), np.float32)
    macs = int(np.count_nonzero(left)) * _TOKENS
    matrix = sparse.csr_matrix(left) if case.sparsity else left
    return lambda: matrix @ x, macs


def _repeat(function: Callable[[], object], rounds: int) -> None:
    for _ in range(rounds):
        function()
