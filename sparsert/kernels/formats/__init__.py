"""Formats of packed weights: one file a format, found by itself.

Every format has an accumulator, or several, of the form ``kernel(x, headers, weights, offsets, scratch, rows, add)``
over raw addresses: one block of output rows times one tile of tokens, exact int32 or float32, into a scratch in L1.

x        tile of activations in the form that the format names
headers  int32 ``[rows][2]``: scratch row to write, number of groups
weights, offsets
         streams that are read from front to back; an offset is the place of an activation row in bytes, uint16 for int8
         and int32 for float32
scratch  int32 or float32 ``[rows][TILE]``, written; with ``add`` (0 or 1) added to

A matrix whose activations would not fit the L1 is packed in slices of its input features, each with streams of its own:
a few blocks of rows run over the first slice, then over the next, which adds to the scratch.

Rows of a block come sorted by length, so that the loop's exit is predicted: a misprediction costs as much as a sixth of
a row of 77 nonzeros.
"""

from sparsert._modules import import_modules
from sparsert.kernels.formats.base import ACCUMULATORS, BLOCK_ROWS, FORMATS, HEADER_BYTES, Format, PackedWeight

__all__ = ["ACCUMULATORS", "BLOCK_ROWS", "FORMATS", "HEADER_BYTES", "Format", "PackedWeight"]

import_modules(__name__, __path__)
