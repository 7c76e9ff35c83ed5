"""Scalar loads and stores at raw addresses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_drivers import buffer
from numba import njit

from sparsert.kernels import memory

FLAGS: dict[str, Any] = {"cache": False, "nogil": True, "boundscheck": False}


@pytest.mark.parametrize(
    ("load", "dtype", "values"),
    [
        (memory.load_i64, np.int64, [-(2**63), 2**63 - 1]),
        (memory.load_i32, np.int32, [-(2**31), 2**31 - 1]),
        (memory.load_i8, np.int8, [-128, 127]),
        (memory.load_u8, np.uint8, [0, 255]),
        (memory.load_f32, np.float32, [-1.5, 3e38]),
    ],
    ids=["i64", "i32", "i8", "u8", "f32"],
)
def test_loads_extend(load: Any, dtype: Any, values: list[float]) -> None:
    read = njit(**FLAGS)(lambda address: load(address))
    held = buffer(np.array(values, dtype))
    got = [read(held.address + k * np.dtype(dtype).itemsize) for k in range(len(values))]
    assert got == np.array(values, dtype).tolist()


def test_stores_write_four_bytes() -> None:
    held = buffer(np.zeros(3, np.int32))

    @njit(**FLAGS)
    def write(address, whole, fraction):
        memory.store_i32(address, whole)
        memory.store_f32(address + 8, fraction)

    write(held.address, -5, np.float32(0.25))
    assert held.array[:2].tolist() == [-5, 0]
    assert held.array.view(np.float32)[2] == 0.25
    held.check()
