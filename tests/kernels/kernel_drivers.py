"""How tests call kernels: guarded buffers, the layouts of tiles, and one compiled wrapper per kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import njit

from sparsert.kernels.formats import ACCUMULATORS, BLOCK_ROWS, HEADER_BYTES, PackedWeight
from sparsert.kernels.jit import TILE
from sparsert.kernels.records import PARAMETERS
from sparsert.kernels.rows import FINISH, PREPARE, STATISTICS_ROWS
from sparsert.kernels.stages import STAGES
from sparsert.kernels.table import TOKEN

_ALIGNMENT = 64
_GUARD = 1024
"""Bytes before and after a buffer: no kernel writes more than four rows of a tile at once."""

_PATTERN = 0xA5


class Buffer:
    """An aligned array between guards that a kernel must not touch; filled with a pattern unless given data."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, data: np.ndarray | None = None) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._memory = np.full(size + 2 * _GUARD + _ALIGNMENT, _PATTERN, np.uint8)
        self._start = -self._memory.ctypes.data % _ALIGNMENT + _GUARD
        self._end = self._start + size
        self.array = self._memory[self._start : self._end].view(dtype).reshape(shape)
        if data is not None:
            self.array[...] = data

    @property
    def address(self) -> int:
        return self._memory.ctypes.data + self._start

    def check(self) -> None:
        """Fail if a guard was written."""
        assert (self._memory[: self._start] == _PATTERN).all(), "written before the buffer"
        assert (self._memory[self._end :] == _PATTERN).all(), "written after the buffer"


def buffer(data: np.ndarray) -> Buffer:
    return Buffer(data.shape, data.dtype, data)


@functools.cache
def compiled(kernel: Any, arity: int) -> Callable[..., None]:
    """A micro-kernel as a Python function of ``arity`` integers, compiled once per process."""
    names = ", ".join(f"a{i}" for i in range(arity))
    namespace: dict[str, Any] = {"kernel": kernel}
    exec(f"def call({names}):\n    kernel({names})", namespace)
    return njit(cache=False, nogil=True, boundscheck=False, error_model="numpy")(namespace["call"])


# -- layouts: from [channel][token] to what a tile holds


SIDE_BY_SIDE = {"rows": 1, "duos": 2, "quads": 4}
"""Channels of a token that lie side by side, by the form of activations of bytes."""


def interleaved(x: np.ndarray, width: int) -> np.ndarray:
    """uint8 (K, T) as [K/width][T][width], channels padded with 77: their weights are zero."""
    padded = np.pad(x, ((0, -len(x) % width), (0, 0)), constant_values=77)
    return np.ascontiguousarray(padded.reshape(-1, width, x.shape[1]).transpose(0, 2, 1))


# -- whole tiles, and those whose last vectors are empty


