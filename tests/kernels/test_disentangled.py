"""What positions add to the scores of one head against brute force, wherever a sequence lies in its tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_drivers import Buffer, buffer, of_all_widths
from numba import njit

from sparsert.kernels.disentangled import POSITION_ROWS, blank_masked_queries, position_scores, position_table
from sparsert.kernels.jit import TILE
from sparsert.kernels.records import ATTENTION_PARAMETERS
from sparsert.kernels.table import POSITIONS

FACTOR = np.float32(0.25)


def tiles_of(x: np.ndarray, lead: int, fill: float) -> np.ndarray:
    """(tokens, D) that begin with a lane, as [tile][D][TILE]; what is not theirs holds ``fill``."""
    padded = np.pad(x, ((lead, -(lead + len(x)) % TILE), (0, 0)), constant_values=fill)
    return np.ascontiguousarray(padded.reshape(-1, TILE, x.shape[1]).transpose(0, 2, 1))


def record_of(tables: tuple[np.ndarray, np.ndarray], reach: int, masked_queries: int = 0) -> np.ndarray:
    record = np.zeros(len(POSITIONS), np.int64)
    record[POSITIONS.keys], record[POSITIONS.queries] = (table.ctypes.data for table in tables)
    record[POSITIONS.head_bytes] = tables[0][0].nbytes
    record[POSITIONS.origin], record[POSITIONS.top] = reach + TILE, 2 * reach + TILE
    record[POSITIONS.masked_queries] = masked_queries
    return record


@settings(max_examples=30)
@given(
    tokens=st.integers(1, 3 * TILE),
    lead=st.integers(0, TILE - 1),
    size=st.sampled_from([4, 12, 64]),
    reaches=st.tuples(st.integers(0, 40), st.integers(0, 5 * TILE)),
    seed=st.integers(0, 2**16),
)
@example(1, 0, 4, (0, 0), 0)
@example(3 * TILE, TILE - 1, 12, (1, 5 * TILE), 1)
@example(TILE, 0, 64, (40, TILE), 2)
def test_position_scores(tokens: int, lead: int, size: int, reaches: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, k = (rng.standard_normal((tokens, size)).astype(np.float32) for _ in range(2))
    vectors = [rng.standard_normal((2, 5, size)).astype(np.float32) for _ in range(2)]
    rows = [rng.integers(0, 5, 2 * reach + 1) for reach in reaches]
    reach, head = max(reaches), 1
    keep = tuple(position_table(x, index, reach) for x, index in zip(vectors, rows, strict=True))
    record = record_of(keep, reach)  # type: ignore[arg-type]
    params = np.zeros(1, ATTENTION_PARAMETERS)
    params["qk_factor"] = FACTOR
    # the numbers of a neighbour may be anything: no score of this sequence sees them
    queries, keys = buffer(tiles_of(q, lead, np.nan)), buffer(tiles_of(k, lead, np.nan))
    work = Buffer((2 * tokens + POSITION_ROWS, TILE), np.float32)

    def of_tile(tile: int, vectors: int) -> np.ndarray:
        place = position_scores(
            record.ctypes.data,
            head,
            queries.address + tile * queries.array[0].nbytes,
            tile * TILE - lead,
            keys.address,
            keys.array[0].nbytes,
            lead,
            lead + tokens,
            size,
            params.ctypes.data,
            work.address,
            vectors,
        )
        work.check()
        first = (place - work.address) // (4 * TILE)
        return work.array[first : first + tokens].copy()

    got = np.concatenate(
        [of_all_widths(lambda width, tile=tile: of_tile(tile, width), [2]) for tile in range(len(keys.array))], 1
    )
    distances = np.arange(tokens)[:, None] - np.arange(tokens)
    by_query, by_key = (
        x[head][index[np.clip(distances, -most, most) + most]].astype(np.float64)
        for x, index, most in zip(vectors, rows, reaches, strict=True)
    )
    want = FACTOR * (np.einsum("qd,qkd->kq", q, by_query) + np.einsum("kd,qkd->kq", k, by_key))
    # sums of up to 128 products of standard normal numbers
    np.testing.assert_allclose(got[:, lead : lead + tokens], want, rtol=0, atol=2e-5)


@njit(cache=False)
def _blank(positions, context, query, first_lane, stop_lane, first, stop, values, value_stride, size, bias):
    lanes = first_lane, stop_lane
    blank_masked_queries(positions, context, query, lanes, first, stop, values, value_stride, size, bias)


@pytest.mark.parametrize("masked_queries", [0, 1, 2])
@pytest.mark.parametrize("masked", [[], [0], [3, TILE + 1, TILE + 4]])
def test_masked_queries(masked_queries: int, masked: list[int]) -> None:
    tokens, lead, size = TILE + 5, 3, 8
    rng = np.random.default_rng(0)
    v = rng.standard_normal((tokens, size)).astype(np.float32)
    values, bias = buffer(tiles_of(v, lead, np.nan)), np.zeros(tokens, np.float32)
    bias[masked] = np.finfo(np.float32).min
    empty = np.zeros((2, 1, 1, 1), np.float32)
    record = record_of((empty, empty), 0, masked_queries)
    for tile, (first_lane, stop_lane) in enumerate([(lead, TILE), (0, lead + 5)]):
        context = buffer(np.full((size, TILE), 7, np.float32))
        query, stride = tile * TILE - lead, values.array[0].nbytes
        place = bias.ctypes.data
        _blank(
            record.ctypes.data,
            context.address,
            query,
            first_lane,
            stop_lane,
            lead,
            lead + tokens,
            values.address,
            stride,
            size,
            place,
        )
        context.check()
        want = np.full((TILE, size), 7, np.float32)
        for token in masked:
            if masked_queries and first_lane <= token - query < stop_lane:
                want[token - query] = v.mean(axis=0) if masked_queries == 1 else 0
        # a sum of 37 numbers of about 1 in another order
        np.testing.assert_allclose(context.array.T, want, rtol=0, atol=1e-6)
