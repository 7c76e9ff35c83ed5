"""Numbers of rows at places that differ from row to row."""

from __future__ import annotations

from numba import prange

from sparsert.kernels.jit import jit
from sparsert.kernels.memory import load_i32, load_i64, store_i32

__all__ = ["gather_rows"]

_CHUNK = 1 << 13
"""Numbers that a thread takes at least."""


@jit(parallel=True)
def gather_rows(sources, indices, target, sizes, strides, wrong, threads):
    """Gather along the rows of an array of four bytes a number.

    Parameters
    ----------
    sources, indices : int64 arrays, shape (rows,)
        Addresses of the rows of numbers, and of int64 indices into them; a negative one counts from the end.
    target : int
        Address of the result, whose rows are contiguous.
    sizes : tuple of int
        Numbers in a row of the source, and of the result.
    strides : tuple of int
        Bytes between neighbouring numbers, and indices.
    wrong : int64 array, shape (threads, 8)
        Column 0 is set to 1 by a thread that meets an index beyond the row.
    """
    size, count = sizes
    rows = len(sources)
    shares = max(1, min(threads, rows * count // _CHUNK))
    for thread in prange(shares):
        for row in range(thread * rows // shares, (thread + 1) * rows // shares):
            source, index, place = sources[row], indices[row], target + 4 * row * count
            for column in range(count):
                chosen = load_i64(index + column * strides[1])
                if chosen < 0:
                    chosen += size
                if chosen < 0 or chosen >= size:
                    wrong[thread, 0] = 1
                    chosen = 0
                store_i32(place + 4 * column, load_i32(source + chosen * strides[0]))
