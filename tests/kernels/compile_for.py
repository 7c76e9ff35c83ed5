"""Compile the hot kernels for the CPU that NUMBA_CPU_NAME names, without running them; print their assembly as JSON.

A process of its own, since the target is fixed when Numba is imported, and must not be able to run what it compiles.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from numba import int64, njit

from sparsert import cpu


def assembly(kernel: Any, arity: int) -> str:
    names = ", ".join(f"a{i}" for i in range(arity))
    namespace: dict[str, Any] = {"kernel": kernel}
    exec(f"def call({names}):\n    kernel({names})", namespace)
    compiled = njit(cache=False, nogil=True, boundscheck=False, error_model="numpy")(namespace["call"])
    compiled.compile((int64,) * arity)
    return next(iter(compiled.inspect_asm().values()))


def main() -> None:
    features = frozenset(filter(None, sys.argv[1].split(",")))
    cpu.host_features = lambda: features
    from sparsert.kernels import accumulate, attention, stages
    from sparsert.kernels.jit import TIER

    context = (attention._sum_fast, 6) if TIER.pairs else (attention._context_int, 8)
    kernels = {
        "unstructured": (accumulate.accumulate_unstructured[0], 7),
        "blocks": (accumulate.accumulate_blocks[0], 7),
        "scores": (attention._scores_int, 11),
        "context": context,
        "float_sparse": (accumulate.accumulate_float_sparse, 7),
        "float_dense": (accumulate.accumulate_float_dense, 7),
        "gelu_quads": (stages.STAGES["dequantize+gelu+quads"], 8),
        "probabilities": (attention._quantize_probabilities, 8),
    }
    if TIER.pairs:
        sizes = accumulate.GROUP_SIZES
        kernels |= {f"unstructured{n}": (k, 7) for n, k in zip(sizes, accumulate.accumulate_unstructured, strict=True)}
        kernels |= {f"blocks{n}": (k, 7) for n, k in zip(sizes, accumulate.accumulate_blocks, strict=True)}
    else:
        kernels["dense"] = (accumulate.accumulate_dense, 7)
    texts = {name: assembly(kernel, arity) for name, (kernel, arity) in kernels.items()}
    json.dump({"tier": TIER.name, "assembly": texts}, sys.stdout)


if __name__ == "__main__":
    main()
