"""How pipelines feed an engine and read it, on an engine that takes one shape only."""

from __future__ import annotations

import numpy as np
import pytest

from sparsert.errors import EngineError
from sparsert.pipelines.engines import SequenceEngine


class FixedEngine:
    """Takes int32 arrays of shape (4, 8); start logits are the ids, end logits their negatives."""

    input_names = ("attention_mask", "input_ids")
    input_types = (np.dtype(np.int32), np.dtype(np.int32))
    output_names = ("pooled", "end_logits", "start_logits")

    def __init__(self, width: int = 8) -> None:
        self.calls = 0
        self.width = width

    def __call__(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        self.calls += 1
        for array in inputs:
            assert (array.shape, array.dtype, array.flags.c_contiguous) == ((4, 8), np.int32, True)
        logits = inputs[1].astype(np.float32)[:, : self.width]
        return [np.zeros(4, np.float32), -logits, logits]


@pytest.mark.parametrize("rows", [1, 4, 5, 8, 11])
def test_fixed_batches_are_filled_up_and_cut_back(rows: int) -> None:
    ids = np.arange(rows * 8, dtype=np.int64).reshape(rows, 8)
    engine = FixedEngine()
    start, end = SequenceEngine(engine, rows=4).logits(
        {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids}
    )
    np.testing.assert_array_equal(start, ids)
    np.testing.assert_array_equal(end, -ids)
    assert engine.calls == -(-rows // 4)


def test_logits_of_another_shape_are_refused() -> None:
    ids = np.zeros((4, 8), dtype=np.int64)
    with pytest.raises(EngineError, match=r"start logits have shape \(4, 7\), expected one for each token, \(4, 8\)"):
        SequenceEngine(FixedEngine(width=7)).logits({"input_ids": ids, "attention_mask": ids})
