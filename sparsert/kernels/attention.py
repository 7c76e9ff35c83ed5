"""Attention for one tile of queries and one head: queries along the lanes, keys down the rows, no transpose.

Scores are S^T: row ``key``, lane ``query``. Then the softmax over keys is vertical, four keys' probabilities packed to
bytes are the interleaved operand of the next product, and V is read as broadcasts from its natural ``[d][token]`` rows.

int8 : Q is uint8 quads ``[D/4][TILE][4]``, K int8 quads (value - 128), V int8 rows ``[D][TILE]`` (value - 128)
float: Q, K and V are float32 rows ``[D][TILE]``

The keys of a sequence are those from ``first`` to ``stop``, counted from the start of its first tile. What is computed
for a key is stored at its place in the tile, and nothing is computed for the rest of the first and the last tile. Where
keys are taken in whole fours, some may belong to a neighbour: int8 forms count on their bias of minus infinity, float
forms leave them out, so that a neighbour's NaN or infinity stays with him.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sparsert.kernels.attention_pairs import add_single_products, sum_values
from sparsert.kernels.jit import TIER, TILE, inner, jit
from sparsert.kernels.memory import load_f32
from sparsert.kernels.records import ATTENTION_PARAMETERS, offset_of, parameter, round_trip
from sparsert.kernels.simd import LOG2_E, Simd, Sums, Value, micro_kernel
from sparsert.kernels.table import MODE

__all__ = ["BOUNDED_SPAN", "SUM_ROWS", "WIDTH", "attend_float", "attend_int8", "byte_sums"]

_ROW = 4 * TILE
_KEYS = 4
WIDTH = 4 if TIER.registers >= 32 else 2
"""Vectors of queries that stay in registers, beside four keys or four rows of V; others come in turns."""

_PAIR_LIMIT = 128
"""Two weights whose positive and whose negative parts sum to this at most times any two bytes stay in int16."""

BOUNDED_SPAN = 60.0
"""Scores that differ by this at most need no maximum: exp(-60) is far above 2**-126, the least that exp2 gives."""

_LEAST_SUM = 1e-20
"""A query's exponentials hold a 1, unless every key is masked with -inf: all are 2**-126 then, and zeros over this."""

SUM_ROWS = 3
"""Rows of int32 that :func:`byte_sums` writes for a head: :data:`_KEY_TERM` and those after it."""

_KEY_TERM, _KEY_PEAK, _QUERY_TERM = range(SUM_ROWS)

_SOFTMAX_FACTOR = offset_of(ATTENTION_PARAMETERS, "softmax_factor")

_SCORE_FIELDS = ("qk_factor", "low", "high", "score_factor")


def _parameter(v: Simd, params: Value, name: str) -> Value:
    return parameter(v, params, name, ATTENTION_PARAMETERS)


def _keys_of(v: Simd, tile: Value, first: Value, stop: Value) -> tuple[Value, Value]:
    """The part of the range of keys that lies in a key tile, counted from the start of that tile."""
    b = v.builder
    before = v.mul(tile, TILE)
    start = b.select(b.icmp_signed("==", tile, v.integer(0)), first, v.integer(0))
    end = b.sub(stop, before)
    return start, b.select(b.icmp_signed("<", end, v.integer(TILE)), end, v.integer(TILE))


