"""The names of all numbers in the table of steps, for the encoder that writes it and the run loop that reads it.

The table is an int64 array with one row a step, of :data:`STEP_COLUMNS` integers. What these mean depends on the step's
opcode, which is column 0 of all of them, so each opcode has column names of its own here. Addresses are absolute.
A *place* is a pair of columns, ``x`` and ``x_stride``: tile ``t`` lies at ``x + t * x_stride``; a negative stride means
the running thread's scratch, where the ``i``-th tile of a band lies at ``scratch + x - i * x_stride``.

Numba reads an attribute of a global named tuple as a constant, so a name costs nothing.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

__all__ = [
    "ATTENTION",
    "BYTE_SUMS",
    "DYNAMIC",
    "ELEMENT",
    "EMBED",
    "EXTREMA",
    "GATHER",
    "INDEX",
    "LINEAR",
    "META_COLUMNS",
    "MODE",
    "OPCODE",
    "PIECE",
    "PIECE_COLUMNS",
    "POSITIONS",
    "QUEUE",
    "QUEUE_COLUMNS",
    "REGION",
    "REGION_COLUMNS",
    "ROWS",
    "SCATTER",
    "SELECT",
    "STAGE",
    "STAGE_COLUMNS",
    "START",
    "START_COLUMNS",
    "STEP",
    "STEP_COLUMNS",
    "TABLE",
    "TABLE_COLUMNS",
    "TILE_META",
    "TOKEN",
    "UNITS",
]


def _numbered(names: str) -> Any:
    """A named tuple in which each name is its own place: columns of a row, or codes."""
    fields = names.split()
    return namedtuple("Numbers", fields)(*range(len(fields)))


OPCODE = _numbered("rows embed gather scatter attention extrema dynamic select linear byte_sums")
"""What a step does; its columns have the same name in capitals."""

STEP_COLUMNS = 32
STEP = _numbered("opcode")
"""What all steps have in common."""

ROWS = _numbered("opcode source x x_stride x_row_bytes rows gamma beta parameters parameters_stride stages stage_table")
"""Rows that need no weights, block by block through the stages; ``source`` is a code of `sparsert.kernels.rows`."""

LINEAR = _numbered(
    "opcode run kernel x x_stride rows headers weights offsets starts panel_blocks slices slice_bytes stages "
    "stage_table"
)
"""Accumulators of a matrix, through the stages.

``kernel`` is a code of `sparsert.kernels.formats.ACCUMULATORS`, ``run`` the address of what runs it.

``offsets`` is the address of the stream, or, for formats without one, the count that their kernel takes;
``slice_bytes`` lead from the start of one slice of a tile to the next.
"""

START_COLUMNS = 2
START = _numbered("weights offsets")
"""A row of a packed weight's starts: bytes from the begin of its streams to a block of rows."""

EMBED = _numbered("opcode tables table_table channels out out_stride")
"""Sums of table rows, transposed into tiles."""

GATHER = _numbered("opcode x x_stride rows array width column")
"""Rows of a float tile to columns of an array [tokens][width]."""

SCATTER = _numbered("opcode x x_stride rows array")
"""An array [tokens][rows] to a float tile."""

SELECT = _numbered("opcode x x_stride rows array token")
"""One token of every sequence to an array [sequences][rows]; a negative one counts from the end of its sequence."""

ATTENTION = _numbered(
    "opcode q q_stride k k_stride v v_stride sums sums_stride heads head_size key_bias parameters mode offset_values "
    "q_row_bytes v_row_bytes stages stage_table score_bias score_item score_head score_key before after "
    "positions"
)
"""One head of one tile of queries, then the stages on its rows.

``score_bias`` is the address of what is added to the score of the first query and the first key of a sequence, 0 for
none; the next sequence's, head's and key's lie ``score_item``, ``score_head`` and ``score_key`` bytes further, the
next query's 4. A query sees the keys from ``before`` places before its own to ``after`` places behind it.
"""

MODE = _numbered("floats int8 quantized_scores bounded_scores rounded_scores")
"""How attention computes scores; bounded ones are so near each other that the softmax needs no maximum, rounded ones
are quantized several times on their way."""

POSITIONS = _numbered("keys queries head_bytes origin top masked_queries")
"""What disentangled attention knows of distances, at the address in ``positions`` of the step, 0 for none.

Tables of the vectors that queries and keys are multiplied with, and bytes from one head to the next; the column of
distance 0, and the last column that the first lane may need; what masked queries get: 0 as any other, 1 the mean of
all values, 2 zeros.
"""

BYTE_SUMS = _numbered("opcode q q_stride k k_stride sums sums_stride heads head_size parameters")
"""What int8 attention needs of the bytes of Q and K."""

EXTREMA = _numbered("opcode x x_stride rows extrema extrema_stride")
"""Least and greatest value of every piece of a float tile, as two floats each, in the order of the chunk's pieces from
the first tile's place on."""

DYNAMIC = _numbered("opcode extrema extrema_stride tokens tokens_stride")
"""The quantization of every token of a tile, which follows from the extrema of all pieces that share it."""

TOKEN = _numbered("inverse_scale scale zero_point")
"""Rows of a float tile that hold the dynamic quantization of its tokens; the zero points are int32."""

STAGE_COLUMNS = 12
STAGE = _numbered(
    "run code acc_bias scale bias parameters parameters_stride source source_stride destination destination_stride "
    "destination_row_bytes"
)
"""A row of a step's table of stages, see :mod:`sparsert.kernels.stages`; ``run`` is the address of what runs one."""

TABLE_COLUMNS = 9
TABLE = _numbered("weight element scale zero_point index ids first_row rows rounding")
"""A row of a step's list of embedding tables; ``scale``, ``ids`` (int64, of all tokens) and ``rounding`` are addresses,
the last one 0 if the sum goes on as it is."""

ELEMENT = _numbered("float32 uint8 int8")
"""Numbers of an embedding table."""

INDEX = _numbered("input position constant")
"""Where the row of an embedding table comes from."""

REGION_COLUMNS = 4
REGION = _numbered("first stop units size")
"""A row of the table of regions: its steps, how they are divided into units, and the size that goes with it."""

UNITS = _numbered("bands shares strips")
"""Bands of ``size`` tiles; attention in ``size`` shares of about equal work; or ``size`` strips of the rows of every
tile, or of the only tile's heads."""

META_COLUMNS = 5
TILE_META = _numbered("pieces piece_count first_token tokens work")
"""A row of the description of tiles: address and number of its pieces, flat index of its first token, valid tokens (the
lanes behind them are empty), work of attention where queries see all keys of their sequence."""

PIECE_COLUMNS = 11
PIECE = _numbered(
    "first_lane stop_lane position sequence length key_tile first_key stop_key bias first_piece stop_piece"
)
"""A row of the description of pieces: what a tile holds of one sequence.

``position`` is the place of the first lane's token in its sequence, ``key_tile`` the tile of the sequence's first key,
counted from the chunk's first; keys count from the start of that tile, and ``bias`` is the index of the bias of the
four that the first one lies in. From ``first_piece`` to ``stop_piece``, counted from the chunk's first, are the pieces
that share a dynamic quantization.
"""

QUEUE_COLUMNS = 8
QUEUE = _numbered("next stop")
"""A thread's queue of units; with a cache line of its own."""
