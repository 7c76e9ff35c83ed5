"""Compile the hot kernels for the CPU that NUMBA_CPU_NAME names, without running them; print their assembly as JSON.

A process of its own, since the target is fixed when Numba is imported, and must not be able to run what it compiles.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from kernel_list import hot_kernels
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
    from sparsert.kernels.jit import TIER

    texts = {name: assembly(kernel, arity) for name, (kernel, arity) in hot_kernels().items()}
    json.dump({"tier": TIER.name, "assembly": texts}, sys.stdout)


if __name__ == "__main__":
    main()
