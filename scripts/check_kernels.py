"""Check that no kernel has become slow: its speed over NumPy's or SciPy's, against scripts/kernel_ratios.json.

Takes less than a minute. ``--record`` writes the ratios of this machine's tier instead of checking them.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # read when NumPy is imported: both sides run on one core

import argparse  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "scripts" / "kernel_ratios.json"


def main() -> int:
    """Check or record; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="write the ratios of this tier")
    options = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    sys.path.insert(0, str(ROOT))
    from kernel_guard import FRACTION, guard, load_recorded, measure_ratios

    from sparsert import cpu
    from sparsert.bench.kernel_rates import GUARDED

    tier = cpu.isa()
    core = cpu.core_list()[-1]  # the first one is everybody's favourite
    if options.record:
        record(tier, measure_ratios(list(GUARDED), core))
        return 0
    recorded = load_recorded(RECORDED, tier)
    verdicts = guard(lambda names: measure_ratios(names, core), list(GUARDED), recorded)
    for verdict in verdicts:
        bar = "nothing recorded" if verdict.recorded is None else f"at least {FRACTION * verdict.recorded:.2f}"
        state = "ok" if verdict.passed else "SLOW"
        print(f"{state:5} {verdict.name:28} {verdict.ratio:6.2f} times the plain library, {bar}", file=sys.stderr)
    failed = [verdict.name for verdict in verdicts if not verdict.passed]
    if failed:
        print(
            f"kernels of {tier} are slow: {', '.join(failed)}. Look for what changed, or record new ratios on a quiet "
            "machine: scripts/check_kernels.py --record",
            file=sys.stderr,
        )
    return bool(failed)


def record(tier: str, ratios: dict[str, float]) -> None:
    """Write the ratios of a tier beside those of the others."""
    tiers = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    tiers[tier] = {name: round(ratio, 2) for name, ratio in ratios.items()}
    RECORDED.write_text(json.dumps(dict(sorted(tiers.items())), indent=2) + "\n", encoding="utf-8")
    print(f"recorded {len(ratios)} ratios of {tier} in {RECORDED.name}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
