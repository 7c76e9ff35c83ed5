"""The run loop: a whole plan, as a table of integers, executed in one call without the GIL.

A program is an int64 table, one row a step; columns are named below. Addresses are absolute; a place is a pair
``(base, stride)``: tile ``t`` lives at ``base + t * stride``. A negative stride means the running thread's scratch,
where values live that never leave a region: the group's ``i``-th tile lives at ``scratch + base - i * stride``.

Regions run one after the other; inside one, units are distributed over the threads: each has a queue of neighbouring
units, the same in every region, and helps the others when its own is empty, so that a core that is slower for a while,
or shared with other work, does not hold up the rest. A unit is a group of tiles, and runs all steps of the region, so
that the group's whole column of activations stays near the core while the weights stream past it, each piece of them
once a group. In attention a unit is a share of all heads of all tiles.

Tiles hold sequences end to end, so a tile may hold pieces of several; its *segments* say of which. Only what depends on
a token's place in its sequence looks at them: embeddings, attention and the selection of one token.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import carray, prange

from sparsert.kernels import accumulate, stages
from sparsert.kernels.accumulate import BLOCK_ROWS, HEADER_BYTES
from sparsert.kernels.attention import SUM_ROWS, attend_float, attend_int8, byte_sums
from sparsert.kernels.embed import ADD_ROWS, STAGED_CHANNELS, transpose_channels
from sparsert.kernels.jit import TILE, entry, inner, jit
from sparsert.kernels.memory import call, fetch_add_i64, load_f32, load_i64, pointer, store_f32, store_i32
from sparsert.kernels.stages import dequantize_rows, load_rows, normalize_rows, normalize_statistics

__all__ = [
    "ATTENTION_WORK",
    "META_COLUMNS",
    "OPCODES",
    "PANEL_BLOCKS",
    "QUEUE_COLUMNS",
    "SEGMENT_COLUMNS",
    "SOURCES",
    "STAGE_COLUMNS",
    "STEP_COLUMNS",
    "TABLE_COLUMNS",
    "run_entry",
    "run_program",
]

OPCODES = {
    "rows": 0,
    "embed": 1,
    "gather": 2,
    "scatter": 3,
    "attention": 4,
    "extrema": 5,
    "dynamic": 6,
    "select": 7,
    "linear": 8,
    "byte_sums": 9,
}

SOURCES = {
    "unstructured": 0,
    "blocks": 5,
    "dense": 10,
    "float_sparse": 11,
    "float_dense": 12,
    "load": 13,
    "dequantize": 14,
    "normalize": 15,
}

STEP_COLUMNS = 32
STAGE_COLUMNS = 10
TABLE_COLUMNS = 8
META_COLUMNS = 6
"""Per tile: address of its segments, number of segments, flat index of its first token, valid tokens (the lanes behind
them are empty), work of attention in the tiles before it, work of attention in it."""

QUEUE_COLUMNS = 8
"""Integers of a queue; two are used, but each queue has a cache line of its own."""

SEGMENT_COLUMNS = 9
"""Per piece of a sequence in a tile: first lane, lane after the last, position of the first lane's token in its
sequence, index of the sequence, tokens of the sequence, tile of its first key (counted from the chunk's first), first
key and key after the last (from the start of that tile), index of the bias of the four that the first key lies in."""

PANEL_BLOCKS = 4
"""Blocks of rows that collect the contributions of slices side by side, 16 KB on AVX2."""

_QUEUE_BYTES = 8 * QUEUE_COLUMNS
_BLOCK_BYTES = BLOCK_ROWS * TILE * 4
_STATISTICS_BYTES = 2 * 4 * TILE
ATTENTION_WORK = 4 * TILE * TILE + TILE * TILE + 4 * TILE
"""Scratch bytes that attention needs per key tile, besides 8 rows of a tile."""


@inner()
def _place(base, stride, tile, group, scratch):
    """Address of tile ``tile``; ``group`` is the first tile of its group."""
    if stride < 0:
        return scratch + base - stride * (tile - group)
    return base + stride * tile


_unstructured_0, _unstructured_1, _unstructured_2, _unstructured_3, _unstructured_4 = accumulate.accumulate_unstructured
_blocks_0, _blocks_1, _blocks_2, _blocks_3, _blocks_4 = accumulate.accumulate_blocks
_dense = accumulate.accumulate_dense
_float_sparse = accumulate.accumulate_float_sparse
_float_dense = accumulate.accumulate_float_dense


@inner()
def _accumulate(kind, x, headers, weights, offsets, block, rows, add):
    if kind == 0:
        _unstructured_0(x, headers, weights, offsets, block, rows, add)
    elif kind == 1:
        _unstructured_1(x, headers, weights, offsets, block, rows, add)
    elif kind == 2:
        _unstructured_2(x, headers, weights, offsets, block, rows, add)
    elif kind == 3:
        _unstructured_3(x, headers, weights, offsets, block, rows, add)
    elif kind == 4:
        _unstructured_4(x, headers, weights, offsets, block, rows, add)
    elif kind == 5:
        _blocks_0(x, headers, weights, offsets, block, rows, add)
    elif kind == 6:
        _blocks_1(x, headers, weights, offsets, block, rows, add)
    elif kind == 7:
        _blocks_2(x, headers, weights, offsets, block, rows, add)
    elif kind == 8:
        _blocks_3(x, headers, weights, offsets, block, rows, add)
    elif kind == 9:
        _blocks_4(x, headers, weights, offsets, block, rows, add)
    elif kind == 10:
        _dense(x, headers, weights, offsets, block, rows, add)
    elif kind == 11:
        _float_sparse(x, headers, weights, offsets, block, rows, add)
    else:
        _float_dense(x, headers, weights, offsets, block, rows, add)


(
    _dequantize,
    _dequantize_dynamic,
    _bias,
    _gelu,
    _gelu_tanh,
    _relu,
    _tanh,
    _add,
    _fake_quantize,
    _floats,
    _rows,
    _quads,
    _signed_quads,
    _signed_rows,
    _dequantize_rows,
    _dequantize_quads,
    _dequantize_signed_quads,
    _dequantize_signed_rows,
    _dequantize_gelu_rows,
    _dequantize_gelu_quads,
    _dequantize_add_floats,
    _bias_add_floats,
    _bias_gelu_floats,
    _bias_floats,
) = stages.STAGES


@inner()
def _run_stage(kind, block, rows, acc_bias, scale, bias, params, source, destination):
    if kind == 0:
        _dequantize(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 1:
        _dequantize_dynamic(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 2:
        _bias(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 3:
        _gelu(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 4:
        _gelu_tanh(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 5:
        _relu(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 6:
        _tanh(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 7:
        _add(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 8:
        _fake_quantize(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 9:
        _floats(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 10:
        _rows(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 11:
        _quads(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 12:
        _signed_quads(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 13:
        _signed_rows(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 14:
        _dequantize_rows(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 15:
        _dequantize_quads(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 16:
        _dequantize_signed_quads(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 17:
        _dequantize_signed_rows(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 18:
        _dequantize_gelu_rows(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 19:
        _dequantize_gelu_quads(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 20:
        _dequantize_add_floats(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 21:
        _bias_add_floats(block, rows, acc_bias, scale, bias, params, source, destination)
    elif kind == 22:
        _bias_gelu_floats(block, rows, acc_bias, scale, bias, params, source, destination)
    else:
        _bias_floats(block, rows, acc_bias, scale, bias, params, source, destination)


@inner()
def _run_stages(table, count, block, first, rows, tile, group, scratch):
    """All stages of a step on the block whose first row is ``first``."""
    for index in range(count):
        stage = table + index * (8 * STAGE_COLUMNS)
        word = 4 * first
        source = _place(load_i64(stage + 40), load_i64(stage + 48), tile, group, scratch) + first * (4 * TILE)
        destination = _place(load_i64(stage + 56), load_i64(stage + 64), tile, group, scratch)
        destination += first * load_i64(stage + 72)
        _run_stage(
            load_i64(stage),
            block,
            rows,
            load_i64(stage + 8) + word,
            load_i64(stage + 16) + word,
            load_i64(stage + 24) + word,
            load_i64(stage + 32),
            source,
            destination,
        )


@inner()
def _rows_step(step, tile, group, scratch):
    """Rows that need no weights (load, dequantize, normalize), block by block, each block through the stages.

    Columns: 1 source, 2-3 x, 8 rows, 10 gamma, 11 beta, 12 parameters, 13 stages, 14 stage table.
    """
    kind, rows = step[1], step[8]
    x = _place(step[2], step[3], tile, group, scratch)
    block = scratch
    statistics = scratch + PANEL_BLOCKS * _BLOCK_BYTES
    if kind == 15:
        normalize_statistics(x, rows, step[12], statistics)
    for first in range(0, rows, BLOCK_ROWS):
        size = min(BLOCK_ROWS, rows - first)
        if kind == 13:
            load_rows(x + first * (4 * TILE), block, size)
        elif kind == 14:
            dequantize_rows(x + first * TILE, block, size, step[12])
        else:
            gamma, beta = step[10] + 4 * first, step[11] + 4 * first
            normalize_rows(x + first * (4 * TILE), block, size, statistics, gamma, beta)
        _run_stages(step[14], step[13], block, first, size, tile, group, scratch)


@inner()
def _linear_step(step, group, tiles, part, parts, scratch):
    """Accumulators of ``tiles`` tiles from ``group`` on, through the stages.

    Panels of a few blocks of rows come first and tiles second: a panel's weights are read from memory once and stay in
    the L2 for the whole group, a tile's activations stay in the L1 for the whole panel, or, if they do not fit there,
    a slice of them stays while the panel's blocks collect what it contributes.

    Columns: 1 source, 2-3 x, 4 headers, 5 weights, 6 offsets, 7 starts, 8 rows, 9 offsets are a count, 13 stages,
    14 stage table, 16 blocks per panel, 17 slices, 18 bytes of a slice of a tile.
    """
    kind, rows, panel, slices = step[1], step[8], step[16], step[17]
    blocks = (rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    last = (part + 1) * blocks // parts
    for start in range(part * blocks // parts, last, panel):
        for tile in range(group, group + tiles):
            x = _place(step[2], step[3], tile, group, scratch)
            for turn in range(slices):
                for index in range(start, min(start + panel, last)):
                    first = index * BLOCK_ROWS
                    size = min(BLOCK_ROWS, rows - first)
                    block = scratch
                    if slices > 1:
                        block += (index - start) * _BLOCK_BYTES
                    starts = step[7] + 16 * (turn * blocks + index)
                    offsets = step[6]
                    if step[9] == 0:
                        offsets += load_i64(starts + 8)
                    headers = step[4] + HEADER_BYTES * (turn * rows + first)
                    weights = step[5] + load_i64(starts)
                    _accumulate(kind, x + turn * step[18], headers, weights, offsets, block, size, np.int64(turn > 0))
                    if turn == slices - 1:
                        _run_stages(step[14], step[13], block, first, size, tile, group, scratch)


(
    _first_floats,
    _add_floats,
    _first_bytes,
    _add_bytes,
    _first_signed_bytes,
    _add_signed_bytes,
) = ADD_ROWS


@inner()
def _add_table_row(element, first, row, count, scale, zero_point, sums):
    if element == 0:
        if first:
            _first_floats(row, count, scale, zero_point, sums)
        else:
            _add_floats(row, count, scale, zero_point, sums)
    elif element == 1:
        if first:
            _first_bytes(row, count, scale, zero_point, sums)
        else:
            _add_bytes(row, count, scale, zero_point, sums)
    elif first:
        _first_signed_bytes(row, count, scale, zero_point, sums)
    else:
        _add_signed_bytes(row, count, scale, zero_point, sums)


@inner()
def _embed_step(step, tile, group, part, parts, meta, scratch):
    """Sum of table rows for every token of a tile, written transposed; tokens beyond the sequence become zero.

    Columns: 1 tables, 2 table of tables, 3 channels, 4-5 out. A table: weight, element (0 float32, 1 uint8, 2 int8),
    scale address, zero point, index kind (0 input, 1 position, 2 constant), ids (int64) address, offset, rows.
    """
    out = _place(step[4], step[5], tile, group, scratch)
    channels, valid = step[3], meta[tile, 3]
    blocks = (channels + BLOCK_ROWS - 1) // BLOCK_ROWS
    last = min((part + 1) * blocks // parts * BLOCK_ROWS, channels)
    for begin in range(part * blocks // parts * BLOCK_ROWS, last, STAGED_CHANNELS):
        count = min(STAGED_CHANNELS, last - begin)
        for place in range(valid * STAGED_CHANNELS, TILE * STAGED_CHANNELS):
            store_f32(scratch + 4 * place, np.float32(0.0))
        segment = meta[tile, 0]
        for lane in range(valid):
            if lane == load_i64(segment + 8):
                segment += 8 * SEGMENT_COLUMNS
            position = load_i64(segment + 16) + lane - load_i64(segment)
            sums = scratch + lane * (4 * STAGED_CHANNELS)
            for index in range(step[1]):
                table = step[2] + index * (8 * TABLE_COLUMNS)
                element, kind = load_i64(table + 8), load_i64(table + 32)
                row = load_i64(table + 48)
                if kind == 0:
                    row = load_i64(load_i64(table + 40) + 8 * (meta[tile, 2] + lane))
                    if row < 0:
                        row += load_i64(table + 56)
                elif kind == 1:
                    row += position
                place = row * channels + begin
                if element == 0:
                    place *= 4
                source = load_i64(table) + place
                _add_table_row(element, index == 0, source, count, load_i64(table + 16), load_i64(table + 24), sums)
        transpose_channels(scratch, count, out + begin * (4 * TILE))


@inner()
def _gather_step(step, tile, group, meta, scratch):
    """Rows of a float tile to an array [tokens][columns]. Columns: 1-2 x, 3 rows, 4 array, 5 width, 6 first column."""
    x = _place(step[1], step[2], tile, group, scratch)
    width = step[5]
    for lane in range(meta[tile, 3]):
        place = step[4] + 4 * ((meta[tile, 2] + lane) * width + step[6])
        for row in range(step[3]):
            store_f32(place + 4 * row, load_f32(x + 4 * (row * TILE + lane)))


@inner()
def _select_step(step, tile, group, meta, scratch):
    """One token of every sequence to an array [sequences][rows]. Columns: 1-2 x, 3 rows, 4 array, 5 token.

    A negative token counts from the end of its sequence.
    """
    x = _place(step[1], step[2], tile, group, scratch)
    for index in range(meta[tile, 1]):
        segment = meta[tile, 0] + index * (8 * SEGMENT_COLUMNS)
        token = step[5]
        if token < 0:
            token += load_i64(segment + 32)
        lane = load_i64(segment) + token - load_i64(segment + 16)
        if load_i64(segment) <= lane < load_i64(segment + 8):
            place = step[4] + 4 * load_i64(segment + 24) * step[3]
            for row in range(step[3]):
                store_f32(place + 4 * row, load_f32(x + 4 * (row * TILE + lane)))


@inner()
def _scatter_step(step, tile, group, meta, scratch):
    """An array [tokens][rows] to a float tile; tokens beyond the sequence become zero. Columns as gather."""
    x = _place(step[1], step[2], tile, group, scratch)
    for lane in range(TILE):
        place = step[4] + 4 * (meta[tile, 2] + lane) * step[3]
        for row in range(step[3]):
            value = np.float32(0.0)
            if lane < meta[tile, 3]:
                value = load_f32(place + 4 * row)
            store_f32(x + 4 * (row * TILE + lane), value)


@inner()
def _attention_step(step, tile, head, meta, scratch):
    """One head of one tile of queries, for each sequence that has tokens in the tile; then the stages on its rows.

    All lanes are queries of every sequence in turn, and each sequence overwrites its own lanes and those behind it.

    Columns: 1-2 q, 3-4 k, 5-6 v, 7 heads, 8 head size, 9 key bias, 10 parameters, 11 form (0 float, 1 int8, 2 int8 with
    quantized scores, 3 with bounded ones), 12 add the value offset, 13 stages, 14 stage table, 15 row bytes of q and k,
    16 row bytes of v, 17-18 byte sums.
    """
    size = step[8]
    row = head * size
    head_sums = step[17] + head * (SUM_ROWS * 4 * TILE)
    queries = step[1] + step[2] * tile + row * step[15]
    out = scratch
    other = scratch + size * 4 * TILE
    work = other + size * 4 * TILE
    for index in range(meta[tile, 1]):
        segment = meta[tile, 0] + index * (8 * SEGMENT_COLUMNS)
        key_tile = load_i64(segment + 40)
        first, stop = load_i64(segment + 48), load_i64(segment + 56)
        keys = step[3] + step[4] * key_tile + row * step[15]
        values = step[5] + step[6] * key_tile + row * step[16]
        bias = step[9] + 4 * load_i64(segment + 64)
        target = out if index == 0 else other
        if step[11] == 0:
            attend_float(queries, keys, step[4], values, step[6], first, stop, size, bias, step[10], work, target)
        else:
            attend_int8(
                queries,
                head_sums + step[18] * tile,
                keys,
                step[4],
                head_sums + step[18] * key_tile,
                step[18],
                values,
                step[6],
                first,
                stop,
                size,
                bias,
                step[10],
                step[11],
                step[12] != 0,
                work,
                target,
            )
        if index > 0:
            for place in range(0, size * 4 * TILE, 4 * TILE):
                for lane in range(load_i64(segment), TILE):
                    store_f32(out + place + 4 * lane, load_f32(other + place + 4 * lane))
    for first in range(0, size, BLOCK_ROWS):
        count = min(BLOCK_ROWS, size - first)
        block = out + first * 4 * TILE
        _run_stages(step[14], step[13], block, row + first, count, tile, tile, scratch)


@inner()
def _attention_share(step, share, shares, meta, tiles, scratch):
    """Those heads of tiles whose work begins in one of ``shares`` equal parts of all the work."""
    heads = step[7]
    total = (meta[tiles - 1, 4] + meta[tiles - 1, 5]) * heads
    start, stop = share * total // shares, (share + 1) * total // shares
    for tile in range(tiles):
        before, work = meta[tile, 4] * heads, meta[tile, 5]
        if before + work * heads <= start or before >= stop:
            continue
        for head in range(heads):
            if start <= before + work * head < stop:
                _attention_step(step, tile, head, meta, scratch)


@inner()
def _byte_sums_step(step, tile, group, part, parts, scratch):
    """Byte sums of a part of a tile's heads. Columns: 1-2 q, 3-4 k, 5-6 sums, 7 heads, 8 head size, 10 parameters."""
    q, k = _place(step[1], step[2], tile, group, scratch), _place(step[3], step[4], tile, group, scratch)
    out = _place(step[5], step[6], tile, group, scratch)
    for head in range(part * step[7] // parts, (part + 1) * step[7] // parts):
        row = head * step[8] * TILE
        byte_sums(q + row, k + row, step[8] // 4, step[10], out + head * (SUM_ROWS * 4 * TILE))


@inner()
def _extrema_step(step, tile, group, meta, scratch):
    """Extrema of the valid tokens of a float tile. Columns: 1-2 x, 3 rows, 4 results (two floats a tile)."""
    x = _place(step[1], step[2], tile, group, scratch)
    low, high = np.float32(0.0), np.float32(0.0)
    valid = meta[tile, 3]
    for row in range(step[3]):
        for lane in range(valid):
            value = load_f32(x + 4 * (row * TILE + lane))
            if value < low or value != value:
                low = value
            if value > high or value != value:
                high = value
    store_f32(step[4] + 8 * tile, low)
    store_f32(step[4] + 8 * tile + 4, high)


@inner()
def _dynamic_step(step, tiles):
    """DynamicQuantizeLinear's parameters from all tiles' extrema (ONNX page). Columns: 4 results, 12 parameters."""
    low, high = np.float32(0.0), np.float32(0.0)
    for tile in range(tiles):
        low = min(low, load_f32(step[4] + 8 * tile))
        high = max(high, load_f32(step[4] + 8 * tile + 4))
    scale = np.float32((high - low) / np.float32(255.0))
    if scale == np.float32(0.0):
        scale = np.float32(1.0)
    zero_point = np.int64(min(max(np.rint(-low / scale), np.float32(0.0)), np.float32(255.0)))
    params = step[12]
    store_f32(params, np.float32(1.0) / scale)
    store_f32(params + 4, scale)
    store_i32(params + 8, zero_point)
    store_f32(params + 12, np.float32(-zero_point))
    store_f32(params + 16, np.float32(255 - zero_point))
    store_f32(params + 20, scale)


@inner()
def _tile_step(step, tile, group, meta, scratch):
    opcode = step[0]
    if opcode == 0:
        _rows_step(step, tile, group, scratch)
    elif opcode == 2:
        _gather_step(step, tile, group, meta, scratch)
    elif opcode == 3:
        _scatter_step(step, tile, group, meta, scratch)
    elif opcode == 5:
        _extrema_step(step, tile, group, meta, scratch)
    else:
        _select_step(step, tile, group, meta, scratch)


@inner()
def _run_unit(steps, first, last, kind, size, unit, units, tile_meta, scratch):
    """One of the ``units`` units of a region; see :func:`run_program` for ``kind`` and ``size``."""
    tiles = len(tile_meta)
    if kind == 2:
        _dynamic_step(steps[first], tiles)
        return
    group, count, part, parts = unit * size, min(size, tiles - unit * size), 0, 1
    if kind == 1:
        group, count, part, parts = 0, tiles, unit, units
    elif kind == 3:
        group, count, part, parts = unit // size, 1, unit % size, size
    for index in range(first, last):
        step = steps[index]
        if step[0] == 8:
            _linear_step(step, group, count, part, parts, scratch)
        elif step[0] == 4:
            _attention_share(step, part, parts, tile_meta, tiles, scratch)
        else:
            for tile in range(group, group + count):
                if step[0] == 1:
                    _embed_step(step, tile, group, part, parts, tile_meta, scratch)
                elif step[0] == 9:
                    _byte_sums_step(step, tile, group, part, parts, scratch)
                else:
                    _tile_step(step, tile, group, tile_meta, scratch)


def _run_queues(program, first, last, kind, size, units, queues, queue, count, meta, tiles, scratch):
    """All units of one queue, then those that are left in the others."""
    steps = carray(pointer(program), (last, STEP_COLUMNS))
    tile_meta = carray(pointer(meta), (tiles, META_COLUMNS))
    for distance in range(count):
        place = queues + _QUEUE_BYTES * ((queue + distance) % count)
        stop = load_i64(place + 8)
        while load_i64(place) < stop:
            unit = fetch_add_i64(place, 1)
            if unit < stop:
                _run_unit(steps, first, last, kind, size, unit, units, tile_meta, scratch)


@functools.cache
def run_entry() -> Any:
    """What compiles, or loads, nearly all that a program runs; its ``address`` is for :func:`run_program`."""
    return entry(_run_queues, 12)


@jit(parallel=True)
def run_program(program, regions, queues, meta, tiles, scratch, scratch_stride, run_queues):
    """Run all regions over ``tiles`` tiles.

    Parameters
    ----------
    program : int64 array, shape (steps, STEP_COLUMNS)
    regions : int64 array, shape (regions, 4)
        First step, step after the last, kind, size. Kind 0: groups of ``size`` tiles; 1: attention, ``size`` units of
        about equal work; 2: one unit in all; 3: ``size`` parts of the rows of every tile, or of the only tile's heads.
    queues : int64 array, shape (threads, QUEUE_COLUMNS)
        Working memory: each thread's next unit, and the one after its last.
    meta : int64 array, shape (tiles, META_COLUMNS)
    tiles : int
    scratch, scratch_stride : int
        Address of the threads' scratch, and bytes for each thread.
    run_queues : int
        Address of :func:`run_entry`.
    """
    steps, tile_meta, places = program.ctypes.data, meta.ctypes.data, queues.ctypes.data
    for region in range(regions.shape[0]):
        first, last, kind, size = regions[region, 0], regions[region, 1], regions[region, 2], regions[region, 3]
        units = 1
        if kind == 0:
            units = (tiles + size - 1) // size
        elif kind == 1:
            units = size
        elif kind == 3:
            units = tiles * size
        count = min(queues.shape[0], units)
        for queue in range(count):
            queues[queue, 0] = queue * units // count
            queues[queue, 1] = (queue + 1) * units // count
        for queue in prange(count):
            own = np.int64(queue)
            place = scratch + scratch_stride * own
            call(run_queues, (steps, first, last, kind, size, units, places, own, count, tile_meta, tiles, place))
