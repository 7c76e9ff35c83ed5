"""Repeated calls: what is kept for a shape holds nothing of the values, and threads change no bit of a small batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from program_checks import run

import sparsert
from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.kernels.jit import TILE
from sparsert.plan import Program, compile_graph
from sparsert.plan.parts import SegmentPart

MODEL = Path(sparsert.__file__).parent / "models" / "minilm-l6-squad-pruned60_quant" / "model.onnx"


def compiled() -> Program:
    return compile_graph(fuse_graph(load_graph(MODEL)))


@pytest.fixture(scope="module")
def program() -> Program:
    return compiled()


def feeds_of(tokens: int, masked: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    mask = np.ones((1, tokens), np.int64)
    mask[:, tokens - masked :] = 0
    return {
        "input_ids": random.integers(0, 30000, (1, tokens)),
        "attention_mask": mask,
        "token_type_ids": random.integers(0, 2, (1, tokens)),
    }


def bits(outputs: dict[str, np.ndarray]) -> list[bytes]:
    return [array.tobytes() for array in outputs.values()]


def test_calls_of_one_shape_do_not_see_each_other(program: Program) -> None:
    """Other ids, another mask, int32 in between, and results that later calls leave alone."""
    feeds = [feeds_of(19, masked, seed) for seed, masked in enumerate((0, 5, 0, 18))]
    alone = [bits(run(compiled(), feed)) for feed in feeds[:2]]
    results = [run(program, feed) for feed in feeds]
    assert [bits(result) for result in results[:2]] == alone
    assert len({tuple(bits(result)) for result in results}) == len(feeds)
    again = [bits(run(program, {name: array.astype(np.int32) for name, array in feed.items()})) for feed in feeds]
    assert again == [bits(result) for result in results]


@pytest.mark.parametrize("tokens", [1, TILE // 2, TILE + 3])
def test_empty_lanes_of_a_tile_change_nothing(program: Program, tokens: int) -> None:
    """Where its second half is empty, some kernels leave there what an earlier call has left: here NaN."""
    feeds = feeds_of(tokens, 0, 1)
    before = bits(run(program, feeds))
    for part in program.parts:
        if isinstance(part, SegmentPart):
            for instance in part.instances:
                instance.memory.arena[:] = 255
    assert bits(run(program, feeds)) == before


@pytest.mark.parametrize("tokens", [1, 19, 32, 50])
def test_threads_change_no_bit(program: Program, tokens: int) -> None:
    """With several threads they share the rows of a Linear, and the heads of the only tile without a barrier."""
    for seed in range(20):
        feeds = feeds_of(tokens, seed % tokens, seed)
        assert bits(run(program, feeds, threads=2)) == bits(run(program, feeds, threads=1))
