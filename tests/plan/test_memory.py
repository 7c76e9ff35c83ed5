"""Memory of compiled programs: buffers that share it, instances that keep it, and callers that run at once."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import pytest
from fusion_checks import DATA, FORMS, feeds_for
from program_checks import run

from sparsert.fuse import fuse_graph
from sparsert.graph import load_graph
from sparsert.kernels.jit import TILE
from sparsert.ops import Linear
from sparsert.ops.steps import Buffer
from sparsert.plan import compile_graph
from sparsert.plan.instance import Instance
from sparsert.plan.layout import Layout, Packing
from sparsert.plan.lower import lower
from sparsert.plan.partition import channels_of, partition
from sparsert.plan.parts import KEPT_LAYOUTS, KEPT_SHAPES, SegmentPart
from sparsert.plan.segment import Segment

Maker = Callable[[str], Path]
SOME = ["float", "sparseml 1.4", "sparseml float attention", "dynamic", "dynamic constant only", "qdq"]


def program_of(form: str, make_bert: Maker) -> tuple:
    graph = fuse_graph(load_graph(make_bert(f"{FORMS[form]} --max-pos 128")))
    return graph, compile_graph(graph)


def same_bits(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    for name, expected in want.items():
        np.testing.assert_array_equal(got[name], expected, err_msg=name)


# -- buffers


def segments_of(graph: object) -> list[Segment]:
    channels = channels_of(graph)
    return [lower(graph, part.nodes, channels, part.needed) for part in partition(graph, channels) if part.native]


def extents(instance: Instance, buffer: Buffer) -> tuple[int, int]:
    """First and last byte of a buffer: of all tiles in the arena, or of one band of tiles in a thread's scratch."""
    base, stride = instance.memory.places[buffer]
    copies = instance.division.band if stride < 0 else instance.division.tiles
    assert abs(stride) == buffer.nbytes
    return base, base + copies * buffer.nbytes


@pytest.mark.parametrize("form", SOME)
@pytest.mark.parametrize(
    ("batch", "tokens", "threads"), [(1, 5, 1), (1, TILE, 2), (1, 3 * TILE, 2), (1, TILE, 8), (7, 40, 2), (64, 128, 4)]
)
def test_live_buffers_never_overlap(form: str, batch: int, tokens: int, threads: int, make_bert: Maker) -> None:
    """Of real plans, with tiles divided among threads and with rows divided among them: by brute force.

    Units of a region run at any pace, so a buffer in the arena counts as alive for every step of its regions.
    """
    graph, _ = program_of(form, make_bert)
    for segment in segments_of(graph):
        layout = Layout.of([tokens] * batch, Packing(threads))
        instance = Instance(segment, layout.tiles, layout.key_tiles, threads)
        memory, division = instance.memory, instance.division
        region_of = {
            index: number
            for number, region in enumerate(instance.regions)
            for index in range(region.first, region.stop)
        }
        assert sorted(region_of) == list(range(len(segment.steps)))
        alive: dict[Buffer, list[int]] = {}
        for index, step in enumerate(segment.steps):
            for buffer in (*step.reads, *step.writes):
                alive.setdefault(buffer, []).append(index)
        arena = memory.arena.ctypes.data
        places = []
        for buffer, steps in alive.items():
            start, end = extents(instance, buffer)
            private = memory.places[buffer][1] < 0
            if private:
                assert len({region_of[index] for index in steps}) == 1 and division.strips == 1
                assert 0 < start and end <= memory.stride
                when = (min(steps), max(steps))
            else:
                assert arena <= start and end <= arena + memory.arena.nbytes
                when = (min(region_of[index] for index in steps), max(region_of[index] for index in steps))
            places.append((private, start, end, *when))
        for k, (private, start, end, first, last) in enumerate(places):
            for other, begin, stop, earliest, latest in places[k + 1 :]:
                if private == other and earliest <= last and first <= latest:
                    assert end <= begin or stop <= start


def test_both_divisions_are_covered(make_bert: Maker) -> None:
    """The shapes above meet strips of rows as well as tiles."""
    graph, _ = program_of("sparseml 1.4", make_bert)
    (segment,) = segments_of(graph)
    assert Instance(segment, 1, 1, 2).division.strips == 2
    assert Instance(segment, 10, 2, 2).division.strips == 1


def test_values_are_written_before_they_are_read(make_bert: Maker) -> None:
    for form in SOME:
        graph, _ = program_of(form, make_bert)
        for segment in segments_of(graph):
            written: set[int] = set()
            for step in segment.steps:
                assert all(id(buffer) in written for buffer in step.reads)
                written.update(id(buffer) for buffer in step.writes)


# -- what stays


