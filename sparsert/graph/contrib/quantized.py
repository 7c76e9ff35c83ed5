"""Element-wise ops on bytes: what their arguments stand for, computed in float, and quantized again."""

from __future__ import annotations

from sparsert.graph.contrib.expansion import Expansion, contrib

__all__: list[str] = []


@contrib([0, 1], 3, axis=1)
def QuantizeLinear(e: Expansion) -> str:
    return _quantization(e, "QuantizeLinear")


@contrib([0, 1], 3, axis=1)
def DequantizeLinear(e: Expansion) -> str:
    return _quantization(e, "DequantizeLinear")


def _quantization(e: Expansion, op: str) -> str:
    """The axis counts only for more than one scale; old opsets have none."""
    many = e.facts.shape(e.input(1)) not in ((), (1,))
    return e.op(op, e.input(0), e.input(1), e.input(2), **({"axis": e.attribute("axis")} if many else {}))


def _real(e: Expansion, first: int) -> str:
    """The number that bytes, scale and zero point at three inputs from ``first`` on stand for."""
    return e.op("DequantizeLinear", *(e.input(first + k) for k in range(3)))


def _binary(e: Expansion, op: str) -> str:
    return e.op("QuantizeLinear", e.op(op, _real(e, 0), _real(e, 3)), e.input(6), e.input(7))


@contrib([0, 1, 3, 4, 6], 8)
def QLinearAdd(e: Expansion) -> str:
    return _binary(e, "Add")


@contrib([0, 1, 3, 4, 6], 8)
def QLinearMul(e: Expansion) -> str:
    return _binary(e, "Mul")


@contrib([0, 1, 3], 5)
def QLinearSigmoid(e: Expansion) -> str:
    return e.op("QuantizeLinear", e.op("Sigmoid", _real(e, 0)), e.input(3), e.input(4))


@contrib([0, 1, 3], 5, alpha=0.01)
def QLinearLeakyRelu(e: Expansion) -> str:
    return e.op("QuantizeLinear", e.op("LeakyRelu", _real(e, 0), alpha=e.attribute("alpha")), e.input(3), e.input(4))


@contrib([0, 1, 3, 4], 5, axis=-1, opset=1)
def QLinearSoftmax(e: Expansion) -> str:
    x, axis = _real(e, 0), e.attribute("axis")
    if e.attribute("opset") < 13 and axis not in (-1, e.rank(x) - 1):
        e.refuse(f"its softmax of opset {e.attribute('opset')} is over all axes from {axis} on")
    if axis == -1 and e.opset < 11:
        axis = e.rank(x) - 1
    return e.op("QuantizeLinear", e.op("Softmax", x, axis=axis), e.input(3), e.input(4))


@contrib([0, 1, 2, 4, 5, 7], 10)
def QLinearWhere(e: Expansion) -> str:
    chosen = e.op("Where", e.input(0), _real(e, 1), _real(e, 4))
    return e.op("QuantizeLinear", chosen, e.input(7), e.input(8))


@contrib([0, 1, 2, 3, 4], 2 + 3 * 64, axis=1)
def QLinearConcat(e: Expansion) -> str:
    count = next(k for k in range(2, 2 + 3 * 64, 3) if not e.input(k))
    joined = e.op("Concat", *(_real(e, first) for first in range(2, count, 3)), axis=e.attribute("axis"))
    return e.op("QuantizeLinear", joined, e.input(0), e.input(1))
