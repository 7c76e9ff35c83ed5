"""Groups of entries: the same as a slow and plain dealer gives, and sums that int16 holds."""

from __future__ import annotations

import numpy as np
import pytest

from sparsert.kernels.formats.entries import LIMIT, block_entries, integer_entries, two_row_entries
from sparsert.kernels.formats.grouping import assign_groups, lane_sums

CANDIDATES = 6


def naive_lanes(values: np.ndarray) -> list[list[int]]:
    """[positive of lane 0, of lane 1, negative of lane 0, of lane 1] of each entry, row after row."""
    result = []
    for entry in values.tolist():
        sums = [0] * (4 * -(-len(entry) // 4))
        for place, value in enumerate(entry):
            sums[place // 4 * 4 + place // 2 % 2 + (2 if value < 0 else 0)] += abs(value)
        result.append(sums)
    return result


def naive_deal(entries: list[list[int]], count: int, group_entries: int) -> list[int] | None:
    """Each entry, heaviest first, to the lowest of the next six groups that take it, else to the first that does."""
    sums, used, turn = [[0] * len(entries[0]) for _ in range(count)], [0] * count, 0
    groups = [0] * len(entries)
    for entry in sorted(range(len(entries)), key=lambda entry: -max(entries[entry])):
        heights: dict[int, int] = {}
        for distance in range(count):
            if distance >= CANDIDATES and heights:
                break
            group = (turn + distance) % count
            height = max([a + b for a, b in zip(sums[group], entries[entry], strict=True) if b], default=0)
            if used[group] < group_entries and height <= LIMIT:
                heights[distance] = height
        if not heights:
            return None
        distance = min(heights, key=lambda distance: heights[distance])
        group = (turn + distance) % count
        turn = (turn + (distance == 0)) % count
        groups[entry] = group
        used[group] += 1
        sums[group] = [a + b for a, b in zip(sums[group], entries[entry], strict=True)]
    return groups


CASES = [
    (40, 0.1, 127, 1),
    (300, 0.3, 60, 1),
    (64, 1.0, 255, 1),
    (120, 1.0, 40, 4),
    (90, 0.6, 128, 4),
    (3, 1.0, 9, 4),
    (96, 1.0, 90, 8),
    (80, 0.9, 255, 8),
]


@pytest.mark.parametrize("group_entries", [2, 4, 8, 16])
@pytest.mark.parametrize(("width", "density", "limit", "places"), CASES)
def test_equals_the_plain_dealer(width: int, density: float, limit: int, places: int, group_entries: int) -> None:
    """Group by group, for the number of groups that was settled on, which must not be much more than needed."""
    rng = np.random.default_rng(width + group_entries)
    values = np.clip(np.rint(rng.standard_normal((12, width)) * limit / 3), -limit, limit)
    weight = np.where(rng.random(values.shape) < density, values, 0).astype(np.int16)
    weight[3] = 0
    if places == 1:
        indptr, _, entries = integer_entries(weight)
        entries = entries[:, None]
    elif places == 4:
        indptr, _, entries = block_entries(weight, paired=True)
    else:  # two rows of the matrix are one of entries
        weight = np.repeat(weight, 2, axis=0)
        weight[::2] = weight[::2, ::-1]
        indptr, _, entries = two_row_entries(weight)
    rows = len(indptr) - 1
    groups, counts = np.full(len(entries), -1, np.int32), np.zeros(rows, np.int64)
    assign_groups(indptr, lane_sums(entries), np.arange(rows), group_entries, groups, counts)
    lanes = naive_lanes(entries)
    for row, count in enumerate(counts.tolist()):
        row_lanes, row_groups = lanes[indptr[row] : indptr[row + 1]], groups[indptr[row] : indptr[row + 1]].tolist()
        if count == len(row_lanes):
            assert row_groups == list(range(count))
        else:
            assert row_groups == naive_deal(row_lanes, count, group_entries)
        for group in range(count):
            members = [row_lanes[i] for i, place in enumerate(row_groups) if place == group]
            assert len(members) <= group_entries
            assert all(sum(sums) <= LIMIT for sums in zip(*members, strict=True))
    assert counts[3] == 0


def test_some_rows_only() -> None:
    """Rows that were not asked for keep what stood there."""
    rng = np.random.default_rng(0)
    indptr, _, entries = integer_entries(rng.integers(-100, 100, (9, 30)).astype(np.int16))
    groups, counts = np.full(len(entries), -1, np.int32), np.zeros(2, np.int64)
    assign_groups(indptr, lane_sums(entries[:, None]), np.array([2, 7]), 4, groups, counts)
    rows = np.repeat(np.arange(9), np.diff(indptr))
    np.testing.assert_array_equal(groups >= 0, (rows == 2) | (rows == 7))
    assert (counts > 0).all()
