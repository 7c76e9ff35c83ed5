"""Attention, and the masks of its keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from sparsert.graph.ir import Node
from sparsert.graph.quantization import Quantization
from sparsert.kernels.attention import BOUNDED_SPAN, SUM_ROWS
from sparsert.kernels.records import ATTENTION_PARAMETERS
from sparsert.kernels.table import MODE
from sparsert.ops.base import Builder, FusedOp, Operand
from sparsert.ops.linear import centred, product_type
from sparsert.ops.quantize import DynamicQuantize, Quantize, range_to_uint8
from sparsert.ops.score_bias import PositionBias
from sparsert.ops.steps import Epilogue, PackedLinear, Stage, Step, padded, quantization_parameters, rounding

__all__ = ["Attention", "KeyMask", "ScoreMask"]

_FORMS = ("quads", "signed_quads", "signed_rows")
"""Forms of Q, K and V in int8."""


@dataclass(frozen=True)
class KeyMask(FusedOp):
    """inputs: [attention_mask, an integer, bool or float32 value (B, S)] -> outputs: [float32 (B, S), added to scores].

    ``formula`` "linear": ``(1 - mask) * value``; "where": ``0 where mask != 0 else value``;
    "equal": ``0 where mask == 1 else value``.
    """

    formula: str
    value: float
    on_arrays = True

    def out_channels(self, sizes: Sequence[int | None]) -> None:
        return None

    def fits(self, sizes: Sequence[int | None]) -> bool:
        return False

    def compute(self, mask: np.ndarray) -> np.ndarray:
        value = np.float32(self.value)
        if self.formula == "linear":
            return np.asarray((np.float32(1) - mask.astype(np.float32)) * value)
        return np.where(mask == 1 if self.formula == "equal" else mask != 0, np.float32(0), value)


@dataclass(frozen=True)
class ScoreMask(FusedOp):
    """inputs: [bool, any shape] -> outputs: [float32, added to scores]; 0 where it is ``kept``, else ``value``."""

    value: float
    kept: bool = True
    on_arrays = True

    def out_channels(self, sizes: Sequence[int | None]) -> None:
        return None

    def fits(self, sizes: Sequence[int | None]) -> bool:
        return False

    def compute(self, condition: np.ndarray) -> np.ndarray:
        return np.where(condition == self.kept, np.float32(0), np.float32(self.value))


@dataclass(frozen=True)
class Attention(FusedOp):
    """softmax(scale * Q K^T + bias + mask) V for every head; zeros where every key has -inf, as torch has it.

    inputs: [q, k, v, mask?, bias?]; q, k, v float32 (B, S, H) as the Linears leave them (heads not yet split), mask as
    KeyMask gives it, bias float32 that broadcasts to (B, heads, S, S) -> outputs: [float32 (B, S, H), heads merged].

    Quantized forms (each None where the file does not quantize that edge). An integer product is computed exactly:
    ``scores = float32(sum (q8 - zp_q)(k8 - zp_k)) * qk_scale``; if ``scores_quantization`` is set, scores are quantized
    and dequantized with it; then multiplied by ``scale``, mask added, softmax, quantized by ``probs_quantization``;
    ``context = float32(sum (p8 - zp_p)(v8 - zp_v)) * pv_scale``, quantized and dequantized with
    ``context_quantization``. In the QLinearMatMul form ``scores = round(acc * qk_scale / scores_scale) + zp``
    saturated, which is the same formula. Files whose every op is quantized do so with the scores once more after
    ``scale`` (``scaled_quantization``) and after the mask (``masked_quantization``), and with what the softmax gives
    before ``probs_quantization`` (``softmax_quantization``).
    ``dynamic`` True: q, k, probs and v each pass DynamicQuantizeLinear (per tensor over the whole batch) first.

    ``positions`` is added to the scores as the mask is: a number of head, query and key, wherever they lie.
    """

    heads: int
    scale: float
    q_quantization: Quantization | None = None
    k_quantization: Quantization | None = None
    qk_scale: np.ndarray | None = None
    scores_quantization: Quantization | None = None
    scaled_quantization: Quantization | None = None
    masked_quantization: Quantization | None = None
    softmax_quantization: Quantization | None = None
    probs_quantization: Quantization | None = None
    v_quantization: Quantization | None = None
    pv_scale: np.ndarray | None = None
    context_quantization: Quantization | None = None
    dynamic: bool = False
    positions: PositionBias | None = None
    leading = 3
    keeps_lead = True
    mixes = True
    layer_kind = "Attention"

    @property
    def couples(self) -> bool:
        return self.dynamic

    def fits(self, sizes: Sequence[int | None]) -> bool:
        channels, *others = set(sizes[:3])
        if others or self.dynamic or channels is None or channels % self.heads or (channels // self.heads) % 4:
            return False
        parts = (self.q_quantization, self.k_quantization, self.probs_quantization, self.v_quantization)
        rounded = (self.scaled_quantization, self.masked_quantization, self.softmax_quantization)
        results = (self.scores_quantization, *rounded, self.context_quantization)
        if all(part is None for part in (*parts, *results)):
            return True
        if any(part is None for part in parts) or self.qk_scale is None or self.pv_scale is None:
            return False
        if not all(part.in_kernels for part in (*parts, *results) if part is not None):
            return False
        if np.size(self.qk_scale) != 1 or np.size(self.pv_scale) != 1:
            return False
        return True

    # -- in the run loop

    def operands(self, builder: Builder, node: Node, value: str) -> list[Operand]:
        if self.q_quantization is None:
            return [Operand(value)]
        wanted = zip(node.inputs, _FORMS, (self.q_quantization, self.k_quantization, self.v_quantization), strict=False)
        return [
            Operand(_operand_name(node, position), form, quantization_parameters(quantization))
            for position, (name, form, quantization) in enumerate(wanted)
            if name == value and quantization is not None
        ]

    def lower(self, builder: Builder, node: Node) -> None:
        channels, integer = builder.channels[node.inputs[0]], self.q_quantization is not None
        if integer:
            reads = [builder.buffer(_operand_name(node, position), form) for position, form in enumerate(_FORMS)]
        else:
            reads = [builder.buffer(name) for name in node.inputs[:3]]
        mask, array = (*node.inputs[3:], "", "")[:2]
        builder.add_mask(mask)
        if array:
            builder.add_score_array(array)
        record = self._record()
        constants = {
            "heads": self.heads,
            "size": channels // self.heads,
            "mask": mask,
            "mode": self._mode(record),
            "positions": self.positions,
            "array": array,
            "distances": None,
            "offset_values": bool(integer and record["value_offset"][0] != 0),
        }
        if integer:
            sums = builder.new_buffer(f"{node.outputs[0]}@sums", "floats", SUM_ROWS * self.heads)
            builder.add(Step("byte_sums", reads[:2], [sums], parameters=record, constants=constants))
            reads.append(sums)
        step = Step("attention", reads, rows=channels, parameters=record, constants=constants)
        if integer:
            scale = np.float32(self.pv_scale)
            epilogue = Epilogue(padded(0, channels, np.int32), padded(scale, channels), padded(0, channels))
            step.stages.append(Stage("dequantize", epilogue=epilogue))
            if self.context_quantization is not None and not self._quantized_next(builder, node):
                context = quantization_parameters(self.context_quantization)
                step.stages.append(Stage("fake_quantize", parameters=context))
        builder.produce(step, node.outputs[0])

    def _quantized_next(self, builder: Builder, node: Node) -> bool:
        """Whether all that becomes of the context are the bytes that it passes anyway."""
        (result,), context = node.outputs, self.context_quantization
        return not builder.needed(result) and all(
            isinstance(reader.fused, Quantize) and context is not None and context.same_as(reader.fused.quantization)
            for reader in builder.readers(result)
        )

    def _record(self) -> np.ndarray:
        """The record that the kernel reads; see ATTENTION_PARAMETERS for the formulas."""
        record = np.zeros(1, ATTENTION_PARAMETERS)
        q, k, v, probabilities = self.q_quantization, self.k_quantization, self.v_quantization, self.probs_quantization
        if q is None or k is None or v is None or probabilities is None:
            record["qk_factor"] = self.scale
            return record
        qk_scale = np.float32(self.qk_scale)
        scores = self.scores_quantization
        if scores is None:
            record["qk_factor"] = qk_scale * np.float32(self.scale)
        else:
            zero_point = scores.unsigned_zero_point
            record["qk_factor"] = qk_scale / np.float32(scores.scale)
            record["low"], record["high"] = -zero_point, 255 - zero_point
            record["score_factor"] = np.float32(scores.scale) * np.float32(self.scale)
        # A probability is never below its zero point, which the kernel can therefore take for 0.
        probability_scale, first = np.float32(probabilities.scale), self.softmax_quantization
        record["probability_factor"] = np.float32(1.0) / probability_scale
        record["probability_top"] = 255 - probabilities.unsigned_zero_point
        if first is not None:
            record["softmax_factor"] = np.float32(1.0) / np.float32(first.scale)
            record["softmax_top"] = 255 - first.unsigned_zero_point
            record["probability_factor"] = np.float32(first.scale) / probability_scale
        record["scaled"], record["masked"] = rounding(self.scaled_quantization), rounding(self.masked_quantization)
        record["query_zero_point"] = q.unsigned_zero_point
        record["key_offset"] = 128 - k.unsigned_zero_point
        record["value_offset"] = 128 - v.unsigned_zero_point
        return record

    def _mode(self, record: np.ndarray) -> int:
        """How the kernel computes scores."""
        if self.q_quantization is None:
            return MODE.floats
        if self.scaled_quantization is not None or self.masked_quantization is not None:
            return MODE.rounded_scores
        if self.scores_quantization is None:
            return MODE.int8
        bounded = 255 * abs(float(record["score_factor"][0])) <= BOUNDED_SPAN
        return MODE.bounded_scores if bounded else MODE.quantized_scores

    def details(self, packed: PackedLinear | None, tier: str) -> dict[str, Any]:
        element = "f32" if self.q_quantization is None else "int8"
        note = f"{self.heads} heads" + (", numbers of positions added to scores" if self.positions is not None else "")
        return {"kernel": f"attention {element} {tier}", "note": note}

    # -- in NumPy

    def compute(
        self,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        mask: np.ndarray | None = None,
        bias: np.ndarray | None = None,
    ) -> np.ndarray:
        """Multi-head attention: float, int8 static, or int8 dynamic; one batch item at a time."""
        shape = q.shape
        # (B, H) is one token per item.
        q, k, v = (x[:, None] if x.ndim == 2 else x for x in (q, k, v))
        if mask is not None:
            mask = np.broadcast_to(mask, k.shape[:2])
        if bias is not None:
            bias = np.broadcast_to(bias, (len(k), self.heads, q.shape[1], k.shape[1]))
        placed = self.positions.values(k.shape[1]) if self.positions is not None else None
        scores_of, context_of = (self._dynamic_products if self.dynamic else self._static_products)(q, k, v)

        # The ranges of a dynamic form are those of the whole batch, so its probabilities are computed twice, except
        # those of the item computed last: a batch of one pays nothing.
        @lru_cache(maxsize=1)
        def probabilities(item: int) -> np.ndarray:
            scores = _round_trip(scores_of(item), self.scores_quantization) * np.float32(self.scale)
            scores = _round_trip(scores, self.scaled_quantization)
            if placed is not None:
                scores += placed
            if bias is not None:
                scores += bias[item]
            if mask is not None:
                scores += mask[item]
            return _round_trip(_softmax(_round_trip(scores, self.masked_quantization)), self.softmax_quantization)

        context = np.empty(q.shape, np.float32)
        for item, product in enumerate(context_of(probabilities)):
            merged = _round_trip(product, self.context_quantization).swapaxes(0, 1)
            context[item] = merged.reshape(context[item].shape)
        return context.reshape(shape)

    def _static_products(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> _Products:
        """Both products where the file states the scales, each integer or float."""
        q_quantization, k_quantization = self.q_quantization, self.k_quantization
        probs_quantization, v_quantization = self.probs_quantization, self.v_quantization

        def scores_of(item: int) -> np.ndarray:
            left, right = _heads_first(q[item], self.heads), _heads_first(k[item], self.heads)
            if q_quantization is None or k_quantization is None:
                return np.matmul(left, right.swapaxes(1, 2))
            left, right = q_quantization.quantize(left), k_quantization.quantize(right)
            zero_points = q_quantization.zero_point, k_quantization.zero_point
            return _integer_product(left, zero_points[0], right.swapaxes(1, 2), zero_points[1]) * self.qk_scale

        def context_of(probabilities: _Probabilities) -> Iterator[np.ndarray]:
            for item in range(len(q)):
                left, right = probabilities(item), _heads_first(v[item], self.heads)
                if probs_quantization is None or v_quantization is None:
                    yield np.matmul(left, right)
                else:
                    left, right = probs_quantization.quantize(left), v_quantization.quantize(right)
                    yield (
                        _integer_product(left, probs_quantization.zero_point, right, v_quantization.zero_point)
                        * self.pv_scale
                    )

        return scores_of, context_of

    def _dynamic_products(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> _Products:
        """Both products where the operands pass DynamicQuantizeLinear, per tensor over the whole batch."""
        (q8, q_scale, q_zero), (k8, k_scale, k_zero), (v8, v_scale, v_zero) = (
            DynamicQuantize().compute(x) for x in (q, k, v)
        )

        def scores_of(item: int) -> np.ndarray:
            left, right = _heads_first(q8[item], self.heads), _heads_first(k8[item], self.heads)
            return _integer_product(left, q_zero, right.swapaxes(1, 2), k_zero) * (q_scale * k_scale)

        def context_of(probabilities: _Probabilities) -> Iterator[np.ndarray]:
            highest = [probabilities(item).max(initial=np.float32(0)) for item in range(len(q))]
            p = range_to_uint8(np.float32(0), np.max(highest, initial=np.float32(0)))
            for item in range(len(q)):
                left, right = p.quantize(probabilities(item)), _heads_first(v8[item], self.heads)
                yield _integer_product(left, p.zero_point, right, v_zero) * (p.scale * v_scale)

        return scores_of, context_of


_Probabilities = Callable[[int], np.ndarray]
_Products = tuple[Callable[[int], np.ndarray], Callable[[_Probabilities], Iterator[np.ndarray]]]
"""The scores (heads, S, S) of an item, and the contexts (heads, S, D) of all items in order."""


def _operand_name(node: Node, position: int) -> str:
    """Name of the bytes of Q, K or V, which are of this node alone."""
    return f"{node.inputs[position]}@{node.outputs[0]}@{position}"


def _round_trip(x: np.ndarray, quantization: Quantization | None) -> np.ndarray:
    return x if quantization is None else quantization.dequantize(quantization.quantize(x))


def _heads_first(x: np.ndarray, heads: int) -> np.ndarray:
    """(S, H) to (heads, S, H / heads)."""
    tokens, channels = x.shape
    return x.reshape(tokens, heads, channels // heads).swapaxes(0, 1)


def _integer_product(a: np.ndarray, a_zero: np.ndarray, b: np.ndarray, b_zero: np.ndarray) -> np.ndarray:
    """The exact product of centred bytes, rounded to float32 once."""
    kind = product_type(a.shape[-1])
    return np.matmul(centred(a, a_zero, kind), centred(b, b_zero, kind)).astype(np.float32, copy=False)


def _softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis, in place; zeros where every score is -inf, as behind the guard of torch's exports."""
    scores -= scores.max(axis=-1, keepdims=True, initial=np.finfo(np.float32).min)
    np.exp(scores, out=scores)
    # one of the exponentials is 1 unless all are 0
    scores /= np.maximum(scores.sum(axis=-1, keepdims=True), np.float32(1e-20))
    return scores
