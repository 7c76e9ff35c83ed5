"""The table of integers that steps become."""

from __future__ import annotations

import numpy as np

from sparsert.kernels.formats import FORMATS
from sparsert.kernels.table import LINEAR
from sparsert.ops.steps import Buffer, PackedLinear, Step
from sparsert.plan.encode import encode


def test_a_count_of_zero_is_a_count_and_no_address() -> None:
    """A matrix without input features: an address in its place would be as many turns of the kernel's loop."""
    none = np.zeros(0, np.float32)
    weight = FORMATS["float_dense"].pack(np.zeros((8, 0), np.float32))
    linear = PackedLinear(np.zeros(0, np.int32), none, none, weight=weight, kept=1.0, density=0.0, block_density=0.0)
    x = Buffer("x", "floats", 0)
    code = encode([Step("linear", [x], rows=8, linear=linear)], {x: (0, 0)}, positions=0)
    assert code.table[0, LINEAR.offsets] == 0
