"""Measuring a model's layers and what limits them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from sparsert import __version__
from sparsert.analyze.result import Analysis, LayerAnalysis
from sparsert.bench.machine import describe_machine, now
from sparsert.bench.roofline import Limits, measure_limits
from sparsert.errors import InputRangeError
from sparsert.utils.shapes import InputShapes

if TYPE_CHECKING:  # they bring Numba
    from sparsert.ops.steps import Step
    from sparsert.plan.profile import StepTiming

__all__ = ["analyze"]

_LIMIT_SECONDS = 0.1
"""Seconds for each peak and bandwidth: 3 s in all."""

_SOURCES = {"load": "Convert", "dequantize": "Dequantize"}
_MOVES = {"scatter": "Load input", "gather": "Store output", "select": "Store output"}


def analyze(
    model: str | os.PathLike[str],
    batch_size: int | None = 1,
    input_shapes: InputShapes = None,
    num_cores: int | None = None,
    time: float = 5.0,
    roofline: bool = True,
    inputs: list[np.ndarray] | None = None,
) -> Analysis:
    """Time every layer of a model, and say how much of the machine each one uses.

    Layers are the steps of the compiled model; :meth:`sparsert.Engine.report` lists the nodes that went into them. They
    run one by one with the kernels and threads of a normal run, in turns with whole runs; medians count.

    Parameters
    ----------
    model, batch_size, input_shapes, num_cores
        As for :class:`sparsert.Engine`.
    time : float
        Seconds to measure.
    roofline : bool
        Measure the machine's limits first, which takes some 3 s more; without it ``limit`` is None.
    inputs : list of ndarray, optional
        Arrays for the model; by default random token ids and masks of ones.

    Raises
    ------
    ModelError, InputError, EngineError
        As the engine raises them.
    """
    # Imported here: the engine brings Numba and its kernels, which the command line's --help does without.
    from sparsert.engine import Engine

    if not time > 0:
        raise InputRangeError(f"time must be more than 0 seconds, given {time}")
    engine = Engine(model, batch_size=batch_size, num_cores=num_cores, input_shapes=input_shapes)
    arrays = engine.generate_random_inputs() if inputs is None else inputs
    engine.run(arrays)  # checks the arrays, and compiles the kernels
    limits = measure_limits(engine.num_cores, _LIMIT_SECONDS) if roofline else None
    timings, whole = engine.profile(arrays, time)
    medians = [float(np.median(timing.seconds)) * 1e3 for timing in timings]
    total = sum(medians)
    # several steps may stand for the same nodes; the last of them counts these
    owners = {id(report): index for index, timing in enumerate(timings) for report in timing.reports}
    layers = []
    for index, (timing, median) in enumerate(zip(timings, medians, strict=True)):
        nodes = sum(len(report.sources) or 1 for report in timing.reports if owners[id(report)] == index)
        layers.append(_layer(index, timing, median, median / total, nodes, limits))
    return Analysis(
        model_path=engine.model_path,
        batch_size=len(arrays[0]),
        input_shapes=[list(array.shape) for array in arrays],
        num_cores=engine.num_cores,
        isa=engine.isa,
        version=__version__,
        machine=describe_machine(),
        date=now(),
        iterations=len(whole),
        whole_milliseconds=float(np.median(whole)) * 1e3,
        layers=layers,
    )


def _layer(
    index: int, timing: StepTiming, milliseconds: float, share: float, nodes: int, limits: Limits | None
) -> LayerAnalysis:
    reports, step = timing.reports, timing.step
    first = reports[0] if reports else None
    macs, limit = _work(timing, limits)
    op, kind = _op_and_kind(timing)
    weighted = next((report for report in reports if report.sparsity is not None), None) if timing.packed else None
    named = weighted or first
    return LayerAnalysis(
        index=index,
        name=named.name if named else step.constants.get("array", "") if step else "",
        op=op,
        kind=kind,
        kernel=named.kernel if named and (step is None or not _moved(step)) else "copy",
        weight_format=weighted.weight_format if weighted else "",
        shape=weighted.shape if weighted else (),
        sparsity=weighted.sparsity if weighted else None,
        block_sparsity=weighted.block_sparsity if weighted else None,
        milliseconds=milliseconds,
        share=share,
        macs=macs,
        limit=limit,
        nodes=nodes,
    )


def _op_and_kind(timing: StepTiming) -> tuple[str, str]:
    from sparsert.ops import all_ops

    step, names = timing.step, [report.op for report in timing.reports]
    if step is None:
        report = timing.reports[0]
        return report.op, "Fallback" if report.fallback else "Other"
    moved = _moved(step)
    if moved:
        return moved, "Other"
    # the first node of a step is the one that lowered itself to it; the others were absorbed
    kind = next((op.layer_kind for op in all_ops() if op.__name__ in names[:1]), "Other")
    helper = step.opcode not in ("linear", "attention", "embed", "rows")
    op = step.opcode.replace("_", " ").capitalize() if helper else "+".join(dict.fromkeys(names))
    return op, kind


def _moved(step: Step) -> str:
    """What a step is called that computes nothing, but brings values in another place or form; else nothing."""
    return _MOVES.get(step.opcode, _SOURCES.get(step.source, "") if step.opcode == "rows" else "")


def _work(timing: StepTiming, limits: Limits | None) -> tuple[int, float | None]:
    """Useful multiply-accumulates of the whole batch, and the GMAC/s that the machine allows them."""
    from sparsert.bench.traffic import ATTENTION_BYTES_PER_MAC, activation_bytes, loaded_bytes
    from sparsert.kernels.jit import TILE
    from sparsert.kernels.table import MODE

    step, packed = timing.step, timing.packed
    items, tokens = timing.sequences
    if packed is not None:
        weight = packed.weight
        macs_per_token = round(packed.density * weight.in_features * weight.out_features)
        limit = None
        if limits is not None and macs_per_token:
            bytes_per_mac = loaded_bytes(packed) / (macs_per_token * TILE)
            kind = "float" if weight.form == "floats" else "int8"
            limit = limits.limit(kind, bytes_per_mac, activation_bytes(weight), several=True)[0]
        return macs_per_token * items * tokens, limit
    if step is not None and step.opcode == "attention":
        macs = 2 * items * tokens * tokens * step.constants["heads"] * step.constants["size"]
        if limits is None:
            return macs, None
        arithmetic = "float" if step.constants["mode"] == MODE.floats else "int8"
        return macs, limits.limit(arithmetic, ATTENTION_BYTES_PER_MAC[arithmetic], 0, several=True)[0]
    return 0, None
