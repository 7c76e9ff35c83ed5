"""Entries of sparse matrices: what they add up to, their order, and how many there are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparsert.kernels.formats.entries import LIMIT, block_entries, float_entries, integer_entries


def draw(shape: tuple[int, int], density: float, limit: int, extreme: bool, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.choice([-limit, limit], shape) if extreme else rng.integers(-limit, limit, shape, endpoint=True)
    return np.where(rng.random(shape) < density, values, 0).astype(np.int16)


weights = st.builds(
    draw,
    shape=st.tuples(st.integers(0, 20), st.integers(0, 50)),
    density=st.sampled_from([0.0, 0.1, 1.0]),
    limit=st.sampled_from([1, 64, 127, 128, 129, 254, 255]),
    extreme=st.booleans(),
    seed=st.integers(0, 2**16),
)


def rows_of(indptr: np.ndarray) -> np.ndarray:
    assert indptr[0] == 0
    return np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))


@settings(max_examples=60)
@given(weight=weights)
@example(weight=np.array([[255, 0, -255, 127, -128]], np.int16))
def test_integers(weight: np.ndarray) -> None:
    indptr, columns, values = integer_entries(weight)
    assert values.dtype == np.int8
    sums, counts = np.zeros(weight.shape, np.int64), np.zeros(weight.shape, np.int64)
    np.add.at(sums, (rows_of(indptr), columns), values)
    np.add.at(counts, (rows_of(indptr), columns), values != 0)
    np.testing.assert_array_equal(sums, weight)
    # 127 or -128 at a time: as few entries as there can be
    fewest = np.where(weight > 0, -(-weight // 127), -(weight // 128))
    np.testing.assert_array_equal(counts, fewest)
    assert len(values) == fewest.sum()


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1), (5, 33)])
def test_floats(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    weight = np.where(rng.random(shape) < 0.4, rng.standard_normal(shape), 0).astype(np.float32)
    weight[:, :1] = np.nan
    indptr, columns, values = float_entries(weight)
    rows, expected = np.nonzero(weight)
    np.testing.assert_array_equal(rows_of(indptr), rows)
    np.testing.assert_array_equal(columns, expected)
    np.testing.assert_array_equal(values, weight[rows, expected])


@settings(max_examples=60)
@given(weight=weights, paired=st.booleans())
@example(weight=np.full((1, 4), 255, np.int16), paired=True)
@example(weight=np.full((2, 7), -255, np.int16), paired=True)
@example(weight=np.array([[64, 64, -64, -64, 65, 64, 0, 0]], np.int16), paired=True)
def test_blocks(weight: np.ndarray, paired: bool) -> None:
    indptr, columns, values = block_entries(weight, paired)
    quads = np.pad(weight, ((0, 0), (0, -weight.shape[1] % 4)))
    quads = quads.reshape(len(weight), quads.shape[1] // 4, 4).astype(np.int64)
    sums, counts = np.zeros(quads.shape, np.int64), np.zeros(quads.shape[:2], np.int64)
    np.add.at(sums, (rows_of(indptr), columns), values)
    np.add.at(counts, (rows_of(indptr), columns), 1)
    np.testing.assert_array_equal(sums, quads)
    fits = (quads >= -128).all(axis=2) & (quads <= 127).all(axis=2)
    if paired:
        parts = values.astype(np.int64)
        for part in (np.maximum(parts, 0), np.maximum(-parts, 0)):
            assert (part[:, 0::2] + part[:, 1::2] <= LIMIT).all()
        for part in (np.maximum(quads, 0), np.maximum(-quads, 0)):
            fits &= (part[:, :, 0::2] + part[:, :, 1::2] <= LIMIT).all(axis=2)
    nonzero = quads.any(axis=2)
    assert (counts[nonzero & fits] == 1).all()
    assert (counts[~nonzero] == 0).all()
    assert (counts <= 4).all()
