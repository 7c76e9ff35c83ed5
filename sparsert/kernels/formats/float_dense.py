"""Dense float32: panels of six rows."""

from __future__ import annotations

import numpy as np

from sparsert.kernels.formats.base import BLOCK_ROWS, Format, PackedWeight, add_format
from sparsert.kernels.formats.emit import ROW_BYTES, finish
from sparsert.kernels.jit import jit
from sparsert.kernels.registry import ANY_ROW
from sparsert.kernels.simd import Simd, Sums, Value

_ROWS = 4
_WIDE_ROWS = 6

_SLICE = 768
"""Input features of a slice at most: on AVX2 its activations take 96 KB of the L2, which the next panels read again."""

_WIDE_BLOCK_ROWS = 24
"""Rows of a whole block that are taken in panels of :data:`_WIDE_ROWS`; all others in :data:`_ROWS`."""


def _float_dense(
    v: Simd, x: Value, headers: Value, weights: Value, count: Value, scratch: Value, rows: Value, add: Value
) -> None:
    """Panels of six rows (the last of a block of four), times two vectors (AVX2) or four (AVX-512), in registers.

    Twelve sums and more keep two multiply-adds a cycle in flight. ``count`` is the number of input channels; the
    weights of a panel of P rows are ``[K][P]``.
    """
    b = v.builder
    x, scratch, weights = v.pointer(x), v.pointer(scratch), v.pointer(weights)
    whole = b.icmp_signed("==", rows, v.integer(BLOCK_ROWS))
    wide = b.select(whole, v.integer(_WIDE_BLOCK_ROWS), v.integer(0))
    for start, stop, panel in ((v.integer(0), wide, _WIDE_ROWS), (wide, rows, _ROWS)):
        with v.loop(stop, start, panel) as row:
            stream = v.at(weights, v.mul(v.mul(row, 4), count))
            _panel(v, x, stream, count, v.at(scratch, v.mul(row, ROW_BYTES)), panel, add)


def _panel(v: Simd, x: Value, weights: Value, channels: Value, scratch: Value, panel: int, add: Value) -> None:
    """All parts of a panel, each of which brings its share of the next panel's weights into the L2.

    Only the first part reads weights from memory; without this it would wait for them, and the others would leave
    memory idle.
    """
    parts = _parts(v, panel)
    following = v.at(weights, v.mul(channels, 4 * panel))
    share = 4 * panel // len(parts)
    for part, (first, width, rows) in enumerate(parts):
        sums = [Sums(v, [v.zero(v.f32)] * width) for _ in rows]
        weight = v.variable(weights)
        with v.loop(channels) as channel:
            v.prefetch(v.at(following, v.mul(v.add(channel, v.mul(channels, part)), share)))
            place = v.at(x, v.add(v.mul(channel, ROW_BYTES), first * v.bytes))
            vectors = [v.load(v.at(place, k * v.bytes), v.f32) for k in range(width)]
            scalars = v.broadcasts(v.at(weight.get(), 4 * rows.start), len(rows), v.f32)
            for total, scalar in zip(sums, scalars, strict=True):
                total.add(vectors, scalar)
            weight.set(v.at(weight.get(), 4 * panel))
        for r, total in zip(rows, sums, strict=True):
            finish(v, total.get(), v.at(scratch, r * ROW_BYTES + first * v.bytes), add, v.builder.fadd)


def _parts(v: Simd, panel: int) -> list[tuple[int, int, range]]:
    """What registers hold at a time of a panel: the first vector, the number of vectors, and the rows.

    Three vectors are taken at once: the third by itself would have too few sums to hide the latency of six rows.
    """
    if v.tier.registers >= 32:
        return [(0, v.row, range(panel))]
    if v.row == 3:
        held = panel // 2 if panel > _ROWS else panel
        return [(0, 3, range(first, first + held)) for first in range(0, panel, held)]
    return [(first, 2, range(panel)) for first in range(0, v.row, 2)]


@jit()
def _write_panels(weight, stream):
    """Panel after panel: weights of panel rows r, r + 1, ... of the first column, then of the next."""
    rows, columns = weight.shape
    row = 0
    while row < rows:
        inside = row % BLOCK_ROWS
        whole = row - inside + BLOCK_ROWS <= rows
        panel = _WIDE_ROWS if whole and inside < _WIDE_BLOCK_ROWS else _ROWS
        held = min(panel, rows - row)
        for column in range(columns):
            start = row * columns + column * panel
            for r in range(held):
                stream[start + r] = weight[row + r, column]
        row += panel


def _slices(columns: int) -> int:
    """The fewest equal slices of at most :data:`_SLICE` input features; 1 if none are."""
    return next((count for count in range(1, columns // 64) if columns % count == 0 and columns // count <= _SLICE), 1)


def _pack(weight: np.ndarray) -> PackedWeight:
    """Pack float32 weights (N, K)."""
    rows, columns = weight.shape
    count = _slices(columns)
    width = columns // count
    padded = -(-rows // _ROWS) * _ROWS
    stream = np.zeros(padded * columns, np.float32)
    for index in range(count):
        part = weight[:, index * width : (index + 1) * width]
        _write_panels(part, stream[index * padded * width : (index + 1) * padded * width])
    blocks = -(-rows // BLOCK_ROWS)
    starts = np.zeros((count * blocks, 2), np.int64)
    places = np.arange(count)[:, None] * padded + np.arange(blocks) * BLOCK_ROWS
    starts[:, 0] = places.ravel() * (width * 4)
    return PackedWeight(
        "float_dense",
        0,
        rows,
        columns,
        headers=np.zeros((0, 2), np.int32),
        weights=stream,
        offsets=np.zeros(0, np.int32),
        starts=starts,
        slices=count,
        slice_features=width if count > 1 else 0,
        count=width,
    )


add_format(
    Format(
        name="float_dense",
        title="dense",
        code=4,
        form="floats",
        pack=_pack,
        kernels=(_float_dense,),
        rows=ANY_ROW,
        kept=lambda rows: 1.0,
        # avx2 and generic measured on Zen 3 (2.25 GHz, 768 x 768), avx512_vnni on Zen 5
        rates={
            "avx512_vnni": 100.0,
            "avx2": 30.0,
            "generic": 30.0,
            # by instructions
            "avx_vnni": 43.0,
            "neon_i8mm": 30.5,
            "neon_dot": 30.5,
        },
        adjacent=0,
        panel_rows=_WIDE_ROWS,
    )
)
