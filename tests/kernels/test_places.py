"""Which tiles are computed by halves."""

from __future__ import annotations

import numpy as np
import pytest
from numba import njit

from sparsert.kernels.jit import TILE
from sparsert.kernels.loop.places import half_of
from sparsert.kernels.registry import HALF
from sparsert.kernels.table import META_COLUMNS, TILE_META


@njit
def _half_of(meta, tile):  # type: ignore[no-untyped-def]
    return half_of(meta, tile)


@pytest.mark.parametrize(("tokens", "half"), [(1, HALF), (TILE // 2, HALF), (TILE // 2 + 1, 0), (TILE, 0)])
def test_a_tile_is_computed_by_half_if_no_token_lies_in_its_second_half(tokens: int, half: int) -> None:
    meta = np.zeros((2, META_COLUMNS), np.int64)
    meta[0, TILE_META.tokens], meta[1, TILE_META.tokens] = TILE, tokens
    assert _half_of(meta, 1) == half
