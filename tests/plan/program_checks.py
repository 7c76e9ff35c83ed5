"""What the tests of plans share: running a program with a team of threads, and cutting a graph to a few nodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numba
import numpy as np
import pytest

from sparsert.graph.ir import Graph, Node, TensorInfo
from sparsert.plan import Program


def run(
    program: Program, feeds: Mapping[str, np.ndarray], threads: int = 1, lengths: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Run with a team of so many threads, whatever the calling thread had before."""
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip(f"needs {threads} Numba threads")
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        return program.run(dict(feeds), threads, lengths)
    finally:
        numba.set_num_threads(before)


def cut(graph: Graph, nodes: Sequence[Node], source: str, channels: int, output: str) -> Graph:
    """A graph of a few nodes of another, with one float32 input (batch, tokens, channels) and one output."""
    return dataclasses.replace(
        graph,
        nodes=list(nodes),
        inputs=[TensorInfo(source, np.dtype(np.float32), ("batch", "tokens", channels))],
        outputs=[TensorInfo(output, np.dtype(np.float32), ("batch", "tokens", None))],
    )
