"""Every kernel of the engine by itself: useful GMAC/s on one core, and the bytes that it loads for each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numba
import numpy as np

from sparsert.bench.peaks import aligned
from sparsert.bench.traffic import ATTENTION_BYTES_PER_MAC, activation_bytes, loaded_bytes
from sparsert.graph import fused
from sparsert.graph.ir import FUSED_DOMAIN, Graph, Node, TensorInfo
from sparsert.kernels import attention
from sparsert.kernels.jit import TIER, TILE, jit
from sparsert.kernels.pack import (
    PackedWeight,
    pack_blocks,
    pack_dense,
    pack_float_dense,
    pack_float_sparse,
    pack_unstructured,
)
from sparsert.kernels.program import run_program, unit_entry
from sparsert.plan.instance import Instance
from sparsert.plan.layout import Layout, Packing
from sparsert.plan.lower import Lowering
from sparsert.synthetic.weights import Stream, keep_mask

__all__ = ["CASES", "Case", "Work", "make_work", "random_weight"]

_TOKENS = 384
_HEAD = 64
_LINEAR_TILES = 8
"""Tiles of a call: enough to make what starting the run loop costs small, few enough that their inputs fit the L2."""


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
    """One matrix as a step of the engine's own run loop, without the stages that follow the products."""
    weight = random_weight(case)
    lowering = _Forced(*_linear_graph(weight), needed={"y"}, packer=_PACKERS[case.kernel]).run()
    index, step = next((i, step) for i, step in enumerate(lowering.steps) if step.opcode == "linear")
    step.stages = []
    assert step.linear is not None
    layout = Layout.of([_LINEAR_TILES * TILE], Packing(1))
    instance = Instance(lowering, layout.tiles, layout.key_tiles, 1, separate_steps=True)
    table = instance._table[[row[0] == index for row in instance._table]]
    run_unit = unit_entry()

    def run(rounds: int) -> None:
        numba.set_num_threads(1)
        scratch, stride = instance._scratch.ctypes.data, instance._stride
        for _ in range(rounds):
            run_program(instance._program, table, layout.meta, layout.tiles, scratch, stride, run_unit.address)

    macs = int(np.count_nonzero(weight)) * TILE * layout.tiles
    return Work(run, macs, loaded_bytes(step.linear) * layout.tiles, activation_bytes(step.linear.weight))


def _linear_graph(weight: np.ndarray) -> tuple[Graph, list[Node], dict[str, int]]:
    """A graph of one Linear (behind a Quantize for int8), its nodes, and the channels of its values."""
    rows, columns = weight.shape
    if weight.dtype == np.float32:
        nodes = [Node("Linear", ["x"], ["y"], domain=FUSED_DOMAIN, fused=fused.Linear(weight.T))]
    else:
        scale, zero_point = np.float32(0.02), np.uint8(128)
        quantization = fused.Quantization(np.asarray(scale), np.asarray(zero_point), np.dtype(np.uint8))
        linear = fused.Linear(
            weight.T.astype(np.int8),
            weight_zero_point=np.asarray(np.int8(0)),
            weight_scale=np.asarray(np.float32(0.01)),
            input_quantization=quantization,
        )
        nodes = [
            Node("Quantize", ["x"], ["q"], domain=FUSED_DOMAIN, fused=fused.Quantize(quantization)),
            Node("Linear", ["q"], ["y"], domain=FUSED_DOMAIN, fused=linear),
        ]
    inputs = [TensorInfo("x", np.dtype(np.float32), ("batch", "tokens", columns))]
    outputs = [TensorInfo("y", np.dtype(np.float32), ("batch", "tokens", rows))]
    return Graph("linear", inputs, outputs, nodes, {}, {"": 17}), nodes, {"x": columns, "q": columns, "y": rows}


@dataclass
class _Forced(Lowering):
    """A lowering whose weights take one format, whatever the cost model prefers."""

    packer: Callable[[np.ndarray], PackedWeight] = pack_dense

    def _pack(self) -> None:
        super()._pack()
        for node in self.nodes:
            if isinstance(node.fused, fused.Linear):
                weight = np.ascontiguousarray(node.fused.weight.T)
                if weight.dtype != np.float32:
                    weight = weight.astype(np.int16)
                (output,) = node.outputs
                self.packed[output] = replace(self.packed[output], weight=self.packer(weight))


def _attention_work(case: Case) -> Work:
    tokens, size = case.shape
    tiles = tokens // TILE
    if case.kernel == "scores":
        queries, out = aligned(size * TILE * 2), aligned(tokens * TILE * 4)
        keys = aligned(size * TILE * 2 * tiles)
        queries.view(np.int16)[:], keys.view(np.int16)[:] = 3, -5
        arguments = (queries.ctypes.data, keys.ctypes.data, size * TILE * 2, tiles, size, out.ctypes.data)
        run, again, held = _run_scores, queries, (queries, keys, out)
    else:
        values, out = aligned(size * TILE * tiles), aligned(size * TILE * 4)
        probabilities = aligned(tokens * TILE)
        values[:], probabilities[:] = 1, 1
        arguments = (values.ctypes.data, size * TILE, tiles, size, probabilities.ctypes.data, out.ctypes.data)
        run, again, held = _run_context, probabilities, (values, probabilities, out)
    macs = tokens * size * TILE
    loaded = round(macs * ATTENTION_BYTES_PER_MAC[case.arithmetic]) + held[2].nbytes
    return Work(lambda rounds, held=held: run(*arguments, rounds), macs, loaded, again.nbytes)  # type: ignore[misc]
