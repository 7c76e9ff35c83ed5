"""What disentangled attention adds to the scores of one tile of queries and one head: products with position vectors.

Both kinds depend on the distance of query and key. Vectors lie in tables by distance, ``[chunk][D][POSITION_COLUMNS]``,
of which neighbouring chunks overlap by a tile, so that the vectors of all lanes for one key lie side by side.

Keys times vectors: for one key, the distances of the lanes follow each other, so a row of scores is the key's numbers
times windows of the table. Queries times vectors: a vector is a row of scores of all lanes, of which lane ``l`` needs
that for its own distance; these lie on a diagonal, and are brought into rows by blends, one for each bit of a lane's
number.
"""

from __future__ import annotations

import numpy as np

from sparsert.kernels.attention import WIDTH
from sparsert.kernels.jit import TILE, inner, jit
from sparsert.kernels.memory import load_f32, load_i64, store_f32
from sparsert.kernels.records import ATTENTION_PARAMETERS, parameter
from sparsert.kernels.simd import Simd, Value, micro_kernel
from sparsert.kernels.table import POSITIONS

__all__ = ["POSITION_ROWS", "blank_masked_queries", "position_scores", "position_table"]

_ROW = 4 * TILE
_KEYS = 4

_CHUNK = 4 * TILE
_COLUMNS = _CHUNK + TILE + 16
"""An odd number of cache lines, so that the rows of a chunk fall on all sets of the L1."""

_SPARE = 16
"""Rows before and behind those of the keys: they come in fours, and blends read up to a vector's lanes further."""

POSITION_ROWS = TILE + 3 * _SPARE
"""Rows of a tile in scratch that :func:`position_scores` needs, besides twice as many as there are keys."""


def position_table(vectors: np.ndarray, rows: np.ndarray, reach: int) -> np.ndarray:
    """Vectors by distance, for the kernel.

    Parameters
    ----------
    vectors : float32 array, shape (heads, R, D)
    rows : int64 array, shape (2 n + 1,)
        The row for the distances from ``-n`` to ``n``; the first and the last one serve all beyond.
    reach : int
        From this distance on there is only one vector, n at least.

    Returns
    -------
    float32 array, shape (heads, chunks, D, columns)
        Column ``d + reach + TILE`` of the chunks end to end is that of distance ``d``.
    """
    most = len(rows) // 2
    chunks = (2 * reach + TILE) // _CHUNK + 1
    index = np.arange(chunks)[:, None] * _CHUNK + np.arange(_COLUMNS) - (reach + TILE)
    found = vectors[:, rows[np.clip(index, -most, most) + most]]
    return np.ascontiguousarray(found.transpose(0, 1, 3, 2), np.float32)


def _vectors_at(v: Simd, table: Value, index: Value, top: Value, size: Value) -> Value:
    """Place of the column of a distance in the first row of its chunk; what lies beyond the table is as its ends."""
    b, none = v.builder, v.integer(0)
    index = b.select(b.icmp_signed("<", index, none), none, index)
    index = b.select(b.icmp_signed(">", index, top), top, index)
    chunk, column = b.ashr(index, v.integer(_CHUNK.bit_length() - 1)), b.and_(index, v.integer(_CHUNK - 1))
    return v.at(table, v.add(v.mul(v.mul(chunk, size), 4 * _COLUMNS), v.mul(column, 4)))


@micro_kernel(8)
def _query_scores(
    v: Simd,
    queries: Value,
    table: Value,
    first: Value,
    top: Value,
    rows: Value,
    size: Value,
    out: Value,
    vectors: Value,
) -> None:
    """out[row][query] = query . vector ``first + row``, a multiple of four rows."""
    queries, table, out = v.pointer(queries), v.pointer(table), v.pointer(out)
    with v.loop(rows, step=_KEYS) as row:
        words = _vectors_at(v, table, v.add(first, row), top, size)
        with v.loop(vectors, step=WIDTH) as vector:
            column = v.mul(vector, v.bytes)
            accumulators = [v.variable(v.zero(v.f32)) for _ in range(_KEYS * WIDTH)]
            with v.loop(size) as channel:
                place = v.at(queries, v.add(v.mul(channel, _ROW), column))
                loaded = [v.load(v.at(place, k * v.bytes), v.f32) for k in range(WIDTH)]
                word = v.at(words, v.mul(channel, 4 * _COLUMNS))
                for r in range(_KEYS):
                    scalar = v.broadcast_f32(v.at(word, 4 * r))
                    for k in range(WIDTH):
                        accumulator = accumulators[WIDTH * r + k]
                        accumulator.set(v.fma(loaded[k], scalar, accumulator.get()))
            for r in range(_KEYS):
                place = v.at(out, v.add(v.mul(v.add(row, r), _ROW), column))
                for k in range(WIDTH):
                    v.store(accumulators[WIDTH * r + k].get(), v.at(place, k * v.bytes))


@micro_kernel(3)
def _take_diagonals(v: Simd, scores: Value, rows: Value, vectors: Value) -> None:
    """In place: element ``l`` of a vector of a row from ``l`` rows further."""
    scores = v.pointer(scores)
    for bit in range(v.lanes.bit_length() - 1):
        distance = 1 << bit
        order = [lane + (v.lanes if lane & distance else 0) for lane in range(v.lanes)]
        with v.loop(rows) as row:
            with v.loop(vectors) as vector:
                place = v.at(scores, v.add(v.mul(row, _ROW), v.mul(vector, v.bytes)))
                own, other = v.load(place, v.f32), v.load(v.at(place, distance * _ROW), v.f32)
                v.store(v.shuffle(own, other, order), place)


