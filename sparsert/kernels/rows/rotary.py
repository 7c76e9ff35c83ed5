"""Rows turned in pairs: rotary embeddings."""

from __future__ import annotations

from sparsert.kernels.jit import TILE
from sparsert.kernels.rows.sources import add_source
from sparsert.kernels.simd import Simd, Value

_ROW = 4 * TILE


def rotary_rows(
    v: Simd, x: Value, block: Value, rows: Value, statistics: Value, partners: Value, places: Value, factors: Value
) -> None:
    """x * cosine -+ partner * sine into the block, one int32 of ``partners`` and one of ``places`` a row.

    ``partners`` holds how many rows away the other one of the pair is, 0 for a row that stays as it is; ``places``
    the rows of the tile ``factors`` that have the cosine, and, times 2**16, the sine.
    """
    b = v.builder
    x, block, factors = v.pointer(x), v.pointer(block), v.pointer(factors)
    partners, places = v.pointer(partners), v.pointer(places)
    sign = v.constant(v.i32, -(2**31))
    with v.loop(rows) as row:
        word, offset = v.mul(row, 4), v.mul(row, _ROW)
        partner = v.load_i32(v.at(partners, word))
        values = v.load_row(v.at(x, offset), v.f32)
        with b.if_else(b.icmp_signed("==", partner, v.integer(0))) as (alone, paired):
            with alone:
                v.store_row(values, v.at(block, offset))
            with paired:
                cosine, sine = (v.mul(v.load_i16(v.at(places, v.add(word, part))), _ROW) for part in (0, 2))
                first = b.icmp_signed(">", partner, v.integer(0))
                flip = b.select(first, sign, v.zero(v.i32))
                others = v.load_row(v.at(x, v.add(offset, v.mul(partner, _ROW))), v.f32)
                cosines, sines = (v.load_row(v.at(factors, place), v.f32) for place in (cosine, sine))
                turned = []
                for value, other, c, s in zip(values, others, cosines, sines, strict=True):
                    signed = v.cast(b.xor(v.cast(other, v.i32), flip), v.f32)
                    turned.append(v.fma(signed, s, b.fmul(value, c)))
                v.store_row(turned, v.at(block, offset))


add_source("rotary", 10, rotary_rows)
