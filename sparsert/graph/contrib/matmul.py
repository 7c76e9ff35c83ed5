"""Products of ONNX Runtime's own: with transposes and scales, with bytes, and with weights of a few bits in blocks."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from sparsert.graph.contrib.expansion import Expansion, contrib
from sparsert.graph.widen import widened

__all__ = ["dynamically_quantized", "integer_product"]


@contrib([0, 1], 2, alpha=1.0, transA=0, transB=0, transBatchA=0, transBatchB=0)
def FusedMatMul(e: Expansion) -> str:
    sides = [_turned(e, e.input(side), "AB"[side]) for side in (0, 1)]
    product, alpha = e.op("MatMul", *sides), e.attribute("alpha")
    return product if alpha == 1 else e.op("Mul", product, e.constant(float(alpha)))


@contrib([0, 1], 2, alpha=1.0, transA=0, transB=0)
def TransposeMatMul(e: Expansion) -> str:
    """The name that FusedMatMul once had."""
    sides = [_turned(e, e.input(side), "AB"[side], batches=False) for side in (0, 1)]
    product, alpha = e.op("MatMul", *sides), e.attribute("alpha")
    return product if alpha == 1 else e.op("Mul", product, e.constant(float(alpha)))


def _turned(e: Expansion, value: str, side: str, batches: bool = True) -> str:
    """A factor with its first and its last axes where the product wants them."""
    turn, rotate = e.attribute(f"trans{side}"), batches and e.attribute(f"transBatch{side}")
    if not turn and not rotate:
        return value
    axes = list(range(e.rank(value)))
    if len(axes) < 2:
        return value
    if rotate:  # (M, batch, ..., K) is meant as (batch, ..., M, K)
        axes = [*axes[1:-1], axes[0], axes[-1]]
    if turn:
        axes[-2:] = axes[:-3:-1]
    return e.op("Transpose", value, perm=axes)


@contrib([0, 1, 2, 3], 7)
def MatMulIntegerToFloat(e: Expansion) -> str:
    a, b, a_scale, b_scale, a_zero, b_zero, bias = (e.input(position) for position in range(7))
    return integer_product(e, (a, a_scale, a_zero), (b, b_scale, b_zero), bias)


@contrib([0, 1, 2], 5)
def DynamicQuantizeMatMul(e: Expansion) -> str:
    a, b, b_scale, b_zero, bias = (e.input(position) for position in range(5))
    return integer_product(e, dynamically_quantized(e, a), (b, b_scale, b_zero), bias)


def dynamically_quantized(e: Expansion, value: str) -> tuple[str, str, str]:
    """Bytes, scale and zero point of a value, which other products share."""
    keys = [("dynamic", part, value) for part in range(3)]
    if keys[0] not in e.shared:
        e.shared.update(zip(keys, e.node("DynamicQuantizeLinear", value, outputs=3), strict=True))
    bytes_, scale, zero_point = (e.shared[key] for key in keys)
    return bytes_, scale, zero_point


def integer_product(e: Expansion, a: tuple[str, str, str], b: tuple[str, str, str], bias: str) -> str:
    """The product of two values, each given as bytes, scale and zero point, in float."""
    scale = e.op("Mul", a[1], b[1])
    product = e.op("Cast", e.op("MatMulInteger", a[0], b[0], a[2], b[2]), to=TensorProto.FLOAT)
    return e.plus(e.op("Mul", product, scale), bias)


@contrib([0, 1, 2], 6, K=0, N=0, bits=4, block_size=0, accuracy_level=0, weight_prepacked=0)
def MatMulNBits(e: Expansion) -> str:
    if e.input(4):
        e.refuse("its weights are reordered by g_idx")
    weight = _blocks(e, *(e.attribute(name) for name in ("N", "K", "bits", "block_size")))
    return e.plus(e.op("MatMul", e.input(0), e.constant(weight.T)), e.input(5))


def _blocks(e: Expansion, rows: int, columns: int, bits: int, block: int) -> np.ndarray:
    """Weights (N, K) in float32: blocks of ``block`` inputs, each with a scale and a zero point, lowest bits first."""
    if bits not in (2, 4, 8) or rows < 1 or columns < 1 or block < 1 or e.attribute("weight_prepacked"):
        e.refuse(f"expected 2, 4 or 8 bits in blocks, came {bits} bits, blocks of {block}, K {columns}, N {rows}")
    count = -(-columns // block)
    stored, scales = e.array(1), widened(e.array(2))
    if stored.dtype != np.uint8 or stored.size != rows * count * block * bits // 8:
        e.malformed(f"expected {rows * count * block * bits // 8} bytes of weights, came {stored.size} {stored.dtype}")
    if scales.size != rows * count or scales.dtype != np.float32:
        e.malformed(f"expected {rows * count} scales, came {scales.size} {scales.dtype}")
    zeros: np.ndarray = np.full((rows, count), 1 << (bits - 1), np.float32)
    if e.input(3):
        given = widened(e.array(3))
        if given.dtype == np.float32 and given.size == rows * count:
            zeros = given.reshape(rows, count)
        elif given.dtype == np.uint8 and given.size == rows * -(-count * bits // 8):
            zeros = _unpacked(given.reshape(rows, -1), bits)[:, :count].astype(np.float32)
        else:
            e.malformed(f"expected {rows * count} packed zero points, came {given.size} {given.dtype}")
    real = _unpacked(stored.reshape(rows, -1), bits).astype(np.float32).reshape(rows, count, block)
    real -= zeros[:, :, None]
    real *= scales.reshape(rows, count, 1)
    return real.reshape(rows, count * block)[:, :columns]


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """Numbers of a few bits, uint8, from bytes of rows."""
    if bits == 8:
        return packed
    parts = [(packed >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(len(packed), -1)
