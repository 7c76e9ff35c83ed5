"""The names of all numbers in the table of steps, for the encoder that writes it and the run loop that reads it.

The table is an int64 array with one row a step, of :data:`STEP_COLUMNS` integers. What these mean depends on the step's
opcode, so each opcode has column names of its own here. Column 0 is the opcode in all of them. Addresses are absolute.
A *place* is a pair of columns, ``x`` and ``x_stride``: tile ``t`` lies at ``x + t * x_stride``; a negative stride means
the running thread's scratch, where the ``i``-th tile of a band lies at ``scratch + x - i * x_stride``.

Numba reads an attribute of a global named tuple as a constant, so a name costs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

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
    "QUEUE",
    "QUEUE_COLUMNS",
    "REGION",
    "REGION_COLUMNS",
    "UNITS",
    "ROWS",
    "SCATTER",
    "SELECT",
    "STAGE",
    "STAGE_COLUMNS",
    "STEP",
    "STEP_COLUMNS",
    "TABLE",
    "TABLE_COLUMNS",
    "TILE_META",
]

STEP_COLUMNS = 32


class _Opcode(NamedTuple):
    """What a step does."""

    rows: int = 0
    embed: int = 1
    gather: int = 2
    scatter: int = 3
    attention: int = 4
    extrema: int = 5
    dynamic: int = 6
    select: int = 7
    linear: int = 8
    byte_sums: int = 9


OPCODE = _Opcode()


class _Step(NamedTuple):
    """What all steps have in common."""

    opcode: int = 0


STEP = _Step()


class _Rows(NamedTuple):
    """Rows that need no weights, block by block through the stages."""

    source: int = 1
    """Code in :data:`sparsert.kernels.rows.FINISH`."""
    x: int = 2
    x_stride: int = 3
    x_row_bytes: int = 4
    rows: int = 5
    gamma: int = 6
    beta: int = 7
    parameters: int = 8
    stages: int = 9
    stage_table: int = 10


ROWS = _Rows()


class _Linear(NamedTuple):
    """Accumulators of a matrix, through the stages."""

    kernel: int = 1
    """Code in :data:`sparsert.kernels.formats.ACCUMULATORS`."""
    x: int = 2
    x_stride: int = 3
    rows: int = 4
    headers: int = 5
    weights: int = 6
    offsets: int = 7
    """Address of the stream, or, for formats without one, the count that their kernel takes."""
    starts: int = 8
    panel_blocks: int = 9
    slices: int = 10
    slice_bytes: int = 11
    """Bytes from the start of one slice of a tile to the next."""
    stages: int = 12
    stage_table: int = 13


LINEAR = _Linear()


class _Embed(NamedTuple):
    """Sums of table rows, transposed into tiles."""

    tables: int = 1
    table_table: int = 2
    channels: int = 3
    out: int = 4
    out_stride: int = 5


EMBED = _Embed()


class _Gather(NamedTuple):
    """Rows of a float tile to an array [tokens][width]."""

    x: int = 1
    x_stride: int = 2
    rows: int = 3
    array: int = 4
    width: int = 5
    column: int = 6


GATHER = _Gather()


class _Scatter(NamedTuple):
    """An array [tokens][rows] to a float tile."""

    x: int = 1
    x_stride: int = 2
    rows: int = 3
    array: int = 4


SCATTER = _Scatter()


class _Select(NamedTuple):
    """One token of every sequence to an array [sequences][rows]."""

    x: int = 1
    x_stride: int = 2
    rows: int = 3
    array: int = 4
    token: int = 5
    """Negative: from the end of the sequence."""


SELECT = _Select()


class _Attention(NamedTuple):
    """One head of one tile of queries, then the stages on its rows."""

    q: int = 1
    q_stride: int = 2
    k: int = 3
    k_stride: int = 4
    v: int = 5
    v_stride: int = 6
    heads: int = 7
    head_size: int = 8
    key_bias: int = 9
    parameters: int = 10
    mode: int = 11
    offset_values: int = 12
    q_row_bytes: int = 13
    v_row_bytes: int = 14
    sums: int = 15
    sums_stride: int = 16
    stages: int = 17
    stage_table: int = 18


ATTENTION = _Attention()


class _ByteSums(NamedTuple):
    """What int8 attention needs of the bytes of Q and K."""

    q: int = 1
    q_stride: int = 2
    k: int = 3
    k_stride: int = 4
    sums: int = 5
    sums_stride: int = 6
    heads: int = 7
    head_size: int = 8
    parameters: int = 9


BYTE_SUMS = _ByteSums()


class _Extrema(NamedTuple):
    """Least and greatest value of the tokens of a float tile."""

    x: int = 1
    x_stride: int = 2
    rows: int = 3
    extrema: int = 4
    """Address of two floats a tile."""


EXTREMA = _Extrema()


class _Dynamic(NamedTuple):
    """The quantization that follows from the extrema of all tiles."""

    extrema: int = 1
    parameters: int = 2


DYNAMIC = _Dynamic()


class _Mode(NamedTuple):
    """How attention computes scores."""

    floats: int = 0
    int8: int = 1
    quantized_scores: int = 2
    bounded_scores: int = 3
    """Quantized, and so near each other that the softmax needs no maximum."""


MODE = _Mode()

STAGE_COLUMNS = 10


class _Stage(NamedTuple):
    """A row of a step's table of stages; see :mod:`sparsert.kernels.stages`."""

    code: int = 0
    acc_bias: int = 1
    scale: int = 2
    bias: int = 3
    parameters: int = 4
    source: int = 5
    source_stride: int = 6
    destination: int = 7
    destination_stride: int = 8
    destination_row_bytes: int = 9


