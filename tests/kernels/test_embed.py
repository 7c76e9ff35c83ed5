"""Embeddings: rows of tables added and transposed, bit by bit as NumPy adds them, and nothing written beside."""

from __future__ import annotations

import naive
import naive_kernels
import numba
import numpy as np
import pytest
from kernel_drivers import Buffer, buffer, compiled

from sparsert import ops
from sparsert.graph.ir import FUSED_DOMAIN, Graph, Node, TensorInfo
from sparsert.kernels.embed import ADD_ROWS, STAGED_CHANNELS, round_sums, transpose_channels
from sparsert.kernels.formats import BLOCK_ROWS
from sparsert.kernels.jit import TILE
from sparsert.kernels.loop.places import PANEL_BLOCKS
from sparsert.kernels.records import ROUNDING
from sparsert.plan import compile_graph

ELEMENTS = [np.float32, np.uint8, np.int8]


def rows_of(element: type, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    if element is np.float32:
        return random.standard_normal(shape).astype(np.float32)
    limits = np.iinfo(element)
    return random.integers(limits.min, limits.max + 1, shape).astype(element)


def test_the_sums_fit_the_scratch() -> None:
    assert STAGED_CHANNELS <= PANEL_BLOCKS * BLOCK_ROWS and STAGED_CHANNELS % BLOCK_ROWS == 0


@pytest.mark.parametrize("count", [1, 7, 8, 31, 32, 100, STAGED_CHANNELS])
@pytest.mark.parametrize("element", ELEMENTS)
def test_rows_are_added(element: type, count: int) -> None:
    random = np.random.default_rng(count)
    kind = np.dtype(element).name
    row, start = rows_of(element, (count,), random), random.standard_normal(count).astype(np.float32)
    source, scale = buffer(row), buffer(np.array([0.037], np.float32))
    zero_point = 0 if element is np.float32 else int(row[0])
    expected = row if element is np.float32 else (row.astype(np.int32) - zero_point).astype(np.float32)
    if element is not np.float32:
        expected = expected * np.float32(0.037)
    for name, wanted in ((f"{kind} first", expected), (kind, start + expected)):
        sums = buffer(start)
        compiled(ADD_ROWS[name], 5)(source.address, count, scale.address, zero_point, sums.address)
        np.testing.assert_array_equal(sums.array.view(np.uint32), wanted.view(np.uint32))
        sums.check()


@pytest.mark.parametrize("count", [1, 5, 8, 16, 33, STAGED_CHANNELS])
def test_sums_are_transposed(count: int) -> None:
    sums = buffer(np.random.default_rng(count).standard_normal((TILE, STAGED_CHANNELS)).astype(np.float32))
    out = Buffer((count, TILE), np.float32)
    compiled(transpose_channels, 3)(sums.address, count, out.address)
    np.testing.assert_array_equal(out.array, sums.array[:, :count].T)
    out.check()


@pytest.mark.parametrize("zero_point", [0, 128, 200])
def test_sums_are_rounded(zero_point: int) -> None:
    start = np.random.default_rng(zero_point).standard_normal(STAGED_CHANNELS).astype(np.float32) * 20
    sums = buffer(start)
    rounding = buffer(np.array([(8, 0.125, -zero_point, 255 - zero_point)], ROUNDING))
    compiled(round_sums, 2)(sums.address, rounding.address)
    np.testing.assert_array_equal(sums.array, naive_kernels.fake_quantize(start, 0.125, zero_point))
    sums.check()


@pytest.mark.parametrize("threads", sorted({1, min(2, numba.config.NUMBA_NUM_THREADS)}))
@pytest.mark.parametrize("shape", [(1, 1), (1, TILE), (3, 21), (2, TILE + 5)])
@pytest.mark.parametrize("channels", [4, 32, 130, 300])
def test_embeddings_have_the_bits_of_the_sum(channels: int, shape: tuple[int, int], threads: int) -> None:
    """Three tables of each element, ids from both ends, tiles that are full and not, sequences that share one."""
    random = np.random.default_rng(channels)
    tables = []
    for element, index in zip(ELEMENTS, ("input", "position", "input"), strict=True):
        weight, quantization = rows_of(element, (80, channels), random), None
        if element is not np.float32:
            zero_point = np.asarray(element(3))
            quantization = ops.Quantization(np.asarray(np.float32(0.02)), zero_point, np.dtype(element))
        rounding = (
            ops.Quantization(np.float32(2.0**-6), np.uint8(100), np.dtype(np.uint8)) if index == "position" else None
        )
        tables.append(ops.Table(weight, quantization, index, 2 if index == "position" else 0, rounding))
    op = ops.Embeddings((*tables, ops.Table(tables[0].weight, None, "constant", 5)))
    infos = [TensorInfo(name, np.dtype(np.int64), ("batch", "tokens")) for name in "ab"]
    outputs = [TensorInfo("y", np.dtype(np.float32), ("batch", "tokens", channels))]
    node = Node("Embeddings", ["a", "b"], ["y"], domain=FUSED_DOMAIN, fused=op)
    program = compile_graph(Graph("embeddings", infos, outputs, [node], {}, {"": 17}))
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        for _ in range(2):  # the second call takes the arrays of the first
            ids = [random.integers(-80, 80, shape) for _ in "ab"]
            y = program.run({"a": ids[0], "b": ids[1]}, threads)["y"]
            np.testing.assert_array_equal(y.view(np.uint32), naive.embeddings(op, *ids).view(np.uint32))
    finally:
        numba.set_num_threads(before)
