"""Layouts against what they promise: every token in one lane, every piece of a sequence with all of its keys."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparsert.kernels.jit import TILE
from sparsert.plan.layout import _CHUNK_TILES, _RAGGED_CHUNK_TILES, Layout, Packing

LENGTH = st.one_of(st.integers(1, 9), st.sampled_from([TILE - 1, TILE, TILE + 1]), st.integers(1, 6 * TILE))


@settings(max_examples=150)
@given(
    lengths=st.lists(LENGTH, min_size=1, max_size=40),
    threads=st.integers(1, 3),
    whole=st.booleans(),
    even_keys=st.sampled_from([0, 1, 60, 500, np.inf]),
)
@example([1] * 300, 1, False, 0)
@example([TILE] * 40, 2, False, 500)
@example([10 * TILE - 1] * 9, 1, False, 500)
def test_layout(lengths: list[int], threads: int, whole: bool, even_keys: int) -> None:
    """Read back token by token, as the kernels do."""
    layout = Layout.of(lengths, Packing(threads, whole, even_keys))
    base, stride = layout.pieces.ctypes.data, layout.pieces.strides[0]
    numbers = np.arange(sum(lengths), dtype=np.float32)
    bias = layout.key_bias(numbers)
    begins = np.cumsum(lengths) - lengths
    found = 0
    tiles_of: dict[int, set[int]] = {}
    owners: list[int] = []
    ranges: list[tuple[int, int]] = []
    assert layout.chunks[0][0] == 0 and layout.chunks[-1][1] == len(layout.meta)
    assert layout.tiles == max(stop - start for start, stop in layout.chunks)
    for number, (start, stop) in enumerate(layout.chunks):
        assert number == 0 or start == layout.chunks[number - 1][1] < stop
        opened = len(ranges)
        for tile in range(start, stop):
            address, count, first_token, valid, work = layout.meta[tile].tolist()
            pieces = layout.pieces[(address - base) // stride :][:count].tolist()
            assert first_token == found and 0 < valid <= TILE
            keys = 0
            lane = 0
            for first, end, position, sequence, length, key_tile, first_key, stop_key, place, *shared in pieces:
                owners.append(sequence)
                ranges.append((opened + shared[0], opened + shared[1]))
                assert first == lane < end and length == lengths[sequence]
                assert found == begins[sequence] + position
                tiles_of.setdefault(sequence, set()).add(tile)
                lane, found, keys = end, found + end - first, keys + stop_key - first_key
                assert 0 <= first_key < TILE and stop_key == first_key + length
                assert first == first_key + position - (tile - start - key_tile) * TILE
                # in whole fours: the keys of the sequence carry their bias, those beside them minus infinity
                row = bias[place : place + -(-stop_key // 4) * 4 - first_key // 4 * 4]
                own_bias = numbers[begins[sequence] : begins[sequence] + length]
                padding = (first_key % 4, -stop_key % 4)
                np.testing.assert_array_equal(row, np.pad(own_bias, padding, constant_values=-np.inf))
            assert lane == valid
            assert work >= keys
    assert found == sum(lengths)
    for owner, (first, stop) in zip(owners, ranges, strict=True):
        assert owners[first:stop] == (owners if whole else [owner] * owners.count(owner))
    assert layout.longest == max(lengths)
    assert layout.key_tiles == max(max(tiles) - min(tiles) + 1 for tiles in tiles_of.values())
    if whole:
        assert len(layout.chunks) == 1
    longest = -(-max(lengths) // TILE)
    assert whole or layout.tiles <= (1.5 * _RAGGED_CHUNK_TILES * threads) + 2 * longest + 2


def test_even_lengths_are_aligned() -> None:
    """As if every sequence were alone: no tile is shared, and a chunk is as small as balancing the threads allows."""
    layout = Layout.of([3 * TILE] * 64, Packing(2, even_keys=500))
    assert (layout.meta[:, 1] == 1).all() and (layout.meta[:, 3] == TILE).all()
    assert layout.tiles == -(-2 * _CHUNK_TILES // 3) * 3


@pytest.mark.parametrize(("even_keys", "shared"), [(0, 0), (100, 0), (10**6, 1)])
def test_empty_lanes_where_they_save_queries(even_keys: float, shared: int) -> None:
    """Two sequences half a tile longer than nine: begun in a shared tile, the second would extend over eleven."""
    layout = Layout.of([9 * TILE + TILE // 2 + 1] * 2, Packing(8, even_keys=even_keys))
    assert (layout.meta[:, 1] > 1).sum() == shared
    assert layout.key_tiles == 10 + shared


def test_no_sequences() -> None:
    layout = Layout.of([], Packing(2))
    assert layout.tiles == layout.key_tiles == 0
    assert len(layout.meta) == len(layout.pieces) == len(layout.key_bias(0.0)) == 0
