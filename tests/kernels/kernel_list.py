"""The kernels whose assembly is looked at, by name."""

from __future__ import annotations

from typing import Any


def hot_kernels() -> dict[str, tuple[Any, int]]:
    """Each with the number of its arguments; imported no sooner than this is called, since that fixes the tier."""
    from sparsert.kernels import attention, attention_pairs
    from sparsert.kernels.formats import ACCUMULATORS
    from sparsert.kernels.jit import TIER
    from sparsert.kernels.stages import STAGES

    kernels = {
        "scores": (attention._scores_int, 12),
        "context": (attention_pairs.sum_fast, 7) if TIER.pairs else (attention._context_int, 9),
        "gelu_quads": (STAGES["dequantize+gelu+quads"], STAGES.arity),
        "probabilities": (attention._quantize_once, 9),
    }
    kernels |= {name: (ACCUMULATORS[name], ACCUMULATORS.arity) for name in ACCUMULATORS}
    for name, rows in ACCUMULATORS.rows.items():
        kernels |= {f"{name} of {row}": (ACCUMULATORS.kernel(name, row), ACCUMULATORS.arity) for row in rows[:-1]}
    return kernels
