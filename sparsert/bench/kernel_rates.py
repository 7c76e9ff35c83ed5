"""Every kernel of the engine by itself: useful GMAC/s on one core, and the bytes that it loads for each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sparsert.bench.peaks import aligned
from sparsert.kernels import attention
from sparsert.kernels.accumulate import BLOCK_ROWS
from sparsert.kernels.jit import TIER, TILE, jit
from sparsert.kernels.pack import (
    PackedWeight,
    pack_blocks,
    pack_dense,
    pack_float_dense,
    pack_float_sparse,
    pack_unstructured,
)
from sparsert.kernels.program import SOURCES, _accumulate
from sparsert.synthetic.weights import Stream, keep_mask

__all__ = ["CASES", "Case", "Work", "make_work", "random_weight"]

_TOKENS = 384
_HEAD = 64


@dataclass(frozen=True)
class Case:
    """A kernel, and the work that it is measured on.

    Attributes
    ----------
    name : str
    kernel : str
        ``unstructured``, ``blocks``, ``dense``, ``float_sparse``, ``float_dense``, ``scores`` or ``context``.
    arithmetic : str
        ``int8``, ``int16`` or ``float``: which peak limits it.
    sparsity : float
    shape : tuple of int
        (out_features, in_features) of the weight; for attention (keys, head size).
    """

    name: str
    kernel: str
    arithmetic: str
    sparsity: float
    shape: tuple[int, int]


_SQUARE, _WIDE = (768, 768), (768, 3072)

CASES = (
    Case("unstructured int8, 80 %", "unstructured", "int8", 0.80, _SQUARE),
    Case("unstructured int8, 90 %", "unstructured", "int8", 0.90, _SQUARE),
    Case("unstructured int8, 95 %", "unstructured", "int8", 0.95, _SQUARE),
    Case("unstructured int8, 90 %, 3072 inputs", "unstructured", "int8", 0.90, _WIDE),
    Case("4-block int8, 80 %", "blocks", "int8", 0.80, _SQUARE),
    Case("4-block int8, 90 %", "blocks", "int8", 0.90, _SQUARE),
    Case("dense int8", "dense", "int8", 0.0, _SQUARE),
    Case("sparse float, 90 %", "float_sparse", "float", 0.90, _SQUARE),
    Case("dense float", "float_dense", "float", 0.0, _SQUARE),
    Case("attention scores, int16", "scores", "int16", 0.0, (_TOKENS, _HEAD)),
    Case("attention context, int8", "context", "int8", 0.0, (_TOKENS, _HEAD)),
)


@dataclass(frozen=True)
class Work:
    """A kernel on its data.

    Attributes
    ----------
    run : callable
        ``run(rounds)`` does the work ``rounds`` times, without the GIL.
    macs : int
        Useful (nonzero) multiply-accumulates of one round.
    nbytes : int
        Bytes that one round moves between registers and the L1.
    footprint : int
        Bytes of activations that are read again and again: the cache that holds them feeds the kernel.
    """

    run: Callable[[int], object]
    macs: int
    nbytes: int
    footprint: int


_PACKERS: dict[str, Callable[[np.ndarray], PackedWeight]] = {
    "unstructured": pack_unstructured,
    "blocks": pack_blocks,
    "dense": pack_dense,
    "float_sparse": pack_float_sparse,
    "float_dense": pack_float_dense,
}


@jit()
def _run_linear(kind, x, headers, weights, offsets, is_count, starts, out_features, scratch, rounds):  # type: ignore[no-untyped-def]
    for _ in range(rounds):
        for index in range(starts.shape[0]):
            first = index * BLOCK_ROWS
            place = offsets
            if not is_count:
                place += starts[index, 1]
            rows = min(BLOCK_ROWS, out_features - first)
            _accumulate(kind, x, headers + 16 * first, weights + starts[index, 0], place, scratch, rows)


_scores = attention._scores_int


@jit()
def _run_scores(queries, keys, stride, tiles, size, out, rounds):  # type: ignore[no-untyped-def]
    for _ in range(rounds):
        _scores(queries, keys, stride, tiles, 0, tiles * TILE, size // 2, out)


if TIER == "avx2":
    _sum_fast = attention._sum_fast

    @jit()
    def _run_context(values, stride, tiles, size, probabilities, out, rounds):  # type: ignore[no-untyped-def]
        for _ in range(rounds):
            _sum_fast(values, stride, tiles, probabilities, size, out)

else:
    _context = attention._context_int

    @jit()
    def _run_context(values, stride, tiles, size, probabilities, out, rounds):  # type: ignore[no-untyped-def]
        for _ in range(rounds):
            _context(values, stride, tiles, 0, tiles * TILE, probabilities, size, out)


def random_weight(case: Case) -> np.ndarray:
    """A weight of the case's pattern and of the synthetic models' distribution, int16 (int8 values) or float32."""
    stream = Stream(0)
    out_features, in_features = case.shape
    weight = stream.normal(case.shape, 1.0)
    if case.sparsity:
        weight[~keep_mask(stream, out_features, in_features, case.sparsity, case.kernel == "blocks")] = 0
    if case.arithmetic == "float":
        return weight
    # scaled per tensor to its largest value, as the synthetic models are; what rounds to zero stays one
    scaled = np.rint(weight * (127 / np.abs(weight).max()))
    return np.where((scaled == 0) & (weight != 0), np.sign(weight), scaled).astype(np.int16)


def make_work(case: Case) -> Work:
    """Data for one case, packed as the engine packs it."""
    return _attention_work(case) if case.kernel in ("scores", "context") else _linear_work(case)


def _linear_work(case: Case) -> Work:
    weight = random_weight(case)
    packed = _PACKERS[case.kernel](weight)
    floating = packed.layout == "float"
    x = aligned(-(-packed.in_features // 4) * 4 * TILE * (4 if floating else 1))
    x[:] = np.resize(np.float32([0.5, -0.25]).view(np.uint8) if floating else np.arange(251, dtype=np.uint8), len(x))
    scratch = aligned(BLOCK_ROWS * TILE * 4)
    counts = {"dense": -(-packed.in_features // 4), "float_dense": packed.in_features}
    is_count = packed.kernel in counts
    offsets = counts[packed.kernel] if is_count else packed.offsets.ctypes.data
    kind = SOURCES[packed.kernel] + packed.variant

    def run(rounds: int) -> None:
        _run_linear(
            kind,
            x.ctypes.data,
            packed.headers.ctypes.data,
            packed.weights.ctypes.data,
            offsets,
            is_count,
            packed.starts,
            packed.out_features,
            scratch.ctypes.data,
            rounds,
        )

    return Work(run, int(np.count_nonzero(weight)) * TILE, _loaded_bytes(packed), x.nbytes)


def _loaded_bytes(packed: PackedWeight) -> int:
    """Bytes that a kernel moves between the L1 and registers for one tile: activations, streams and results."""
    row = TILE * (4 if packed.layout == "float" else 1)
    results = packed.out_features * TILE * 4
    if packed.kernel in ("dense", "float_dense"):  # an activation row is loaded once for every four output rows
        activations = -(-packed.out_features // 4) * packed.in_features * row
    else:
        activations = packed.offsets.size * row * (4 if packed.kernel == "blocks" else 1)
    return activations + packed.weights.nbytes + packed.offsets.nbytes + results


def _attention_work(case: Case) -> Work:
    tokens, size = case.shape
    tiles = tokens // TILE
    width = 4 if TIER == "avx512_vnni" else 2  # vectors of queries in registers, beside four keys or rows of V
    macs = tokens * size * TILE
    if case.kernel == "scores":
        queries, out = aligned(size * TILE * 2), aligned(tokens * TILE * 4)
        keys = aligned(size * TILE * 2 * tiles)
        queries.view(np.int16)[:], keys.view(np.int16)[:] = 3, -5
        arguments = (queries.ctypes.data, keys.ctypes.data, size * TILE * 2, tiles, size, out.ctypes.data)
        run, vector_macs, held = _run_scores, TILE // 2, (queries, keys, out)
    else:
        values, out = aligned(size * TILE * tiles), aligned(size * TILE * 4)
        probabilities = aligned(tokens * TILE)
        values[:], probabilities[:] = 1, 1
        arguments = (values.ctypes.data, size * TILE, tiles, size, probabilities.ctypes.data, out.ctypes.data)
        run, vector_macs, held = _run_context, TILE, (values, probabilities, out)
    # a step loads `width` vectors and four words for 4 * width products
    steps = macs // (4 * width * vector_macs)
    loaded = steps * (width * TILE + 16) + held[2].nbytes
    return Work(lambda rounds, held=held: run(*arguments, rounds), macs, loaded, held[1].nbytes)  # type: ignore[misc]
