"""Embeddings of a tile: table rows are summed as they lie, token by token, and the sums transposed.

Writing every value of a row straight to its place in the tile took several times as long: each goes to another line of
the cache, once a table.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from sparsert.kernels.jit import TILE
from sparsert.kernels.records import round_trip
from sparsert.kernels.registry import Registry
from sparsert.kernels.simd import Simd, Value, micro_kernel
from sparsert.kernels.table import ELEMENT

__all__ = ["ADD_CODES", "ADD_ROWS", "STAGED_CHANNELS", "round_sums", "transpose_channels"]

STAGED_CHANNELS = 128
"""Channels of a block of sums, float32 ``[TILE][STAGED_CHANNELS]``: 16 KB on AVX2, half of an L1."""

_STAGED_ROW = 4 * STAGED_CHANNELS


def _add_row(element: int, first: bool) -> Callable[..., None]:
    """Emitter that adds ``count`` channels of one table row to a row of sums, or writes them if it is the first.

    Bytes become ``(byte - zero_point) * scale``, where ``scale`` is an address.
    """

    def emit(v: Simd, row: Value, count: Value, scale: Value, zero_point: Value, sums: Value) -> None:
        b = v.builder
        row, sums = v.pointer(row), v.pointer(sums)
        factor, offset = v.load(v.pointer(scale), v.f32.element, 4), b.trunc(zero_point, v.i32.element)
        factors = {1: factor, v.lanes: v.splat(factor, v.f32)}
        offsets = {1: offset, v.lanes: v.splat(offset, v.i32)}
        floating = element == ELEMENT.float32
        size = 4 if floating else 1

        def add(channel: Value, lanes: int) -> None:
            """``lanes`` channels at once: a vector, or 1."""
            place = v.at(row, v.mul(channel, size))
            value = v.load(place, _lanes(v.f32.element if floating else ir.IntType(8), lanes), size)
            if not floating:
                extend = b.zext if element == ELEMENT.uint8 else b.sext
                value = extend(value, _lanes(v.i32.element, lanes))
                value = b.sitofp(b.sub(value, offsets[lanes]), _lanes(v.f32.element, lanes))
                value = b.fmul(value, factors[lanes])
            target = v.at(sums, v.mul(channel, 4))
            if not first:
                value = b.fadd(v.load(target, value.type, 4), value)
            v.store(value, target, 4)

        whole = b.and_(count, v.integer(-v.lanes))
        with v.loop(whole, step=v.lanes) as channel:
            add(channel, v.lanes)
        with v.loop(count, start=whole) as channel:
            add(channel, 1)

    return emit


def _lanes(element: ir.Type, count: int) -> ir.Type:
    return element if count == 1 else ir.VectorType(element, count)


ADD_ROWS = Registry("addition of table rows", 5)
"""``add(row, count, scale, zero_point, sums)`` for every element: code ``ADD_CODES * element`` for the first table,
which writes the sums, and one more for the others."""

ADD_CODES = 2
"""Codes of each element in :data:`ADD_ROWS`."""

for _name, _element in ELEMENT._asdict().items():
    ADD_ROWS.add(f"{_name} first", ADD_CODES * _element, _add_row(_element, True))
    ADD_ROWS.add(_name, ADD_CODES * _element + 1, _add_row(_element, False))


@micro_kernel(2)
def round_sums(v: Simd, sums: Value, rounding: Value) -> None:
    """A row of the block of sums quantized and dequantized, in place, the channels that nobody needs with it."""
    sums, rounding = v.pointer(sums), v.pointer(rounding)
    with v.loop(v.integer(STAGED_CHANNELS), step=v.lanes) as channel:
        place = v.at(sums, v.mul(channel, 4))
        v.store(round_trip(v, v.load(place, v.f32, 4), rounding), place, 4)


@micro_kernel(3)
def transpose_channels(v: Simd, sums: Value, count: Value, out: Value) -> None:
    """The first ``count`` channels of a block of sums to as many rows of a float tile."""
    b = v.builder
    sums, out = v.pointer(sums), v.pointer(out)
    whole = b.and_(count, v.integer(-v.lanes))
    with v.loop(whole, step=v.lanes) as channel:
        source, target = v.at(sums, v.mul(channel, 4)), v.at(out, v.mul(channel, 4 * TILE))
        for token in range(0, TILE, v.lanes):
            square = [v.load(v.at(source, (token + k) * _STAGED_ROW), v.f32, 4) for k in range(v.lanes)]
            for k, vector in enumerate(_transposed(v, square)):
                v.store(vector, v.at(target, k * 4 * TILE + 4 * token), 4)
    with v.loop(count, start=whole) as channel, v.loop(v.integer(TILE)) as token:
        place = v.at(sums, v.add(v.mul(channel, 4), v.mul(token, _STAGED_ROW)))
        value = v.load(place, v.f32.element, 4)
        v.store(value, v.at(out, v.add(v.mul(channel, 4 * TILE), v.mul(token, 4))), 4)


def _transposed(v: Simd, rows: list[Value]) -> list[Value]:
    """A square of vectors transposed, in log2 steps that swap ever larger squares off the diagonal."""
    rows, size, step = list(rows), len(rows), 1
    while step < size:
        for k in range(size):
            if not k & step:
                a, c = rows[k], rows[k + step]
                rows[k] = v.shuffle(a, c, [size + (j ^ step) if j & step else j for j in range(size)])
                rows[k + step] = v.shuffle(a, c, [size + j if j & step else j ^ step for j in range(size)])
        step *= 2
    return rows