def of_all_widths(run: Callable[[int], np.ndarray], rows: Sequence[int]) -> np.ndarray:
    """What ``run(4)`` gives for whole rows, (..., TILE); fewer vectors of a row, of ``rows``, must give their bits."""
    whole = run(4)
    for row in rows:
        live = slice(row * TILE // 4)
        np.testing.assert_array_equal(run(row)[..., live].view(np.uint8), whole[..., live].view(np.uint8))
    return whole


# -- accumulators


def accumulate(packed: PackedWeight, x: np.ndarray) -> np.ndarray:
    """(N, TILE) accumulators of activations (K, TILE), block by block as a program does it."""
    return of_all_widths(lambda row: _accumulate(packed, x, row), ACCUMULATORS.rows[packed.accumulator][:-1])


def _accumulate(packed: PackedWeight, x: np.ndarray, row: int) -> np.ndarray:
    call = compiled(ACCUMULATORS.kernel(packed.accumulator, row), ACCUMULATORS.arity)
    source = buffer(x if packed.form == "floats" else interleaved(x, SIDE_BY_SIDE[packed.form]))
    streams = [np.ascontiguousarray(stream) for stream in (packed.headers, packed.weights, packed.offsets)]
    headers, weights, offsets = (stream.ctypes.data for stream in streams)
    scratch = Buffer((BLOCK_ROWS, TILE), np.float32 if packed.form == "floats" else np.int32)
    result = np.zeros((packed.out_features, TILE), scratch.array.dtype)
    blocks = -(-packed.out_features // BLOCK_ROWS)
    for block in range(blocks):
        first = block * BLOCK_ROWS
        rows = min(BLOCK_ROWS, packed.out_features - first)
        scratch.array.view(np.uint8)[...] = _PATTERN
        for turn in range(packed.slices):
            weight_start, offset_start = packed.starts[turn * blocks + block].tolist()
            place = offsets + offset_start if packed.count is None else packed.count
            header = headers + HEADER_BYTES * (turn * packed.out_features + first)
            begin = source.address + turn * packed.slice_features * TILE * x.itemsize
            call(begin, header, weights + weight_start, place, scratch.address, rows, turn > 0)
            scratch.check()
        result[first : first + rows] = scratch.array[:rows]
    return result


# -- stages


def parameters(scale: float = 1.0, zero_point: int = 0, low: float = 0.0, high: float = 255.0) -> Buffer:
    """Quantization of a uint8 tensor; ``low`` and ``high`` are the stored range."""
    record = np.zeros(1, PARAMETERS)
    record["scale"], record["zero_point"] = scale, zero_point
    record["inverse_scale"] = np.float32(1) / np.float32(scale)
    record["low"], record["high"] = low - zero_point, high - zero_point
    return buffer(record)


def token_parameters(scales: np.ndarray | float, zero_points: np.ndarray | int) -> Buffer:
    """Quantization of every token of a tile."""
    rows = np.zeros((len(TOKEN), TILE), np.float32)
    rows[TOKEN.scale] = scales
    rows[TOKEN.inverse_scale] = np.float32(1) / rows[TOKEN.scale]
    rows.view(np.int32)[TOKEN.zero_point] = zero_points
    return buffer(rows)


def sink_of(name: str) -> tuple[Any, int]:
    """Element of what a stage sinks, None if it works in place, and rows of it that lie side by side."""
    form = name.rsplit("+", 1)[-1]
    width = SIDE_BY_SIDE.get(form.removeprefix("signed_"))
    if width:
        return (np.int8 if form.startswith("signed_") else np.uint8), width
    return (np.float32 if form == "floats" else None), 1


def run_stage(
    name: str,
    block: np.ndarray,
    acc_bias: np.ndarray | None = None,
    scale: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    params: Buffer | None = None,
    source: np.ndarray | None = None,
) -> np.ndarray:
    """Apply a stage to a block (rows, TILE); the result is always (rows, TILE), whatever the layout of the sink."""
    vectors = acc_bias, scale, bias
    return of_all_widths(
        lambda row: _run_stage(name, block, vectors, params or parameters(), source, row), STAGES.rows[name][:-1]
    )


def _run_stage(
    name: str,
    block: np.ndarray,
    vectors: Sequence[np.ndarray | None],
    params: Buffer,
    source: np.ndarray | None,
    row: int,
) -> np.ndarray:
    rows = len(block)
    element, step = sink_of(name)
    padded = -(-rows // step) * step
    # A sink of several rows a step reads, but does not use, up to three rows beyond the last one.
    content = Buffer((padded, TILE), block.dtype)
    content.array[:rows] = block

    def vector(values: np.ndarray | None, kind: Any) -> Buffer:
        held = Buffer((padded,), kind)
        held.array[:rows] = 0 if values is None else values
        return held

    kinds = np.int32, np.float32, np.float32
    held = [vector(values, kind) for values, kind in zip(vectors, kinds, strict=True)]
    other = buffer(np.zeros((rows, TILE), np.float32) if source is None else source)
    out = Buffer((padded, TILE), element or np.float32)
    places = [content.address, rows, *(h.address for h in held), params.address, other.address, out.address]
    compiled(STAGES.kernel(name, row), STAGES.arity)(*places)
    for touched in (content, out, other, params, *held):
        touched.check()
    if element is None:
        return content.array.view(np.float32)[:rows].copy()
    if step == 1:
        return out.array[:rows].copy()
    return out.array.reshape(-1, TILE, step).transpose(0, 2, 1).reshape(padded, TILE)[:rows].copy()


# -- rows without weights


def finish_rows(
    name: str,
    x: np.ndarray,
    parameters: Buffer,
    gamma: np.ndarray | None = None,
    beta: np.ndarray | None = None,
) -> np.ndarray:
    """(rows, TILE) float32 of a source of rows from ``x``, its first pass included."""
    return of_all_widths(lambda row: _finish_rows(name, x, parameters, (gamma, beta), row), FINISH.rows[name][:-1])


def _finish_rows(
    name: str, x: np.ndarray, parameters: Buffer, weights: Sequence[np.ndarray | None], row: int
) -> np.ndarray:
    rows = len(x)
    source, block = buffer(x), Buffer((rows, TILE), np.float32)
    statistics = Buffer((STATISTICS_ROWS, TILE), np.float32)
    gamma, beta = (buffer(np.zeros(rows, np.float32) if weight is None else weight) for weight in weights)
    if name in PREPARE:
        first_pass = compiled(PREPARE.kernel(name, row), PREPARE.arity)
        first_pass(source.address, rows, parameters.address, statistics.address)
    touched = source, block, statistics, gamma, beta, parameters
    addresses = [buffer.address for buffer in touched]
    compiled(FINISH.kernel(name, row), FINISH.arity)(*addresses[:2], rows, *addresses[2:])
    for place in touched:
        place.check()
    return block.array.copy()
