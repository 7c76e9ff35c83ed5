"""Brute-force twins of the kernels, on plain arrays: [channel][token] in, [channel][token] out, int64 and float64.

One function per kernel, named as the kernel; no layout, no tile, no tier. Float results are float64: what a float32
kernel may differ by is the business of its test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_erf = np.vectorize(math.erf, otypes=[np.float64])
_tanh = np.vectorize(math.tanh, otypes=[np.float64])


# -- accumulators


def accumulate(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Integer product of weights (N, K) and activations (K, T); fails where the sum itself would leave int32."""
    exact = np.zeros((len(weight), x.shape[1]), np.int64)
    for k in range(weight.shape[1]):
        exact += weight[:, k, None].astype(np.int64) * x[k].astype(np.int64)
    assert np.abs(exact).max(initial=0) < 2**31
    return exact.astype(np.int32)


def accumulate_float(weight: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Product in float64, and the sum of the magnitudes of its terms, to which the rounding error is proportional."""
    wide, values = weight.astype(np.float64), x.astype(np.float64)
    return wide @ values, np.abs(wide) @ np.abs(values)


# -- stages


def gelu(x: np.ndarray) -> np.ndarray:
    """x * Phi(x)"""
    wide = x.astype(np.float64)
    return 0.5 * wide * (1.0 + _erf(wide / math.sqrt(2.0)))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """The approximation of https://arxiv.org/abs/1606.08415"""
    wide = x.astype(np.float64)
    return 0.5 * wide * (1.0 + tanh(math.sqrt(2.0 / math.pi) * (wide + 0.044715 * wide**3)))


def quick_gelu(x: np.ndarray) -> np.ndarray:
    """x * sigmoid(1.702 x)"""
    wide = x.astype(np.float64)
    return wide / (1.0 + np.exp(-1.702 * wide))


def tanh(x: np.ndarray) -> np.ndarray:
    return _tanh(x.astype(np.float64))


def silu(x: np.ndarray) -> np.ndarray:
    """x / (1 + exp(-x))"""
    wide = x.astype(np.float64)
    return wide / (1.0 + np.exp(-wide))


def rotary(x: np.ndarray, factors: np.ndarray, partners: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Every row with the one that is ``partners`` rows away, and the rows of ``factors`` that ``places`` names."""
    y = x.astype(np.float64)
    for row, partner in enumerate(partners):
        if partner:
            cosine, sine = places[row] % 2**16, places[row] // 2**16
            turned = x[row + partner].astype(np.float64) * factors[sine]
            y[row] = y[row] * factors[cosine] + (-turned if partner > 0 else turned)
    return y


def relu(x: np.ndarray) -> np.ndarray:
    return np.array([[value if value > 0 or math.isnan(value) else 0.0 for value in row] for row in x.tolist()])


def dequantize(accumulator: np.ndarray, acc_bias: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(acc + acc_bias) * scale + bias, per row; the sum becomes float32 first, as in ONNX's Cast."""
    total = (accumulator.astype(np.int64) + acc_bias.astype(np.int64)[:, None]).astype(np.float32)
    return total.astype(np.float64) * scale.astype(np.float64)[:, None] + bias.astype(np.float64)[:, None]


def quantize(x: np.ndarray, scale: float, zero_point: int, low: int = 0, high: int = 255) -> np.ndarray:
    """round half to even, zero point, saturate; int64."""
    stored = np.empty(x.shape, np.int64)
    for place, value in np.ndenumerate(x.astype(np.float64)):
        # Python's round() of a float is half to even, and int() of it is exact
        bounded = max(min(value / scale, 1e9), -1e9)
        stored[place] = max(low, min(high, round(bounded) + zero_point))
    return stored


def fake_quantize(x: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """QuantizeLinear to uint8, then DequantizeLinear."""
    return (quantize(x, scale, zero_point) - zero_point) * scale


def layer_norm(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float) -> np.ndarray:
    """Over the channels, which are the rows."""
    wide = x.astype(np.float64)
    centred = wide - wide.mean(axis=0)
    deviation = np.sqrt((centred**2).mean(axis=0) + epsilon)
    return centred / deviation * gamma.astype(np.float64)[:, None] + beta.astype(np.float64)[:, None]


def rms_norm(x: np.ndarray, gamma: np.ndarray, epsilon: float) -> np.ndarray:
    """Over the channels, which are the rows."""
    wide = x.astype(np.float64)
    return wide / np.sqrt((wide**2).mean(axis=0) + epsilon) * gamma.astype(np.float64)[:, None]


# -- attention, one head: q (queries, D), k and v (keys, D)


def softmax(scores: np.ndarray) -> np.ndarray:
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def attend_float(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray, factor: float) -> np.ndarray:
    scores = q.astype(np.float64) @ k.astype(np.float64).T * factor + bias.astype(np.float64)
    return softmax(scores) @ v.astype(np.float64)


@dataclass
class IntegerAttention:
    """Parameters of the int8 form, as in ``sparsert.kernels.attention.ATTENTION_PARAMETERS``."""

    qk_factor: float
    score_factor: float
    probability_factor: float
    low: float = -128.0
    high: float = 127.0
    value_offset: int = 0
    quantized: bool = True
    probability_top: float = 255.0
    softmax_factor: float = 0.0
    softmax_top: float = 255.0
    scaled: tuple[float, int] | None = None
    """Scale and zero point of scores quantized once more before the bias is added."""
    masked: tuple[float, int] | None = None
    """The same behind it."""


def rounded(x: np.ndarray, parameters: tuple[float, int] | None) -> np.ndarray:
    """float32 values quantized to uint8 and dequantized, or as they are."""
    return x if parameters is None else fake_quantize(x, *parameters).astype(np.float32)


def probabilities(q: np.ndarray, k: np.ndarray, bias: np.ndarray, form: IntegerAttention) -> np.ndarray:
    """Probabilities before they are rounded to bytes, (queries, keys) float64.

    The score of a key is rounded to float32 wherever the ONNX graph has a float32 tensor, so that the integer that it
    is quantized to is the same; the softmax is evaluated in float64.
    """
    scores = (q.astype(np.int64) @ k.astype(np.int64).T).astype(np.float32) * np.float32(form.qk_factor)
    if form.quantized:
        scores = np.clip(np.rint(scores), form.low, form.high).astype(np.float32) * np.float32(form.score_factor)
    scores = rounded(rounded(scores, form.scaled) + bias.astype(np.float32), form.masked)
    return softmax(scores.astype(np.float64))


def probability_bytes(probability: np.ndarray, form: IntegerAttention) -> np.ndarray:
    """Rounded once, or to the bytes of the softmax first; int64. Never falling, so errors of the argument bound it."""
    if form.softmax_factor:
        probability = np.clip(np.rint(probability * form.softmax_factor), 0, form.softmax_top)
    return np.clip(np.rint(probability * form.probability_factor), 0, form.probability_top).astype(np.int64)


def attend_int8(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray, form: IntegerAttention, slack: float
) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest context accumulators (queries, D) when every probability may have a relative error ``slack``.

    Both are equal, and the context is exact, unless a probability lies that close to a rounding tie.
    """
    exact = probabilities(q, k, bias, form)
    least, most = (probability_bytes(exact * (1 + sign * slack), form) for sign in (-1, 1))
    values = v.astype(np.int64) + form.value_offset
    low, high = np.zeros((len(q), v.shape[1]), np.int64), np.zeros((len(q), v.shape[1]), np.int64)
    for key in range(len(k)):
        ends = least[:, key, None] * values[key], most[:, key, None] * values[key]
        low += np.minimum(*ends)
        high += np.maximum(*ends)
    return low, high