def test_segments_keep_a_bounded_number_of_shapes(make_bert: Maker) -> None:
    graph, program = program_of("sparseml 1.4", make_bert)
    parts = [part for part in program.parts if isinstance(part, SegmentPart)]
    feeds = feeds_for(graph, 1, 30)
    expected = run(program, feeds)
    for tokens in range(1, 3 * KEPT_SHAPES):
        run(program, feeds_for(graph, 1 + tokens % 3, tokens))
    for tokens in range(1, 3 * KEPT_LAYOUTS):
        run(program, feeds_for(graph, 1, 1 + tokens % 40))
    for part in parts:
        instances, layouts = part.kept
        assert instances <= KEPT_SHAPES and layouts == KEPT_LAYOUTS
    same_bits(run(program, feeds), expected)


def test_file_weights_are_freed(make_bert: Maker) -> None:
    """A program holds packed weights; the file's own must not stay beside them."""
    graph = fuse_graph(load_graph(make_bert("--quant none --ffn 256")))
    weights = [weakref.ref(node.fused) for node in graph.nodes if isinstance(node.fused, Linear)]
    program = compile_graph(graph)
    del graph
    gc.collect()
    assert [reference for reference in weights if reference() is not None] == []
    assert program.reports


@pytest.mark.parametrize("form", SOME)
def test_a_program_outlives_its_file(form: str, make_bert: Maker, tmp_path: Path) -> None:
    """Weights are read from the mapped file; overwriting it in place must not reach what was compiled."""
    path = tmp_path / "model.onnx"
    path.write_bytes(make_bert(f"{FORMS[form]} --vocab 8192").read_bytes())
    graph = fuse_graph(load_graph(path))
    tables = [table.weight for node in graph.nodes if node.op == "Embeddings" for table in node.fused.tables]
    assert not all(weight.flags.writeable for weight in tables), "one at least is read from the map"
    program = compile_graph(graph)
    feeds = feeds_for(graph, 2, 30)
    expected = run(program, feeds)
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    same_bits(run(program, feeds), expected)


@pytest.mark.parametrize("form", SOME)
def test_runs_leave_nothing_behind(form: str, make_bert: Maker) -> None:
    """A, B, A: the second A equals the first, whatever shape or length B had."""
    graph, program = program_of(form, make_bert)
    first = feeds_for(graph, 2, 40, seed=1)
    expected = run(program, first)
    for batch, tokens, seed in [(2, 40, 2), (2, 33, 3), (5, 64, 4)]:
        run(program, feeds_for(graph, batch, tokens, seed=seed))
        same_bits(run(program, first), expected)


def test_nan_of_one_run_does_not_reach_the_next() -> None:
    """One row of the table is NaN: who looks it up gets NaN, and nobody after him does."""
    graph = fuse_graph(load_graph(DATA / "bert-qa-sdpa-script17.onnx"))
    clean = feeds_for(graph, 2, 31)
    for node in graph.nodes:
        if node.op == "Embeddings":
            table = max(node.fused.tables, key=lambda table: len(table.weight))
            table.weight.flags.writeable = True
            table.weight[59] = np.nan
    program = compile_graph(graph)
    clean["input_ids"][clean["input_ids"] == 59] = 58
    expected = run(program, clean)
    assert all(np.isfinite(array).all() for array in expected.values())
    for threads in (1, 2):
        spoilt = {name: array.copy() for name, array in clean.items()}
        spoilt["input_ids"][1, 3] = 59
        got = run(program, spoilt, threads)
        for name, array in got.items():
            assert np.isnan(array[1]).all(), name
            np.testing.assert_array_equal(array[0], expected[name][0])
        same_bits(run(program, clean, threads), expected)


def test_results_belong_to_the_caller(make_bert: Maker) -> None:
    graph, program = program_of("float", make_bert)
    feeds = feeds_for(graph, 2, 30)
    first = run(program, feeds)
    kept = {name: array.copy() for name, array in first.items()}
    run(program, feeds_for(graph, 2, 30, seed=5))
    same_bits(first, kept)
    for array in first.values():
        array[:] = np.nan
    same_bits(run(program, feeds), kept)


# -- several callers


@pytest.mark.parametrize("form", SOME)
def test_concurrent_callers(form: str, make_bert: Maker) -> None:
    """Four Python threads, shapes both different and equal: each result is the one of the call alone."""
    graph, program = program_of(form, make_bert)
    jobs = [feeds_for(graph, batch, tokens, seed=tokens) for batch, tokens in [(1, 5), (3, 33), (1, 100), (3, 33)]]
    alone = [run(program, feeds) for feeds in jobs]
    failures: list[BaseException] = []
    start = threading.Barrier(len(jobs))

    def work(number: int) -> None:
        try:
            numba.set_num_threads(1)
            start.wait(timeout=60)
            for turn in range(8):
                chosen = number if turn % 2 else (number + turn) % len(jobs)
                same_bits(program.run(dict(jobs[chosen]), 1), alone[chosen])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []
