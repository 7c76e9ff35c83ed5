"""Ranges of a network's activations, from one forward pass in plain NumPy."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erf

from sparsert.synthetic.recipe import Recipe
from sparsert.synthetic.weights import Stream

__all__ = ["Ranges", "calibrate"]

BATCH, TOKENS = 2, 64
LAYER_NORM_EPSILON = 1e-12

Ranges = dict[str, tuple[float, float]]
"""Observation point -> (minimum, maximum)."""


def calibrate(recipe: Recipe, weights: dict[str, np.ndarray]) -> Ranges:
    """Minimum and maximum of every activation that static quantization needs, on 2 x 64 random token ids.

    The pass runs in float64 and the ranges keep four significant digits: two BLAS libraries differ by 1e-13 relative,
    so the chance that a digit differs between machines is about 1e-9 per range, and the file comes out the same.

    Observation points: ``L{i}.in q k scores probs v pv ctx att mid`` for layer i and ``qa.in`` are inputs of matrix
    products or products of attention; ``POINT/PARAMETER`` is the output of that Linear before its bias.
    """
    arch = recipe.architecture
    ranges: Ranges = {}

    def observe(point: str, x: np.ndarray) -> np.ndarray:
        ranges[point] = float(f"{x.min():.4g}"), float(f"{x.max():.4g}")
        return x

    def wide(name: str) -> np.ndarray:
        return weights[name].astype(np.float64)

    def linear(point: str, x: np.ndarray, name: str) -> np.ndarray:
        observe(point, x)
        return observe(f"{point}/{name}", x @ wide(f"{name}.weight").T) + wide(f"{name}.bias")

    def layer_norm(x: np.ndarray, name: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + LAYER_NORM_EPSILON)
        return centred / deviation * wide(f"{name}.weight") + wide(f"{name}.bias")

    def heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(BATCH, tokens, arch.heads, -1).transpose(0, 2, 1, 3)

    tokens = min(TOKENS, arch.max_positions)
    ids = (Stream(recipe.seed + 1).raw(BATCH * tokens) % arch.vocab).astype(np.int64).reshape(BATCH, tokens)
    embeddings = "bert.embeddings."
    x = weights[f"{embeddings}word_embeddings.weight"][ids].astype(np.float64)
    if arch.token_types:
        x = x + wide(f"{embeddings}token_type_embeddings.weight")[(np.arange(tokens) >= tokens // 2).astype(np.int64)]
    x = layer_norm(x + wide(f"{embeddings}position_embeddings.weight")[:tokens], f"{embeddings}LayerNorm")
    for layer in range(arch.layers):
        point, name = f"L{layer}.", f"bert.encoder.layer.{layer}."
        q, k, v = (heads(linear(f"{point}in", x, f"{name}attention.self.{part}")) for part in ("query", "key", "value"))
        scores = observe(f"{point}q", q) @ observe(f"{point}k", k).swapaxes(-1, -2)
        scores = observe(f"{point}scores", scores) / math.sqrt(arch.hidden // arch.heads)
        probs = np.exp(scores - scores.max(-1, keepdims=True))
        probs = observe(f"{point}probs", probs / probs.sum(-1, keepdims=True))
        context = observe(f"{point}pv", probs @ observe(f"{point}v", v))
        context = context.transpose(0, 2, 1, 3).reshape(BATCH, tokens, arch.hidden)
        x = layer_norm(
            linear(f"{point}ctx", context, f"{name}attention.output.dense") + x, f"{name}attention.output.LayerNorm"
        )
        wide_x = linear(f"{point}att", x, f"{name}intermediate.dense")
        wide_x = 0.5 * wide_x * (1 + erf(wide_x / math.sqrt(2)))
        x = layer_norm(linear(f"{point}mid", wide_x, f"{name}output.dense") + x, f"{name}output.LayerNorm")
    linear("qa.in", x, "qa_outputs")
    return ranges