@micro_kernel(13)
def _add_key_scores(
    v: Simd,
    keys: Value,
    key_stride: Value,
    first: Value,
    stop: Value,
    table: Value,
    nearest: Value,
    top: Value,
    size: Value,
    query_scores: Value,
    params: Value,
    out: Value,
    begin: Value,
    vectors: Value,
) -> None:
    """out[key][query] = factor * (query score + key . vector of their distance).

    ``nearest`` is the distance of the first lane from the key ``first``. Keys from ``begin`` on lie at ``keys``, in
    whole fours; ``query_scores`` has that of the key ``first`` and the first lane, those of other keys before it.
    """
    keys, table, query_scores, out = (v.pointer(address) for address in (keys, table, query_scores, out))
    b, factor = v.builder, parameter(v, v.pointer(params), "qk_factor", ATTENTION_PARAMETERS)
    with v.loop(stop, begin, _KEYS) as key:
        tile = b.ashr(key, v.integer(TILE.bit_length() - 1))
        words = v.at(keys, v.add(v.mul(tile, key_stride), v.mul(b.and_(key, v.integer(TILE - 1)), 4)))
        index = b.sub(key, first)
        windows = [_vectors_at(v, table, b.sub(nearest, v.add(index, r)), top, size) for r in range(_KEYS)]
        with v.loop(vectors, step=WIDTH) as vector:
            column = v.mul(vector, v.bytes)
            accumulators = []
            for r in range(_KEYS):
                diagonal = v.add(b.sub(v.mul(vector, v.lanes), index), -r)
                place = v.at(query_scores, v.add(v.mul(diagonal, _ROW), column))
                for k in range(WIDTH):
                    offset = k * (v.lanes * _ROW + v.bytes)
                    accumulators.append(v.variable(v.load(v.at(place, offset), v.f32)))
            with v.loop(size) as channel:
                word, row = v.at(words, v.mul(channel, _ROW)), v.add(v.mul(channel, 4 * _COLUMNS), column)
                for r in range(_KEYS):
                    scalar = v.broadcast_f32(v.at(word, 4 * r))
                    for k in range(WIDTH):
                        window = v.load(v.at(windows[r], v.add(row, k * v.bytes)), v.f32, align=4)
                        accumulator = accumulators[WIDTH * r + k]
                        accumulator.set(v.fma(window, scalar, accumulator.get()))
            for r in range(_KEYS):
                place = v.at(out, v.add(v.mul(v.add(index, r), _ROW), column))
                for k in range(WIDTH):
                    v.store(b.fmul(accumulators[WIDTH * r + k].get(), factor), v.at(place, k * v.bytes))


@jit()
def position_scores(
    positions, head, queries, query, keys, key_stride, first, stop, size, params, work, vectors
):  # fmt: skip
    """Add up what positions say of the scores of one head, and return the address of the first key's row.

    Parameters
    ----------
    positions, head : int
        Address of a row of :data:`sparsert.kernels.table.POSITIONS`, and the head.
    queries, query : int
        A tile of them, and the place of its first lane in the sequence.
    keys, key_stride, first, stop : int
        As :func:`sparsert.kernels.attention.attend_float` has them; the sequence begins with ``first``.
    size, params, vectors : int
        The size of a head, the record of attention, the number of vectors of queries.
    work : int
        Address of scratch: 2 (stop - first) + POSITION_ROWS rows of a tile.

    Returns
    -------
    int
        Address of float32 ``[key][TILE]``.
    """
    offset = head * load_i64(positions + 8 * POSITIONS.head_bytes)
    by_query = load_i64(positions + 8 * POSITIONS.keys) + offset
    by_key = load_i64(positions + 8 * POSITIONS.queries) + offset
    top = load_i64(positions + 8 * POSITIONS.top)
    nearest = query + load_i64(positions + 8 * POSITIONS.origin)
    count = stop - first
    lookups = work + _SPARE * _ROW
    # the last key is the farthest behind; the first row is for its distance from the first lane
    rows = (count + TILE - 1 + _KEYS - 1) // _KEYS * _KEYS
    _query_scores(queries, by_query, nearest - (count - 1), top, rows, size, lookups, vectors)
    _take_diagonals(lookups, rows, vectors)
    out = lookups + (rows + _SPARE) * _ROW
    _add_key_scores(
        keys,
        key_stride,
        first,
        (stop + _KEYS - 1) // _KEYS * _KEYS,
        by_key,
        nearest,
        top,
        size,
        lookups + (count - 1) * _ROW,
        params,
        out,
        first // _KEYS * _KEYS,
        vectors,
    )
    return out


@inner()
def blank_masked_queries(positions, context, query, lanes, first, stop, values, value_stride, size, bias):
    """Give masked queries what the file gives them: the mean of all values, or zeros.

    ``lanes`` are the first one of the sequence and the one after its last; ``bias`` is that of the key ``first``.
    """
    kind = load_i64(positions + 8 * POSITIONS.masked_queries)
    masked = 0
    for lane in range(lanes[0], lanes[1]):
        masked += load_f32(bias + 4 * (query + lane)) < 0
    if kind == 0 or masked == 0:
        return
    for channel in range(0, size * _ROW, _ROW):
        mean = np.float32(0)
        if kind == 1:
            for key in range(first, stop):
                mean += load_f32(values + key // TILE * value_stride + channel + 4 * (key % TILE))
            mean /= np.float32(stop - first)
        for lane in range(lanes[0], lanes[1]):
            if load_f32(bias + 4 * (query + lane)) < 0:
                store_f32(context + channel + 4 * lane, mean)
