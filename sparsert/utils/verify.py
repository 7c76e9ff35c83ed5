"""Compare the outputs of two engines."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from sparsert.errors import InputError, InputShapeError, InputTypeError

__all__ = ["verify_outputs"]

_log = logging.getLogger(__name__)


def verify_outputs(
    outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray], atol: float = 8e-4, rtol: float = 0.0
) -> list[float]:
    """Return the largest absolute difference of every output; values beyond the tolerance are logged, not raised.

    Raises
    ------
    InputError
        The numbers of outputs differ; its subclasses InputShapeError and InputTypeError: shapes or dtypes do.
    """
    if len(outputs) != len(expected):
        raise InputError(f"number of outputs differs: {len(outputs)} came, {len(expected)} were expected")
    differences = []
    for index, (came, wanted) in enumerate(zip(outputs, expected, strict=True)):
        if came.shape != wanted.shape:
            raise InputShapeError(f"output {index} has shape {came.shape}, expected {wanted.shape}")
        if came.dtype != wanted.dtype:
            raise InputTypeError(f"output {index} has dtype {came.dtype}, expected {wanted.dtype}")
        difference = np.abs(came.astype(np.float64) - wanted.astype(np.float64))
        differences.append(float(difference.max()) if difference.size else 0.0)
        if not np.allclose(came, wanted, atol=atol, rtol=rtol, equal_nan=True):
            _log.warning("output %d differs by up to %g, beyond atol=%g, rtol=%g", index, differences[-1], atol, rtol)
    return differences
