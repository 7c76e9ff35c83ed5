"""Registries of kernels: codes that cannot collide, and a switch that calls the kernel of a code."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from kernel_drivers import buffer, compiled

from sparsert.kernels import table
from sparsert.kernels.registry import ANY_ROW, NARROWER, WHOLE_ROW, Registry
from sparsert.kernels.simd import Simd, Value


def _storing(number: int) -> object:
    def emit(v: Simd, place: Value) -> None:
        v.store(v.integer(number), v.pointer(place), 8)

    return emit


def _registry() -> Registry:
    registry = Registry("test kernel", 1)
    for name, code in (("late", 9), ("early", 2), ("middle", 5)):
        registry.add(name, code, _storing(10 * code))
    return registry


@pytest.mark.parametrize("code", [2, 5, 9])
def test_the_switch_calls_the_kernel_of_a_code(code: int) -> None:
    place = buffer(np.zeros(1, np.int64))
    compiled(_registry().dispatcher(), 2)(code, place.address)
    place.check()
    assert place.array[0] == 10 * code


@pytest.mark.parametrize("code", [2, 4, 5])
@pytest.mark.parametrize("vectors", [1, 2, 3, 4])
def test_narrow_rows_are_computed_by_kernels_that_have_a_form_for_them(code: int, vectors: int) -> None:
    def emit(v: Simd, place: Value) -> None:
        v.store(v.integer(v.row), v.pointer(place), 8)

    registry = Registry("test kernel", 1, ANY_ROW)
    registry.add("any", 2, emit)
    registry.add("halves", 4, emit, rows=(2, 4))
    registry.add("whole", 5, emit, rows=WHOLE_ROW)
    place = buffer(np.zeros(1, np.int64))
    compiled(registry.dispatcher(), 2)(code + NARROWER * (4 - vectors), place.address)
    assert place.array[0] == next(
        row for row in registry.rows[{2: "any", 4: "halves", 5: "whole"}[code]] if row >= vectors
    )


def test_unknown_codes_do_nothing_where_that_is_asked_for() -> None:
    place = buffer(np.zeros(1, np.int64))
    compiled(_registry().dispatcher(others_do_nothing=True), 2)(3, place.address)
    assert place.array[0] == 0


def test_unknown_codes_end_the_process() -> None:
    """A wrong code comes with addresses of something else, so going on would be worse."""
    script = """
from numba import njit
from sparsert.kernels.registry import Registry
registry = Registry("nothing", 1)
registry.add("none", 1, lambda v, x: None)
dispatch = registry.dispatcher()
run = njit(lambda code, x: dispatch(code, x))
run(1, 0)
print("known", flush=True)
run(2, 0)
print("unknown")
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert finished.stdout == "known\n" and finished.returncode < 0


@pytest.mark.parametrize(("name", "code"), [("early", 3), ("other", 5)])
def test_a_name_or_code_that_is_taken_is_refused(name: str, code: int) -> None:
    with pytest.raises(ValueError, match="taken"):
        _registry().add(name, code, _storing(0))


def test_columns_of_a_row_do_not_collide() -> None:
    """Every name has a column of its own, inside the row; a place has its stride behind it."""
    widths = {"STAGE": table.STAGE_COLUMNS, "TABLE": table.TABLE_COLUMNS, "PIECE": table.PIECE_COLUMNS}
    widths |= {"TILE_META": table.META_COLUMNS, "QUEUE": table.QUEUE_COLUMNS, "REGION": table.REGION_COLUMNS}
    for name in set(table.__all__):
        columns = getattr(table, name)
        if not isinstance(columns, tuple):
            continue
        numbers = columns._asdict()
        assert len(set(numbers.values())) == len(numbers), name
        assert min(numbers.values()) >= 0 and max(numbers.values()) < widths.get(name, table.STEP_COLUMNS), name
        for place in (field.removesuffix("_stride") for field in numbers if field.endswith("_stride")):
            assert numbers[f"{place}_stride"] == numbers[place] + 1, (name, place)
        if name.lower() in table.OPCODE._fields:
            assert numbers["opcode"] == 0, name
