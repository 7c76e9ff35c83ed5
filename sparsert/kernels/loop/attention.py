"""The steps of attention."""

from __future__ import annotations

from sparsert.kernels.attention import SUM_ROWS, attend_float, attend_int8, byte_sums
from sparsert.kernels.disentangled import blank_masked_queries, position_scores
from sparsert.kernels.formats import BLOCK_ROWS
from sparsert.kernels.jit import TILE, inner
from sparsert.kernels.loop.places import (
    ATTENTION_ROWS,
    ATTENTION_WORK,
    FLOAT_ROW,
    field,
    narrowing,
    place,
    run_stages,
    vectors_of,
)
from sparsert.kernels.memory import load_f32, store_f32
from sparsert.kernels.table import ATTENTION, BYTE_SUMS, MODE, PIECE, PIECE_COLUMNS, TILE_META

__all__ = ["PIECE_OVERHEAD", "UNBOUNDED", "attention_share", "byte_sums_step"]

PIECE_OVERHEAD = 16
"""What a sequence's piece of a tile costs in attention besides its keys, in keys."""

UNBOUNDED = 1 << 40
"""More tokens than a sequence has: what queries see in a direction where they see everything."""


@inner()
def _visible_keys(step, piece):
    """The range of keys that a query of a piece sees; keys count as in the piece."""
    first, stop, position = field(piece, PIECE.first_key), field(piece, PIECE.stop_key), field(piece, PIECE.position)
    last = position + field(piece, PIECE.stop_lane) - field(piece, PIECE.first_lane) - 1
    return first + max(position - step[ATTENTION.before], 0), min(stop, first + last + step[ATTENTION.after] + 1)


@inner()
def _copy_lanes(source, out, first_lane, size):
    """The lanes of a piece and those behind it."""
    for begin in range(0, size * FLOAT_ROW, FLOAT_ROW):
        for lane in range(first_lane, TILE):
            store_f32(out + begin + 4 * lane, load_f32(source + begin + 4 * lane))


