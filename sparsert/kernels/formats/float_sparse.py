"""Sparse float32: CSR rows with byte offsets."""

from __future__ import annotations

import numpy as np

from sparsert.kernels.formats.base import Format, PackedWeight, add_format
from sparsert.kernels.formats.emit import sparse_rows
from sparsert.kernels.formats.entries import float_entries
from sparsert.kernels.formats.streams import cut, plain
from sparsert.kernels.jit import TILE
from sparsert.kernels.registry import ANY_ROW
from sparsert.kernels.simd import Simd, Value

_SLICE = 256
"""Input features of a slice at most: on AVX2 their activations fill an L1 of 32 KB."""


def _float_sparse(v: Simd, *arguments: Value) -> None:
    """Two nonzeros a step."""
    sparse_rows(v, arguments, True)


def _pack(weight: np.ndarray) -> PackedWeight:
    """Pack float32 weights (N, K)."""
    slices = cut(weight, _SLICE)
    streams = plain(*float_entries(slices.weight), slices, unroll=2, scale=4 * TILE)
    return streams.packed("float_sparse", weight, 8, 8, streams.values)


add_format(
    Format(
        name="float_sparse",
        title="sparse",
        code=3,
        form="floats",
        pack=_pack,
        kernels=(_float_sparse,),
        rows=ANY_ROW,
        kept=lambda rows: rows.density(),
        # avx2 and generic measured on Zen 3 (2.25 GHz, 768 x 768, 10 % dense), avx512_vnni on Zen 5
        rates={
            "avx512_vnni": 70.0,
            "avx2": 14.0,
            "generic": 14.0,
            # by instructions
            "avx_vnni": 35.0,
            "neon_i8mm": 13.0,
            "neon_dot": 13.0,
        },
    )
)
