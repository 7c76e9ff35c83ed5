"""Batches of float32 matrix products, operands anywhere in memory, on the threads of the team.

BLAS has threads of its own, one for each core of the machine, and knows nothing of the engine's; and for the many small
products of attention it pays its overhead once a head.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from sparsert.kernels.arrays.numbers import store_some
from sparsert.kernels.jit import TIER, inner, jit
from sparsert.kernels.memory import load_f32
from sparsert.kernels.simd import Simd, Value, micro_kernel

__all__ = ["PANEL", "multiply"]

_ROWS = 6 if TIER.registers <= 16 else 12
"""Rows of a block: with two vectors of columns 12 or 24 accumulators, which leaves room for operands."""

_LANES = TIER.vector_bytes // 4

PANEL = 2 * _LANES
"""Columns of a panel: two vectors."""


_ROWS_UNPACKED = 4 * _ROWS
"""Rows up to which a panel is read where it lies: packing pays when more blocks of rows read it."""


@micro_kernel(10)
def _block(
    v: Simd,
    a: Value,
    a_row: Value,
    a_term: Value,
    rows: Value,
    panel: Value,
    panel_row: Value,
    terms: Value,
    c: Value,
    c_row: Value,
    columns: Value,
) -> None:
    """Up to ``_ROWS`` rows of a product with a panel; strides in bytes. Rows beyond the last repeat it."""
    b, vector = v.builder, v.bytes
    a, panel, c = v.pointer(a), v.pointer(panel), v.pointer(c)
    last = b.sub(rows, v.integer(1))
    indices = [b.select(b.icmp_signed("<", v.integer(r), last), v.integer(r), last) for r in range(_ROWS)]
    places = [v.at(a, b.mul(index, a_row)) for index in indices]
    sums = [[v.variable(v.zero(v.f32)) for _ in range(2)] for _ in range(_ROWS)]
    with v.loop(terms) as term:
        offset = b.mul(term, a_term)
        line = v.at(panel, b.mul(term, panel_row))
        right = [v.load(v.at(line, k * vector), v.f32, 4) for k in range(2)]
        for place, pair in zip(places, sums, strict=True):
            left = v.broadcast_f32(v.at(place, offset))
            for total, factor in zip(pair, right, strict=True):
                total.set(v.fma(left, factor, total.get()))
    full = b.icmp_signed("==", columns, v.integer(2 * v.lanes))
    with b.if_else(full) as (whole, part):
        with whole:
            for index, pair in zip(indices, sums, strict=True):
                line = v.at(c, b.mul(index, c_row))
                for k, total in enumerate(pair):
                    v.store(total.get(), v.at(line, k * vector), 4)
        with part:
            zero, lanes = v.integer(0), v.integer(v.lanes)
            first = b.select(b.icmp_signed("<", columns, lanes), columns, lanes)
            second = b.select(b.icmp_signed(">", columns, lanes), b.sub(columns, lanes), zero)
            for index, pair in zip(indices, sums, strict=True):
                line = v.at(c, b.mul(index, c_row))
                store_some(v, pair[0].get(), line, first)
                store_some(v, pair[1].get(), v.at(line, vector), second)


@micro_kernel(3)
def _transpose(v: Simd, source: Value, stride: Value, target: Value) -> None:
    """As many numbers of as many columns as a vector has, each column contiguous, to rows of a panel."""
    source, target = v.pointer(source), v.pointer(target)
    rows = [v.load(v.at(source, v.builder.mul(v.integer(k), stride)), v.f32, 4) for k in range(v.lanes)]
    bit = 1
    while bit < v.lanes:  # exchanges one bit of the index of rows with that of columns
        for k in range(v.lanes):
            if not k & bit:
                low = [lane if not lane & bit else v.lanes + lane - bit for lane in range(v.lanes)]
                high = [lane + bit if not lane & bit else v.lanes + lane for lane in range(v.lanes)]
                pair = rows[k], rows[k + bit]
                rows[k], rows[k + bit] = v.shuffle(*pair, low), v.shuffle(*pair, high)
        bit *= 2
    for k, row in enumerate(rows):
        v.store(row, v.at(target, 4 * PANEL * k), 4)


@inner()
def _pack(b, term_stride, column_stride, terms, columns, panel):
    """Columns of a matrix side by side, term by term, those that are missing as zeros; strides in bytes."""
    if columns < PANEL:
        for index in range(terms * PANEL):
            panel[index] = np.float32(0)
    if column_stride == 4:
        for term in range(terms):
            for column in range(columns):
                panel[term * PANEL + column] = load_f32(b + term * term_stride + 4 * column)
    else:
        first = 0
        if columns == PANEL and term_stride == 4:
            while first + _LANES <= terms:
                for half in range(0, PANEL, _LANES):
                    place = panel.ctypes.data + 4 * (first * PANEL + half)
                    _transpose(b + 4 * first + half * column_stride, column_stride, place)
                first += _LANES
        for column in range(columns):
            for term in range(first, terms):
                panel[term * PANEL + column] = load_f32(b + term * term_stride + column * column_stride)


@jit(parallel=True)
def multiply(a, b, c, sizes, a_strides, b_strides, c_row, threads):
    """Multiply matrices.

    Parameters
    ----------
    a, b, c : int64 arrays, shape (n,)
        Addresses of the matrices of each product.
    sizes : tuple of int
        Rows, terms and columns.
    a_strides, b_strides : tuple of int
        Bytes between neighbouring rows, and columns.
    c_row : int
        Bytes between neighbouring rows of the results, whose columns are neighbours.
    threads : int
        Of the calling thread's team.
    """
    rows, terms, columns = sizes
    # fewer products than threads are divided by rows as well
    parts = max(1, min((threads + len(a) - 1) // len(a), (rows + _ROWS - 1) // _ROWS))
    units = len(a) * parts
    count = min(threads, units)
    for thread in prange(count):
        panel = np.empty(max(1, terms) * PANEL, np.float32)
        for unit in range(thread * units // count, (thread + 1) * units // count):
            item, part = unit // parts, unit % parts
            begin, stop = part * rows // parts, (part + 1) * rows // parts
            for column in range(0, columns, PANEL):
                width = min(PANEL, columns - column)
                right, right_row = b[item] + column * b_strides[1], b_strides[0]
                if b_strides[1] != 4 or width < PANEL or stop - begin > _ROWS_UNPACKED:
                    _pack(right, b_strides[0], b_strides[1], terms, width, panel)
                    right, right_row = panel.ctypes.data, 4 * PANEL
                for row in range(begin, stop, _ROWS):
                    left = a[item] + row * a_strides[0]
                    result = c[item] + row * c_row + 4 * column
                    count_rows = min(_ROWS, stop - row)
                    _block(left, *a_strides, count_rows, right, right_row, terms, result, c_row, width)
