"""How many vectors of a tile's rows are computed."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from sparsert.kernels.jit import TILE
from sparsert.kernels.loop.places import narrowing, vectors_of
from sparsert.kernels.registry import NARROWER
from sparsert.kernels.table import META_COLUMNS, TILE_META

_LANES = TILE // 4


@njit
def _both(meta, tile):  # type: ignore[no-untyped-def]
    return vectors_of(meta, tile), narrowing(meta, tile)


@pytest.mark.parametrize("vectors", [1, 2, 3, 4])
@pytest.mark.parametrize("beyond", [1, _LANES])
def test_vectors_beyond_the_last_token_are_left_out(vectors: int, beyond: int) -> None:
    meta = np.zeros((2, META_COLUMNS), np.int64)
    meta[0, TILE_META.tokens], meta[1, TILE_META.tokens] = TILE, (vectors - 1) * _LANES + beyond
    assert _both(meta, 1) == (vectors, NARROWER * (4 - vectors))
