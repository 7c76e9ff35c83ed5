"""The fused ops: what a transformer layer is made of, free of ONNX spelling; one file a family, one class an op.

A file in this folder is found by itself. The compiler asks nothing but the traits of :class:`FusedOp`, so an op whose
name nobody needs is not exported here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsert._modules import import_modules
from sparsert.graph.quantization import Quantization
from sparsert.ops.attention import Attention, KeyMask, ScoreMask
from sparsert.ops.base import FusedOp
from sparsert.ops.elementwise import Activation, Add, Gelu, Multiply
from sparsert.ops.embeddings import Embeddings, Table
from sparsert.ops.linear import Linear
from sparsert.ops.lookup import Lookup
from sparsert.ops.normalization import LayerNorm
from sparsert.ops.quantize import Dequantize, DynamicQuantize, Quantize
from sparsert.ops.score_bias import HIDDEN, PositionBias
from sparsert.ops.selection import SelectFeature, SelectToken
from sparsert.ops.standardize import Scale

__all__ = [
    "Activation",
    "Add",
    "Attention",
    "Dequantize",
    "DynamicQuantize",
    "Embeddings",
    "FusedOp",
    "HIDDEN",
    "Gelu",
    "KeyMask",
    "LayerNorm",
    "Linear",
    "Lookup",
    "Multiply",
    "PositionBias",
    "Quantization",
    "Quantize",
    "Scale",
    "ScoreMask",
    "SelectFeature",
    "SelectToken",
    "Table",
    "all_ops",
    "run_fused",
]

import_modules(__name__, __path__)


def all_ops() -> list[type[FusedOp]]:
    """Return the class of every fused op, by name."""
    found: list[type[FusedOp]] = [FusedOp]
    for op in found:  # which grows meanwhile
        found += [below for below in op.__subclasses__() if below not in found]
    return sorted(found[1:], key=lambda op: op.__name__)


def run_fused(op: FusedOp, inputs: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """Evaluate one fused op in NumPy.

    Parameters
    ----------
    op : FusedOp
        ``node.fused``.
    inputs : sequence of arrays
        As the op's docstring lists them; None for an absent optional input.

    Returns
    -------
    list of arrays
        One per output of the node.

    Raises
    ------
    InputRangeError
        An id, or the position of a token, lies beyond its embedding table.
    InputShapeError
        A sequence is too short for the token that SelectToken takes, or a Linear's input has another width.
    """
    # Infinities and NaN go their way as in every other engine; a warning per request would help nobody.
    with np.errstate(all="ignore"):
        outputs = op.compute(*inputs)
    return [np.asarray(output) for output in (outputs if isinstance(outputs, tuple) else (outputs,))]
