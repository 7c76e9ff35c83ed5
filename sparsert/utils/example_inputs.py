"""Random inputs that a model can make sense of: token ids of its vocabulary, and masks of ones."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from sparsert._validation import is_mask
from sparsert.errors import InputShapeError
from sparsert.graph.vocabularies import vocabularies
from sparsert.utils.model_path import model_to_path
from sparsert.utils.shapes import InputShapes, normalize_input_shapes

__all__ = ["generate_random_inputs", "random_arrays"]

_log = logging.getLogger(__name__)


def random_arrays(
    inputs: Sequence[tuple[str, np.dtype, Sequence[int]]], rows: Mapping[str, int], seed: int = 0
) -> list[np.ndarray]:
    """Fill arrays of the given (name, dtype, shape): ids below ``rows[name]``, other integers 1, floats in [0, 1)."""
    rng = np.random.default_rng(seed)
    arrays = []
    for name, dtype, shape in inputs:
        if math.prod(shape) * dtype.itemsize > sys.maxsize:
            raise InputShapeError(f"input '{name}' of shape {list(shape)} does not fit in memory; give a smaller shape")
        integral = dtype.kind in "iub"
        if integral and name in rows:
            array = rng.integers(0, max(1, rows[name]), size=tuple(shape)).astype(dtype)
            values = f"random ids below {rows[name]}"
        elif integral or is_mask(name):
            array = np.ones(tuple(shape), dtype)
            values = "ones"
        else:
            array = rng.random(tuple(shape)).astype(dtype)
            values = "random in [0, 1)"
        _log.info("Generating input '%s', type = %s, shape = %s, values = %s", name, dtype, list(shape), values)
        arrays.append(array)
    return arrays


def generate_random_inputs(
    model: str | os.PathLike[str],
    batch_size: int | None = None,
    input_shapes: InputShapes = None,
    seed: int = 0,
) -> list[np.ndarray]:
    """Make random inputs for a model, the same for the same seed; the log says how each was filled.

    Inputs that index an embedding table (token ids, token types) get random ids within it; every other integer input
    is taken for a mask and gets ones, so that every token counts; floats are uniform in [0, 1).

    Parameters
    ----------
    model
        A model reference.
    batch_size
        Leading dimension of every input; by default what the file says, or 1.
    input_shapes
        Shapes in any form that Engine accepts. Dimensions that nothing states become 1.
    seed
        Seed of the random generator.

    Returns
    -------
    list of ndarray
        One array for each input, in graph order.
    """
    from sparsert.graph import load_graph

    graph = load_graph(model_to_path(model))
    overrides = normalize_input_shapes(input_shapes, len(graph.inputs))
    wanted = []
    for index, info in enumerate(graph.inputs):
        shape = [dim if isinstance(dim, int) else 1 for dim in info.shape]
        if overrides is not None:
            if len(overrides[index]) != len(shape):
                raise InputShapeError(
                    f"Input '{info.name}' shape doesn't match shape override: {list(info.shape)} vs {overrides[index]}"
                )
            shape = list(overrides[index])
        if shape and batch_size:
            shape[0] = batch_size
        wanted.append((info.name, graph.stated.get(info.name, info.dtype), shape))
    return random_arrays(wanted, vocabularies(graph), seed)
