"""Compiled models, each stored once per process however many engines use it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sparsert import cpu
from sparsert.errors import EngineError, InputShapeError, ModelError, SparsertError
from sparsert.graph import load_graph, load_interface
from sparsert.graph.baked import Baked, baked_dimensions
from sparsert.graph.editor import WeightOnly
from sparsert.graph.ir import Dim, Graph, Node, TensorInfo
from sparsert.graph.outputs import Wanted, check_wanted, choose_outputs
from sparsert.graph.vocabularies import vocabularies
from sparsert.utils.shapes import InputShapes, normalize_input_shapes

__all__ = ["CompiledModel", "bind_shapes", "compile_file"]

Shape = tuple[Dim, ...]
_Axes = frozenset[tuple[int, int]]
"""(input, axis) of dimensions of the inputs."""


@dataclass(eq=False)
class CompiledModel:
    """A program and what an engine must know about its inputs and outputs; the weights live in ``program`` alone."""

    program: Any
    """A :class:`sparsert.plan.program.Program`, whose import would bring Numba."""
    path: str
    isa: str
    inputs: list[TensorInfo]
    """As the file states them, whatever was opened, with the symbols of the fused graph."""
    outputs: list[TensorInfo]
    opened: _Axes
    """Dimensions that the file fixes, and that the program takes in any size all the same."""
    baked: list[Baked]
    """What forbids sizes of these dimensions."""
    vocabularies: dict[str, int]
    """Rows of the table that an input indexes, by input name."""
    source_node_count: int
    constant_outputs: frozenset[str]
    """Outputs that do not depend on the inputs; the program gives its own array for them, which nobody may change."""
    halves: dict[str, np.dtype]
    """Inputs and outputs that are float16 or bfloat16 in the file, and float32 in the program."""


_models: weakref.WeakSet[CompiledModel] = weakref.WeakSet()
_keys: weakref.WeakKeyDictionary[CompiledModel, tuple[Any, ...]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def compile_file(
    path: str,
    batch_size: int | None,
    input_shapes: InputShapes,
    outputs: Sequence[Wanted] | None = None,
    weight_only: WeightOnly = "float",
) -> CompiledModel:
    """Load, fuse and compile an ONNX file, or return what another engine in this process has compiled from it.

    ``outputs`` cuts it down to these, see :func:`sparsert.graph.outputs.choose_outputs`; ``weight_only`` is that of
    :func:`sparsert.fuse.fuse_graph`.

    A program takes any size of an open dimension, so engines of different batch sizes share one. A dimension that the
    file fixes, and the arguments override with another number, is opened in memory first; the file is not touched.
    """
    isa = cpu.isa()
    # Weights may lie beside the model; a change there makes another model too.
    files = [Path(path), *(Path(path + suffix) for suffix in (".data", "_data"))]
    wanted = None if outputs is None else _unless_all(path, check_wanted(outputs))
    key = (isa, wanted, weight_only, *((str(file.resolve()), *_stamp(file)) for file in files))
    with _lock:
        for model in list(_models):
            if _keys.get(model) == key and _overridden(model.inputs, batch_size, input_shapes) <= model.opened:
                _refuse_baked(model.baked, model.inputs, batch_size, input_shapes)
                return model
        model = _compile(path, isa, batch_size, input_shapes, wanted, weight_only)
        _keys[model] = key
        _models.add(model)
        return model


def _unless_all(path: str, wanted: tuple[Wanted, ...]) -> tuple[Wanted, ...] | None:
    """None for all outputs of a file, in its order: engines that name them share a model with those that do not."""
    _, outputs = load_interface(path)
    return None if wanted == tuple(info.name for info in outputs) else wanted


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = os.stat(file)
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


def _compile(
    path: str,
    isa: str,
    batch_size: int | None,
    input_shapes: InputShapes,
    wanted: tuple[Wanted, ...] | None,
    weight_only: WeightOnly,
) -> CompiledModel:
    # Imported here: the kernels, and Numba with them, take their time.
    import numba

    if numba.config.DISABLE_JIT:
        raise EngineError("NUMBA_DISABLE_JIT is set, but the kernels are machine code only; unset it")
    from sparsert.fuse import fuse_graph
    from sparsert.kernels.cache import announce_compilation
    from sparsert.plan import compile_graph

    announce_compilation(isa)
    try:
        graph = load_graph(path)
        if wanted is not None:
            graph = choose_outputs(graph, wanted)
        inputs, outputs = list(graph.inputs), list(graph.outputs)
        opened = _overridden(inputs, batch_size, input_shapes)
        _open(graph, opened)
        rows = vocabularies(graph)
        fused = fuse_graph(graph, weight_only)
        sizes = {(i, axis): size for i, axis in opened if isinstance(size := inputs[i].shape[axis], int)}
        baked = baked_dimensions(graph, sizes)
        _refuse_baked(baked, inputs, batch_size, input_shapes)
        inputs = [_renamed(info, found) for info, found in zip(inputs, fused.inputs, strict=True)]
        outputs = [_renamed(info, found) for info, found in zip(outputs, fused.outputs, strict=True)]
        constants = frozenset(info.name for info in outputs if info.name in fused.constants)
        for infos in (inputs, outputs):
            infos[:] = [replace(info, dtype=graph.stated.get(info.name, info.dtype)) for info in infos]
        program = compile_graph(fused)
    except (SparsertError, MemoryError):
        raise
    except Exception as error:
        raise _unforeseen(path, error) from error
    return CompiledModel(
        program,
        path,
        isa,
        inputs,
        outputs,
        opened,
        baked,
        rows,
        graph.source_node_count,
        constants,
        graph.stated,
    )


def _unforeseen(path: str, error: Exception) -> ModelError:
    """The last resort: what no check of the file has foreseen, with the node that the compiler was looking at."""
    where, trace = "", error.__traceback__
    while trace is not None:
        node = trace.tb_frame.f_locals.get("node")
        where = f", at node {node.name!r} ({node.op})" if isinstance(node, Node) else where
        trace = trace.tb_next
    return ModelError(
        f"{path}: the model cannot be compiled{where}: {type(error).__name__}: {error}. Expected a sound ONNX model; "
        "if another runtime runs this one, please report it"
    )


def _refuse_baked(
    baked: Sequence[Baked], infos: Sequence[TensorInfo], batch_size: int | None, input_shapes: InputShapes
) -> None:
    """Refuse sizes that nodes with constants for other sizes would contradict, when the model runs at the latest."""
    shapes = _wanted(infos, batch_size, input_shapes)
    for item in baked:
        if item.contradicts(shapes):
            index, axis = next(
                (index, axis) for index, axis in item.dims.values() if infos[index].shape[axis] != shapes[index][axis]
            )
            name, stated, asked = infos[index].name, infos[index].shape[axis], shapes[index][axis]
            raise InputShapeError(
                f"Input '{name}': dimension {axis} is {stated} in the file and cannot be {asked}, since node "
                f"{item.node!r} ({item.op}) computes with constants made for {stated}. Keep the file's size, or export "
                "the model with a dynamic dimension"
            )


def _renamed(info: TensorInfo, found: TensorInfo) -> TensorInfo:
    """An input or output with the symbols that the fused graph relies on, for the check of what comes."""
    pairs = zip(info.shape, found.shape, strict=True)
    return replace(info, shape=tuple(new if isinstance(dim, str) else dim for dim, new in pairs))


def _wanted(infos: Sequence[TensorInfo], batch_size: int | None, input_shapes: InputShapes) -> list[Shape]:
    """Shapes of the inputs with the overrides applied: shapes first, then the batch size, which wins."""
    overrides = normalize_input_shapes(input_shapes, len(infos))
    shapes = []
    for index, info in enumerate(infos):
        shape: list[Dim] = list(info.shape)
        if overrides is not None:
            if len(overrides[index]) != len(shape):
                raise InputShapeError(
                    f"Input '{info.name}' shape doesn't match shape override: {shape} vs {overrides[index]}"
                )
            shape = list(overrides[index])
        if batch_size is not None and shape:
            shape[0] = batch_size
        shapes.append(tuple(shape))
    return shapes


def _overridden(infos: Sequence[TensorInfo], batch_size: int | None, input_shapes: InputShapes) -> _Axes:
    """Every dimension that the file fixes and the arguments override with another number."""
    wanted = _wanted(infos, batch_size, input_shapes)
    return frozenset(
        (index, axis)
        for index, (info, shape) in enumerate(zip(infos, wanted, strict=True))
        for axis, (fixed, asked) in enumerate(zip(info.shape, shape, strict=True))
        if isinstance(fixed, int) and fixed != asked
    )


def _open(graph: Graph, dims: _Axes) -> None:
    """Make the given dimensions of the inputs symbolic. Dimensions of one axis and size share a symbol."""
    symbols: dict[tuple[int, Dim], Dim] = {}
    for index, axis in sorted(dims):
        shape = list(graph.inputs[index].shape)
        symbol = f"opened_{axis}_{shape[axis]}"
        symbols[axis, shape[axis]] = symbol
        shape[axis] = symbol
        graph.inputs[index] = replace(graph.inputs[index], shape=tuple(shape))
    for index, info in enumerate(graph.outputs):
        opened = tuple(symbols.get((axis, size), size) for axis, size in enumerate(info.shape))
        graph.outputs[index] = replace(info, shape=opened)


def bind_shapes(
    model: CompiledModel, batch_size: int | None, input_shapes: InputShapes
) -> tuple[list[Shape], list[Shape]]:
    """Shapes of inputs and outputs as an engine with these arguments sees them.

    A symbol takes the number that an override gives it anywhere; those without one stay symbols. An output's fixed
    dimension follows the input dimension of the same axis and size, and stays where there is none.
    """
    wanted = _wanted(model.inputs, batch_size, input_shapes)
    sizes: dict[str, int] = {}
    moved: dict[tuple[int, int], int] = {}
    for info, shape in zip(model.inputs, wanted, strict=True):
        for axis, (stated, size) in enumerate(zip(info.shape, shape, strict=True)):
            if isinstance(stated, int) and isinstance(size, int):
                moved[axis, stated] = size
            elif isinstance(stated, str) and isinstance(size, int) and sizes.setdefault(stated, size) != size:
                raise InputShapeError(
                    f"Input '{info.name}' shape doesn't match shape override: dimension '{stated}' is {size} here and "
                    f"{sizes[stated]} in another input; give one number for it"
                )
    inputs = [tuple(sizes.get(dim, dim) if isinstance(dim, str) else dim for dim in shape) for shape in wanted]
    outputs: list[Shape] = []
    for info in model.outputs:
        dims: list[Dim] = [
            sizes.get(dim, dim) if isinstance(dim, str) else moved.get((axis, dim), dim) if dim is not None else None
            for axis, dim in enumerate(info.shape)
        ]
        if batch_size is not None and dims and not isinstance(dims[0], int):
            dims[0] = batch_size
        outputs.append(tuple(dims))
    return inputs, outputs
