"""Dealing the entries of a row into groups whose int16 sums are exact, for CPUs without a dot product of bytes."""

from __future__ import annotations

import numpy as np

from sparsert.kernels.formats.entries import LIMIT
from sparsert.kernels.jit import inner, jit

__all__ = ["assign_groups", "lane_sums"]

_CANDIDATES = 6
"""Groups that compete for an entry; more balance better and take longer."""

_LANE = np.uint64(0xFFFF)
_TOPS = np.uint64(0x8000800080008000)
_LOWS = np.uint64(0x7FFF7FFF7FFF7FFF)


@jit()
def _add_lanes(values, lanes):
    for entry in range(values.shape[0]):
        for place in range(values.shape[1]):
            value = np.int64(values[entry, place])
            shift = 16 * (place // 2 % 2) + (32 if value < 0 else 0)
            lanes[entry, place // 4] += np.uint64(abs(value)) << np.uint64(shift)


def lane_sums(values: np.ndarray) -> np.ndarray:
    """What each entry adds to the sums of its group, four of 16 bits in a word.

    Parameters
    ----------
    values : int8 array, shape (entries, 1), (entries, 2), (entries, 4) or (entries, 8)
        Single weights, pairs, or blocks of four, of which the first two and the last two share a lane; or such blocks
        of two rows.

    Returns
    -------
    uint64 array, shape (entries, rows)
        From the lowest bits on: positive weights of lanes 0 and 1, negative ones of lanes 0 and 1 without their sign.
    """
    lanes = np.zeros((len(values), -(-values.shape[1] // 4)), np.uint64)
    _add_lanes(values, lanes)
    return lanes


@inner()
def _highest(sums):
    """The largest of four sums."""
    return max(
        max(sums & _LANE, (sums >> np.uint64(16)) & _LANE), max((sums >> np.uint64(32)) & _LANE, sums >> np.uint64(48))
    )


@inner()
def _height(lanes, entry):
    """The largest of what an entry adds to any sum."""
    height = _highest(lanes[entry, 0])
    for word in range(1, lanes.shape[1]):
        height = max(height, _highest(lanes[entry, word]))
    return height


@inner()
def _open_from(group, following):
    """The first group from ``group`` on that is not full; ``following`` of a full one leads there."""
    while following[group] != group:
        following[group] = following[following[group]]
        group = following[group]
    return group


@inner()
def _deal(lanes, masks, entries, count, group_entries, chosen, sums, used, following):
    """Deal entries, heaviest first, to ``count`` groups; False when one does not fit.

    Each entry goes to the group that stays lowest among the next few in turn, or, if none of those takes it, to the
    first that does. Only sums that the entry adds to count. ``used`` counts a group's entries, and ``following`` skips
    groups that are full.
    """
    one, end, words = np.uint64(1), np.uint64(count), lanes.shape[1]
    for group in range(end):
        used[group], following[group] = 0, group
        for word in range(words):
            sums[group, word] = 0
    following[end] = end
    turn = np.uint64(0)
    none = np.uint64(LIMIT + 1) << np.uint64(32)
    for i in range(np.uint64(entries)):
        best = none  # height in the upper half, distance from the turn in the lower: the least wins without a branch
        group, shift = _open_from(turn, following), -turn
        wrapped = False
        while True:
            if group == end:
                if wrapped:
                    break
                wrapped = True
                group, shift = _open_from(np.uint64(0), following), end - turn
                continue
            distance = group + shift
            if distance >= end or (distance >= np.uint64(_CANDIDATES) and best < none):
                break
            height = _highest((sums[group, 0] + lanes[i, 0]) & masks[i, 0])
            for word in range(1, words):
                height = max(height, _highest((sums[group, word] + lanes[i, word]) & masks[i, word]))
            best = min(best, (height << np.uint64(32)) | distance)
            group = _open_from(group + one, following)
        if best >= none:
            return False
        distance = best & np.uint64(0xFFFFFFFF)
        group = turn + distance
        if group >= end:
            group -= end
        if distance == 0:
            turn += one
        if turn >= end:
            turn = np.uint64(0)
        chosen[i] = group
        for word in range(words):
            sums[group, word] += lanes[i, word]
        used[group] += 1
        if used[group] >= group_entries:
            following[group] = group + one
    return True


@jit()
def assign_groups(indptr, lanes, rows, group_entries, groups, counts):
    """Distribute the entries of every row over few groups that keep int16 sums exact.

    Entries of row ``rows[i]`` are ``indptr[rows[i]]`` to ``indptr[rows[i] + 1]``, and ``lanes`` what they add, as
    :func:`lane_sums` gives it. Writes the group of each entry and the number of groups of each row.
    """
    longest = 1
    for r in range(rows.size):
        longest = max(longest, indptr[rows[r] + 1] - indptr[rows[r]])
    words = lanes.shape[1]
    sums, following = np.zeros((longest, words), np.uint64), np.zeros(longest + 1, np.uint64)
    used, chosen = np.zeros(longest, np.int64), np.zeros(longest, np.int64)
    sorted_lanes, masks = np.zeros((longest, words), np.uint64), np.zeros((longest, words), np.uint64)
    order = np.zeros(longest, np.int64)
    buckets = np.zeros(LIMIT + 3, np.int64)
    total = np.zeros(4 * words, np.int64)
    for r in range(rows.size):
        first, last = indptr[rows[r]], indptr[rows[r] + 1]
        n = last - first
        for lane in range(total.size):
            total[lane] = 0
        for b in range(buckets.size):
            buckets[b] = 0
        for e in range(first, last):
            for lane in range(total.size):
                total[lane] += np.int64((lanes[e, lane // 4] >> np.uint64(16 * (lane % 4))) & _LANE)
            buckets[LIMIT - np.int64(_height(lanes, e)) + 1] += 1
        for b in range(1, buckets.size):
            buckets[b] += buckets[b - 1]
        for e in range(first, last):
            bucket = LIMIT - np.int64(_height(lanes, e))
            place = buckets[bucket]
            buckets[bucket] += 1
            order[place] = e
            for word in range(words):
                sorted_lanes[place, word] = lanes[e, word]
                # all bits of every lane that is not zero
                masks[place, word] = (((lanes[e, word] + _LOWS) & _TOPS) >> np.uint64(15)) * _LANE
        fewest = (total.max() + LIMIT - 1) // LIMIT
        count = max((n + group_entries - 1) // group_entries, fewest)
        while count < n and not _deal(sorted_lanes, masks, n, count, group_entries, chosen, sums, used, following):
            count += max(1, count // 16)
        if count >= n:  # one entry a group always fits
            count = n
            for e in range(first, last):
                groups[e] = e - first
        else:
            for place in range(n):
                groups[order[place]] = chosen[place]
        counts[r] = count
