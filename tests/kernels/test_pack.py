"""Packed streams, decoded here independently: every weight exactly once, groups that int16 can hold, valid places."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparsert.kernels.formats import BLOCK_ROWS, FORMATS, PackedWeight
from sparsert.kernels.formats.matrix import integer_rows
from sparsert.kernels.formats.streams import GROUP_SIZES
from sparsert.kernels.formats.unstructured import MOST_GROUPS
from sparsert.kernels.jit import TIER, TILE


def draw(in_features: int, out_features: int, density: float, limit: int, extreme: bool, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (out_features, in_features)
    highest = min(limit, 127) if limit == 128 else limit
    values = rng.choice([-limit, highest], shape) if extreme else rng.integers(-limit, highest, shape, endpoint=True)
    return np.where(rng.random(shape) < density, values, 0).astype(np.int16)


weights = st.builds(
    draw,
    in_features=st.one_of(st.integers(1, 200), st.sampled_from([1020, 1021, 2300])),
    out_features=st.integers(1, 80),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    limit=st.sampled_from([1, 64, 127, 128, 255]),
    extreme=st.booleans(),
    seed=st.integers(0, 2**16),
)


def rows_of(packed: PackedWeight) -> Iterator[tuple[int, int, int, int, int]]:
    """(output row, first column, groups, first byte in weights, first byte in offsets) in the order of the streams."""
    sizes = {"unstructured": (4, 8), "blocks": (8, 4), "pairs": (8, 8), "float_sparse": (8, 8)}
    if TIER.pairs and packed.format != "float_sparse":
        group = GROUP_SIZES[packed.variant]
        sizes = {"unstructured": (8 * group, 0)} | dict.fromkeys(("blocks", "pairs"), (4 * group, 2 * group))
    weight_bytes, offset_bytes = sizes[packed.format]
    places = np.zeros(2, np.int64)
    starts = iter(packed.starts)
    assert len(packed.headers) == packed.slices * packed.out_features
    for line, (scratch_row, groups) in enumerate(packed.headers.tolist()):
        turn, row = divmod(line, packed.out_features)
        if row % BLOCK_ROWS == 0:
            np.testing.assert_array_equal(next(starts), places)
        row = row // BLOCK_ROWS * BLOCK_ROWS + scratch_row
        yield row, turn * packed.slice_features, groups, *places.tolist()
        places += [groups * weight_bytes, groups * offset_bytes]
    assert next(starts, None) is None
    assert places.tolist() == [packed.weights.nbytes, packed.offsets.nbytes]


def check_order(packed: PackedWeight) -> None:
    """In every block each row once, sorted by length."""
    for turn in range(packed.slices):
        lines = packed.headers[turn * packed.out_features :][: packed.out_features]
        for first in range(0, packed.out_features, BLOCK_ROWS):
            headers = lines[first : first + BLOCK_ROWS]
            assert sorted(headers[:, 0].tolist()) == list(range(len(headers)))
            assert (np.diff(headers[:, 1]) >= 0).all()


@settings(max_examples=100)
@given(weight=weights)
@example(weight=np.full((1, 3), 255, np.int16))
def test_unstructured_streams(weight: np.ndarray) -> None:
    packed = FORMATS["unstructured"].pack(weight)
    assert (packed.form, packed.format) == ("rows", "unstructured")
    check_order(packed)
    sums, entries = np.zeros(weight.shape, np.int64), np.zeros(weight.shape, np.int64)
    values, offsets = packed.weights.view(np.int8), packed.offsets
    if TIER.pairs:  # two weights, again, and two offsets in eight bytes
        steps = values.reshape(-1, 8)
        np.testing.assert_array_equal(steps[:, :2], steps[:, 2:4])
        values, offsets = steps[:, :2].ravel(), np.ascontiguousarray(steps[:, 4:]).view(np.uint16).ravel()
        assert packed.headers[:, 1].max() <= MOST_GROUPS
    per_group = 2 * GROUP_SIZES[packed.variant] if TIER.pairs else 4
    for row, first_column, groups, weight_start, _ in rows_of(packed):
        for group in range(groups):
            entry = (weight_start // 4 if TIER.pairs else weight_start) + group * per_group
            places = offsets[entry:][:per_group].astype(np.int64)
            assert (places % TILE == 0).all()
            columns = first_column + places // TILE
            members = values[entry:][:per_group].astype(np.int64)
            if TIER.pairs:
                assert np.maximum(members, 0).sum() <= 128
                assert np.minimum(members, 0).sum() >= -128
            used = members != 0
            assert (columns[used] < weight.shape[1]).all()
            np.add.at(sums[row], columns[used], members[used])
            np.add.at(entries[row], columns[used], 1)
    np.testing.assert_array_equal(sums, weight)
    # one entry for what fits a byte, and no more than needed for the rest
    needed = np.where((weight >= -128) & (weight <= 127), 1, np.where(weight == 255, 3, 2)) * (weight != 0)
    np.testing.assert_array_equal(entries, needed)


@settings(max_examples=100)
@given(weight=weights)
@example(weight=np.full((1, 5), 255, np.int16))
def test_block_streams(weight: np.ndarray) -> None:
    packed = FORMATS["blocks"].pack(weight)
    assert (packed.form, packed.format) == ("quads", "blocks")
    check_order(packed)
    padded = np.pad(weight, ((0, 0), (0, -weight.shape[1] % 4)))
    quads = padded.reshape(len(weight), -1, 4)
    sums, entries = np.zeros(quads.shape, np.int64), np.zeros(quads.shape[:2], np.int64)
    values, offsets = packed.weights.view(np.int8), packed.offsets
    per_group = GROUP_SIZES[packed.variant] if TIER.pairs else 2
    for row, first_column, groups, weight_start, offset_start in rows_of(packed):
        for group in range(groups):
            places = offsets[offset_start // 2 + group * per_group :][:per_group].astype(np.int64)
            assert (places % (4 * TILE) == 0).all()
            columns = first_column // 4 + places // (4 * TILE)
            assert (columns < quads.shape[1]).all()
            members = values[weight_start + 4 * group * per_group :][: 4 * per_group].astype(np.int64).reshape(-1, 4)
            if TIER.pairs:
                # channels 0 and 1 meet in one int16 lane, 2 and 3 in the other
                lanes = members.reshape(-1, 2, 2)
                assert np.maximum(lanes, 0).sum(axis=(0, 2)).max() <= 128
                assert np.minimum(lanes, 0).sum(axis=(0, 2)).min() >= -128
            np.add.at(sums[row], columns, members)
            np.add.at(entries[row], columns, members.any(axis=1))
    np.testing.assert_array_equal(sums, quads)
    kept = quads.any(axis=2)
    assert ((entries > 0) == kept).all()
    if np.abs(weight).max(initial=0) <= 32:
        np.testing.assert_array_equal(entries, kept)  # what fits is never split


@settings(max_examples=100)
@given(weight=weights)
@example(weight=np.full((1, 3), 255, np.int16))
def test_pair_streams(weight: np.ndarray) -> None:
    packed = FORMATS["pairs"].pack(weight)
    assert (packed.form, packed.format) == ("duos", "pairs")
    check_order(packed)
    duos = np.pad(weight, ((0, 0), (0, weight.shape[1] % 2))).reshape(len(weight), -1, 2)
    sums, entries = np.zeros(duos.shape, np.int64), np.zeros(duos.shape[:2], np.int64)
    values, per_group = packed.weights.view(np.int8).reshape(-1, 2), 4
    if TIER.pairs:  # every pair twice, to fill 32 bits
        np.testing.assert_array_equal(values[::2], values[1::2])
        values, per_group = values[::2], GROUP_SIZES[packed.variant]
        assert packed.headers[:, 1].max() <= MOST_GROUPS
    for row, first_column, groups, _, offset_start in rows_of(packed):
        for group in range(groups):
            entry = offset_start // 2 + group * per_group
            places = packed.offsets[entry:][:per_group].astype(np.int64)
            assert (places % (2 * TILE) == 0).all()
            columns = first_column // 2 + places // (2 * TILE)
            members = values[entry:][:per_group].astype(np.int64)
            if TIER.pairs:  # all meet in one int16 lane
                assert np.maximum(members, 0).sum() <= 128
                assert np.minimum(members, 0).sum() >= -128
            used = members.any(axis=1)
            assert (columns[used] < duos.shape[1]).all()
            np.add.at(sums[row], columns[used], members[used])
            np.add.at(entries[row], columns[used], 1)
    np.testing.assert_array_equal(sums, duos)
    kept = duos.any(axis=2)
    assert ((entries > 0) == kept).all()
    if np.abs(weight).max(initial=0) <= 64:
        np.testing.assert_array_equal(entries, kept)  # what fits is never split


@pytest.mark.skipif(not TIER.pairs, reason="this tier has a product of four bytes")
@settings(max_examples=60)
@given(weight=weights)
@example(weight=np.full((1, 5), 255, np.int16))
def test_dense_streams_hold_panels_of_two_rows(weight: np.ndarray) -> None:
    packed = FORMATS["dense"].pack(weight)
    assert (packed.form, packed.format) == ("quads", "dense")
    rows, size = len(weight), GROUP_SIZES[packed.variant]
    padded = np.pad(weight, ((0, rows % 2), (0, -weight.shape[1] % 4)))
    sums = np.zeros((len(padded), padded.shape[1] // 4, 4), np.int64)
    weights_at = offsets_at = 0
    for turn in range(packed.slices):
        for number, first in enumerate(range(0, rows, BLOCK_ROWS)):
            block = turn * -(-rows // BLOCK_ROWS) + number
            np.testing.assert_array_equal(packed.starts[block], [8 * size * weights_at, 2 * size * offsets_at])
            panels = (min(BLOCK_ROWS, rows - first) + 1) // 2
            headers = packed.headers[turn * rows + first :][:panels]
            assert sorted(headers[:, 0].tolist()) == list(range(0, 2 * panels, 2))
            for scratch_row, groups in headers.tolist():
                steps = packed.weights.view(np.int8)[8 * size * weights_at :][: 8 * size * groups]
                places = packed.offsets[size * offsets_at :][: size * groups].astype(np.int64)
                members = steps.astype(np.int64).reshape(-1, 2, 4)
                columns = turn * packed.slice_features // 4 + places // (4 * TILE)
                # channels 0 and 1 meet in one int16 lane, 2 and 3 in the other
                lanes = members.reshape(groups, size, 2, 2, 2)
                assert np.maximum(lanes, 0).sum(axis=(1, 4)).max(initial=0) <= 128
                assert np.minimum(lanes, 0).sum(axis=(1, 4)).min(initial=0) >= -128
                for r in range(2):
                    np.add.at(sums[first + scratch_row + r], columns, members[:, r])
                weights_at, offsets_at = weights_at + groups, offsets_at + groups
    np.testing.assert_array_equal(sums.reshape(len(padded), -1), padded)


@pytest.mark.skipif(TIER.pairs, reason="this tier sums pairs")
def test_dense_streams_hold_panels_of_four_rows() -> None:
    weight = draw(10, 37, 1.0, 127, False, 3)
    packed = FORMATS["dense"].pack(weight)
    assert (packed.form, packed.format) == ("quads", "dense")
    panels = packed.weights.view(np.int8).reshape(10, 3, 4, 4).transpose(0, 2, 1, 3).reshape(40, 12)
    np.testing.assert_array_equal(panels[:37, :10], weight)
    assert not panels[37:].any()
    assert not panels[:, 10:].any()
    assert packed.starts[:, 0].tolist() == [0, BLOCK_ROWS * 12]
    stored = np.array([[255]], np.uint8)
    assert FORMATS["dense"].accepts(integer_rows(stored, 128))
    assert not FORMATS["dense"].accepts(integer_rows(stored, 0)), "nine bits do not fit a panel of bytes"


@settings(max_examples=40)
@given(
    in_features=st.one_of(st.integers(1, 100), st.sampled_from([256, 257, 900])),
    out_features=st.integers(1, 70),
    density=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 99),
)
def test_float_streams(in_features: int, out_features: int, density: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (out_features, in_features)
    weight = np.where(rng.random(shape) < density, rng.standard_normal(shape), 0).astype(np.float32)
    packed = FORMATS["float_sparse"].pack(weight)
    check_order(packed)
    got = np.zeros_like(weight)
    for row, first_column, groups, weight_start, offset_start in rows_of(packed):
        values = packed.weights[weight_start // 4 :][: 2 * groups]
        columns = first_column + packed.offsets[offset_start // 4 :][: 2 * groups] // (4 * TILE)
        np.add.at(got[row], columns, values)
        own = weight[row, first_column:][: packed.slice_features or None]
        assert (values != 0).sum() == (own != 0).sum()
    np.testing.assert_array_equal(got, weight)


@pytest.mark.parametrize("shape", [(1, 1), (70, 257), (33, 900), (64, 1536), (32, 3072), (5, 1021)])
def test_dense_float_streams(shape: tuple[int, int]) -> None:
    out_features, in_features = shape
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    dense = FORMATS["float_dense"].pack(weight)
    width = in_features // dense.slices
    assert width * dense.slices == in_features and dense.slice_features == (width if dense.slices > 1 else 0)
    assert dense.count == width and (width <= 768 or dense.slices == 1)
    place = 0
    for turn in range(dense.slices):
        part, row = weight[:, turn * width : (turn + 1) * width], 0
        while row < out_features:  # panels of six rows in the first 24 of a whole block of 32, of four elsewhere
            if row % BLOCK_ROWS == 0:
                block = turn * -(-out_features // BLOCK_ROWS) + row // BLOCK_ROWS
                assert dense.starts[block].tolist() == [4 * place, 0]
            panel = 6 if row % BLOCK_ROWS < 24 and row - row % BLOCK_ROWS + BLOCK_ROWS <= out_features else 4
            stored = dense.weights[place : place + panel * width].reshape(width, panel).T
            np.testing.assert_array_equal(stored[: out_features - row], part[row : row + panel])
            assert not stored[out_features - row :].any()
            row, place = row + panel, place + panel * width
    assert dense.weights.size == place


def test_the_size_in_bytes_is_that_of_the_streams() -> None:
    packed = FORMATS["unstructured"].pack(draw(64, 33, 0.5, 100, False, 1))
    streams = (packed.headers, packed.weights, packed.offsets, packed.starts)
    assert packed.nbytes == sum(stream.size * stream.itemsize for stream in streams)