STAGE = _Stage()

TABLE_COLUMNS = 8


class _Table(NamedTuple):
    """A row of a step's list of embedding tables."""

    weight: int = 0
    element: int = 1
    scale: int = 2
    """Address of a float."""
    zero_point: int = 3
    index: int = 4
    ids: int = 5
    """Address of int64 ids of all tokens."""
    first_row: int = 6
    rows: int = 7


TABLE = _Table()


class _Element(NamedTuple):
    """Numbers of an embedding table."""

    float32: int = 0
    uint8: int = 1
    int8: int = 2


ELEMENT = _Element()


class _Index(NamedTuple):
    """Where the row of an embedding table comes from."""

    input: int = 0
    position: int = 1
    constant: int = 2


INDEX = _Index()

REGION_COLUMNS = 4


class _Region(NamedTuple):
    """A row of the table of regions: its steps, how they are divided into units, and the size that goes with it."""

    first: int = 0
    stop: int = 1
    units: int = 2
    size: int = 3


REGION = _Region()


class _Units(NamedTuple):
    """How a region is divided into units."""

    bands: int = 0
    """Bands of ``size`` tiles."""
    shares: int = 1
    """Attention in ``size`` shares of about equal work."""
    once: int = 2
    """One unit for all."""
    strips: int = 3
    """``size`` strips of the rows of every tile, or of the only tile's heads."""


UNITS = _Units()

META_COLUMNS = 6


class _TileMeta(NamedTuple):
    """A row of the description of tiles."""

    pieces: int = 0
    """Address of the first."""
    piece_count: int = 1
    first_token: int = 2
    """Flat index of the tile's first token."""
    tokens: int = 3
    """Valid tokens; the lanes behind them are empty."""
    work_before: int = 4
    """Work of attention in the tiles before it."""
    work: int = 5


TILE_META = _TileMeta()

PIECE_COLUMNS = 9


class _Piece(NamedTuple):
    """A row of the description of pieces: what a tile holds of one sequence."""

    first_lane: int = 0
    stop_lane: int = 1
    position: int = 2
    """Place of the first lane's token in its sequence."""
    sequence: int = 3
    length: int = 4
    """Tokens of the sequence."""
    key_tile: int = 5
    """Tile of the sequence's first key, counted from the chunk's first."""
    first_key: int = 6
    """From the start of that tile, as is ``stop_key``."""
    stop_key: int = 7
    bias: int = 8
    """Index of the bias of the four keys that the first one lies in."""


PIECE = _Piece()

QUEUE_COLUMNS = 8
"""Integers of a queue; two are used, but each queue has a cache line of its own."""


class _Queue(NamedTuple):
    """A thread's queue of units."""

    next: int = 0
    stop: int = 1


QUEUE = _Queue()
