"""Activations of ONNX Runtime's own."""

from __future__ import annotations

from sparsert.graph.contrib.expansion import Expansion, contrib

__all__: list[str] = []


@contrib([0], 1)
def Gelu(e: Expansion) -> str:
    return e.op("Gelu", e.input(0))


@contrib([0, 1], 2)
def BiasGelu(e: Expansion) -> str:
    return e.op("Gelu", e.op("Add", e.input(0), e.input(1)))


@contrib([0], 2)
def FastGelu(e: Expansion) -> str:
    return e.op("Gelu", e.plus(e.input(0), e.input(1)), approximate="tanh")


@contrib([0, 1], 3)
def GemmFastGelu(e: Expansion) -> str:
    product = e.op("MatMul", e.input(0), e.input(1))
    return e.op("Gelu", e.plus(product, e.input(2)), approximate="tanh")


@contrib([0], 1, alpha=1.702)
def QuickGelu(e: Expansion) -> str:
    x, alpha = e.input(0), e.attribute("alpha")
    inner = x if alpha == 1 else e.op("Mul", x, e.constant(float(alpha)))
    return e.op("Mul", x, e.op("Sigmoid", inner))