@micro_kernel(6)
def byte_sums(v: Simd, queries: Value, keys: Value, quads: Value, params: Value, out: Value, vectors: Value) -> None:
    """What else the products of one head's bytes need, as rows of int32 ``[SUM_ROWS][TILE]``.

    With q and k as stored, z the zero point of Q and c the key offset: ``sum (q - z)(k + c) = sum q k - z (sum k + c D)
    + c sum q``. The rows are the second term of every token as a key, its largest sum of two neighbours' positive (or
    negated negative) bytes, for AVX2, and the third term of every token as a query.
    """
    b = v.builder
    queries, keys, params, out = (v.pointer(address) for address in (queries, keys, params, out))
    offset = _parameter(v, params, "key_offset")
    zero_point = _parameter(v, params, "query_zero_point")
    ones, none, sixteen = v.constant(v.i8, 1), v.zero(v.i8), v.constant(v.i32, 16)
    size = v.splat(b.trunc(v.mul(quads, 4), v.i32.element), v.i32)
    with v.loop(vectors) as k:
        column = v.mul(k, v.bytes)
        key_sum, query_sum = (Sums(v, [v.zero(v.i32)]) for _ in range(2))
        peak = v.variable(v.zero(v.i16))
        with v.loop(quads) as quad:
            place = v.add(v.mul(quad, _ROW), column)
            key, query = v.load(v.at(keys, place), v.i8), v.load(v.at(queries, place), v.i8)
            key_sum.add([ones], key)
            query_sum.add([query], ones)
            if v.tier.pairs:
                positive = v.multiply_pairs_u8s8(ones, v.select_greater(key, none, key, none))
                negative = v.multiply_pairs_u8s8(ones, v.select_greater(key, none, none, key))
                for sums in (positive, b.sub(v.zero(v.i16), negative)):
                    peak.set(v.select_greater(sums, peak.get(), sums, peak.get()))
        term = b.mul(zero_point, b.add(key_sum.get()[0], b.mul(offset, size)))
        v.store(b.sub(v.zero(v.i32), term), v.at(out, v.add(column, _KEY_TERM * _ROW)))
        both = v.cast(peak.get(), v.i32)
        left, right = b.ashr(b.shl(both, sixteen), sixteen), b.ashr(both, sixteen)
        v.store(v.select_greater(left, right, left, right), v.at(out, v.add(column, _KEY_PEAK * _ROW)))
        v.store(b.mul(offset, query_sum.get()[0]), v.at(out, v.add(column, _QUERY_TERM * _ROW)))


def _score_tile(
    v: Simd,
    queries: Value,
    keys: Value,
    out: Value,
    key_range: tuple[Value, Value],
    steps: Value,
    vectors: Value,
    kind: Any,
    initial: Callable[[Value, Value, int], Value],
) -> None:
    """scores[key][query] of one key tile: ``_KEYS`` keys times ``WIDTH`` vectors of queries in registers.

    ``initial(key, column, k)`` is what a vector of a key's sums starts from, the ``k``-th from the ``column``-th byte
    of a row on; ``kind`` is that of loaded vectors.
    """
    start, end = key_range
    with v.loop(end, start, _KEYS) as key:
        with v.loop(vectors, step=WIDTH) as first:
            column = v.mul(first, v.bytes)
            sums = [Sums(v, [initial(v.add(key, r), column, k) for k in range(WIDTH)]) for r in range(_KEYS)]
            with v.loop(steps) as step:
                offset = v.mul(step, _ROW)
                place = v.at(queries, v.add(offset, column))
                loaded = [v.load(v.at(place, k * v.bytes), kind) for k in range(WIDTH)]
                words = v.broadcasts(v.at(keys, v.add(offset, v.mul(key, 4))), _KEYS, v.i32)
                for total, word in zip(sums, words, strict=True):
                    total.add(loaded, word)
            for r, total in enumerate(sums):
                v.store_row(total.get(), v.at(out, v.add(v.mul(v.add(key, r), _ROW), column)))


@micro_kernel(12)
def _scores_int(
    v: Simd,
    queries: Value,
    query_sums: Value,
    keys: Value,
    key_stride: Value,
    key_sums: Value,
    sums_stride: Value,
    tiles: Value,
    first_key: Value,
    stop_key: Value,
    quads: Value,
    out: Value,
    vectors: Value,
) -> None:
    """scores[key][query] from bytes.

    AVX2 sums pairs of products in int16. A key with pairs too large for that is computed again, in single products.
    """
    b = v.builder
    queries, query_sums, keys, key_sums, out = (v.pointer(a) for a in (queries, query_sums, keys, key_sums, out))
    offsets = v.load_row(v.at(query_sums, _QUERY_TERM * _ROW), v.i32) if v.tier.registers >= 32 else None
    with v.loop(tiles) as tile:
        base, sums = v.at(keys, v.mul(tile, key_stride)), v.at(key_sums, v.mul(tile, sums_stride))
        rows = v.at(out, v.mul(tile, TILE * _ROW))
        start, end = _keys_of(v, tile, first_key, stop_key)

        def initial(key: Value, column: Value, k: int, sums: Value = sums) -> Value:
            place = v.at(query_sums, v.add(column, _QUERY_TERM * _ROW + k * v.bytes))
            offset = offsets[k] if offsets else v.load(place, v.i32)
            return b.add(v.broadcast_i32(v.at(sums, v.mul(key, 4))), offset)

        _score_tile(v, queries, base, rows, (start, end), quads, vectors, v.i8, initial)
        if v.tier.pairs:
            with v.loop(end, start) as key:
                peak = v.load_i32(v.at(sums, v.add(v.mul(key, 4), _KEY_PEAK * _ROW)))
                with v.when(b.icmp_signed(">", peak, v.integer(_PAIR_LIMIT))):
                    with v.loop(vectors) as k:
                        column = v.mul(k, v.bytes)
                        total = v.variable(initial(key, column, 0))
                        with v.loop(quads) as quad:
                            offset = v.mul(quad, _ROW)
                            vector = v.load(v.at(queries, v.add(offset, column)), v.i8)
                            scalar = v.cast(v.broadcast_i32(v.at(base, v.add(offset, v.mul(key, 4)))), v.i8)
                            total.set(add_single_products(v, total.get(), vector, scalar))
                        v.store(total.get(), v.at(rows, v.add(v.mul(key, _ROW), column)))


