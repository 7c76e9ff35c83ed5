"""The tiers of kernels: what each demands of a CPU, and what the kernels may count on. Data alone."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TIERS", "Tier"]


@dataclass(frozen=True)
class Tier:
    """A set of instructions that kernels are compiled for.

    What differs between tiers is asked of these fields; how an operation is written with a tier's instructions stands
    in a file of the tier's name in :mod:`sparsert.kernels.simd`.

    Attributes
    ----------
    name : str
        As ``SPARSERT_ISA`` and reports have it.
    features : tuple of str
        LLVM's names of the features that its instructions need. A tier that needs none writes portable IR, and has no
        file of its own.
    architecture, cpu : str
        A CPU, by LLVM's name, whose best tier this is, and what LLVM's triples begin with there.
    vector_bytes : int
        Size of a vector: one byte a token, so also the number of tokens in a tile.
    registers : int
        Vector registers. Four rows times four vectors of sums, and what feeds them, need 32; times two vectors, 16.
    dot4 : bool
        Whether an instruction adds four products of unsigned and signed bytes to an int32.
    signed_dot4 : bool
        Whether both bytes of these products are signed instead. Then :class:`sparsert.kernels.simd.Sums` takes 128 from
        the unsigned bytes, and adds 128 times the others.
    pairs : bool
        Whether kernels multiply bytes in pairs and sum them in int16, for want of ``dot4``. With neither, they are
        written as with ``dot4``, in portable IR.
    fma : bool
        Whether a fused multiply-add is an instruction.
    rates : str
        Name of the tier whose rates choose the formats of weights. Only their ratios matter.
    portable : bool
        Whether portable IR can stand in for its instructions, so that tests run its kernels on any CPU.
    """

    name: str
    features: tuple[str, ...]
    architecture: str
    cpu: str
    vector_bytes: int
    registers: int
    rates: str
    dot4: bool = False
    signed_dot4: bool = False
    pairs: bool = False
    fma: bool = False
    portable: bool = False


_RECORDS = (
    Tier(
        name="avx512_vnni",
        features=("avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni"),
        architecture="x86_64",
        cpu="icelake-server",
        vector_bytes=64,
        registers=32,
        dot4=True,
        fma=True,
        rates="avx512_vnni",
        portable=True,
    ),
    Tier(
        name="avx_vnni",
        features=("avx2", "fma", "avxvnni"),
        architecture="x86_64",
        cpu="alderlake",
        vector_bytes=32,
        registers=16,
        dot4=True,
        fma=True,
        rates="avx_vnni",
        portable=True,
    ),
    Tier(
        name="avx2",
        features=("avx2", "fma"),
        architecture="x86_64",
        cpu="haswell",
        vector_bytes=32,
        registers=16,
        pairs=True,
        fma=True,
        rates="avx2",
    ),
    Tier(
        name="neon_i8mm",
        features=("neon", "dotprod", "i8mm"),
        architecture="aarch64",
        cpu="neoverse-v1",
        vector_bytes=16,
        registers=32,
        dot4=True,
        fma=True,
        rates="neon_i8mm",
        portable=True,
    ),
    Tier(
        name="neon_dot",
        features=("neon", "dotprod"),
        architecture="aarch64",
        cpu="neoverse-n1",
        vector_bytes=16,
        registers=32,
        dot4=True,
        signed_dot4=True,
        fma=True,
        rates="neon_dot",
        portable=True,
    ),
    Tier(
        name="generic",
        features=(),
        architecture="x86_64",
        cpu="x86-64",
        vector_bytes=32,
        registers=16,
        rates="generic",
    ),
)

TIERS: dict[str, Tier] = {tier.name: tier for tier in _RECORDS}
"""By name, in order of preference: a process uses the first one whose features it has."""
