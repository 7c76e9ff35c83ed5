"""Normalizations of ONNX Runtime's own, with the residual addition before them."""

from __future__ import annotations

from sparsert.graph.contrib.expansion import Expansion, contrib

__all__: list[str] = []


@contrib([0, 1], 2, outputs=3, axis=-1, epsilon=1e-5, stash_type=1)
def SimplifiedLayerNormalization(e: Expansion) -> list[str | None]:
    x, gamma = e.input(0), e.input(1)
    return [e.op("RMSNormalization", x, gamma, axis=e.attribute("axis"), epsilon=e.attribute("epsilon")), None]


@contrib([0, 1, 2], 5, outputs=4, epsilon=1e-12)
def SkipLayerNormalization(e: Expansion) -> list[str | None]:
    total = e.op("Add", e.plus(e.input(0), e.input(4)), e.input(1))
    result = e.op("LayerNormalization", total, e.input(2), e.input(3), axis=-1, epsilon=e.attribute("epsilon"))
    return [result, None, None, total]


@contrib([0, 1, 2], 4, outputs=4, epsilon=1e-12)
def SkipSimplifiedLayerNormalization(e: Expansion) -> list[str | None]:
    total = e.op("Add", e.plus(e.input(0), e.input(3)), e.input(1))
    result = e.op("RMSNormalization", total, e.input(2), axis=-1, epsilon=e.attribute("epsilon"))
    return [result, None, None, total]