@micro_kernel(9)
def _scores_float(
    v: Simd,
    queries: Value,
    keys: Value,
    key_stride: Value,
    tiles: Value,
    first_key: Value,
    stop_key: Value,
    rows: Value,
    out: Value,
    vectors: Value,
) -> None:
    """scores[key][query] from floats."""
    queries, keys, out = v.pointer(queries), v.pointer(keys), v.pointer(out)
    with v.loop(tiles) as tile:
        base = v.at(keys, v.mul(tile, key_stride))
        results = v.at(out, v.mul(tile, TILE * _ROW))
        key_range = _keys_of(v, tile, first_key, stop_key)
        _score_tile(v, queries, base, results, key_range, rows, vectors, v.f32, lambda *unused: v.zero(v.f32))


def _rounded(v: Simd, value: Value, bias: Value, params: Value) -> Value:
    """Every quantization on the way from the product, times its factor, to the softmax.

    A bias of minus infinity is that of another sequence's key, and no quantization brings it back.
    """
    b = v.builder
    factor, low, high, scale = (_parameter(v, params, name) for name in _SCORE_FIELDS)
    quantized = b.fmul(v.minimum(v.maximum(v.round(value), low), high), scale)
    value = b.select(b.fcmp_ordered("==", scale, v.zero(v.f32)), value, quantized)
    scaled, masked = (v.at(params, offset_of(ATTENTION_PARAMETERS, name)) for name in ("scaled", "masked"))
    value = round_trip(v, b.fadd(round_trip(v, value, scaled), bias), masked)
    return b.select(b.fcmp_ordered("==", bias, v.constant(v.f32, -np.inf)), bias, value)


def _maximum(kind: str, biased: bool) -> Any:
    """In place: accumulator to score, as the record says; the maximum, a number even if all are -inf, to ``maxima``.

    With ``biased`` two more arguments, address and stride of the score bias.
    """

    def maximum(
        v: Simd, scores: Value, keys: Value, bias: Value, params: Value, maxima: Value, *score_bias: Value
    ) -> None:
        b = v.builder
        scores, bias, params = v.pointer(scores), v.pointer(bias), v.pointer(params)
        factor, low, high, scale = (_parameter(v, params, name) for name in _SCORE_FIELDS)
        highest = [v.variable(v.constant(v.f32, float(np.finfo(np.float32).min))) for _ in range(4)]
        with v.loop(keys) as key:
            place = v.at(scores, v.mul(key, _ROW))
            offset = v.broadcast_f32(v.at(bias, v.mul(key, 4)))
            values = []
            for k, loaded in enumerate(v.load_row(place, v.f32 if kind == "float" else v.i32)):
                value = b.fmul(loaded if kind == "float" else v.to_float(loaded), factor)
                if kind == "quantized":
                    value = b.fmul(v.minimum(v.maximum(v.round(value), low), high), scale)
                if biased:
                    base, stride = score_bias
                    row = v.at(v.pointer(base), v.add(v.mul(key, stride), k * v.bytes))
                    value = b.fadd(value, v.load(row, v.f32, align=4))
                value = _rounded(v, value, offset, params) if kind == "rounded" else b.fadd(value, offset)
                highest[k].set(v.maximum(highest[k].get(), value))
                values.append(value)
            v.store_row(values, place)
        v.store_row([running.get() for running in highest], v.pointer(maxima))

    return micro_kernel(7 if biased else 5)(maximum)


_maximum_quantized = _maximum("quantized", False)
_maximum_rounded = _maximum("rounded", False)
_maximum_int = _maximum("int", False)
_maximum_float = _maximum("float", False)
_maximum_quantized_biased = _maximum("quantized", True)
_maximum_int_biased = _maximum("int", True)
_maximum_float_biased = _maximum("float", True)