@inner()
def _attend_piece(step, tile, head, piece, vectors, target, work):
    """One head of one tile of queries, for one sequence that has tokens in the tile."""
    size, mode, parameters = step[ATTENTION.head_size], step[ATTENTION.mode], step[ATTENTION.parameters]
    row, row_bytes = head * size, step[ATTENTION.q_row_bytes]
    head_sums, sums_stride = step[ATTENTION.sums] + head * (SUM_ROWS * FLOAT_ROW), step[ATTENTION.sums_stride]
    queries = step[ATTENTION.q] + step[ATTENTION.q_stride] * tile + row * row_bytes
    key_stride, value_stride = step[ATTENTION.k_stride], step[ATTENTION.v_stride]
    positions = step[ATTENTION.positions]
    first_key = field(piece, PIECE.first_key)
    first, stop = _visible_keys(step, piece)
    bias = step[ATTENTION.key_bias] + 4 * (field(piece, PIECE.bias) + first // 4 * 4 - first_key // 4 * 4)
    query = field(piece, PIECE.position) - field(piece, PIECE.first_lane)
    score_bias, score_stride = step[ATTENTION.score_bias], step[ATTENTION.score_key]
    if score_bias != 0:
        score_bias += step[ATTENTION.score_item] * field(piece, PIECE.sequence) + step[ATTENTION.score_head] * head
        score_bias += 4 * query + score_stride * (first - first_key)
    # counted from the tile of the first key that is seen
    key_tile = field(piece, PIECE.key_tile) + first // TILE
    first, stop = first % TILE, stop - first // TILE * TILE
    keys = step[ATTENTION.k] + key_stride * key_tile + row * row_bytes
    values = step[ATTENTION.v] + value_stride * key_tile + row * step[ATTENTION.v_row_bytes]
    if positions != 0:
        spare = work + (stop + TILE - 1) // TILE * ATTENTION_WORK + ATTENTION_ROWS * FLOAT_ROW
        score_bias = position_scores(
            positions, head, queries, query, keys, key_stride, first, stop, size, parameters, spare, vectors
        )
        score_stride = FLOAT_ROW
    if mode == MODE.floats:
        attend_float(
            queries,
            keys,
            key_stride,
            values,
            value_stride,
            first,
            stop,
            size,
            bias,
            score_bias,
            score_stride,
            parameters,
            work,
            target,
            vectors,
        )
        if positions != 0:
            lanes = field(piece, PIECE.first_lane), field(piece, PIECE.stop_lane)
            bias += 4 * (first % 4)
            blank_masked_queries(positions, target, query, lanes, first, stop, values, value_stride, size, bias)
    else:
        attend_int8(
            queries,
            head_sums + sums_stride * tile,
            keys,
            key_stride,
            head_sums + sums_stride * key_tile,
            sums_stride,
            values,
            value_stride,
            first,
            stop,
            size,
            bias,
            score_bias,
            score_stride,
            parameters,
            mode,
            step[ATTENTION.offset_values] != 0,
            work,
            target,
            vectors,
        )


@inner()
def _attention_step(step, tile, head, meta, scratch):
    """One head of one tile of queries, for each sequence that has tokens in the tile; then the stages on its rows.

    All lanes are queries of every sequence in turn, and each sequence overwrites its own lanes and those behind it.
    """
    size, narrower = step[ATTENTION.head_size], narrowing(meta, tile)
    vectors = 2 if vectors_of(meta, tile) <= 2 else 4
    out = scratch
    other = scratch + size * FLOAT_ROW
    work = other + size * FLOAT_ROW
    for index in range(meta[tile, TILE_META.piece_count]):
        piece = meta[tile, TILE_META.pieces] + index * (8 * PIECE_COLUMNS)
        _attend_piece(step, tile, head, piece, vectors, out if index == 0 else other, work)
        if index > 0:
            _copy_lanes(other, out, field(piece, PIECE.first_lane), size)
    for first in range(0, size, BLOCK_ROWS):
        count = min(BLOCK_ROWS, size - first)
        table, stages = step[ATTENTION.stage_table], step[ATTENTION.stages]
        run_stages(table, stages, out + first * FLOAT_ROW, head * size + first, count, tile, tile, narrower, scratch)


@inner()
def _work(step, tile, meta):
    """Work of one head of a tile, in keys: that of the layout, unless queries see a part of their sequence's keys."""
    if step[ATTENTION.before] >= UNBOUNDED and step[ATTENTION.after] >= UNBOUNDED:
        return meta[tile, TILE_META.work]
    work = 0
    for index in range(meta[tile, TILE_META.piece_count]):
        first, stop = _visible_keys(step, meta[tile, TILE_META.pieces] + index * (8 * PIECE_COLUMNS))
        work += stop - first + PIECE_OVERHEAD
    return work


@inner()
def attention_share(step, share, shares, meta, tiles, scratch):
    """Those heads of tiles whose work begins in one of ``shares`` equal parts of all the work."""
    heads = step[ATTENTION.heads]
    total = 0
    for tile in range(tiles):
        total += heads * _work(step, tile, meta)
    start, stop = share * total // shares, (share + 1) * total // shares
    before = 0
    for tile in range(tiles):
        work = _work(step, tile, meta)
        if before + work * heads > start and before < stop:
            for head in range(heads):
                if start <= before + work * head < stop:
                    _attention_step(step, tile, head, meta, scratch)
        before += work * heads


@inner()
def byte_sums_step(step, tile, band, strip, strips, meta, scratch):
    """Byte sums of those heads of a tile that belong to a strip."""
    q = place(step[BYTE_SUMS.q], step[BYTE_SUMS.q_stride], tile, band, scratch)
    k = place(step[BYTE_SUMS.k], step[BYTE_SUMS.k_stride], tile, band, scratch)
    out = place(step[BYTE_SUMS.sums], step[BYTE_SUMS.sums_stride], tile, band, scratch)
    heads, size = step[BYTE_SUMS.heads], step[BYTE_SUMS.head_size]
    vectors = 2 if vectors_of(meta, tile) <= 2 else 4
    for head in range(strip * heads // strips, (strip + 1) * heads // strips):
        row = head * size * TILE
        sums = out + head * (SUM_ROWS * FLOAT_ROW)
        byte_sums(q + row, k + row, size // 4, step[BYTE_SUMS.parameters], sums, vectors)
