"""How many bytes a kernel moves between registers and the L1 for its work: what bandwidth limits."""

from __future__ import annotations

from sparsert.kernels.attention import WIDTH
from sparsert.kernels.formats import FORMATS, PackedWeight
from sparsert.kernels.jit import TILE
from sparsert.ops.steps import PackedLinear

__all__ = ["ATTENTION_BYTES_PER_MAC", "activation_bytes", "loaded_bytes"]

ATTENTION_BYTES_PER_MAC = {
    # a step loads `WIDTH` vectors of TILE bytes and four words, for 4 * WIDTH products of a whole vector
    arithmetic: (WIDTH * TILE + 16) / (4 * WIDTH * macs)
    for arithmetic, macs in (("int8", TILE), ("float", TILE // 4))
}
"""Bytes loaded for each multiply-accumulate of attention, by arithmetic."""


def activation_bytes(packed: PackedWeight) -> int:
    """Size of what is read again and again of one tile of a matrix's input: all of it, or one slice after the other."""
    return (packed.slice_features or packed.in_features) * TILE * (4 if packed.form == "floats" else 1)


def loaded_bytes(linear: PackedLinear) -> int:
    """Activations, streams of weights and results of a matrix times one tile.

    The few weights that padding adds to a row are not counted.
    """
    packed = linear.weight
    row = TILE * (4 if packed.form == "floats" else 1)
    # an activation row is loaded once for every panel of output rows
    loads = round(packed.in_features * packed.out_features * linear.kept / FORMATS[packed.format].panel_rows)
    results = packed.out_features * TILE * 4
    return loads * row + packed.weights.nbytes + packed.offsets.nbytes + results