@micro_kernel(4)
def _exponentials(v: Simd, scores: Value, keys: Value, maxima: Value, sums: Value) -> None:
    """In place: exp(score - maximum); ``sums`` receives the total of every query, at least 1 but for blank ones."""
    b = v.builder
    scores = v.pointer(scores)
    log2_e = v.constant(v.f32, LOG2_E)
    highest = v.load_row(v.pointer(maxima), v.f32)
    totals = [v.variable(v.zero(v.f32)) for _ in range(4)]
    with v.loop(keys) as key:
        place = v.at(scores, v.mul(key, _ROW))
        for k in range(4):
            value = b.fmul(b.fsub(v.load(v.at(place, k * v.bytes), v.f32), highest[k]), log2_e)
            power = v.exp2(value)
            totals[k].set(b.fadd(totals[k].get(), power))
            v.store(power, v.at(place, k * v.bytes))
    least = v.constant(v.f32, _LEAST_SUM)
    v.store_row([v.maximum(least, total.get()) for total in totals], v.pointer(sums))


@micro_kernel(5)
def _bounded_exponentials(v: Simd, scores: Value, keys: Value, bias: Value, params: Value, sums: Value) -> None:
    """In place: accumulator to exp(score - highest score that its quantization has), in one pass.

    For scores whose quantization spans so little that no exponential leaves float32, see :data:`BOUNDED_SPAN`.
    """
    b = v.builder
    scores, bias, params = v.pointer(scores), v.pointer(bias), v.pointer(params)
    log2_e = v.constant(v.f32, LOG2_E)
    factor, low, high, scale = (_parameter(v, params, name) for name in _SCORE_FIELDS)
    scale = b.fmul(scale, log2_e)
    bound = b.fmul(high, scale)
    totals = [v.variable(v.zero(v.f32)) for _ in range(4)]
    with v.loop(keys) as key:
        place = v.at(scores, v.mul(key, _ROW))
        offset = b.fsub(b.fmul(v.broadcast_f32(v.at(bias, v.mul(key, 4))), log2_e), bound)
        for k in range(4):
            value = b.fmul(v.to_float(v.load(v.at(place, k * v.bytes), v.i32)), factor)
            value = v.minimum(v.maximum(v.round(value), low), high)
            power = v.exp2(v.fma(value, scale, offset))
            totals[k].set(b.fadd(totals[k].get(), power))
            v.store(power, v.at(place, k * v.bytes))
    v.store_row([total.get() for total in totals], v.pointer(sums))


def _probabilities(twice: bool) -> Any:
    """Kernel that quantizes probabilities, once or twice."""

    @micro_kernel(9)
    def quantize(
        v: Simd,
        exponentials: Value,
        tiles: Value,
        first_key: Value,
        stop_key: Value,
        sums: Value,
        params: Value,
        out: Value,
        lane_sums: Value,
        vectors: Value,
    ) -> None:
        """Probability bytes ``[keys/4][TILE][4]``; the sums of all bytes of a query replace ``sums`` (int32).

        ``lane_sums`` (AVX2): per key tile, int16 sums of the bytes that will meet in one int16 lane.
        """
        b = v.builder
        exponentials, sums, params = v.pointer(exponentials), v.pointer(sums), v.pointer(params)
        out, lane_sums = v.pointer(out), v.pointer(lane_sums)
        scale, top = (_parameter(v, params, name) for name in ("probability_factor", "probability_top"))
        first, first_top = (_parameter(v, params, name) for name in ("softmax_factor", "softmax_top"))
        ones = v.constant(v.i8, 1)
        with v.loop(vectors) as k:
            column = v.mul(k, v.bytes)
            factor = b.fdiv(first if twice else scale, v.load(v.at(sums, column), v.f32))
            total, bytes_ = v.variable(v.zero(v.i32)), Sums(v, [v.zero(v.i32)])
            with v.loop(tiles) as tile:
                lanes = v.variable(v.zero(v.i16))
                rows = v.at(exponentials, v.add(v.mul(tile, TILE * _ROW), column))
                quads = v.at(out, v.add(v.mul(tile, TILE * TILE), column))
                start, end = _keys_of(v, tile, first_key, stop_key)
                with v.loop(end, start, 4) as key:
                    place = v.at(rows, v.mul(key, _ROW))
                    packed = None
                    for r in range(4):
                        scaled = b.fmul(v.load(v.at(place, r * _ROW), v.f32), factor)
                        if twice:
                            scaled = b.fmul(v.round(v.minimum(scaled, first_top)), scale)
                        byte = v.round_to_i32(v.minimum(scaled, top))
                        if r:
                            byte = b.shl(byte, v.constant(v.i32, 8 * r))
                        packed = byte if packed is None else b.or_(packed, byte)
                    v.store(packed, v.at(quads, v.mul(key, TILE)))
                    if v.tier.pairs:
                        pairs = v.multiply_pairs_u8s8(packed, ones)
                        lanes.set(b.add(lanes.get(), pairs))
                    else:
                        bytes_.add([packed], ones)
                if v.tier.pairs:
                    v.store(lanes.get(), v.at(lane_sums, v.add(v.mul(tile, _ROW), column)))
                    total.set(v.dot2(total.get(), lanes.get(), v.constant(v.i16, 1)))
            v.store(total.get() if v.tier.pairs else bytes_.get()[0], v.at(sums, column))

    return quantize


_quantize_once, _quantize_twice = _probabilities(False), _probabilities(True)


@micro_kernel(3)
def _normalize(v: Simd, context: Value, rows: Value, sums: Value) -> None:
    """Float form: divide every row of the context by the sums."""
    context = v.pointer(context)
    one = v.constant(v.f32, 1.0)
    factors = [v.builder.fdiv(one, total) for total in v.load_row(v.pointer(sums), v.f32)]
    with v.loop(rows) as row:
        place = v.at(context, v.mul(row, _ROW))
        values = v.load_row(place, v.f32)
        v.store_row([v.builder.fmul(x, f) for x, f in zip(values, factors, strict=True)], place)


@micro_kernel(4)
def _offset_values(v: Simd, context: Value, rows: Value, sums: Value, params: Value) -> None:
    """int8 form, V with a zero point other than 128: add (128 - zero point) * sum of probabilities."""
    context, b = v.pointer(context), v.builder
    offset = _parameter(v, v.pointer(params), "value_offset")
    corrections = [b.mul(total, offset) for total in v.load_row(v.pointer(sums), v.i32)]
    with v.loop(rows) as row:
        place = v.at(context, v.mul(row, _ROW))
        v.store_row([b.add(x, c) for x, c in zip(v.load_row(place, v.i32), corrections, strict=True)], place)


