"""Regions and lifetimes of any steps, real or not: what may run without a barrier, and what may share memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparsert.kernels.formats import BLOCK_ROWS
from sparsert.kernels.table import UNITS
from sparsert.ops.steps import Buffer, Step
from sparsert.plan.memory import Life, allocate, lives_of, plan_memory
from sparsert.plan.regions import Division, find_regions

LOCAL = ("rows", "gather", "scatter", "extrema", "select")
OPCODES = (*LOCAL, "embed", "linear", "attention", "byte_sums", "dynamic")
FORMS = ["floats", "rows", "quads"]


@st.composite
def programs(draw: st.DrawFn) -> list[Step]:
    """Steps that read what steps before have written, and write a buffer each."""
    steps: list[Step] = []
    written: list[Buffer] = []
    for index in range(draw(st.integers(1, 14))):
        opcode = draw(st.sampled_from(OPCODES))
        reads = draw(st.lists(st.sampled_from(written), max_size=3, unique=True)) if written else []
        heads, size = draw(st.sampled_from([(2, 32), (4, 16), (3, 8), (2, 8)]))
        constants = {"heads": heads, "size": size, "distances": None} if opcode in ("attention", "byte_sums") else {}
        rows = draw(st.sampled_from([4, BLOCK_ROWS, 2 * BLOCK_ROWS, 96]))
        buffer = Buffer(str(index), draw(st.sampled_from(FORMS)), rows)
        steps.append(Step(opcode, list(reads), [buffer], rows=rows, constants=constants))
        written.append(buffer)
    return steps


divisions = st.builds(Division.of, st.integers(1, 20), st.integers(1, 8), st.sampled_from([1, 1 << 40]))


@given(programs(), divisions, st.booleans())
def test_regions_hold_every_step_once_and_in_order(steps: list[Step], division: Division, separate: bool) -> None:
    regions = find_regions(steps, division, separate)
    assert [index for region in regions for index in range(region.first, region.stop)] == list(range(len(steps)))
    if separate:
        assert all(region.stop == region.first + 1 for region in regions)


@given(programs(), divisions)
def test_no_unit_of_a_region_waits_for_another(steps: list[Step], division: Division) -> None:
    """Steps of a region read, of what others of it wrote, their own tile or their own strip alone."""
    for region in find_regions(steps, division):
        inside = steps[region.first : region.stop]
        opcodes = [step.opcode for step in inside]
        assert "dynamic" not in opcodes[1:] or division.tiles == 1, "it reads what was found in other tiles"
        if region.units == UNITS.shares:
            assert opcodes == ["attention"]
        elif region.units == UNITS.bands:
            # a band's steps follow each other tile by tile: nothing in it looks at another tile
            assert "attention" not in opcodes
        else:
            assert division.strips > 1 and region.size == division.strips
            written: set[Buffer] = set()
            for step in inside:
                if step.opcode in ("attention", "byte_sums"):
                    # a strip is whole heads of the only tile, in whole blocks of rows
                    rows = step.constants["heads"] * step.constants["size"]
                    assert division.tiles == 1 and step.constants["heads"] % division.strips == 0
                    assert rows % (BLOCK_ROWS * division.strips) == 0
                else:
                    assert step.opcode in ("embed", "linear") and not written.intersection(step.reads)
                written.update(step.writes)


@given(
    st.lists(
        st.tuples(st.integers(1, 70), st.sampled_from(FORMS), st.integers(0, 9), st.integers(0, 9)),
        max_size=20,
    )
)
def test_allocation_never_overlaps(wanted: list[tuple[int, str, int, int]]) -> None:
    """No two buffers that are alive at one step share a byte, and all lie inside the arena."""
    lives = [Life(Buffer(str(k), form, rows), min(a, b), max(a, b)) for k, (rows, form, a, b) in enumerate(wanted)]
    offsets, size = allocate(lives)
    for k, one in enumerate(lives):
        start, stop = offsets[one.buffer], offsets[one.buffer] + one.buffer.nbytes
        assert start % 64 == 0 and 0 <= start <= stop <= size
        for other in lives[k + 1 :]:
            if other.first <= one.last and one.first <= other.last:
                begin = offsets[other.buffer]
                assert stop <= begin or begin + other.buffer.nbytes <= start


@given(programs(), divisions, st.integers(1, 6))
def test_what_is_alive_together_does_not_share_memory(steps: list[Step], division: Division, key_tiles: int) -> None:
    """Brute force over every pair of buffers: in the arena for whole regions, in the scratch step by step."""
    regions = find_regions(steps, division)
    plan = plan_memory(steps, regions, division, key_tiles)
    region_of = {index: number for number, region in enumerate(regions) for index in range(region.first, region.stop)}
    lives = lives_of(steps)
    assert set(plan.shared) | set(plan.own) == {life.buffer for life in lives}
    for k, one in enumerate(lives):
        touched = [region_of[index] for index, step in enumerate(steps) if one.buffer in (*step.reads, *step.writes)]
        if one.buffer in plan.own:
            assert len(set(touched)) == 1 and division.strips == 1
        for other in lives[k + 1 :]:
            for offsets, alive in (
                (plan.own, (one.first, one.last, other.first, other.last)),
                (plan.shared, tuple(region_of[i] for i in (one.first, one.last, other.first, other.last))),
            ):
                first, last, begin, end = alive
                if one.buffer in offsets and other.buffer in offsets and begin <= last and first <= end:
                    a, b = offsets[one.buffer], offsets[other.buffer]
                    assert a + one.buffer.nbytes <= b or b + other.buffer.nbytes <= a
    assert all(offset + buffer.nbytes <= plan.tile_bytes for buffer, offset in plan.shared.items())
    own = max((offset + buffer.nbytes for buffer, offset in plan.own.items()), default=0)
    assert own * division.band < plan.scratch_bytes


def test_a_dynamic_quantization_waits_for_other_tiles_alone() -> None:
    """One barrier where a sequence may extend over several tiles; none before it or behind it."""
    x, extrema, tokens = (Buffer(name, "floats", 4) for name in ("x", "extrema", "tokens"))
    steps = [
        Step("rows", [], [x], rows=4),
        Step("extrema", [x], [extrema], rows=4),
        Step("dynamic", [extrema], [tokens]),
        Step("rows", [x, tokens], [Buffer("bytes", "rows", 4)], rows=4),
    ]
    for tiles, ends in [(1, [4]), (3, [2, 4]), (4, [2, 4])]:
        for threads in (1, 2):
            found = find_regions(steps, Division.of(tiles, threads, 1))
            assert [region.stop for region in found] == ends
