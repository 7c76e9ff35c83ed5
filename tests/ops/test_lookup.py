"""Tables of bytes: the array form, and a program by twins, by kernels and ragged."""

from __future__ import annotations

from typing import Any

import naive
import numpy as np
import pytest
from program_checks import run

from sparsert.graph.ir import FUSED_DOMAIN, Graph, Node, TensorInfo
from sparsert.ops import Add, FusedOp, Lookup, Quantization, Quantize, run_fused
from sparsert.plan import compile_graph

CHANNELS = 12


def lookup(dtype: Any = np.uint8) -> Lookup:
    table = np.random.default_rng(0).standard_normal(256).astype(np.float32)
    # a power of two: by it, division and multiplication with the inverse agree
    return Lookup(Quantization(np.float32(2.0**-5), dtype(17), np.dtype(dtype)), table)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("shape", [(0,), (3, 5), (2, 3, CHANNELS)])
def test_array_form(dtype: Any, shape: tuple[int, ...]) -> None:
    limits = np.iinfo(dtype)
    x = np.random.default_rng(1).integers(limits.min, limits.max + 1, shape).astype(dtype)
    (got,) = run_fused(lookup(dtype), [x])
    (want,) = naive.run_node(Node("Lookup", [], [], domain=FUSED_DOMAIN, fused=lookup(dtype)), [x], {})
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, want)


def _graph(op: Lookup, bytes_read_twice: bool) -> Graph:
    """Quantize and look up; in the second form two tables read the bytes, so that a stage cannot take them along."""

    def node(fused: FusedOp, inputs: list[str], output: str) -> Node:
        return Node(type(fused).__name__, inputs, [output], domain=FUSED_DOMAIN, fused=fused)

    nodes = [node(Quantize(op.quantization), ["x"], "b"), node(op, ["b"], "y")]
    if bytes_read_twice:
        nodes += [node(Lookup(op.quantization, op.table[::-1].copy()), ["b"], "z"), node(Add(), ["y", "z"], "s")]
    info = TensorInfo("x", np.dtype(np.float32), ("batch", "tokens", CHANNELS))
    output = TensorInfo("s" if bytes_read_twice else "y", np.dtype(np.float32), ("batch", "tokens", CHANNELS))
    return Graph("lookup", [info], [output], nodes, {}, {"": 17})


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("bytes_read_twice", [False, True])
@pytest.mark.parametrize("shape", [(1, 5), (3, 50)])
def test_program(shape: tuple[int, int], bytes_read_twice: bool, dtype: Any) -> None:
    graph = _graph(lookup(dtype), bytes_read_twice)
    program = compile_graph(graph)
    assert all(report.kernel != "numpy" for report in program.reports)
    feeds = {"x": np.random.default_rng(2).standard_normal((*shape, CHANNELS)).astype(np.float32) * 3}
    got, want = run(program, feeds), naive.run_graph(graph, feeds)
    for name, array in want.items():
        np.testing.assert_array_equal(got[name], array)
