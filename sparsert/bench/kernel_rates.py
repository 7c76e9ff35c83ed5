"""Every kernel of the engine by itself: useful GMAC/s on one core, and the bytes that it loads for each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numba
import numpy as np

from sparsert import ops
from sparsert.bench.traffic import ATTENTION_BYTES_PER_MAC, activation_bytes, loaded_bytes
from sparsert.graph.ir import FUSED_DOMAIN, Graph, Node, TensorInfo
from sparsert.kernels.formats import FORMATS, Format
from sparsert.kernels.jit import TILE
from sparsert.plan.instance import Instance
from sparsert.plan.layout import Layout, Packing
from sparsert.plan.lower import lower
from sparsert.plan.segment import Segment
from sparsert.synthetic.weights import Stream, keep_mask

__all__ = ["CASES", "GUARDED", "Case", "Work", "make_work", "random_weight"]

_TOKENS = 384
_HEAD = 64
_HEADS = 4
_LINEAR_TILES = 8
"""Tiles of a call: enough to make what starting the run loop costs small, few enough that their inputs fit the L2."""


@dataclass(frozen=True)
class Case:
    """A kernel, and the work that it is measured on.

    Attributes
    ----------
    name : str
    kernel : str
        Name of a format of weights, or ``attention``.
    arithmetic : str
        ``int8`` or ``float``: which peak limits it.
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


def _cases_of(record: Format) -> list[Case]:
    """A format at the densities that it is for."""
    arithmetic = "float" if record.floating else "int8"
    title = f"{record.title} {arithmetic}"
    if not record.adjacent:
        return [Case(title, record.name, arithmetic, 0.0, _SQUARE)]
    percents = (90,) if record.floating else (80, 90, 95)
    return [Case(f"{title}, {percent} %", record.name, arithmetic, percent / 100, _SQUARE) for percent in percents]


CASES = (
    *(case for record in FORMATS.values() for case in _cases_of(record)),
    Case("unstructured int8, 90 %, 3072 inputs", "unstructured", "int8", 0.90, _WIDE),
    Case("attention int8", "attention", "int8", 0.0, (_TOKENS, _HEAD)),
    Case("attention float", "attention", "float", 0.0, (_TOKENS, _HEAD)),
)

GUARDED = tuple(case.name for case in CASES if case.sparsity in (0.0, 0.90) and case.shape != _WIDE)
"""Names of the cases that show whether a kernel has become slow: one a format, and attention."""


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


def random_weight(case: Case) -> np.ndarray:
    """A weight of the case's pattern and of the synthetic models' distribution, int16 (int8 values) or float32."""
    stream = Stream(0)
    out_features, in_features = case.shape
    weight = stream.normal(case.shape, 1.0)
    if case.sparsity:
        weight[~keep_mask(stream, out_features, in_features, case.sparsity, FORMATS[case.kernel].adjacent)] = 0
    if case.arithmetic == "float":
        return weight
    # scaled per tensor to its largest value, as the synthetic models are; what rounds to zero stays one
    scaled = np.rint(weight * (127 / np.abs(weight).max()))
    return np.where((scaled == 0) & (weight != 0), np.sign(weight), scaled).astype(np.int16)


def make_work(case: Case) -> Work:
    """A case as steps of the engine's own run loop, on data packed as the engine packs it."""
    return _attention_work(case) if case.kernel == "attention" else _linear_work(case)


def _linear_work(case: Case) -> Work:
    """One matrix, without the stages that follow the products."""
    weight = random_weight(case)
    segment = lower(*_linear_graph(weight), needed={"y"}, wanted=case.kernel)
    step = next(step for step in segment.steps if step.opcode == "linear")
    step.stages = []
    assert step.linear is not None
    layout = Layout.of([_LINEAR_TILES * TILE], Packing(1))
    instance = Instance(segment, layout.tiles, layout.key_tiles, 1, separate_steps=True)
    macs = int(np.count_nonzero(weight)) * TILE * layout.tiles
    nbytes = loaded_bytes(step.linear) * layout.tiles
    return Work(_runner(instance, segment, ("linear",), layout), macs, nbytes, activation_bytes(step.linear.weight))


def _attention_work(case: Case) -> Work:
    """Scores, softmax and context of a few heads over one sequence."""
    tokens, size = case.shape
    segment = lower(*_attention_graph(_HEADS * size, case.arithmetic == "float"), needed={"y"})
    layout = Layout.of([tokens], Packing(1))
    instance = Instance(segment, layout.tiles, layout.key_tiles, 1, separate_steps=True)
    stream = Stream(0)
    values = {name: stream.normal((1, tokens, _HEADS * size), 1.0) for name in "qkv"}
    numba.set_num_threads(1)
    instance.call(values, layout, (1, tokens), 1)  # leaves the quantized values in the arena
    held = instance.bind(values, layout, (1, tokens), 1)
    macs = 2 * _HEADS * tokens * tokens * size
    nbytes = round(macs * ATTENTION_BYTES_PER_MAC[case.arithmetic])
    return Work(_runner(instance, segment, ("byte_sums", "attention"), layout, held), macs, nbytes, size * 4 * TILE)


def _runner(
    instance: Instance, segment: Segment, opcodes: Sequence[str], layout: Layout, held: object = None
) -> Callable[[int], None]:
    """Run the steps of some opcodes again and again; ``held`` are arrays that the table has addresses of."""
    wanted = [index for index, region in enumerate(instance.regions) if segment.steps[region.first].opcode in opcodes]

    def run(rounds: int, held: object = held) -> None:
        numba.set_num_threads(1)
        for _ in range(rounds):
            instance.execute(layout.meta, wanted)

    return run


def _attention_graph(channels: int, floating: bool) -> tuple[Graph, list[Node], dict[str, int]]:
    """A graph of one Attention over the inputs q, k and v, its nodes, and the channels of its values."""
    op = ops.Attention(_HEADS, 0.125)
    if not floating:
        signed, unsigned = (
            ops.Quantization(np.float32(scale), np.asarray(zero_point), np.dtype(np.uint8))
            for scale, zero_point in ((0.03, np.uint8(128)), (1 / 255, np.uint8(0)))
        )
        op = replace(
            op,
            q_quantization=signed,
            k_quantization=signed,
            v_quantization=signed,
            probs_quantization=unsigned,
            qk_scale=np.float32(0.03 * 0.03),
            pv_scale=np.float32(0.03 / 255),
        )
    nodes = [Node("Attention", ["q", "k", "v"], ["y"], domain=FUSED_DOMAIN, fused=op)]
    inputs = [TensorInfo(name, np.dtype(np.float32), ("batch", "tokens", channels)) for name in "qkv"]
    outputs = [TensorInfo("y", np.dtype(np.float32), ("batch", "tokens", channels))]
    return Graph("attention", inputs, outputs, nodes, {}, {"": 17}), nodes, dict.fromkeys("qkvy", channels)


def _linear_graph(weight: np.ndarray) -> tuple[Graph, list[Node], dict[str, int]]:
    """A graph of one Linear (behind a Quantize for int8), its nodes, and the channels of its values."""
    rows, columns = weight.shape
    if weight.dtype == np.float32:
        nodes = [Node("Linear", ["x"], ["y"], domain=FUSED_DOMAIN, fused=ops.Linear(weight.T))]
    else:
        scale, zero_point = np.float32(0.02), np.uint8(128)
        quantization = ops.Quantization(np.asarray(scale), np.asarray(zero_point), np.dtype(np.uint8))
        linear = ops.Linear(
            weight.T.astype(np.int8),
            weight_zero_point=np.asarray(np.int8(0)),
            weight_scale=np.asarray(np.float32(0.01)),
            input_quantization=quantization,
        )
        nodes = [
            Node("Quantize", ["x"], ["q"], domain=FUSED_DOMAIN, fused=ops.Quantize(quantization)),
            Node("Linear", ["q"], ["y"], domain=FUSED_DOMAIN, fused=linear),
        ]
    inputs = [TensorInfo("x", np.dtype(np.float32), ("batch", "tokens", columns))]
    outputs = [TensorInfo("y", np.dtype(np.float32), ("batch", "tokens", rows))]
    return Graph("linear", inputs, outputs, nodes, {}, {"": 17}), nodes, {"x": columns, "q": columns, "y": rows}
