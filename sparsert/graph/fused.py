"""The fused ops: what a transformer layer is made of, free of ONNX spelling and of any kernel.

Shapes: B batch, S tokens, H channels, K input features, N output features, V rows of a table. Unless said otherwise a
value is float32 of shape (B, S, H); a two-dimensional value (B, H) is treated as one token per item.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Quantization:
    """Affine quantization: ``real = (stored - zero_point) * scale``; ONNX QuantizeLinear rounds half to even.

    ``scale`` is float32 and ``zero_point`` an integer array, both of shape () or (N,); ``dtype`` is uint8 or int8.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    dtype: np.dtype


@dataclass(frozen=True)
class Quantize:
    """inputs: [x float32] -> outputs: [uint8/int8 of the same shape]. ONNX QuantizeLinear, per tensor."""

    quantization: Quantization


@dataclass(frozen=True)
class Dequantize:
    """inputs: [x uint8/int8] -> outputs: [float32]. ONNX DequantizeLinear, per tensor."""

    quantization: Quantization


@dataclass(frozen=True)
class DynamicQuantize:
    """inputs: [x float32] -> outputs: [uint8 values, float32 scale (), uint8 zero point ()].

    ONNX DynamicQuantizeLinear: minimum and maximum are taken over the whole tensor, so every item of a batch
    depends on the others.
    """


@dataclass(frozen=True)
class Linear:
    """y = x W + b, exactly as the file computes it.

    inputs
        float       : [x float32]
        int8 static : [x uint8/int8], with ``input_quantization``
        int8 dynamic: [x uint8, x_scale, x_zero_point] from a DynamicQuantize, ``input_quantization`` None
    outputs: [float32 (..., N)]

    float: ``y = x @ weight + bias``.
    int8 : ``acc = (x - zp_x) @ (weight - weight_zero_point) + acc_bias`` in exact int32, then
    ``y = float32(acc) * acc_scale + bias``; in the dynamic form ``acc_scale`` is ``x_scale * weight_scale``.
    """

    weight: np.ndarray
    """(K, N), float32, int8 or uint8, as stored in the file (never transposed, zero point not removed)."""
    weight_zero_point: np.ndarray | None = None
    """() or (N,) integer array for int8 forms."""
    weight_scale: np.ndarray | None = None
    """() or (N,) float32; None in the static form when the file states only the product ``acc_scale``."""
    input_quantization: Quantization | None = None
    acc_bias: np.ndarray | None = None
    """(N,) int32, added to the accumulator before scaling (SparseML form)."""
    acc_scale: np.ndarray | None = None
    """() or (N,) float32: the file's rescale constant (or float32(x_scale * weight_scale)); None if dynamic."""
    bias: np.ndarray | None = None
    """(N,) float32, added after scaling."""


@dataclass(frozen=True)
class Gelu:
    """inputs: [x] -> outputs: [x * Phi(x)]; ``approximate`` is "none" (erf) or "tanh"."""

    approximate: str = "none"


@dataclass(frozen=True)
class Activation:
    """inputs: [x] -> outputs: [f(x)]; ``kind`` is "relu" or "tanh"."""

    kind: str


@dataclass(frozen=True)
class Add:
    """inputs: [a, b], both float32 of one shape -> outputs: [a + b]. The residual connection.

    ``b`` may be a constant of shape (N,), the size of a's last axis: a bias that does not follow its Linear at once, as
    in static QDQ files, where the product is quantized first.
    """


@dataclass(frozen=True)
class LayerNorm:
    """inputs: [x] -> outputs: [(x - mean) / sqrt(var + epsilon) * gamma + beta] over the last axis."""

    gamma: np.ndarray
    beta: np.ndarray
    epsilon: float


@dataclass(frozen=True)
class Table:
    """One embedding table. Row ``index[b, s]`` of ``weight`` (V, H), dequantized if ``quantization`` is set."""

    weight: np.ndarray
    quantization: Quantization | None
    index: str
    """Where the row number comes from: "input" (the next entry of the node's inputs, an int32/int64 value (B, S)),
    "position" (row = ``offset`` + token position) or "constant" (row = ``offset`` for every token)."""
    offset: int = 0


@dataclass(frozen=True)
class Embeddings:
    """inputs: one integer value (B, S) per table with index "input", in table order -> outputs: [sum of the rows].

    Rows are added in table order (the file's order of Adds). Ids follow ONNX Gather: negative ids wrap, ids outside
    [-V, V) are an error. At least one table has index "input".
    """

    tables: tuple[Table, ...]


@dataclass(frozen=True)
class KeyMask:
    """inputs: [attention_mask, an integer, bool or float32 value (B, S)] -> outputs: [float32 (B, S), added to scores].

    ``kind`` "linear": ``(1 - mask) * value``; "where": ``0 where mask != 0 else value``.
    """

    kind: str
    value: float


@dataclass(frozen=True)
class Attention:
    """softmax(scale * Q K^T + mask) V for every head.

    inputs: [q, k, v, mask?]; q, k, v float32 (B, S, H) as the Linears leave them (heads not yet split), mask as KeyMask
    gives it, optional -> outputs: [float32 (B, S, H), heads merged].

    Quantized forms (each None where the file does not quantize that edge). An integer product is computed exactly:
    ``scores = float32(sum (q8 - zp_q)(k8 - zp_k)) * qk_scale``; if ``scores_quantization`` is set, scores are quantized
    and dequantized with it; then multiplied by ``scale``, mask added, softmax, quantized by ``probs_quantization``;
    ``context = float32(sum (p8 - zp_p)(v8 - zp_v)) * pv_scale``, quantized and dequantized with
    ``context_quantization``. In the QLinearMatMul form ``scores = round(acc * qk_scale / scores_scale) + zp``
    saturated, which is the same formula.
    ``dynamic`` True: q, k, probs and v each pass DynamicQuantizeLinear (per tensor over the whole batch) first.
    """

    heads: int
    scale: float
    q_quantization: Quantization | None = None
    k_quantization: Quantization | None = None
    qk_scale: np.ndarray | None = None
    scores_quantization: Quantization | None = None
    probs_quantization: Quantization | None = None
    v_quantization: Quantization | None = None
    pv_scale: np.ndarray | None = None
    context_quantization: Quantization | None = None
    dynamic: bool = False


@dataclass(frozen=True)
class SelectToken:
    """inputs: [x (B, S, H)] -> outputs: [x[:, index, :] (B, H)]. The pooler's view of the first token."""

    index: int


@dataclass(frozen=True)
class SelectFeature:
    """inputs: [x (B, S, N)] -> outputs: [x[:, :, index] (B, S)]. One logit of a question-answering head."""

    index: int


FusedOp = (
    Quantize
    | Dequantize
    | DynamicQuantize
    | Linear
    | Gelu
    | Activation
    | Add
    | LayerNorm
    | Embeddings
    | KeyMask
    | Attention
    | SelectToken
    | SelectFeature
)
