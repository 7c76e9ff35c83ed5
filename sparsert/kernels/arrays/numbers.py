"""Functions of single float32 numbers, over memory that is contiguous."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba import prange
from numba.core import cgutils

from sparsert.kernels.jit import jit
from sparsert.kernels.registry import Registry
from sparsert.kernels.simd import LOG2_E, Simd, Value

__all__ = ["NUMBERS", "apply", "exp", "load_some", "store_some"]

_CHUNK = 1 << 13
"""Numbers that a thread takes at once: 32 KB, so that the overhead of a chunk is a hundredth."""

_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.428606765330187e-06
"""ln 2, of which the first part has 16 bits: its products with an exponent are exact."""

# 2**f on [-0.5, 0.5]: degree 6, relative error 2e-09 before rounding
_EXP2 = (1.53533606e-04, 1.33988749e-03, 9.61843737e-03, 5.55033247e-02, 2.40226479e-01, 6.93147203e-01, 1.0)

# erf by N. Juffa, https://stackoverflow.com/a/35148199: 1 ulp; below and above 0.927734375
_ERF_LOW = (-5.96761703e-4, 4.99119423e-3, -2.67681349e-2, 1.12819925e-1, -3.76125336e-1, 1.28379166e-1)
_ERF_HIGH = (
    -1.72853470e-5,
    3.83197126e-4,
    -3.88396438e-3,
    2.42546219e-2,
    -1.06777877e-1,
    -6.34846687e-1,
    -1.28717512e-1,
)
_ERF_SPLIT = 0.927734375

# tanh(x) / x in powers of x**2: relative error 1e-7 up to 0.35
_TANH_LOW = (62 / 2835, -17 / 315, 2 / 15, -1 / 3, 1.0)
_TANH_SPLIT = 0.35


def _power(v: Simd, exponent: Value) -> Value:
    """2**exponent of int32 in [-126, 127]."""
    biased = v.builder.add(exponent, v.constant(v.i32, 127))
    return v.cast(v.builder.shl(biased, v.constant(v.i32, 23)), v.f32)


def exp(v: Simd, x: Value) -> Value:
    """e**x within 2 ulp, infinite beyond the range of float32, denormal below it; NaN stays NaN."""
    b = v.builder
    # in this order NaN stays NaN
    x = v.minimum(v.constant(v.f32, 89.0), v.maximum(v.constant(v.f32, -104.0), x))
    whole = v.round_to_i32(b.fmul(x, v.constant(v.f32, LOG2_E)))
    count = b.fneg(v.to_float(whole))
    part = v.fma(count, v.constant(v.f32, _LN2_LOW), v.fma(count, v.constant(v.f32, _LN2_HIGH), x))
    value = v.polynomial(b.fmul(part, v.constant(v.f32, LOG2_E)), _EXP2)
    # in two steps, since 2**128 and 2**-149 have no exponent of float32
    half = b.ashr(whole, v.constant(v.i32, 1))
    return b.fmul(b.fmul(value, _power(v, half)), _power(v, b.sub(whole, half)))


def _sigmoid(v: Simd, x: Value) -> Value:
    one = v.constant(v.f32, 1.0)
    return v.builder.fdiv(one, v.builder.fadd(one, exp(v, v.builder.fneg(x))))


def _silu(v: Simd, x: Value) -> Value:
    return v.builder.fmul(x, _sigmoid(v, x))


def _absolute(v: Simd, x: Value) -> Value:
    return v.cast(v.builder.and_(v.cast(x, v.i32), v.constant(v.i32, 0x7FFFFFFF)), v.f32)


def _with_sign(v: Simd, x: Value, sign: Value) -> Value:
    bit = v.builder.and_(v.cast(sign, v.i32), v.constant(v.i32, -(2**31)))
    return v.cast(v.builder.or_(v.cast(x, v.i32), bit), v.f32)


def _tanh(v: Simd, x: Value) -> Value:
    """A series near zero, else 1 - 2 / (e**2|x| + 1)."""
    b, size = v.builder, _absolute(v, x)
    low = b.fmul(v.polynomial(b.fmul(x, x), _TANH_LOW), x)
    one = v.constant(v.f32, 1.0)
    power = exp(v, b.fadd(size, size))
    high = b.fsub(one, b.fdiv(v.constant(v.f32, 2.0), b.fadd(power, one)))
    near = b.fcmp_ordered("<", size, v.constant(v.f32, _TANH_SPLIT))
    return b.select(near, low, _with_sign(v, high, x))


def _erf(v: Simd, x: Value) -> Value:
    b, size = v.builder, _absolute(v, x)
    low = v.fma(v.polynomial(b.fmul(x, x), _ERF_LOW), x, x)
    series = v.polynomial(size, _ERF_HIGH)
    high = b.fsub(v.constant(v.f32, 1.0), exp(v, v.fma(series, size, b.fneg(size))))
    near = b.fcmp_ordered("<", size, v.constant(v.f32, _ERF_SPLIT))
    return b.select(near, low, _with_sign(v, high, x))


def _gelu(v: Simd, x: Value) -> Value:
    half = v.builder.fmul(x, v.constant(v.f32, 0.5))
    return v.fma(half, _erf(v, v.builder.fmul(x, v.constant(v.f32, 0.7071067811865476))), half)


def _gelu_tanh(v: Simd, x: Value) -> Value:
    b = v.builder
    cubic = v.fma(b.fmul(b.fmul(x, x), v.constant(v.f32, 0.044715)), x, x)
    half = b.fmul(x, v.constant(v.f32, 0.5))
    return v.fma(half, _tanh(v, b.fmul(cubic, v.constant(v.f32, 0.7978845608028654))), half)


def load_some(v: Simd, place: Value, count: Value, filler: float) -> Value:
    """The first ``count`` lanes of a vector from memory, fewer than all, the others filled."""
    slot = cgutils.alloca_once(v.builder, v.f32)
    v.builder.store(v.constant(v.f32, filler), slot)
    bytes_of = v.builder.bitcast(slot, ir.IntType(8).as_pointer())
    with v.loop(count) as lane:
        word = v.mul(lane, 4)
        v.store(v.load(v.at(place, word), v.f32.element, 4), v.at(bytes_of, word), 4)
    return v.builder.load(slot)


def store_some(v: Simd, value: Value, place: Value, count: Value) -> None:
    """The first ``count`` lanes of a vector to memory."""
    slot = cgutils.alloca_once(v.builder, v.f32)
    v.builder.store(value, slot)
    bytes_of = v.builder.bitcast(slot, ir.IntType(8).as_pointer())
    with v.loop(count) as lane:
        word = v.mul(lane, 4)
        v.store(v.load(v.at(bytes_of, word), v.f32.element, 4), v.at(place, word), 4)


def _over_memory(function: Callable[[Simd, Value], Value]) -> Callable[..., None]:
    def emit(v: Simd, source: Value, target: Value, count: Value) -> None:
        source, target = v.pointer(source), v.pointer(target)
        whole = v.builder.and_(count, v.integer(-v.lanes))
        with v.loop(whole, step=v.lanes) as index:
            place = v.mul(index, 4)
            v.store(function(v, v.load(v.at(source, place), v.f32, 4)), v.at(target, place), 4)
        rest = v.builder.sub(count, whole)
        place = v.mul(whole, 4)
        with v.when(v.builder.icmp_signed(">", rest, v.integer(0))):
            store_some(v, function(v, load_some(v, v.at(source, place), rest, 0.0)), v.at(target, place), rest)

    return emit


NUMBERS = Registry("function of numbers", 3)
"""Kernels of (source, target, count): addresses of contiguous float32, which may be the same."""

for _code, _function in enumerate((exp, _sigmoid, _silu, _tanh, _erf, _gelu, _gelu_tanh), 1):
    NUMBERS.add(_function.__name__.removeprefix("_"), _code, _over_memory(_function))

_dispatch = NUMBERS.dispatcher()


@jit(parallel=True)
def apply(code, source, target, threads):
    """Write a function of ``source`` to ``target``; both float32, shape (n,), contiguous.

    ``threads`` are those of the calling thread's team.
    """
    count = source.shape[0]
    shares = min(threads, (count + _CHUNK - 1) // _CHUNK)
    first, second = source.ctypes.data, target.ctypes.data
    for thread in prange(shares):
        begin, stop = thread * count // shares, (thread + 1) * count // shares
        _dispatch(code, first + 4 * begin, second + 4 * begin, stop - begin)
