"""Softmax of rows of float32, each contiguous."""

from __future__ import annotations

from collections.abc import Callable

from numba import prange

from sparsert.kernels.arrays.numbers import exp, load_some, store_some
from sparsert.kernels.jit import jit
from sparsert.kernels.simd import Simd, Value, micro_kernel
from sparsert.kernels.simd.vector import Variable

__all__ = ["softmax_rows"]

_CHUNK = 1 << 12
"""Numbers that a thread takes at least."""


def _across(v: Simd, value: Value, combine: Callable[[Value, Value], Value]) -> Value:
    """What ``combine`` makes of all lanes, in every lane."""
    width = v.lanes // 2
    while width:
        value = combine(value, v.shuffle(value, value, [(lane + width) % v.lanes for lane in range(v.lanes)]))
        width //= 2
    return value


@micro_kernel(3)
def _softmax(v: Simd, source: Value, target: Value, count: Value) -> None:
    """e**(x - max) / sum of one row. NaN, and a row of minus infinities alone, give NaN."""
    b = v.builder
    source, target = v.pointer(source), v.pointer(target)
    whole = b.and_(count, v.integer(-v.lanes))
    rest, last = b.sub(count, whole), v.mul(whole, 4)
    some = b.icmp_signed(">", rest, v.integer(0))
    most = v.variable(v.constant(v.f32, float("-inf")))
    total = v.variable(v.zero(v.f32))
    with v.loop(whole, step=v.lanes) as index:
        most.set(v.maximum(v.load(v.at(source, v.mul(index, 4)), v.f32, 4), most.get()))
    with v.when(some):
        most.set(v.maximum(load_some(v, v.at(source, last), rest, float("-inf")), most.get()))
    largest = _across(v, most.get(), v.maximum)

    def power(value: Value) -> Value:
        raised = exp(v, b.fsub(value, largest))
        total.set(b.fadd(total.get(), raised))
        return raised

    with v.loop(whole, step=v.lanes) as index:
        place = v.mul(index, 4)
        v.store(power(v.load(v.at(source, place), v.f32, 4)), v.at(target, place), 4)
    with v.when(some):
        store_some(v, power(load_some(v, v.at(source, last), rest, float("-inf"))), v.at(target, last), rest)
    _scale(v, target, whole, rest, total)


def _scale(v: Simd, target: Value, whole: Value, rest: Value, total: Variable) -> None:
    b = v.builder
    inverse = b.fdiv(v.constant(v.f32, 1.0), _across(v, total.get(), b.fadd))
    with v.loop(whole, step=v.lanes) as index:
        place = v.at(target, v.mul(index, 4))
        v.store(b.fmul(v.load(place, v.f32, 4), inverse), place, 4)
    place = v.at(target, v.mul(whole, 4))
    with v.when(b.icmp_signed(">", rest, v.integer(0))):
        store_some(v, b.fmul(load_some(v, place, rest, 0.0), inverse), place, rest)


@jit(parallel=True)
def softmax_rows(source, target, threads):
    """Write the softmax of every row of ``source``, float32 (rows, count), to ``target``; both contiguous.

    ``threads`` are those of the calling thread's team.
    """
    rows, count = source.shape
    shares = max(1, min(threads, rows * count // _CHUNK))
    first, second = source.ctypes.data, target.ctypes.data
    for thread in prange(shares):
        for row in range(thread * rows // shares, (thread + 1) * rows // shares):
            _softmax(first + 4 * row * count, second + 4 * row * count, count)
