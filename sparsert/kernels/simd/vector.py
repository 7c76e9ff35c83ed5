"""The vector vocabulary of the micro-kernels in portable IR: loads, arithmetic, integer dot products and loops.

A tier whose instructions LLVM would not find in it overrides the operation, in a file of its own beside this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from llvmlite import ir
from numba.core import cgutils

from sparsert.tiers import Tier

__all__ = ["LOG2_E", "Simd", "Sums", "Value", "Variable"]

LOG2_E = 1.4426950408889634

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_F32 = ir.FloatType()
_BYTE_POINTER = _I8.as_pointer()

Value = ir.Value


class Variable:
    """A mutable local of a micro-kernel; LLVM's mem2reg turns it into a register."""

    def __init__(self, builder: ir.IRBuilder, initial: Value) -> None:
        self._builder = builder
        self._slot = cgutils.alloca_once(builder, initial.type)
        builder.store(initial, self._slot)

    def get(self) -> Value:
        return self._builder.load(self._slot)

    def set(self, value: Value) -> None:
        self._builder.store(value, self._slot)


class Simd:
    """Writes vector IR for one tier at the builder's position; what the tier can do is asked of its record.

    ``row`` is the number of 32-bit vectors that are computed of a row of a tile: all four, or fewer if no token lies in
    the last ones.
    """

    register_class: str = ""
    """LLVM's letter for vector registers, where four long functions at once would spill them."""

    def __init__(self, builder: ir.IRBuilder, tier: Tier, row: int = 4) -> None:
        self.builder = builder
        self.tier = tier
        self.row = row
        self.bytes = tier.vector_bytes
        self.lanes = self.bytes // 4
        self.i8 = ir.VectorType(_I8, self.bytes)
        self.i16 = ir.VectorType(_I16, self.bytes // 2)
        self.i32 = ir.VectorType(_I32, self.lanes)
        self.f32 = ir.VectorType(_F32, self.lanes)

    # -- scalars and control flow -----------------------------------------------------------------------------------
    def integer(self, value: int) -> Value:
        """An int64 constant."""
        return ir.Constant(_I64, value)

    def variable(self, initial: Value) -> Variable:
        return Variable(self.builder, initial)

    @contextmanager
    def loop(self, stop: Value, start: Value | int = 0, step: int = 1) -> Iterator[Value]:
        """``for i in range(start, stop, step)`` over int64."""
        first = start if isinstance(start, ir.Value) else self.integer(start)
        with cgutils.for_range_slice(self.builder, first, stop, self.integer(step), _I64) as (index, _):
            yield index

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """``if condition``, one bit."""
        with self.builder.if_then(condition):
            yield

    def add(self, a: Value, b: Value | int) -> Value:
        """Scalar int64 sum."""
        return self.builder.add(a, b if isinstance(b, ir.Value) else self.integer(b))

    def mul(self, a: Value, b: Value | int) -> Value:
        """Scalar int64 product."""
        return self.builder.mul(a, b if isinstance(b, ir.Value) else self.integer(b))

    # -- memory -----------------------------------------------------------------------------------------------------
    def pointer(self, address: Value) -> Value:
        """An int64 address as a byte pointer; derive further places from it with :meth:`at`."""
        return self.builder.inttoptr(address, _BYTE_POINTER)

    def at(self, base: Value, offset: Value | int) -> Value:
        """The byte pointer ``base + offset``."""
        return self.builder.gep(base, [offset if isinstance(offset, ir.Value) else self.integer(offset)])

    def load(self, place: Value, kind: ir.Type, align: int | None = None) -> Value:
        loaded = self.builder.load(self.builder.bitcast(place, kind.as_pointer()))
        loaded.align = align if align is not None else self.bytes
        return loaded

    def store(self, value: Value, place: Value, align: int | None = None) -> None:
        stored = self.builder.store(value, self.builder.bitcast(place, value.type.as_pointer()))
        stored.align = align if align is not None else self.bytes

    def prefetch(self, place: Value) -> None:
        """Bring a cache line into the L2 for reading later; any address will do."""
        kinds = [_BYTE_POINTER, _I32, _I32, _I32]
        function = self._declare("llvm.prefetch.p0", ir.VoidType(), kinds)
        read, far, data = (ir.Constant(_I32, number) for number in (0, 2, 1))
        self.builder.call(function, [place, read, far, data])

    def load_row(self, place: Value, kind: ir.Type) -> list[Value]:
        """The 32-bit vectors of one row of a tile."""
        return [self.load(self.at(place, k * self.bytes), kind) for k in range(self.row)]

    def store_row(self, values: Sequence[Value], place: Value) -> None:
        for k, value in enumerate(values):
            self.store(value, self.at(place, k * self.bytes))

    def load_i16(self, place: Value) -> Value:
        """A 16-bit integer in memory as int64 (zero extended)."""
        return self.builder.zext(self.load(place, _I16, 2), _I64)

    def load_i32(self, place: Value) -> Value:
        """A 32-bit integer in memory as int64 (sign extended)."""
        return self.builder.sext(self.load(place, _I32, 4), _I64)

    def broadcast_i32(self, place: Value) -> Value:
        """Four bytes in memory, repeated over an int32 vector."""
        return self.splat(self.load(place, _I32, 4), self.i32)

    def broadcast_f32(self, place: Value) -> Value:
        return self.splat(self.load(place, _F32, 4), self.f32)

    def broadcasts(self, place: Value, count: int, kind: ir.VectorType) -> list[Value]:
        """As many adjacent words in memory, int32 or float32, each of them repeated over a vector."""
        return [self.splat(self.load(self.at(place, 4 * k), kind.element, 4), kind) for k in range(count)]

    # -- constants and shuffles -------------------------------------------------------------------------------------
    def splat(self, scalar: Value, kind: ir.VectorType) -> Value:
        first = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, _I32(0))
        mask = ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count)
        return self.builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), mask)

    def constant(self, kind: ir.VectorType, value: float | int) -> Value:
        return ir.Constant(kind, [value] * kind.count)

    def pattern(self, kind: ir.VectorType, values: Sequence[int]) -> Value:
        """A constant that repeats ``values``."""
        return ir.Constant(kind, list(values) * (kind.count // len(values)))

    def zero(self, kind: ir.VectorType) -> Value:
        return self.constant(kind, 0 if isinstance(kind.element, ir.IntType) else 0.0)

    def cast(self, value: Value, kind: ir.VectorType) -> Value:
        """The same bits as another vector type."""
        return self.builder.bitcast(value, kind)

    def shuffle(self, a: Value, b: Value, indices: Sequence[int]) -> Value:
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(indices)), list(indices)))

    def interleave(self, a: Value, b: Value, high: bool) -> Value:
        """``vpunpckl*``/``vpunpckh*``: alternate the elements of the low or high half of every 16-byte lane."""
        count = a.type.count
        per_lane = count * 16 // self.bytes
        indices = []
        for lane in range(self.bytes // 16):
            first = lane * per_lane + (per_lane // 2 if high else 0)
            for k in range(per_lane // 2):
                indices += [first + k, count + first + k]
        return self.shuffle(a, b, indices)

    # -- integer arithmetic -----------------------------------------------------------------------------------------
    def dot4(self, acc: Value, first_bytes: Value, signed_bytes: Value) -> Value:
        """``acc[i] += sum of four products of bytes`` in int32 lanes.

        The first are unsigned, or signed in tiers with ``signed_dot4``. :class:`Sums` is for unsigned ones in any tier.
        """
        b, top = self.builder, self.constant(self.i32, 24)
        extend = b.ashr if self.tier.signed_dot4 else b.lshr
        for position in range(4):
            shift = self.constant(self.i32, 24 - 8 * position)
            left, right = extend(b.shl(first_bytes, shift), top), b.ashr(b.shl(signed_bytes, shift), top)
            acc = b.add(acc, b.mul(left, right))
        return acc

    def multiply_pairs_u8s8(self, unsigned_bytes: Value, signed_bytes: Value) -> Value:
        """int16 sums of two adjacent products, in tiers with ``pairs``. The caller proves that int16 holds them."""
        raise NotImplementedError(f"{self.tier.name} does not multiply bytes in pairs")

    def dot2(self, acc: Value, a: Value, b: Value) -> Value:
        """``acc[i] += sum of two s16 * s16 products`` in int32 lanes."""
        builder = self.builder
        a, b = self.cast(a, self.i32), self.cast(b, self.i32)
        sixteen = self.constant(self.i32, 16)
        for shift in (True, False):
            left = builder.ashr(builder.shl(a, sixteen) if shift else a, sixteen)
            right = builder.ashr(builder.shl(b, sixteen) if shift else b, sixteen)
            acc = builder.add(acc, builder.mul(left, right))
        return acc

    def round_to_i32(self, value: Value) -> Value:
        """Nearest int32, ties to even; NaN gives the least integer, a value beyond int32 an unspecified one."""
        nearest = self.round(self.number(value))
        saturate = self._declare(f"llvm.fptosi.sat.{_suffix(self.i32)}.{_suffix(self.f32)}", self.i32, [self.f32])
        return self.builder.call(saturate, [nearest])

    def number(self, value: Value) -> Value:
        """The value, or -2**31 if that is greater or the value NaN."""
        return self.maximum(value, self.constant(self.f32, -(2.0**31)))

    def select_greater(self, a: Value, b: Value, chosen: Value, other: Value) -> Value:
        """``a > b ? chosen : other`` by element, of signed integers."""
        return self.builder.select(self.builder.icmp_signed(">", a, b), chosen, other)

    def clamp_i32(self, value: Value, low: int, high: int) -> Value:
        b = self.builder
        low_vector, high_vector = self.constant(self.i32, low), self.constant(self.i32, high)
        value = b.select(b.icmp_signed("<", value, low_vector), low_vector, value)
        return b.select(b.icmp_signed(">", value, high_vector), high_vector, value)

    def widen_u8(self, value: Value) -> list[Value]:
        """One vector of bytes as four vectors of int32, in order."""
        quarters = [range(k * self.lanes, (k + 1) * self.lanes) for k in range(4)]
        return [self.builder.zext(self.shuffle(value, value, quarter), self.i32) for quarter in quarters]

    def transpose_quads(self, a: Value, b: Value, c: Value, d: Value) -> list[Value]:
        """Four byte vectors of consecutive tokens as four vectors of [token][4], in token order."""
        vectors = []
        for high in (False, True):
            ab, cd = (self.cast(self.interleave(x, y, high), self.i16) for x, y in ((a, b), (c, d)))
            vectors += [self.cast(self.interleave(ab, cd, upper), self.i32) for upper in (False, True)]
        return self.token_order(vectors)

    def token_order(self, vectors: Sequence[Value]) -> list[Value]:
        """Undo the token order of interleaves that work per 16-byte lane.

        In: vector k holds tokens 16 l + 4 k ... 16 l + 4 k + 3 in lane l. Out: vector k holds consecutive tokens.
        """
        a, b, c, d = vectors
        if self.bytes == 16:
            return [a, b, c, d]
        if self.bytes == 32:
            first, second = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]
            return [self.shuffle(x, y, order) for order in (first, second) for x, y in ((a, b), (c, d))]
        halves = [[0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23]]
        halves.append([index + 8 for index in halves[0]])
        joined = []
        for order in halves:  # lanes 0 and 1, then 2 and 3
            left, right = self.shuffle(a, b, order), self.shuffle(c, d, order)
            joined.append(self.shuffle(left, right, [*range(8), *range(16, 24)]))
            joined.append(self.shuffle(left, right, [*range(8, 16), *range(24, 32)]))
        return joined

    def to_bytes(self, values: Sequence[Value]) -> Value:
        """Vectors of int32 in [-128, 255] as one narrow vector of bytes in the order of the tokens."""
        joined = self.concatenate(values)
        return self.builder.trunc(joined, ir.VectorType(_I8, joined.type.count))

    def concatenate(self, values: Sequence[Value]) -> Value:
        """Equal vectors joined end to end (a power of two of them)."""
        parts = list(values)
        while len(parts) > 1:
            count = parts[0].type.count
            parts = [self.shuffle(a, b, range(2 * count)) for a, b in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def pack_u8(self, values: Sequence[Value]) -> list[Value]:
        """int32 vectors of consecutive tokens, saturated to 0..255 and packed to full byte vectors in token order."""
        clamped = [self.clamp_i32(value, 0, 255) for value in values]
        return [self.to_bytes(clamped[first : first + 4]) for first in range(0, len(values), 4)]

    # -- float arithmetic -------------------------------------------------------------------------------------------
    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """``a * b + c``, rounded once; twice where the CPU has no such instruction.

        There ``llvm.fma`` would call ``fmaf`` for every element, 20 times slower.
        """
        name = "llvm.fma" if self.tier.fma else "llvm.fmuladd"
        return self.builder.call(self._declare_vector(name, self.f32, 3), [a, b, c])

    def minimum(self, a: Value, b: Value) -> Value:
        """``a < b ? a : b``, so ``b`` where ``a`` is NaN."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def maximum(self, a: Value, b: Value) -> Value:
        """``a > b ? a : b``, so ``b`` where ``a`` is NaN."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def round(self, value: Value) -> Value:
        """Nearest integer as float32, ties to even; NaN stays NaN."""
        return self.builder.call(self._declare_vector("llvm.rint", self.f32, 1), [value])

    def gather_f32(self, table: Value, index: Value) -> Value:
        """A float of the table for every lane."""
        b, result = self.builder, self.zero(self.f32)
        floats = b.bitcast(table, _F32.as_pointer())
        for lane in range(self.lanes):
            place = b.gep(floats, [b.extract_element(index, _I32(lane))])
            result = b.insert_element(result, b.load(place), _I32(lane))
        return result

    def sqrt(self, value: Value) -> Value:
        return self.builder.call(self._declare_vector("llvm.sqrt", self.f32, 1), [value])

    def to_float(self, value: Value) -> Value:
        return self.builder.sitofp(value, self.f32)

    def polynomial(self, x: Value, coefficients: Sequence[float]) -> Value:
        """Horner's scheme, highest power first."""
        result = self.constant(self.f32, coefficients[0])
        for coefficient in coefficients[1:]:
            result = self.fma(result, x, self.constant(self.f32, coefficient))
        return result

    def long_polynomial(self, x: Value, coefficients: Sequence[float]) -> Value:
        """The even and the odd powers as two Horner schemes of x**2, which run side by side; highest power first."""
        square = self.builder.fmul(x, x)
        first, second = self.polynomial(square, coefficients[0::2]), self.polynomial(square, coefficients[1::2])
        even, odd = (first, second) if len(coefficients) % 2 else (second, first)
        return self.fma(odd, x, even)

    def one_by_one(self, function: Callable[[Value], Value], values: Sequence[Value]) -> list[Value]:
        """``function`` of each vector, where a tier's ``register_class`` says so strictly one after the other."""
        return [self._ordered(function(self._ordered(value))) for value in values]

    def _ordered(self, value: Value) -> Value:
        """The same value; computations of two ordered values are not interleaved. No instruction."""
        if not self.register_class:
            return value
        kind = ir.FunctionType(value.type, [value.type])
        return self.builder.asm(kind, "", f"={self.register_class},0", [value], True)

    def exp2(self, x: Value) -> Value:
        """2**x for x <= 127; below -126 it is 2**-126, NaN stays NaN. Relative error below 3e-7 (degree 5 minimax)."""
        lowest = self.constant(self.f32, -126.0)
        x = self.maximum(lowest, x)  # in this order NaN stays NaN
        whole = self.round_to_i32(x)
        part = self.builder.fsub(x, self.to_float(whole))
        value = self.polynomial(part, _EXP2_COEFFICIENTS)
        exponent = self.builder.shl(whole, self.constant(self.i32, 23))
        return self.cast(self.builder.add(self.cast(value, self.i32), exponent), self.f32)

    def gelu(self, x: Value) -> Value:
        """x * Phi(x), absolute error below 1.5e-6 for |x| < 6 and 5e-7 |x| beyond; NaN stays NaN.

        ``Phi(x) = 0.5 + x P(x**2)`` with x clamped to [-5, 5] in the series. P has degree 12 in ``2 x**2 / 25 - 1``,
        fitted to x Phi(x) for the least maximum (reweighted least squares); a degree less triples the error, and
        errors of 1e-5 already flip enough bytes after quantization to be seen in the logits.
        """
        b = self.builder
        clamped = self.maximum(self.minimum(x, self.constant(self.f32, 5.0)), self.constant(self.f32, -5.0))
        square = self.fma(b.fmul(clamped, clamped), self.constant(self.f32, 2 / 25), self.constant(self.f32, -1.0))
        series = self.long_polynomial(square, _GELU_COEFFICIENTS)
        return b.fmul(x, self.fma(clamped, series, self.constant(self.f32, 0.5)))

    def tanh(self, x: Value) -> Value:
        """1 - 2 / (exp(2 x) + 1), absolute error below 1e-6; NaN stays NaN."""
        b = self.builder
        bounded = self.minimum(self.constant(self.f32, 20.0), self.maximum(self.constant(self.f32, -20.0), x))
        power = self.exp2(b.fmul(bounded, self.constant(self.f32, 2 * LOG2_E)))
        one = self.constant(self.f32, 1.0)
        return b.fsub(one, b.fdiv(self.constant(self.f32, 2.0), b.fadd(power, one)))

    # -- declarations -----------------------------------------------------------------------------------------------
    def _declare(self, name: str, result: ir.Type, arguments: Sequence[ir.Type]) -> ir.Function:
        return cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(result, arguments), name)

    def _declare_vector(self, name: str, kind: ir.VectorType, arity: int) -> ir.Function:
        return self._declare(f"{name}.{_suffix(kind)}", kind, [kind] * arity)


class Sums:
    """Sums of products in registers: of the vectors of a row, or several, with one vector that all of them meet.

    Of floats; or, in int32 lanes, of four unsigned bytes with four signed ones. Tiers with ``pairs`` leave it to the
    caller to prove that int16 holds two adjacent products. Where the instruction takes signed bytes alone, ``u * s`` is
    ``(u - 128) * s + 128 * s``: the first product needs an exclusive or for a vector, shared by all that meet the same
    one, and the second is summed once for all vectors, as 64 times the signed bytes. That is exact modulo 2**32.
    """

    def __init__(self, v: Simd, initial: Sequence[Value]) -> None:
        self._v = v
        self._totals = [v.variable(value) for value in initial]
        self._rest = v.variable(v.zero(v.i32)) if v.tier.signed_dot4 and initial[0].type == v.i32 else None

    def add(self, vectors: Sequence[Value], common: Value) -> None:
        """Add the products of each vector, unsigned if of bytes, with the common one."""
        v = self._v
        for total, vector in zip(self._totals, vectors, strict=True):
            if self._rest:
                vector = v.builder.xor(v.cast(vector, v.i8), v.constant(v.i8, -128))
            total.set(self._product(total.get(), vector, common))
        if self._rest:
            self._rest.set(self._product(self._rest.get(), v.constant(v.i8, 64), common))

    def _product(self, total: Value, vector: Value, common: Value) -> Value:
        v = self._v
        if total.type == v.f32:
            return v.fma(v.cast(vector, v.f32), v.cast(common, v.f32), total)
        if v.tier.pairs:
            return v.dot2(total, v.multiply_pairs_u8s8(vector, common), v.constant(v.i16, 1))
        return v.dot4(total, v.cast(vector, v.i32), v.cast(common, v.i32))

    def get(self) -> list[Value]:
        totals = [total.get() for total in self._totals]
        if not self._rest:
            return totals
        rest = self._v.builder.shl(self._rest.get(), self._v.constant(self._v.i32, 1))
        return [self._v.builder.add(total, rest) for total in totals]


# 2**f on [-0.5, 0.5]: degree 5, relative error 9.2e-8 + rounding (least maximum, constant term fixed to 1)
_EXP2_COEFFICIENTS = (
    1.326472731307149e-3,
    9.671512991189957e-3,
    5.550733581185341e-2,
    2.4022242426872253e-1,
    6.931470036506653e-1,
    1.0,
)

_GELU_COEFFICIENTS = (
    0.0004929619608446956,
    -0.0015141477342694998,
    0.0020018783397972584,
    -0.0029156869277358055,
    0.006165414582937956,
    -0.010973220691084862,
    0.016497662290930748,
    -0.023336734622716904,
    0.03142622858285904,
    -0.040432948619127274,
    0.0515214204788208,
    -0.07029665261507034,
    0.14136378467082977,
)


def _suffix(kind: ir.VectorType) -> str:
    element = "f32" if isinstance(kind.element, ir.FloatType) else f"i{kind.element.width}"
    return f"v{kind.count}{element}"
