"""Where rows of a step come from that needs no weights: one file a kind, found by itself."""

from sparsert._modules import import_modules
from sparsert.kernels.rows.sources import FINISH, PREPARE, STATISTICS_ROWS

__all__ = ["FINISH", "PREPARE", "STATISTICS_ROWS"]

import_modules(__name__, __path__)
