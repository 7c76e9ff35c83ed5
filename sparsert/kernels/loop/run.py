"""The run loop: a whole plan, as a table of integers, executed in one call without the GIL.

:mod:`sparsert.kernels.table` names what the integers mean. Regions run one after the other; inside one, units are
distributed over the threads: each has a queue of neighbouring units, the same in every region, and helps the others
when its own is empty, so that a core that is slower for a while, or shared with other work, does not hold up the rest.
A unit is a band of tiles, and runs all steps of the region, so that the band's whole column of activations stays near
the core while the weights stream past it, each piece of them once a band. In attention a unit is a share of all heads
of all tiles.

Tiles hold sequences end to end, so a tile may hold pieces of several. Only what depends on a token's place in its
sequence looks at them: embeddings, attention, the selection of one token and the ranges of dynamic quantization.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import carray, prange

from sparsert.kernels.jit import entry, inner, jit
from sparsert.kernels.loop.attention import attention_share, byte_sums_step
from sparsert.kernels.loop.dynamic import dynamic_step, extrema_step
from sparsert.kernels.loop.embed import embed_step
from sparsert.kernels.loop.linear import linear_step
from sparsert.kernels.loop.move import gather_step, scatter_step, select_step
from sparsert.kernels.loop.places import field
from sparsert.kernels.loop.rows import rows_step
from sparsert.kernels.memory import call, fetch_add_i64, pointer
from sparsert.kernels.table import (
    META_COLUMNS,
    OPCODE,
    QUEUE,
    QUEUE_COLUMNS,
    REGION,
    STEP,
    STEP_COLUMNS,
    UNITS,
)

__all__ = ["run_entry", "run_regions"]

_QUEUE_BYTES = 8 * QUEUE_COLUMNS


@inner()
def _tile_step(step, tile, band, strip, strips, meta, scratch):
    opcode = step[STEP.opcode]
    if opcode == OPCODE.rows:
        rows_step(step, tile, band, meta, scratch)
    elif opcode == OPCODE.embed:
        embed_step(step, tile, band, strip, strips, meta, scratch)
    elif opcode == OPCODE.gather:
        gather_step(step, tile, band, meta, scratch)
    elif opcode == OPCODE.scatter:
        scatter_step(step, tile, band, meta, scratch)
    elif opcode == OPCODE.extrema:
        extrema_step(step, tile, band, meta, scratch)
    elif opcode == OPCODE.dynamic:
        dynamic_step(step, tile, band, meta, scratch)
    elif opcode == OPCODE.select:
        select_step(step, tile, band, meta, scratch)
    elif opcode == OPCODE.byte_sums:
        byte_sums_step(step, tile, band, strip, strips, meta, scratch)


@inner()
def _run_unit(steps, first, last, way, size, unit, units, meta, scratch):
    """One of the ``units`` units of a region."""
    tiles = len(meta)
    band, count, part, parts = unit * size, min(size, tiles - unit * size), 0, 1
    if way == UNITS.shares:
        band, count, part, parts = 0, tiles, unit, units
    elif way == UNITS.strips:
        band, count, part, parts = unit // size, 1, unit % size, size
    for index in range(first, last):
        step = steps[index]
        if step[STEP.opcode] == OPCODE.linear:
            linear_step(step, band, count, part, parts, meta, scratch)
        elif step[STEP.opcode] == OPCODE.attention:
            attention_share(step, part, parts, meta, tiles, scratch)
        else:
            for tile in range(band, band + count):
                _tile_step(step, tile, band, part, parts, meta, scratch)


def _run_queues(table, first, last, way, size, units, queues, queue, count, meta, tiles, scratch):
    """All units of one queue, then those that are left in the others."""
    steps = carray(pointer(table), (last, STEP_COLUMNS))
    tile_meta = carray(pointer(meta), (tiles, META_COLUMNS))
    for distance in range(count):
        place = queues + _QUEUE_BYTES * ((queue + distance) % count)
        stop = field(place, QUEUE.stop)
        while field(place, QUEUE.next) < stop:
            unit = fetch_add_i64(place + 8 * QUEUE.next, 1)
            if unit < stop:
                _run_unit(steps, first, last, way, size, unit, units, tile_meta, scratch)


@functools.cache
def run_entry() -> Any:
    """What compiles, or loads, nearly all that a table runs; its ``address`` is for :func:`run_regions`."""
    return entry(_run_queues, 12)


@jit(parallel=True)
def run_regions(table, regions, queues, meta, tiles, scratch, scratch_stride, run_queues):
    """Run all regions over ``tiles`` tiles.

    Parameters
    ----------
    table : int64 array, shape (steps, STEP_COLUMNS)
    regions : int64 array, shape (regions, REGION_COLUMNS)
    queues : int64 array, shape (threads, QUEUE_COLUMNS)
        Working memory: each thread's next unit, and the one after its last.
    meta : int64 array, shape (tiles, META_COLUMNS)
    tiles : int
    scratch, scratch_stride : int
        Address of the threads' scratch, and bytes for each thread.
    run_queues : int
        Address of :func:`run_entry`.
    """
    steps, tile_meta, places = table.ctypes.data, meta.ctypes.data, queues.ctypes.data
    for region in range(regions.shape[0]):
        first, last = regions[region, REGION.first], regions[region, REGION.stop]
        way, size = regions[region, REGION.units], regions[region, REGION.size]
        units = size
        if way == UNITS.bands:
            units = (tiles + size - 1) // size
        elif way == UNITS.strips:
            units = tiles * size
        count = min(queues.shape[0], units)
        for queue in range(count):
            queues[queue, QUEUE.next] = queue * units // count
            queues[queue, QUEUE.stop] = (queue + 1) * units // count
        for queue in prange(count):
            own = np.int64(queue)
            place = scratch + scratch_stride * own
            call(run_queues, (steps, first, last, way, size, units, places, own, count, tile_meta, tiles, place))
