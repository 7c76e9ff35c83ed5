"""Disentangled attention: its array form, the spellings that are recognised, and what only looks like one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import disentangled_files
import naive
import numpy as np
import pytest
from disentangled_files import HEADS, SIZE, SPAN, Spelling
from fusion_checks import counts, fused_ops, left, onnxruntime_outputs
from program_checks import run

from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.graph.ir import FUSED_DOMAIN, Graph, Node
from sparsert.ops import run_fused
from sparsert.ops.disentangled import DisentangledAttention, PositionVectors
from sparsert.plan import compile_graph

CHANNELS = HEADS * SIZE
# float32 sums of 4 products each, three of them, and a softmax: a few roundings of numbers of about 1
ERROR = 2e-6


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    return lambda *spelling, **sizes: disentangled_files.write(tmp_path / "model.onnx", Spelling(*spelling, **sizes))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def feeds_of(batch: int, tokens: int, padded: bool = True) -> dict[str, np.ndarray]:
    mask = np.ones((batch, tokens), np.int64)
    if padded:
        mask[0, tokens * 2 // 3 :] = 0
    return {"mask": mask, **{name: normal(batch, tokens, CHANNELS, seed=ord(name)) for name in "qkv"}}


def compare(path: Path, feeds: dict[str, np.ndarray]) -> Graph:
    """Fuse, and run by twins and as a program what ONNX Runtime runs as it is written."""
    fused = fuse_graph(load_graph(path))
    want = onnxruntime_outputs(path, feeds, optimize=False)
    for got in (naive.run_graph(fused, feeds), run(compile_graph(fused), feeds)):
        np.testing.assert_allclose(got["y"], want["y"], rtol=0, atol=ERROR)
    return fused


def op_with(masked_queries: str = "attend", keys: bool = True, queries: bool = True) -> DisentangledAttention:
    rows = np.array([3, 0, 0, 1, 2, 4, 4])
    vectors = [PositionVectors(normal(HEADS, 5, SIZE, seed=seed), rows) for seed in (1, 2)]
    return DisentangledAttention(
        HEADS, 0.3, vectors[0] if keys else None, vectors[1] if queries else None, masked_queries
    )


@pytest.mark.parametrize("masked_queries", ["attend", "uniform", "zero"])
@pytest.mark.parametrize(("keys", "queries"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("masked", [True, False])
def test_array_form(masked_queries: str, keys: bool, queries: bool, masked: bool) -> None:
    op = op_with(masked_queries, keys, queries)
    inputs = [normal(2, 9, CHANNELS, seed=seed) for seed in (3, 4, 5)]
    if masked:
        lowest = np.finfo(np.float32).min
        inputs.append(np.array([[0] * 9, [0] * 5 + [lowest] * 4], np.float32))
    (got,) = run_fused(op, inputs)
    (want,) = naive.run_node(Node("DisentangledAttention", [], [], domain=FUSED_DOMAIN, fused=op), inputs, {})
    np.testing.assert_allclose(got, want, rtol=0, atol=ERROR)


SPELLINGS = {
    "transformers 5": Spelling(),
    "one axis each for batch and heads": Spelling(flat=False),
    "content to position": Spelling(terms="c2p"),
    "position to content": Spelling(terms="p2c"),
    "no buckets": Spelling(bucket="bucket = Identity(distance)"),
    "zeros after the softmax": Spelling(zeroed=True),
    "scaled at the end": Spelling(scaled_late=True),
    "a mask of keys alone": Spelling(replaced=(("pair = Mul(of_key, of_query)", "pair = Identity(of_key)"),)),
    "as transformers 4.47 has the mask": Spelling(
        zeroed=True,
        replaced=(
            ("kept = Cast<to=9>(pair)\nhidden = Not(kept)", "other = Sub(step, pair)\nhidden = Cast<to=9>(other)"),
        ),
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(name: str, write: Callable[..., Path]) -> None:
    path = disentangled_files.write(write().with_name("spelled.onnx"), SPELLINGS[name])
    for batch, tokens in ((2, 19), (1, 5), (3, 40)):
        feeds = feeds_of(batch, tokens)
        feeds["mask"][-1, 1] = 2
        fused = compare(path, feeds)
        assert counts(fused) == {"DisentangledAttention": 1, "KeyMask": 1} and left(fused) == []


def test_what_the_op_holds(write: Callable[..., Path]) -> None:
    (op,) = fused_ops(fuse_graph(load_graph(write())), DisentangledAttention)
    assert op.masked_queries == "uniform" and op.heads == HEADS
    assert op.scale == pytest.approx(1 / np.sqrt(3 * SIZE))
    assert op.position_keys is not None and op.position_queries is not None
    # by hand: 3 + ceil(2 log(d / 3) / log(11 / 3)) beyond 3, the same below 0, plus 6, between 0 and 11
    wanted = [0, 1, 1, 1, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 11, 11, 11, 11, 11, 11, 11]
    for positions in (op.position_keys, op.position_queries):
        assert positions.vectors.shape == (HEADS, 2 * SPAN, SIZE)
        assert positions.rows_of(np.arange(-12, 13)).tolist() == wanted
        assert positions.rows_of(np.array([-5000, 5000])).tolist() == [0, 11]


LOOK_ALIKES = {
    "an index by the sum of places": Spelling(replaced=(("distance = Sub", "distance = Add"),)),
    "an index by the query": Spelling(replaced=(("bucket = Cast<to=7>(chosen)", "bucket = Identity(rows)"),)),
    "scales that differ": Spelling(replaced=(("c2p_scaled = Div(c2p, root)", "c2p_scaled = Div(c2p, middle_f)"),)),
    "scores that somebody reads": Spelling(
        replaced=(("=> (float[batch,sequence,8] y)", "=> (float[batch,sequence,8] y, float scores)"),)
    ),
    "keys times the first vectors": Spelling(replaced=(("c2p_all = MatMul(q_heads", "c2p_all = MatMul(k_heads"),)),
    "a mask of queries alone": Spelling(replaced=(("pair = Mul(of_key, of_query)", "pair = Identity(of_query)"),)),
    "a filler that scores could outweigh": Spelling(replaced=(("Where(hidden, lowest,", "Where(hidden, middle_f,"),)),
    "the other way round": Spelling(replaced=(("distance = Sub(rows, columns)", "distance = Sub(columns, columns)"),)),
    "keys not transposed back": Spelling(
        replaced=(
            (
                "sum_p2c = Add(sum_c2p, p2c_scaled)",
                "p2c_again = Transpose<perm=[0, 2, 1]>(p2c_scaled)\nsum_p2c = Add(sum_c2p, p2c_again)",
            ),
        )
    ),
    "zeros for other tokens": Spelling(
        zeroed=True, replaced=(("Where(hidden, zero, soft)", "Where(kept, zero, soft)"),)
    ),
}


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_look_alikes_stay_right(name: str, write: Callable[..., Path]) -> None:
    path = disentangled_files.write(write().with_name("alike.onnx"), LOOK_ALIKES[name])
    # an index by a sum of places leaves the table with more tokens
    fused = compare(path, feeds_of(2, 5))
    assert "DisentangledAttention" not in counts(fused)


def test_an_index_without_bounds_stays(write: Callable[..., Path]) -> None:
    """Negative rows count from the end, which no distance does."""
    bare = (
        ("row = Clip(to_row, nought, top)", "row = Identity(to_row)"),
        ("row2 = Clip(to_row2, nought, top)", "row2 = Identity(to_row2)"),
    )
    path = disentangled_files.write(
        write().with_name("bare.onnx"), Spelling(bucket="bucket = Identity(distance)", replaced=bare)
    )
    assert "DisentangledAttention" not in counts(compare(path, feeds_of(2, 5)))


@pytest.mark.parametrize("name", ["transformers 5", "zeros after the softmax"])
def test_kernels_on_padded_and_ragged_batches(name: str, write: Callable[..., Path]) -> None:
    path = disentangled_files.write(write().with_name("native.onnx"), SPELLINGS[name])
    program = compile_graph(fuse_graph(load_graph(path)))
    assert not any(report.fallback for report in program.reports)
    lengths = np.array([5, 1, 70, 33, 130, 64])
    feeds = {key: normal(int(lengths.sum()), CHANNELS, seed=ord(key)) for key in "qkv"}
    got = run(program, {"mask": np.ones(lengths.sum(), np.int64), **feeds}, lengths=lengths)["y"]
    padded = {key: np.zeros((len(lengths), 130, CHANNELS), np.float32) for key in "qkv"}
    mask = (np.arange(130) < lengths[:, None]).astype(np.int64)
    for key in "qkv":
        padded[key][mask == 1] = feeds[key]
    both = {"mask": mask, **padded}
    whole = run(program, both)["y"]
    np.testing.assert_array_equal(got, whole[mask == 1])
    np.testing.assert_allclose(whole, onnxruntime_outputs(path, both)["y"], rtol=0, atol=ERROR)


def test_positions_that_reach_too_far_run_in_numpy() -> None:
    far = PositionVectors(normal(HEADS, 5, SIZE), np.repeat(np.arange(5), 1001))
    op = DisentangledAttention(HEADS, 1.0, far, None)
    assert far.reach == 2502 and not op.fits([CHANNELS] * 3)
    assert op_with().fits([CHANNELS] * 3)
    assert not op_with().fits([CHANNELS, CHANNELS, None]) and not op_with().fits([6, 6, 6])
