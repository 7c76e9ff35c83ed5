"""Random weights of a BERT with a question-answering head, the same on every machine.

Only two guarantees of NumPy are relied on: the raw 64-bit stream of PCG64 (fixed by NEP 19, unlike the methods of
``Generator``), and IEEE arithmetic of single elements. No sum runs over an order that a library could choose.
"""

from __future__ import annotations

import math

import numpy as np

from sparsert.synthetic.recipe import Recipe

__all__ = ["LAYER_MATRICES", "Stream", "draw_weights", "keep_mask"]

LAYER_MATRICES = (
    # name, size of the output, size of the input, standard deviation. 0.04 for query and key gives scores of standard
    # deviation near 1; more than 0.02-0.03 elsewhere makes all tokens collapse onto one vector over twelve layers, and
    # int8 noise then drowns the logits.
    ("attention.self.query", "hidden", "hidden", 0.04),
    ("attention.self.key", "hidden", "hidden", 0.04),
    ("attention.self.value", "hidden", "hidden", 0.02),
    ("attention.output.dense", "hidden", "hidden", 0.02),
    ("intermediate.dense", "ffn", "hidden", 0.03),
    ("output.dense", "hidden", "ffn", 0.02),
)

_CHUNK = 1 << 20


class Stream:
    """Numbers from one seed, drawn in order."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def raw(self, count: int) -> np.ndarray:
        """uint64 array, shape (count,)."""
        return np.asarray(self._bits.random_raw(count))

    def normal(self, shape: tuple[int, ...], std: float, mean: float = 0.0) -> np.ndarray:
        """Float32 of the given shape, near enough to a normal distribution.

        The sum of four uniform 16-bit integers (Irwin-Hall of order 4), computed in exact integers; it ends at 3.46
        standard deviations.
        """
        count = math.prod(shape)
        out = np.empty(count, np.float32)
        unit = math.sqrt(4 * (65536**2 - 1) / 12)
        for start in range(0, count, _CHUNK):  # in chunks: an embedding table would take 190 MB of raw bits at once
            parts = self.raw(min(_CHUNK, count - start)).astype("<u8").view("<u2").astype(np.int32)
            total = parts[0::4] + parts[1::4] + parts[2::4] + parts[3::4]
            centred = (total - 2 * 65535).astype(np.float32)
            out[start : start + total.size] = centred * np.float32(std / unit) + np.float32(mean)
        return out.reshape(shape)


def keep_mask(stream: Stream, rows: int, columns: int, sparsity: float, adjacent: int = 1) -> np.ndarray:
    """Bool (rows, columns): which weights stay. Random positions, the exact count of blocks of ``adjacent`` columns.

    The weights with the largest of as many random 64-bit keys stay, which needs no shuffle (and a shuffle's stream is
    not guaranteed).
    """
    blocks = -(-columns // adjacent)
    count = rows * blocks
    removed = round(count * sparsity)
    keys = stream.raw(count)
    keep = np.ones(count, bool) if removed == 0 else keys > np.partition(keys, removed - 1)[removed - 1]
    return np.repeat(keep.reshape(rows, blocks), adjacent, axis=1)[:, :columns]


def draw_weights(recipe: Recipe) -> dict[str, np.ndarray]:
    """Every parameter by its name in transformers' BertForQuestionAnswering; matrices are float32 (out, in)."""
    arch, stream = recipe.architecture, Stream(recipe.seed)
    weights: dict[str, np.ndarray] = {}

    def layer_norm(name: str) -> None:
        weights[f"{name}.weight"] = stream.normal((arch.hidden,), 0.05, 1.0)
        weights[f"{name}.bias"] = stream.normal((arch.hidden,), 0.05)

    tables = {"word": arch.vocab, "token_type": 2, "position": arch.max_positions}
    for table, rows in tables.items():
        weights[f"bert.embeddings.{table}_embeddings.weight"] = stream.normal((rows, arch.hidden), 0.04)
    layer_norm("bert.embeddings.LayerNorm")
    # Narrow networks need larger weights for the same spread of activations, and so do the survivors of pruning.
    width = max(1.0, math.sqrt(768 / arch.hidden))
    growth = min(1 / math.sqrt(1 - recipe.sparsity), 3.2)
    for layer in range(arch.layers):
        prefix = f"bert.encoder.layer.{layer}."
        for name, outputs, inputs, std in LAYER_MATRICES:
            shape = (getattr(arch, outputs), getattr(arch, inputs))
            matrix = stream.normal(shape, std * width * growth)
            if recipe.sparsity:
                # A survivor that rounds to zero in int8 would blur the pattern: keep every one clear of zero.
                floor = np.float32(std * width * growth * 0.08)
                matrix = np.where(np.abs(matrix) < floor, np.where(matrix < 0, -floor, floor), matrix)
                matrix[~keep_mask(stream, *shape, recipe.sparsity, 4 if recipe.block4 else 1)] = 0
            weights[f"{prefix}{name}.weight"] = matrix
            weights[f"{prefix}{name}.bias"] = stream.normal((shape[0],), 0.05)
        layer_norm(f"{prefix}attention.output.LayerNorm")
        layer_norm(f"{prefix}output.LayerNorm")
    weights["qa_outputs.weight"] = stream.normal((2, arch.hidden), 0.03 * width)
    weights["qa_outputs.bias"] = stream.normal((2,), 0.05)
    return weights