def _context(floating: bool) -> Any:
    """context[d][query] = sum over keys of V[d][key] * P[key][query], accumulated over all key tiles."""
    element, together = (4, 1) if floating else (1, 4)

    @micro_kernel(9)
    def context(
        v: Simd,
        values: Value,
        value_stride: Value,
        tiles: Value,
        first_key: Value,
        stop_key: Value,
        probabilities: Value,
        rows: Value,
        out: Value,
        vectors: Value,
    ) -> None:
        values, probabilities, out = v.pointer(values), v.pointer(probabilities), v.pointer(out)
        kind = v.f32 if floating else v.i32
        with v.loop(rows, step=4) as row:
            with v.loop(vectors, step=WIDTH) as first:
                column = v.mul(first, v.bytes)
                sums = [Sums(v, [v.zero(kind)] * WIDTH) for _ in range(4)]
                with v.loop(tiles) as tile:
                    base = v.at(values, v.add(v.mul(tile, value_stride), v.mul(row, element * TILE)))
                    columns = v.at(probabilities, v.add(v.mul(tile, TILE // together * _ROW), column))
                    start, end = _keys_of(v, tile, first_key, stop_key)
                    with v.loop(end, start, together) as key:
                        place = v.at(columns, v.mul(key, _ROW // together))
                        loaded = [v.load(v.at(place, k * v.bytes), kind) for k in range(WIDTH)]
                        for r, total in enumerate(sums):
                            word = v.at(base, v.add(v.mul(key, element), r * element * TILE))
                            total.add(loaded, v.broadcast_i32(word))
                for r, total in enumerate(sums):
                    v.store_row(total.get(), v.at(out, v.add(v.mul(v.add(row, r), _ROW), column)))

    return context


_context_float, _context_int = _context(True), _context(False)


if TIER.pairs:
    _sum_values = sum_values
else:

    @inner()
    def _sum_values(values, value_stride, tiles, first_key, stop_key, probabilities, rows, out, lane_sums, vectors):
        _context_int(values, value_stride, tiles, first_key, stop_key, probabilities, rows, out, vectors)


@inner()
def _any_unmasked(bias, keys):
    """Whether a key has a bias of 0 or more, which puts the highest score near the bound of the quantization."""
    for key in range(keys):
        if load_f32(bias + 4 * key) >= 0:
            return True
    return False


@jit()
def attend_int8(
    queries,
    query_sums,
    keys,
    key_stride,
    key_sums,
    sums_stride,
    values,
    value_stride,
    first,
    stop,
    head_dim,
    bias,
    score_bias,
    score_stride,
    params,
    mode,
    offset_values,
    work,
    out,
    vectors,
):
    """Context accumulators int32 ``[head_dim][TILE]`` of one query tile and head, into ``out``.

    ``keys``, ``key_sums`` and ``values`` are of the first key tile, the sums by :func:`byte_sums`; ``first`` and
    ``stop`` are the range of keys from its start, and ``bias`` begins with the four that ``first`` lies in. For the key
    ``first`` and the first lane the score bias lies at ``score_bias``, 0 for none, and ``score_stride`` bytes further
    for every key; what belongs to none of the keys or queries is read too, and has to be finite or -inf. ``work``
    holds scores (4 TILE^2 bytes per key tile), probabilities (TILE^2 per key tile), lane sums (4 TILE per key tile),
    maxima and sums (4 TILE each). ``mode`` is one of :data:`MODE` that is not floats. ``vectors`` is 4, or 2 for a tile
    of queries whose second half is empty.
    """
    tiles = (stop + TILE - 1) // TILE
    score_bias, biased = score_bias - first % 4 * score_stride, score_bias != 0
    first, stop = first // 4 * 4, (stop + 3) // 4 * 4
    scores = work
    used, count = scores + first * _ROW, stop - first
    probabilities = scores + tiles * TILE * _ROW
    lane_sums = probabilities + tiles * TILE * TILE
    maxima = lane_sums + tiles * _ROW
    sums = maxima + _ROW
    quads = head_dim // 4
    _scores_int(
        queries, query_sums, keys, key_stride, key_sums, sums_stride, tiles, first, stop, quads, scores, vectors
    )
    if mode == MODE.bounded_scores and not biased and _any_unmasked(bias, count):
        _bounded_exponentials(used, count, bias, params, sums)
    else:
        if mode == MODE.rounded_scores:
            _maximum_rounded(used, count, bias, params, maxima)
        elif mode == MODE.int8 and biased:
            _maximum_int_biased(used, count, bias, params, maxima, score_bias, score_stride)
        elif mode == MODE.int8:
            _maximum_int(used, count, bias, params, maxima)
        elif biased:
            _maximum_quantized_biased(used, count, bias, params, maxima, score_bias, score_stride)
        else:
            _maximum_quantized(used, count, bias, params, maxima)
        _exponentials(used, count, maxima, sums)
    if load_f32(params + _SOFTMAX_FACTOR) == 0:
        _quantize_once(scores, tiles, first, stop, sums, params, probabilities, lane_sums, vectors)
    else:
        _quantize_twice(scores, tiles, first, stop, sums, params, probabilities, lane_sums, vectors)
    _sum_values(values, value_stride, tiles, first, stop, probabilities, head_dim, out, lane_sums, vectors)
    if offset_values:
        _offset_values(out, head_dim, sums, params)


@jit()
def attend_float(
    queries,
    keys,
    key_stride,
    values,
    value_stride,
    first,
    stop,
    head_dim,
    bias,
    score_bias,
    score_stride,
    params,
    work,
    out,
    vectors,
):
    """Context float32 ``[head_dim][TILE]`` of one query tile and head, into ``out``; arguments as for int8."""
    tiles = (stop + TILE - 1) // TILE
    begin, end = first // _KEYS * _KEYS, (stop + _KEYS - 1) // _KEYS * _KEYS
    bias += 4 * (first % 4)
    scores = work
    used, count = scores + first * _ROW, stop - first
    maxima = scores + tiles * TILE * _ROW
    sums = maxima + _ROW
    _scores_float(queries, keys, key_stride, tiles, begin, end, head_dim, scores, vectors)
    if score_bias != 0:
        _maximum_float_biased(used, count, bias, params, maxima, score_bias, score_stride)
    else:
        _maximum_float(used, count, bias, params, maxima)
    _exponentials(used, count, maxima, sums)
    _context_float(values, value_stride, tiles, first, stop, scores, head_dim, out, vectors)
    _normalize(out, head_dim, sums)
